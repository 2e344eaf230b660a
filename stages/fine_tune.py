"""Train the backbone's last layers and the head together, gently (listings 8.27 and 8.28)."""

from pathlib import Path

import keras

from convnets import backbone, batches, console, features, models, npy, params, tracking, training


def main() -> None:
    p = params.load()
    train = batches.load(Path("data/views/cut.npy"), "train", p.views.count)
    validation = batches.load(Path("data/features/validation_cut.npy"), "validation")
    before = models.load(Path("models/train_augmented_head.keras"))

    def split() -> tuple[keras.Model, keras.Model]:
        base = backbone.build(p.backbone.name, p.image_size, Path("data/backbone.weights.h5"))
        return backbone.split(base, p.backbone.fine_tune_from)

    def build() -> keras.Model:
        _, tuned = split()
        head = keras.models.clone_model(before.get_layer("head"))
        head.set_weights(before.get_layer("head").get_weights())
        return keras.Model(tuned.input, head(tuned(tuned.input)), name="top")

    with tracking.run("fine_tune") as run:
        top = training.fit(
            build,
            train,
            validation,
            training.settings(p.fine_tune, p.epochs, p.seed, p.precision),
            run,
            Path("metrics/fine_tune.json"),
        )
        frozen, _ = split()
        model = features.end_to_end(p.backbone.name, p.image_size, frozen, top, "fine_tune")
        images, cached = npy.read("data/images/validation.npy")[:16], validation.inputs[:16]
        run.metrics({"cache_disagreement": features.disagreement(model, images, top, cached)})
        classes = batches.class_names()
        training.publish(model, Path("models/fine_tune.keras"), classes, run, images[:2])


if __name__ == "__main__":
    console.run(main)
