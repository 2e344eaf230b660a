"""Train the book's convnet from scratch on the images as they are (listings 8.7 to 8.10)."""

from pathlib import Path

from convnets import batches, console, models, params, tracking, training


def main() -> None:
    p = params.load()
    train = batches.load(Path("data/images/train.npy"), "train")
    validation = batches.load(Path("data/images/validation.npy"), "validation")
    classes = batches.class_names()
    with tracking.run("train_scratch") as run:
        model = training.fit(
            lambda: models.convnet(p.image_size, len(classes)),
            train,
            validation,
            training.settings(p.train_scratch, p.epochs, p.seed, p.precision),
            run,
            Path("metrics/train_scratch.json"),
        )
        training.publish(model, Path("models/train_scratch.keras"), classes, run, train.inputs[:2])


if __name__ == "__main__":
    console.run(main)
