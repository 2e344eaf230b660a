"""Train the convnet from scratch with augmentation and dropout (listings 8.14 to 8.17)."""

from pathlib import Path

from convnets import batches, console, models, params, tracking, training


def main() -> None:
    p = params.load()
    train = batches.load(Path("data/images/train.npy"), "train")
    validation = batches.load(Path("data/images/validation.npy"), "validation")
    classes = batches.class_names()
    with tracking.run("train_augmented") as run:
        model = training.fit(
            lambda: models.convnet(p.image_size, len(classes), p.train_augmented.dropout),
            train,
            validation,
            training.settings(p.train_augmented, p.epochs, p.seed, p.precision),
            run,
            Path("metrics/train_augmented.json"),
            batches.Augment(p.augmentation.rotation, p.augmentation.zoom),
        )
        training.publish(
            model, Path("models/train_augmented.keras"), classes, run, train.inputs[:2]
        )


if __name__ == "__main__":
    console.run(main)
