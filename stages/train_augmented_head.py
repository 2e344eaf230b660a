"""Train a dense head on cached features of augmented views (listings 8.23 to 8.26)."""

from pathlib import Path

from convnets import backbone, batches, console, features, models, npy, params, tracking, training


def main() -> None:
    p = params.load()
    train = batches.load(Path("data/views/top.npy"), "train", p.views.count)
    validation = batches.load(Path("data/features/validation.npy"), "validation")
    classes = batches.class_names()
    how = p.train_augmented_head
    with tracking.run("train_augmented_head") as run:
        head = training.fit(
            lambda: models.head(train.inputs.shape[1:], len(classes), how.units, how.dropout),
            train,
            validation,
            training.settings(p.train_augmented_head, p.epochs, p.seed, p.precision),
            run,
            Path("metrics/train_augmented_head.json"),
        )
        base = backbone.build(p.backbone.name, p.image_size, Path("data/backbone.weights.h5"))
        model = features.end_to_end(
            p.backbone.name, p.image_size, base, head, "train_augmented_head"
        )
        images, cached = npy.read("data/images/validation.npy")[:16], validation.inputs[:16]
        run.metrics({"cache_disagreement": features.disagreement(model, images, head, cached)})
        training.publish(model, Path("models/train_augmented_head.keras"), classes, run, images[:2])


if __name__ == "__main__":
    console.run(main)
