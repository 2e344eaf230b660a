"""Models as files: safe to load, the same bytes every time, with what training knew of them."""

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any, Self

import keras
from pydantic import BaseModel, ConfigDict

from convnets.base import files
from convnets.base.console import InputError
from convnets.models import internals


class Identity(BaseModel):
    """What a model is called, and what the book says of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    listing: str | None  # the book's, such as 8.16; it gives the order of the models
    book: float | None  # the accuracy that the book reports
    book_split: str  # of which images that is

    @classmethod
    def given(cls, arguments: argparse.Namespace) -> Self:
        """Take it from a command line that `arguments` parsed."""
        return cls(**{key: getattr(arguments, key) for key in cls.model_fields})


def arguments() -> argparse.ArgumentParser:
    """Return the parser of a training stage's command line, which has its name and `Identity`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", help="its name in dvc.yaml, with the item of a matrix stage")
    parser.add_argument("--title", required=True, help="what people call the model")
    parser.add_argument("--listing", help="the book's, such as 8.16; it orders the models")
    parser.add_argument("--book", type=float, help="the accuracy that the book reports")
    parser.add_argument("--book-split", default="test", help="of which images that is")
    return parser


class Record(Identity):
    """What training knew of a model: it is kept in the model's file, for whoever scores it."""

    classes: list[str]  # in the order of their labels
    part: str | None  # the layer that was trained on cached features; None: the whole, on pixels
    inputs: list[str]  # the test split's, which `part` takes; of two, the model is the mean
    labels: str  # the test split's
    history: list[dict[str, float]]  # a row an epoch

    @property
    def best(self) -> int:
        """The epoch, counted from 1, whose weights were kept: the lowest validation loss."""
        losses = [row["val_loss"] for row in self.history]
        return losses.index(min(losses)) + 1


def save(model: keras.Model, path: Path, record: Record) -> None:
    """Save a model as `.keras`, atomically; the same model and record always give the same bytes.

    The record goes into the archive's `metadata.json`.
    """
    with files.atomic(path) as part:
        unfinished = part.with_name(f".keras{part.name}")
        try:
            model.save(unfinished)
            internals.reproducible(unfinished, part, record.model_dump())
        finally:
            unfinished.unlink(missing_ok=True)


def load(path: Path) -> keras.Model:
    """Load a `.keras` file for inference, without running any code that it may carry.

    Raises:
        InputError: it is missing, damaged, or holds custom code such as a Lambda layer.
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be loaded safely ({reason}); train it again") from error


def record(path: Path) -> Record:
    """Return what training knew of a saved model.

    Raises:
        InputError: it is no model that `save` wrote.
    """
    try:
        found = _metadata(path)
        return Record.model_validate({key: found[key] for key in Record.model_fields})
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: has no record of its training; train it again") from error


def class_names(path: Path) -> list[str]:
    """Return the names of the classes that a saved model tells apart, in the order of their labels.

    Raises:
        InputError: it is no model that `save` wrote.
    """
    try:
        return [str(name) for name in _metadata(path)["classes"]]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: names no classes ({error}); train it again") from error


def _metadata(path: Path) -> dict[str, Any]:
    with zipfile.ZipFile(path) as archive:
        found: dict[str, Any] = json.loads(archive.read("metadata.json"))
    return found
