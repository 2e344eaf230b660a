"""The table of metrics for the comparison, the report, MLflow and DVC.

To add a metric, add a row.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest
from sklearn.metrics import f1_score, log_loss, recall_score, roc_auc_score

from convnets.models import answers

Epoch = Mapping[Hashable, Any]  # its loss, accuracy, val_loss and val_accuracy


class Predictions(NamedTuple):
    """A model's predictions for the test split. A split that is given may lack a class."""

    labels: NDArray[np.integer[Any]]  # (n,), the true labels
    probabilities: NDArray[np.float64]  # (n, classes)

    @property
    def predicted(self) -> NDArray[np.integer[Any]]:
        """The (n,) most probable classes."""
        return np.asarray(self.probabilities.argmax(axis=1))

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether each of the (n,) predictions is correct."""
        return np.asarray(self.predicted == self.labels)

    @property
    def correct(self) -> int:
        """The number of correct predictions."""
        return int(self.right.sum())


class Metric(NamedTuple):
    """A number that is computed for each model."""

    name: str  # the column, and the name in MLflow and DVC
    title: str  # for display
    format: str  # Python's format of the number
    score: Callable[[Predictions, Epoch], float]
    compared: bool = False  # DVC shows it when experiments are compared


def interval(correct: int, total: int) -> tuple[float, float]:
    """Return the Wilson score interval of a share at 95 % (Wilson, 1927).

    Args:
        correct: successes, at most `total`.
        total: trials, at least 1.
    """
    found = binomtest(correct, total).proportion_ci(0.95, method="wilson")
    share = correct / total
    return min(float(found.low), share), max(float(found.high), share)  # despite rounding


def cross_entropy(tested: Predictions) -> float:
    """Return the log loss. A probability of 0 counts as 1e-7."""
    clipped = tested.probabilities.clip(1e-7, 1 - 1e-7)
    clipped /= clipped.sum(axis=1, keepdims=True)
    return float(log_loss(tested.labels, clipped, labels=list(range(clipped.shape[1]))))


def recalls(tested: Predictions) -> NDArray[np.float64]:
    """Return the (classes,) shares of correct predictions, NaN for a class without test images."""
    classes = range(tested.probabilities.shape[1])
    found: NDArray[np.float64] = recall_score(
        tested.labels, tested.predicted, labels=classes, average=None, zero_division=np.nan
    )
    return found


def area(tested: Predictions) -> float:
    """Return the area under the ROC curve: one against the rest for more than two classes.

    It is the mean over the classes that the test images have.
    """
    several = answers.against_the_rest(tested.labels, tested.probabilities)
    return float(np.mean([roc_auc_score(of_class, order) for of_class, order in several]))


METRICS = (
    Metric(
        "test_accuracy",
        "test accuracy",
        "{:.1%}",
        lambda tested, _: tested.correct / len(tested.labels),
        compared=True,
    ),
    Metric(
        "balanced_accuracy",
        "balanced accuracy",
        "{:.1%}",
        lambda tested, _: float(np.nanmean(recalls(tested))),
    ),
    Metric(
        "macro_f1",
        "macro F1",
        "{:.4f}",
        lambda tested, _: float(f1_score(tested.labels, tested.predicted, average="macro")),
    ),
    Metric(
        "test_loss", "log loss", "{:.4f}", lambda tested, _: cross_entropy(tested), compared=True
    ),
    Metric("roc_auc", "ROC AUC", "{:.4f}", lambda tested, _: area(tested)),
    Metric(
        "val_accuracy",
        "validation accuracy",
        "{:.1%}",
        lambda _, kept: float(kept["val_accuracy"]),
        compared=True,
    ),
    Metric(
        "val_loss",
        "validation log loss",
        "{:.4f}",
        lambda _, kept: float(kept["val_loss"]),
        compared=True,
    ),
)


def score(tested: Predictions, kept: Epoch) -> dict[str, float]:
    """Return all metrics of a model, and the interval of its test accuracy, `low` and `high`.

    Args:
        tested: its predictions for the test split.
        kept: the row of its history for the epoch whose weights were kept.
    """
    low, high = interval(tested.correct, len(tested.labels))
    found = {metric.name: metric.score(tested, kept) for metric in METRICS}
    return found | {"low": low, "high": high}
