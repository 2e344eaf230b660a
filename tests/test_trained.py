"""What a training leaves in its folder, as `evaluate` reads it."""

from pathlib import Path

import keras
import numpy as np
import pytest

from convnets.base.console import InputError
from convnets.evaluation import scores
from convnets.models import saved, trained
from convnets.models.answers import classifier
from tests.commands import record

ROWS = [
    {"accuracy": 1 / 3, "loss": 0.1 + 0.2, "val_accuracy": 0.5, "val_loss": 1e-17},
    {"accuracy": 0.5, "loss": 2 / 3, "val_accuracy": 0.7, "val_loss": 1.0},
]


def leave(folder: Path, **given: object) -> None:
    """Write what a training leaves."""
    folder.mkdir(parents=True)
    inputs = keras.Input((2,))
    saved.save(keras.Model(inputs, classifier(inputs, 2)), folder / "model.keras", record(
        ["cat", "dog"], **given
    ))  # fmt: skip
    trained.by_epoch(ROWS).to_csv(folder / "history.csv")
    for split, rows in (("validation", 2), ("test", 3)):
        np.save(folder / f"{split}.npy", np.ones((rows, 1, 2), "float32"))


def test_what_a_training_leaves_comes_back(tmp_path):
    leave(tmp_path / "train_a", title="A")
    found = trained.read(tmp_path / "train_a")
    assert found.record == record(["cat", "dog"], title="A")
    assert found.history.to_dict("records") == ROWS  # to the last bit
    assert list(found.history.index) == [1, 2]
    assert {split: len(logits) for split, logits in found.logits.items()} == {
        "validation": 2,
        "test": 3,
    }


def test_a_missing_or_an_empty_folder_is_not_trained(tmp_path):
    leave(tmp_path / "train_a", listing="8.16")
    leave(tmp_path / "train_b", listing="8.7")
    leave(tmp_path / "train_c")
    (tmp_path / "train_d").mkdir()
    (tmp_path / "train_d/.DS_Store").touch()
    made = frozenset(str(tmp_path / f"train_{name}") for name in "abcde")
    assert list(scores.load(tmp_path, made)) == ["train_b", "train_a", "train_c"]


@pytest.mark.parametrize("name", ["model.keras", "history.csv", "validation.npy", "test.npy"])
@pytest.mark.parametrize("content", [None, b"", b"PK\3\4 half of it"])
def test_a_folder_with_a_missing_or_damaged_file_is_no_result(tmp_path, name, content):
    leave(tmp_path / "train_a")
    path = tmp_path / "train_a" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: .*train it again"):
        trained.read(tmp_path / "train_a")


def test_what_no_stage_makes_is_told_with_the_command_that_removes_it(tmp_path):
    leave(tmp_path / "train_a")
    made = frozenset([str(tmp_path / "train_a")])
    (tmp_path / "train_b.keras").touch()  # as an earlier version of the project left it
    leave(tmp_path / "train_c")
    with pytest.raises(InputError, match=r"rm -r \S+/train_b\.keras \S+/train_c$"):
        scores.load(tmp_path, made)


@pytest.mark.parametrize("digits", [True, False])
def test_without_a_model_of_the_images_there_is_no_champion(tmp_path, digits):
    if digits:
        leave(tmp_path / "train_digits", kind="digits")
    (tmp_path / "train_a").mkdir()  # not trained
    made = frozenset(str(tmp_path / name) for name in ("train_digits", "train_a"))
    with pytest.raises(InputError, match="no model of the images is trained"):
        scores.load(tmp_path, made)
