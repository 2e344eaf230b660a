"""Calibration: probabilities that mean what they say, by one temperature for each model.

Guo et al. (2017), arXiv:1706.04599. The temperature is from the validation images.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from convnets.evaluation import chance
from convnets.evaluation.metrics import Predictions, cross_entropy
from convnets.models import internals

BINS = 15  # of the confidence, as in the paper


class Outputs(NamedTuple):
    """A model's outputs for a split, before its sigmoid or softmax."""

    labels: NDArray[np.integer[Any]]  # (n,), the true labels
    logits: NDArray[np.float64]  # (views, n, classes); two views for an image and its mirror image

    def predictions(self, temperature: float = 1.0) -> Predictions:
        """Return the probabilities at a temperature: the mean over the views."""
        return Predictions(self.labels, softmax(self.logits / temperature, axis=-1).mean(axis=0))


class Calibrated(NamedTuple):
    """A model's predictions, calibrated on the validation images."""

    temperature: float
    validation: Predictions
    test: Predictions


def logits(model: keras.Model, batches: Any) -> NDArray[np.float64]:
    """Return a model's outputs before its sigmoid or softmax, (views, n, classes).

    For a sigmoid, the first class has 0. Probabilities would be rounded to 0 or 1.

    Args:
        model: ends in a dense layer, or in the mean over an image and its mirror image.
        batches: of its inputs and labels.
    """
    start, ends = _ends(model)
    body = keras.Model(start, [end.input for end in ends])
    kernel, bias = (np.asarray(weight, np.float64) for weight in ends[0].layer.get_weights())
    # Batch by batch: without pooling, 10,000 digits would be 5 GB of inputs to the last layer.
    found = np.concatenate(
        [
            np.stack(keras.tree.flatten(body.predict_on_batch(inputs)), dtype=np.float64) @ kernel
            for inputs, _ in batches
        ],
        axis=1,
    )
    found += bias
    if found.shape[-1] > 1:
        return found
    return np.concatenate([np.zeros_like(found), found], axis=-1)


def _ends(model: keras.Model) -> tuple[keras.KerasTensor, list[internals.Step]]:
    """Return a model's input, and each call of its last dense layer: two with a mirror image."""
    start = keras.Input(model.input_shape[1:])
    path = internals.steps(model, start)[1]
    dense = next(step.layer for step in path[::-1] if isinstance(step.layer, keras.layers.Dense))
    return start, [step for step in path if step.layer is dense]


def calibrate(validation: Outputs, test: Outputs) -> Calibrated:
    """Calibrate a model by the temperature with the lowest log loss on the validation images.

    One more image of each class is supposed, as by Platt (1999). A model without a mistake there
    would else be made certain of everything.
    """
    count, classes = validation.logits.shape[1:]
    target = np.full((count, classes), 1 / (count + classes))
    target[np.arange(count), validation.labels] += count / (count + classes)

    def loss(log_temperature: float) -> float:
        scaled = log_softmax(validation.logits / np.exp(log_temperature), axis=-1)
        # The mean over the views, in logarithms.
        mean = np.logaddexp.reduce(scaled, axis=0) - np.log(len(scaled))
        return -float((target * mean).sum() / count)

    found = minimize_scalar(loss, bounds=(-3, 9), method="bounded")
    temperature = float(np.exp(found.x))
    return Calibrated(
        temperature, validation.predictions(temperature), test.predictions(temperature)
    )


def apply(model: keras.Model, temperature: float) -> None:
    """Divide the last dense layer by a temperature: calibration without another layer.

    Args:
        model: as for `logits`.
        temperature: more than 1 for less certainty.
    """
    layer = _ends(model)[1][0].layer
    layer.set_weights([weight / temperature for weight in layer.get_weights()])


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
