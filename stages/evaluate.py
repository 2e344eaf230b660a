"""Score every model on the test split, compare with the book, and register the champion."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import tensorflow as tf

from convnets import (
    augmentation,
    batches,
    console,
    evaluation,
    figures,
    mnist,
    models,
    params,
    tracking,
)

# What each model reads: the pixels, or the cached features under the part that was trained.
INPUTS = {
    "train_scratch": (None, "data/images/test.npy"),
    "train_augmented": (None, "data/images/test.npy"),
    "train_feature_head": ("head", "data/features/test.npy"),
    "train_augmented_head": ("head", "data/features/test.npy"),
    "fine_tune": ("top", "data/features/test_cut.npy"),
}
MNIST = ("train_mnist_max_pooling", "train_mnist_no_pooling")


def main() -> None:
    p = params.load()
    names = batches.class_names()
    scores, predictions = {}, {}
    with tracking.run("evaluate") as run:
        run.dataset(Path("data/images/test.npy"), "test")
        digits = mnist.load(Path("data/mnist.npz"), "test")
        for name in console.progress([*MNIST, *INPUTS], "evaluate", len(MNIST) + len(INPUTS)):
            model = models.load(Path(f"models/{name}.keras"))
            layer, inputs = INPUTS.get(name, (None, ""))
            examples = digits if name in MNIST else batches.load(Path(inputs), "test")
            scored = model.get_layer(layer) if layer else model
            probabilities = evaluation.by_class(
                scored.predict(batches.in_order(examples, 64), verbose=0)
            )
            predictions[name] = probabilities
            trained = json.loads(Path(f"metrics/{name}.json").read_text())
            scores[name] = evaluation.score(probabilities, examples.labels) | {
                key: trained[key] for key in ("val_accuracy", "val_loss")
            }
        best = evaluation.champion({name: scores[name] for name in INPUTS})
        table = evaluation.compare(scores)
        table.to_csv("metrics/comparison.csv")
        Path("metrics/evaluate.json").write_text(
            json.dumps({"champion": best, "models": scores}, indent=2) + "\n"
        )
        console.say(table.round(4).to_string())

        files = pd.read_csv("data/images/test.csv")
        labels, probabilities = files["label"].to_numpy(), predictions[best]
        predicted = probabilities.argmax(axis=1)
        pd.DataFrame(
            {"actual": files["class"], "predicted": [names[label] for label in predicted]}
        ).to_csv("metrics/confusion.csv", index=False)

        figure = figures.comparison(table)
        figure.savefig("metrics/comparison.png", dpi=120, metadata={"Software": None})
        run.figure(figure, "comparison.png")
        for name in INPUTS:
            guesses = predictions[name].argmax(axis=1)
            run.figure(figures.confusion(labels, guesses, names, name), f"confusion/{name}.png")
        images = np.load("data/images/test.npy", mmap_mode="r", allow_pickle=False)
        sure = np.where(predicted == labels, 0, probabilities.max(axis=1))
        worst = [row for row in np.argsort(-sure)[:15] if sure[row] > 0]
        titles = [
            f"{names[predicted[row]]} {sure[row]:.0%}, is {names[labels[row]]}" for row in worst
        ]
        run.figure(figures.gallery(images[worst], titles), "most_confident_mistakes.png")

        first = np.load("data/images/train.npy", mmap_mode="r", allow_pickle=False)[:1]
        views = augmentation.augment(
            np.repeat(first, 9, axis=0),
            tf.constant([p.seed, 0], tf.int64),
            p.augmentation.rotation,
            p.augmentation.zoom,
        )
        run.figure(figures.gallery(views.numpy(), [""] * 9, columns=3), "augmentation.png")
        run.artifact(Path("metrics/comparison.csv"))
        run.metrics({f"{name}.test_accuracy": scores[name]["test_accuracy"] for name in scores})
        run.register(models.load(Path(f"models/{best}.keras")), images[:2], names, best)
    console.say(f"champion, by validation: {best}; metrics/comparison.csv has all")


if __name__ == "__main__":
    console.run(main)
