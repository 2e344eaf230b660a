"""Scores on the test split, with their uncertainty, beside the book's."""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import log_loss, roc_auc_score

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
    return max(0.0, low), min(1.0, high)


def by_class(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Return (n, classes) probabilities from a model's output, (n, 1) where there are two."""
    wide = np.asarray(probabilities, np.float64)
    return np.hstack([1 - wide, wide]) if wide.shape[1] == 1 else wide


def score(probabilities: NDArray[np.float64], labels: NDArray[Any]) -> dict[str, float]:
    """Return accuracy with its interval, log loss and ROC AUC (one against the rest).

    Args:
        probabilities: (n, classes).
        labels: (n,), every class present.
    """
    predicted = probabilities.argmax(axis=1)
    correct, total = int((predicted == labels).sum()), len(labels)
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
