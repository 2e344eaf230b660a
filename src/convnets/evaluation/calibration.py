"""Calibration: probabilities that mean what they say, by one temperature for each model.

Guo et al. (2017), arXiv:1706.04599. The temperature is from the validation images.
"""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from convnets.evaluation import chance
from convnets.evaluation.metrics import Predictions, cross_entropy
from convnets.models import answers

BINS = 15  # of the confidence, as in the paper


class Outputs(NamedTuple):
    """A model's answers for a split, before its sigmoid or softmax."""

    labels: NDArray[np.integer[Any]]  # (n,), the true labels
    logits: NDArray[np.float32]  # (n, views, classes); two views for an image and its mirror image

    def predictions(self, temperature: float = 1.0) -> Predictions:
        """Return the probabilities at a temperature: the mean over the views."""
        return Predictions(self.labels, answers.probabilities(self.logits, temperature))


class Calibrated(NamedTuple):
    """A model's predictions, calibrated on the validation images."""

    temperature: float
    validation: Predictions
    test: Predictions


def calibrate(validation: Outputs, test: Outputs) -> Calibrated:
    """Calibrate a model by the temperature with the lowest log loss on the validation images.

    One more image of each class is supposed, as by Platt (1999). A model without a mistake there
    would else be made certain of everything.
    """
    logits = np.asarray(validation.logits, np.float64)
    count, views, classes = logits.shape
    target = np.full((count, classes), 1 / (count + classes))
    target[np.arange(count), validation.labels] += count / (count + classes)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(logits / np.exp(log_temperature), axis=-1)
        # The mean over the views, in logarithms.
        mean = np.logaddexp.reduce(scaled, axis=1) - np.log(views)
        return -float((target * mean).sum() / count)

    found = minimize_scalar(loss, bounds=(-3, 9), method="bounded")
    temperature = float(np.exp(found.x))
    return Calibrated(
        temperature, validation.predictions(temperature), test.predictions(temperature)
    )


def error(tested: Predictions) -> float:
    """Return the expected calibration error: how far accuracy is from confidence, on average."""
    binned = reliability(tested)
    share = binned["images"] / binned["images"].sum()
    return float((share * (binned["accuracy"] - binned["confidence"]).abs()).sum())


def reliability(tested: Predictions) -> pd.DataFrame:
    """Return the `images`, their mean `confidence` and their `accuracy`, by bins of confidence.

    Confidence is the probability of the predicted class. Empty bins are left out.
    """
    sure = tested.probabilities.max(axis=1)
    table = pd.DataFrame({"confidence": sure, "accuracy": tested.right})
    by_bin = table.groupby(np.minimum((sure * BINS).astype(int), BINS - 1))
    return by_bin.mean().assign(images=by_bin.size())


def best(found: dict[str, Calibrated]) -> str:
    """Return the model to use, by the validation images.

    Of the models whose accuracy does not differ from the highest beyond chance, it is the one with
    the lowest calibrated log loss. With few images, the highest accuracy alone would be luck.
    """
    losses, p_values = _validated(found)
    equal = [name for name in found if p_values[name] >= chance.LEVEL]
    return min(equal, key=losses.__getitem__)


def _validated(found: dict[str, Calibrated]) -> tuple[dict[str, float], dict[str, float]]:
    """Return each model's log loss on the validation images, and its p value against the top.

    The top is the most accurate model there. The lower loss breaks ties.
    """
    losses = {name: cross_entropy(each.validation) for name, each in found.items()}
    top = max(found, key=lambda name: (found[name].validation.correct, -losses[name]))
    right = {name: each.validation.right for name, each in found.items()}
    return losses, {name: chance.mcnemar(right[top], right[name]) for name in found}


def table(before: dict[str, Predictions], after: dict[str, Calibrated]) -> pd.DataFrame:
    """Return a row for each model: its temperature, and its scores before and after calibration.

    Args:
        before: predictions for the test images, by model.
        after: of the models that were calibrated.
    """
    losses, p_values = _validated(after)
    rows = {
        name: {
            "temperature": each.temperature,
            "log_loss": cross_entropy(before[name]),
            "calibrated_log_loss": cross_entropy(each.test),
            "calibration_error": error(before[name]),
            "calibrated_calibration_error": error(each.test),
            "val_accuracy": each.validation.correct / len(each.validation.labels),
            "calibrated_val_log_loss": losses[name],
            "p_value": p_values[name],
        }
        for name, each in after.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")
