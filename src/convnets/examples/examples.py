"""Inputs and labels of a split, and the names of its classes."""

import hashlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convnets.examples import npy

IMAGES = Path("dvc-outs/images")  # from `subset`: a `.npy` and a `.csv` for each split
LABELS = Path("dvc-outs/labels")  # from `labels`: a `.csv` for each split
FEATURES, VIEWS = Path("dvc-outs/features"), Path("dvc-outs/views")
MIRRORED = "_mirrored"  # the suffix of a file with the features of mirror images


class Examples(NamedTuple):
    """Inputs and labels of a split. With K views an example, row i·K + k is view k of image i."""

    inputs: NDArray[Any]
    labels: NDArray[np.integer[Any]]
    source: Path  # the file that holds the inputs
    views: int = 1
    rows: NDArray[np.integer[Any]] | None = None  # the image of each label; None for all in order

    def at(self, chosen: slice | NDArray[Any], view: Any = 0) -> NDArray[Any]:
        """Return the inputs of some labels, each in one of its views."""
        rows = np.arange(len(self.labels)) if self.rows is None else self.rows
        where = (
            chosen if self.rows is None and self.views == 1 else rows[chosen] * self.views + view
        )
        found: NDArray[Any] = self.inputs[where]
        return found


def load(inputs: Path, split: str, views: int = 1) -> Examples:
    """Memory-map a split's images or features, and read its labels.

    Args:
        inputs: a `.npy` file.
        split: of the images.
        views: rows of `inputs` per image.
    """
    table, array = read_table(split), npy.read(inputs)
    whole = len(table) * views == len(array)
    rows = None if whole else table["row"].to_numpy()
    return Examples(array, table["label"].to_numpy(), inputs, views, rows)


def read_table(split: str) -> pd.DataFrame:
    """Read a split's labels: `file`, `class`, `label` and `row`. Only the last two are numbers.

    A class may be named `001`, `NA` or `TRUE`.
    """
    return read_text(LABELS / f"{split}.csv").astype({"label": int, "row": int})


def read_text(path: Path) -> pd.DataFrame:
    """Read a table in which all is text."""
    return pd.read_csv(path, dtype=str, keep_default_na=False)


def fingerprint() -> str:
    """Return a hash of all labels, by which a page tells of which images it is."""
    digest = hashlib.sha256()
    for path in sorted(LABELS.glob("*.csv")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def class_names() -> list[str]:
    """Return the class names of the images, in label order."""
    table = read_table("train").drop_duplicates("label").sort_values("label")
    return list(table["class"])
