"""Scores on the test split, with their uncertainty, beside the book's."""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

from convnets import batches, files, mnist

# What each model of the images reads: the pixels, or the features under the part that was trained.
# Where there are two files the model is the mean over both.
INPUTS: dict[str, tuple[str | None, tuple[str, ...]]] = {
    "train_scratch": (None, ("data/images/test.npy",)),
    "train_augmented": (None, ("data/images/test.npy",)),
    "train_feature_head": ("head", ("data/features/test.npy",)),
    "train_augmented_head": ("head", ("data/features/test.npy",)),
    "fine_tune": ("top", ("data/features/test_cut.npy",)),
    "train_mirrored_head": ("head", ("data/features/test.npy", "data/features/test_mirrored.npy")),
}
MNIST = ("train_mnist_max_pooling", "train_mnist_no_pooling")
MODELS = (*MNIST, *INPUTS)

# Test accuracies that chapter 8 of the second edition reports; the feature head's is validation.
BOOK = {
    "train_mnist_max_pooling": 0.990,
    "train_scratch": 0.738,
    "train_augmented": 0.844,
    "train_feature_head": 0.98,
    "train_augmented_head": 0.971,
    "fine_tune": 0.974,
}


def wilson(correct: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Return the Wilson score interval of a share, by default at 95 % (Wilson, 1927).

    Args:
        correct: successes, at most `total`.
        total: trials, at least 1.
        z: the normal quantile of the confidence.
    """
    share = correct / total
    spread = z * math.sqrt(share * (1 - share) / total + z**2 / (4 * total**2))
    low, high = (
        (share + z**2 / (2 * total) + side * spread) / (1 + z**2 / total) for side in (-1, 1)
    )
    return max(0.0, min(low, share)), min(1.0, max(high, share))  # not beside it by rounding


def by_class(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Return (n, classes) probabilities from a model's output, (n, 1) where there are two."""
    wide = np.asarray(probabilities, np.float64)
    return np.hstack([1 - wide, wide]) if wide.shape[1] == 1 else wide


class Tested(NamedTuple):
    """What a model made of the test split."""

    labels: NDArray[np.integer[Any]]  # (n,), the true ones
    probabilities: NDArray[np.float64]  # (n, classes)

    @property
    def predicted(self) -> NDArray[np.integer[Any]]:
        """The (n,) most probable classes."""
        return np.asarray(self.probabilities.argmax(axis=1))


def test(name: str, model: keras.Model) -> Tested:
    """Run a stage's model on its test split: on cached features where there are some."""
    layer, inputs = INPUTS.get(name, (None, ()))
    given = [batches.load(Path(file), "test") for file in inputs]
    if name in MNIST:
        given = [mnist.load(Path("data/mnist.npz"), "test")]
    scored = model.get_layer(layer) if layer else model
    outputs = [scored.predict(batches.in_order(examples, 64), verbose=0) for examples in given]
    return Tested(given[0].labels, by_class(np.mean(outputs, axis=0)))


def score(tested: Tested) -> dict[str, float]:
    """Return accuracy with its interval, log loss and ROC AUC (one against the rest).

    Every class must be among the labels.
    """
    labels, probabilities = tested
    correct, total = int((tested.predicted == labels).sum()), len(labels)
    low, high = wilson(correct, total)
    binary = probabilities.shape[1] == 2
    area = roc_auc_score(
        labels, probabilities[:, 1] if binary else probabilities, multi_class="ovr"
    )
    classes = range(probabilities.shape[1])
    clipped = probabilities.clip(1e-7, 1 - 1e-7)
    clipped /= clipped.sum(axis=1, keepdims=True)
    return {
        "test_accuracy": correct / total,
        "low": low,
        "high": high,
        "test_loss": float(log_loss(labels, clipped, labels=list(classes))),
        "roc_auc": float(area),
    }


def compare(scores: dict[str, dict[str, float]]) -> pd.DataFrame:
    """Return a row for each model: our test accuracy and interval, validation, and the book's."""
    table = pd.DataFrame.from_dict(scores, orient="index").rename_axis("model")
    table["book"] = pd.Series(BOOK).reindex(table.index)
    return table


def champion(scores: dict[str, dict[str, float]]) -> str:
    """Return the model with the best validation accuracy, by lower loss where two are equal."""
    return max(scores, key=lambda name: (scores[name]["val_accuracy"], -scores[name]["val_loss"]))


class Results(NamedTuple):
    """What came of all models."""

    table: pd.DataFrame  # from `compare`
    champion: str
    tested: dict[str, Tested]
    classes: list[str]  # of the images
    images: pd.DataFrame  # a row for each test image: file, class and label

    def names(self, model: str) -> list[str]:
        """Return the names of a model's classes."""
        return [str(digit) for digit in range(10)] if model in MNIST else self.classes

    def why(self) -> str:
        """Tell why the champion was chosen."""
        best = self.table.loc[self.champion]
        return (
            f"right on {best['val_accuracy']:.2%} of the validation images, the best of "
            f"{len(INPUTS)} models; on {best['test_accuracy']:.2%} of the test images"
        )


def gather(tested: dict[str, Tested], folder: Path) -> Results:
    """Score the models, and choose the champion among those of the images.

    Args:
        tested: all models, by name.
        folder: with the `.json` of each one's training, which has the validation's scores.
    """
    scores = {}
    for name, of_model in tested.items():
        trained = json.loads((folder / f"{name}.json").read_text())
        scores[name] = score(of_model) | {key: trained[key] for key in ("val_accuracy", "val_loss")}
    best = champion({name: scores[name] for name in INPUTS})
    images = pd.read_csv(batches.IMAGES / "test.csv")
    return Results(compare(scores), best, tested, batches.class_names(), images)


def write(results: Results, folder: Path) -> None:
    """Write the table, the scores, and the champion's predictions, for people and for DVC."""
    with files.whole(folder / "comparison.csv") as part:
        results.table.to_csv(part)
    scores = results.table.drop(columns="book").to_dict("index")
    files.write_json(folder / "evaluate.json", {"champion": results.champion, "models": scores})
    predicted = results.tested[results.champion].predicted
    confusion = pd.DataFrame(
        {
            "actual": results.images["class"],
            "predicted": [results.classes[label] for label in predicted],
        }
    )
    with files.whole(folder / "confusion.csv") as part:
        confusion.to_csv(part, index=False)


def mistakes(tested: Tested, count: int) -> list[int]:
    """Return the rows of at most `count` wrong predictions, the most confident first."""
    wrong = np.flatnonzero(tested.predicted != tested.labels)
    sure = tested.probabilities.max(axis=1)[wrong]
    return [int(row) for row in wrong[np.argsort(-sure, kind="stable")][:count]]


def successes(tested: Tested, count: int) -> list[int]:
    """Return the row of the most confident right prediction of each of the first `count` classes.

    A class that was never got right has none.
    """
    sure = np.where(tested.predicted == tested.labels, tested.probabilities.max(axis=1), 0)
    classes = range(min(count, tested.probabilities.shape[1]))
    best = [int(np.argmax(np.where(tested.labels == label, sure, 0))) for label in classes]
    return [row for label, row in enumerate(best) if sure[row] * (tested.labels[row] == label)]
