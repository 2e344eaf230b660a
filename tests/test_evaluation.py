"""Scores, their intervals, and calibration."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from convnets.evaluation import calibration, chance, metrics
from convnets.evaluation.calibration import Outputs
from convnets.evaluation.metrics import Predictions
from convnets.models import answers
from convnets.models.answers import by_class, classifier
from convnets.models.layers import with_mirror
from convnets.models.trained import best_epoch, by_epoch

EPOCH = {"accuracy": 0.5, "loss": 0.7, "val_accuracy": 0.5, "val_loss": 0.7}


def test_wilson_is_the_published_example():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 and 0 of 20.
    assert metrics.interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert metrics.interval(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


@given(total=st.integers(1, 10_000), data=st.data())
def test_the_interval_holds_the_share(total, data):
    correct = data.draw(st.integers(0, total))
    low, high = metrics.interval(correct, total)
    assert 0 <= low <= correct / total <= high <= 1


def test_binary_and_many_classes_are_scored_alike():
    labels = np.array([0, 1, 1, 0])
    second = np.array([[0.2], [0.9], [0.4], [0.1]])
    binary = metrics.score(Predictions(labels, by_class(second)), EPOCH)
    assert (binary["test_accuracy"], binary["roc_auc"]) == (0.75, 1.0)
    many = np.eye(3)[[0, 1, 2, 2]] * 0.9 + 0.1 / 3
    tested = Predictions(np.array([0, 1, 2, 0]), many)
    assert metrics.score(tested, EPOCH)["test_accuracy"] == 0.75


def test_a_metric_is_a_row_of_one_table():
    """Balanced accuracy and macro F1 show what accuracy hides if classes are unequal."""
    always = Predictions(np.array([0] * 9 + [1]), np.tile([0.9, 0.1], (10, 1)))
    found = metrics.score(always, EPOCH)
    assert (found["test_accuracy"], found["balanced_accuracy"]) == (0.9, 0.5)
    assert found["macro_f1"] == pytest.approx(0.9 / 1.9)  # (2·9/19 + 0) / 2
    assert set(found) == {metric.name for metric in metrics.METRICS} | {"low", "high"}


def test_validation_scores_are_those_of_the_epoch_that_was_kept():
    epochs = [{"val_accuracy": a, "val_loss": b} for a, b in ((0.5, 0.9), (0.8, 0.4), (0.9, 0.6))]
    assert best_epoch(by_epoch(epochs), "val_loss") == 2
    assert best_epoch(by_epoch(epochs), "val_accuracy") == 3
    found = metrics.score(Predictions(np.array([0, 1]), np.eye(2)), epochs[1])
    assert [found["val_accuracy"], found["val_loss"]] == [0.8, 0.4]


def test_of_epochs_that_are_equally_accurate_the_lower_loss_is_kept():
    rows = [{"val_accuracy": a, "val_loss": b} for a, b in ((0.9, 0.5), (0.9, 0.4), (0.9, 0.4))]
    epochs = by_epoch(rows)
    assert best_epoch(epochs, "val_accuracy") == best_epoch(epochs, "val_loss") == 2


def certain(labels: np.ndarray, right: np.ndarray, odds: float) -> Outputs:
    """Outputs of a model with these odds for its prediction, which is right or wrong."""
    predicted = np.where(right, labels, 1 - labels)
    return Outputs(labels, (odds * np.eye(2)[predicted])[:, None])


def calibrated(labels: np.ndarray, right: np.ndarray, odds: float) -> calibration.Calibrated:
    given = certain(labels, right, odds)
    return calibration.calibrate(given, given)


def test_a_temperature_makes_confidence_accuracy():
    """A model that says 99.99 % and is right in 90 % is told to say about 90 %."""
    labels, right = np.tile([0, 1], 500), np.arange(1000) % 10 > 0
    before = certain(labels, right, 9.2).predictions()
    found = calibrated(labels, right, 9.2)
    assert before.probabilities.max(axis=1).mean() > 0.999
    assert found.test.probabilities.max(axis=1).mean() == pytest.approx(0.9, abs=0.002)
    assert found.temperature == pytest.approx(9.2 / np.log(9), rel=0.02)
    assert (found.test.predicted == before.predicted).all()
    assert calibration.error(before) == pytest.approx(0.1, abs=0.001)
    assert calibration.error(found.test) < 0.002
    assert metrics.cross_entropy(found.test) < metrics.cross_entropy(before)


@given(st.integers(0, 2**32 - 1), st.integers(2, 5), st.floats(0.1, 20))
def test_calibration_changes_no_prediction_and_never_the_order(seed, classes, scale):
    chance = np.random.default_rng(seed)
    labels = np.arange(60) % classes
    logits = scale * (np.eye(classes)[labels] + chance.normal(0, 1, (60, classes)))
    given = Outputs(labels, logits[:, None])
    found = calibration.calibrate(given, given)
    assert (found.test.predicted == logits.argmax(axis=1)).all()
    assert found.test.probabilities.sum(axis=1) == pytest.approx(np.ones(60))
    assert 0.04 < found.temperature < 9000


def test_a_model_without_a_mistake_is_not_made_certain():
    labels = np.tile([0, 1], 40)
    found = calibrated(labels, np.ones(80, bool), 1.0)
    assert 0.95 < found.test.probabilities.max() < 0.999


def test_mcnemar_is_the_published_example():
    # Agresti, Categorical Data Analysis (2002), table 10.1 has the discordant counts 86 and 150.
    counts = {(True, False): 86, (False, True): 150, (True, True): 794, (False, False): 570}
    first, second = np.repeat([*counts], [*counts.values()], axis=0).T
    assert chance.mcnemar(first, second) == pytest.approx(3.7e-5, rel=0.05)
    assert chance.mcnemar(first, first) == 1


def test_the_champion_is_chosen_by_validation():
    """Where accuracies do not differ beyond chance, the calibrated log loss decides."""
    labels, order = np.tile([0, 1], 40), np.arange(80)
    lucky = calibrated(labels, order >= 2, 30)
    sharp = certain(labels, order >= 4, 4)
    sharp.logits[order < 8] *= 0.05  # it knows where it is not sure
    found = {
        "lucky": lucky,
        "sharp": calibration.calibrate(sharp, sharp),
        "worse": calibrated(labels, order >= 20, 3),
    }
    right = {name: each.validation.right for name, each in found.items()}
    assert chance.mcnemar(right["lucky"], right["sharp"]) > 0.05
    assert chance.mcnemar(right["lucky"], right["worse"]) < 0.05
    assert calibration.best(found) == "sharp"
    del found["sharp"]
    assert calibration.best(found) == "lucky"


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", ["flat", "nested", "mirrored"])
def test_the_saved_model_is_calibrated(classes, kind):
    """Dividing the last weights gives what the temperature promises, and adds no layer."""
    inputs, outer = keras.Input((2, 2, 3)), keras.Input((2, 2, 3))
    hidden = keras.layers.Dense(8)(keras.layers.Flatten()(inputs))
    inner = keras.Model(inputs, classifier(hidden, classes))
    model = {
        "flat": lambda: inner,
        "nested": lambda: keras.Model(outer, inner(outer)),
        "mirrored": lambda: keras.Model(outer, with_mirror(inner, outer)),
    }[kind]()
    pixels = np.random.default_rng(0).normal(0, 9, (32, 2, 2, 3)).astype("f4")
    labels = np.arange(32) % 2
    logits = answers.logits(model, tf.data.Dataset.from_tensor_slices((pixels, labels)).batch(8))
    assert logits.shape == (32, 2 if kind == "mirrored" else 1, classes)
    assert logits.dtype == np.float32
    given, config = Outputs(labels, logits), model.get_config()
    np.testing.assert_allclose(
        given.predictions().probabilities, by_class(model.predict(pixels, verbose=0)), atol=1e-6
    )
    answers.divide(model, 7.0)
    np.testing.assert_allclose(
        given.predictions(7.0).probabilities, by_class(model.predict(pixels, verbose=0)), atol=1e-6
    )
    assert model.get_config() == config
