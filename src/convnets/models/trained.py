"""What a training leaves: its model, its epochs, its answers. Without Keras."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zipfile import BadZipFile

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convnets.base import files
from convnets.base.console import InputError, say
from convnets.base.params import Monitor
from convnets.examples import npy
from convnets.models import saved
from convnets.models.saved import Record
from convnets.tracking.run import Run

if TYPE_CHECKING:
    import keras

FOLDER = Path("dvc-outs/trained")  # has a folder for each training
MODEL, HISTORY = "model.keras", "history.csv"
HELD_OUT = ("validation", "test")
Logits = dict[str, NDArray[np.float32]]  # for validation and test: (n, views, classes)


class Trained(NamedTuple):
    """A model's record, its epochs and its answers, without the model."""

    record: Record
    history: pd.DataFrame  # one row per epoch, with the index `epoch`, counted from 1
    logits: Logits


def place(stage: str) -> Path:
    """Return the folder of a training stage, also of one of several: `train_mnist@max_pooling`."""
    return FOLDER / stage.replace("@", "_")


def publish(model: "keras.Model", trained: Trained, run: Run) -> None:
    """Write a stage's out, atomically, and log its model, which takes pixels, to MLflow."""
    folder = place(run.stage)
    with files.atomic(folder) as part:
        part.mkdir()
        for split, logits in trained.logits.items():
            np.save(part / f"{split}.npy", logits, allow_pickle=False)
        trained.history.to_csv(part / HISTORY)
        saved.save(model, part / MODEL, trained.record)
    run.model(folder / MODEL, trained.record.classes)
    say(f"{folder}: {model.count_params():,} parameters")


def read(folder: Path) -> Trained | None:
    """Read a training's out; return None if there is none, or an empty one: it was not trained.

    Raises:
        InputError: a file is missing or damaged.
    """
    answers = {split: folder / f"{split}.npy" for split in HELD_OUT}
    path = folder / HISTORY
    if not any(each.exists() for each in (path, folder / MODEL, *answers.values())):
        return None
    logits: Logits = {}
    try:
        history = pd.read_csv(path, float_precision="round_trip").set_index("epoch")
        for split, path in answers.items():
            logits[split] = npy.read(path)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: missing or damaged; train it again") from error
    return Trained(saved.record(folder / MODEL), history, logits)


def by_epoch(rows: Sequence[dict[str, float]]) -> pd.DataFrame:
    """Return a model's history as a table, with the index `epoch`, counted from 1."""
    return pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="epoch"))


def best_epoch(history: pd.DataFrame, monitor: Monitor) -> int:
    """Return the epoch, counted from 1, whose weights are kept.

    Args:
        history: one row per epoch.
        monitor: val_loss for the lowest validation loss, as in the book; val_accuracy for the
            highest validation accuracy, where the lower loss breaks ties.
    """
    loss, accuracy = (history[name].to_numpy() for name in ("val_loss", "val_accuracy"))
    if monitor == "val_accuracy":
        loss = np.where(accuracy == accuracy.max(), loss, np.inf)
    return int(loss.argmin()) + 1
