"""Predictions of a model for image files."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import mlflow
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convnets.base import console
from convnets.base.console import InputError
from convnets.data import archive, images, layout
from convnets.models import architectures, saved
from convnets.tracking import store

BATCH = 32
LARGEST = 100_000_000  # bytes per image file


class Prediction(NamedTuple):
    """An image's probabilities, in the order of the model's classes."""

    file: str
    probabilities: NDArray[np.float64]


def load(name: str) -> tuple[keras.Model, list[str]]:
    """Return a model and its class names.

    Args:
        name: `champion` for the registered model with that alias, or the path of a `.keras` file.

    Raises:
        InputError: the model does not exist, cannot be loaded safely, or is not for photographs.
    """
    path, classes = (
        _champion() if name == store.CHAMPION else (Path(name), saved.class_names(Path(name)))
    )
    model = saved.load(path)
    shape = model.input_shape[1:]
    if len(shape) != 3 or shape[0] != shape[1] or shape[2] != 3:
        raise InputError(f"{name}: takes {shape}, not square RGB images; choose another --model")
    if len(classes) != max(2, model.output_shape[-1]):
        raise InputError(f"{name}: {len(classes)} class names do not match its output; train again")
    return model, classes


def _champion() -> tuple[Path, list[str]]:
    store.quieten()
    uri = f"models:/{store.EXPERIMENT}@{store.CHAMPION}"
    local = not os.environ.get("MLFLOW_TRACKING_URI")
    try:
        if local and not (store.root() / "mlflow.db").exists():
            raise FileNotFoundError("no mlflow.db here")
        mlflow.set_tracking_uri(store.uri())
        folder = Path(mlflow.artifacts.download_artifacts(uri))
        metadata = mlflow.models.Model.load(folder).metadata or {}
        return folder / "data" / "model.keras", [str(name) for name in metadata.get("classes", ())]
    except Exception as error:
        if store.is_a_defect(error):
            raise
        raise InputError(
            f"{uri}: is not available ({store.reason(error)}); run `dvc repro` first, "
            "`dvc repro -s -f evaluate` if there is nothing to do, or give --model a .keras file"
        ) from error


def files(names: list[str]) -> list[str]:
    """Return the names of image files. Folders are replaced by the image files in them.

    A folder is searched as training does: links are followed, hidden files and those of the system
    are skipped. A folder without image files keeps its own name, so that it is reported.

    Args:
        names: files and folders, or `-` for an image on stdin.
    """
    found = []
    for name in names:
        inside = []
        if Path(name).is_dir():
            walked, _, _ = archive.walk(Path(name))
            inside = [str(walked[path]) for path in layout.sort_out(walked)[0]]
        found += inside or [name]
    return found


def _read(name: str) -> bytes:
    if name == "-":
        content = sys.stdin.buffer.read(LARGEST + 1)
    elif Path(name).is_dir():
        raise images.ImageError("no images in it")
    else:
        with Path(name).open("rb") as file:
            content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise images.ImageError(f"larger than {LARGEST / 1e6:.0f} MB")
    return content


def predict(
    model: keras.Model, names: list[str], failed: Callable[[str, str], None]
) -> list[Prediction]:
    """Return a model's predictions for all readable images, decoded as for training.

    Args:
        model: from `load`.
        names: see `files`.
        failed: called with the name of each unreadable image and the reason.
    """
    size, found = model.input_shape[1], files(names)
    starts = range(0, len(found), BATCH)
    made: list[Prediction] = []
    for start in console.progress(starts, "predict (batches)", len(starts), beside_output=True):
        decoded, read = [], []
        for name in found[start : start + BATCH]:
            try:
                decoded.append(images.decode(_read(name), size))
                read.append(name)
            except (OSError, ValueError) as error:
                failed(name, getattr(error, "strerror", None) or str(error))
        if read:
            outputs = architectures.by_class(model.predict_on_batch(np.stack(decoded)))
            made += [Prediction(*pair) for pair in zip(read, outputs, strict=True)]
    return made


def show(made: list[Prediction], classes: list[str], form: str) -> str:
    """Return predictions as text.

    Args:
        made: from `predict`.
        classes: the class names.
        form: table, json or csv.
    """
    rows: list[dict[str, Any]] = [
        {
            "file": one.file,
            "class": classes[int(one.probabilities.argmax())],
            "probabilities": dict(zip(classes, map(float, one.probabilities), strict=True)),
        }
        for one in made
    ]
    if form == "json":
        return json.dumps(rows, indent=2, ensure_ascii=False)
    table = pd.DataFrame(
        [[row["file"], row["class"], *row["probabilities"].values()] for row in rows],
        columns=["file", "class", *classes],
    )
    if form == "csv":
        return table.to_csv(index=False).rstrip("\n")
    table["file"] = table["file"].map(console.printable)
    with pd.option_context("display.unicode.east_asian_width", True):
        return table.to_string(index=False, float_format="{:.4f}".format) if rows else ""
