"""Scores and their intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convnets.evaluation import metrics, scores
from convnets.evaluation.metrics import Predictions
from convnets.models.architectures import by_class
from tests.commands import record


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
    binary = metrics.score(Predictions(labels, by_class(second)), record([]))
    assert (binary["test_accuracy"], binary["roc_auc"]) == (0.75, 1.0)
    many = np.eye(3)[[0, 1, 2, 2]] * 0.9 + 0.1 / 3
    tested = Predictions(np.array([0, 1, 2, 0]), many)
    assert metrics.score(tested, record([]))["test_accuracy"] == 0.75


def test_a_metric_is_a_row_of_one_table():
    """Balanced accuracy and macro F1 show what accuracy hides if classes are unequal."""
    always = Predictions(np.array([0] * 9 + [1]), np.tile([0.9, 0.1], (10, 1)))
    found = metrics.score(always, record([]))
    assert (found["test_accuracy"], found["balanced_accuracy"]) == (0.9, 0.5)
    assert found["macro_f1"] == pytest.approx(0.9 / 1.9)  # (2·9/19 + 0) / 2
    assert set(found) == {metric.name for metric in metrics.METRICS} | {"low", "high"}


def test_validation_scores_are_those_of_the_epoch_that_was_kept():
    epochs = [{"val_accuracy": a, "val_loss": b} for a, b in ((0.5, 0.9), (0.8, 0.4), (0.9, 0.6))]
    known = record([], history=epochs)
    assert known.best == 2
    tested = Predictions(np.array([0, 1]), np.eye(2))
    found = metrics.score(tested, known)
    assert (found["val_accuracy"], found["val_loss"]) == (0.8, 0.4)


def test_the_champion_is_chosen_by_validation():
    found = {
        "a": {"val_accuracy": 0.9, "val_loss": 0.3, "test_accuracy": 0.99},
        "b": {"val_accuracy": 0.95, "val_loss": 0.2, "test_accuracy": 0.90},
        "c": {"val_accuracy": 0.95, "val_loss": 0.1, "test_accuracy": 0.80},
    }
    assert scores.champion(found) == "c"
