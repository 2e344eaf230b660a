"""Train a dense head on the frozen backbone's cached features (listings 8.20 to 8.22)."""

from pathlib import Path

from convnets import backbone, batches, console, features, models, npy, params, tracking, training


def main() -> None:
    p = params.load()
    train = batches.load(Path("data/features/train.npy"), "train")
    validation = batches.load(Path("data/features/validation.npy"), "validation")
    classes = batches.class_names()
    how = p.train_feature_head
    with tracking.run("train_feature_head") as run:
        head = training.fit(
            lambda: models.head(train.inputs.shape[1:], len(classes), how.units, how.dropout),
            train,
            validation,
            training.settings(p.train_feature_head, p.epochs, p.seed, p.precision),
            run,
            Path("metrics/train_feature_head.json"),
        )
        base = backbone.build(p.backbone.name, p.image_size, Path("data/backbone.weights.h5"))
        model = features.end_to_end(p.backbone.name, p.image_size, base, head, "train_feature_head")
        images, cached = npy.read("data/images/validation.npy")[:16], validation.inputs[:16]
        run.metrics({"cache_disagreement": features.disagreement(model, images, head, cached)})
        training.publish(model, Path("models/train_feature_head.keras"), classes, run, images[:2])


if __name__ == "__main__":
    console.run(main)
