"""Scores and their intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convnets import evaluation


def test_wilson_is_the_published_example():
    # Newcombe (1998), Statistics in Medicine 17, table I: 81 of 263 and 0 of 20.
    assert evaluation.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)
    assert evaluation.wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=1e-4)


@given(total=st.integers(1, 10_000), data=st.data())
def test_the_interval_holds_the_share(total, data):
    correct = data.draw(st.integers(0, total))
    low, high = evaluation.wilson(correct, total)
    assert 0 <= low <= correct / total <= high <= 1


def test_binary_and_many_classes_are_scored_alike():
    labels = np.array([0, 1, 1, 0])
    second = np.array([[0.2], [0.9], [0.4], [0.1]])
    binary = evaluation.score(evaluation.Tested(labels, evaluation.by_class(second)))
    assert (binary["test_accuracy"], binary["roc_auc"]) == (0.75, 1.0)
    many = np.eye(3)[[0, 1, 2, 2]] * 0.9 + 0.1 / 3
    tested = evaluation.Tested(np.array([0, 1, 2, 0]), many)
    assert evaluation.score(tested)["test_accuracy"] == 0.75


def test_the_champion_is_chosen_by_validation():
    scores = {
        "a": {"val_accuracy": 0.9, "val_loss": 0.3, "test_accuracy": 0.99},
        "b": {"val_accuracy": 0.95, "val_loss": 0.2, "test_accuracy": 0.90},
        "c": {"val_accuracy": 0.95, "val_loss": 0.1, "test_accuracy": 0.80},
    }
    assert evaluation.champion(scores) == "c"
