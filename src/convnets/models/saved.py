"""Models as files: safe to load, reproducible to the byte, with a record of what they are.

Keras is imported only with a model, so records are read without it.
"""

import argparse
import json
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Self

from pydantic import BaseModel, ConfigDict, TypeAdapter

from convnets.base import files
from convnets.base.console import InputError, printable

if TYPE_CHECKING:
    import keras

LARGEST_JSON = 8_000_000  # bytes of a model's config or metadata. Parsed, it takes 50 times as many


class Kind(StrEnum):
    """What a model classifies."""

    IMAGES = "images"
    DIGITS = "digits"


class Limit(BaseModel):
    """How sure a model must be of a picture, to be right so often."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    accuracy: float  # of the pictures that are decided
    limit: float  # their highest probability, at least
    share: float  # of the validation images that are decided


class Record(BaseModel):
    """What a model is, and what its answers mean. It is stored in the model's file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    listing: str | None  # in the book, such as 8.16; it sets the order of the models
    book: float | None  # the accuracy that the book reports
    book_split: str  # the images that the accuracy is for
    kind: Kind
    classes: list[str]  # in label order
    limits: list[Limit] | None = None  # of a champion: the loosest first

    @classmethod
    def given(cls, arguments: argparse.Namespace, kind: Kind, classes: list[str]) -> Self:
        """Return the record of a model whose stage has this command line, see `arguments`."""
        known = {key: value for key, value in vars(arguments).items() if key in cls.model_fields}
        return cls(**known, kind=kind, classes=classes)


def arguments() -> argparse.ArgumentParser:
    """Return a parser for a training stage's command line: its name, and a part of `Record`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", help="its name in dvc.yaml, also of one of several")
    parser.add_argument("--title", required=True, help="the model's title")
    parser.add_argument("--listing", help="in the book, such as 8.16; orders the models")
    parser.add_argument("--book", type=float, help="the accuracy that the book reports")
    parser.add_argument("--book-split", default="test", help="the images that the accuracy is for")
    return parser


def save(model: "keras.Model", path: Path, record: Record | None = None) -> None:
    """Save a model as `.keras`, atomically. The same model and record give the same bytes.

    The record goes into the archive's `metadata.json`. A backbone has none.
    """
    from convnets.models import internals

    with files.atomic(path) as part:
        unfinished = part.with_name(f".part.keras.{path.name}")  # Keras wants its suffix
        try:
            model.save(unfinished)
            internals.reproducible(unfinished, part, record.model_dump() if record else {})
        finally:
            unfinished.unlink(missing_ok=True)


def load(path: Path, remedy: str = "train it again") -> "keras.Model":
    """Load a `.keras` file for inference, without running any code in it.

    Raises:
        InputError: the file is missing, damaged, demands more memory than it has weights for, or
            holds custom code such as a Lambda layer.
    """
    if not path.is_file():
        problem = "not a file" if path.exists() else "no such file"
        raise InputError(f"{path}: {problem}; {remedy}")
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path}: not a .keras file, or only a part of one; {remedy}")
    from convnets.models import internals  # with its settings of Keras

    with (
        _opened(path, "cannot be loaded safely", remedy) as archive,
        warnings.catch_warnings(action="ignore"),  # an error follows them
    ):
        return internals.load(archive)


def reason(error: BaseException) -> str:
    """Return why Keras failed, on one short line. It tells the first cause last, in bold."""
    while error.__context__ is not None and str(error.__context__):
        error = error.__context__
    plain = re.sub("\x1b\\[[0-9;]*m", "", " ".join(str(error).split()))
    return printable(plain.removeprefix("Exception encountered when calling ")[:200])


def record(path: Path) -> Record:
    """Return a saved model's record.

    Raises:
        InputError: the file is not a model that `save` wrote.
    """
    with _opened(path, "has no record of its training", "train it again") as archive:
        found = json.loads(archive.read("metadata.json"))
        return Record.model_validate(
            {key: found[key] for key in Record.model_fields if key in found}
        )


def class_names(path: Path) -> list[str]:
    """Return a saved model's class names, in label order.

    Raises:
        InputError: the file is not a model that `save` wrote.
    """
    with _opened(path, "has no class names", "train it again") as archive:
        found = json.loads(archive.read("metadata.json"))
        return TypeAdapter(list[str]).validate_python(found["classes"])


@contextmanager
def _opened(path: Path, problem: str, remedy: str) -> Iterator[zipfile.ZipFile]:
    """Open a model's archive. Whatever fails inside the `with` block becomes an `InputError`.

    Keras, h5py, zipfile, json and pydantic raise exceptions of any kind for damaged bytes.
    """
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            raise FileNotFoundError("not a file" if path.exists() else "no such file")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            # Keras compresses nothing. So what is read is never more than the file itself.
            if sum(member.file_size for member in members) > path.stat().st_size:
                raise ValueError("its parts are compressed; save it again with Keras")
            for member in members:
                if member.filename.endswith(".json") and member.file_size > LARGEST_JSON:
                    limit = f"{LARGEST_JSON / 1e6:.0f} MB"
                    raise ValueError(f"{member.filename} is larger than {limit}")
            yield archive
    except Exception as error:
        raise InputError(f"{path}: {problem} ({reason(error)}); {remedy}") from error
