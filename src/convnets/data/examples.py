"""Inputs and labels of a split, and the names of its classes."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convnets.data import npy

IMAGES = Path("dvc-outs/images")  # a `.npy` and a `.csv` for each split
FEATURES, VIEWS = Path("dvc-outs/features"), Path("dvc-outs/views")
MIRRORED = "_mirrored"  # the suffix of a file with the features of mirror images


class Examples(NamedTuple):
    """Inputs and labels of a split. With K views an example, row i·K + k is view k of example i."""

    inputs: NDArray[Any]
    labels: NDArray[np.integer[Any]]
    source: Path  # the file that holds the inputs
    views: int = 1


def load(inputs: Path, table: Path, views: int = 1) -> Examples:
    """Memory-map a split's images or features, and read its labels.

    Args:
        inputs: a `.npy` file.
        table: a `.csv` file with one row per example and a column `label`.
        views: rows of `inputs` per example.
    """
    return Examples(npy.read(inputs), read_table(table)["label"].to_numpy(), inputs, views)


def read_table(path: Path) -> pd.DataFrame:
    """Read a split's table: `file`, `class` and `label`, of which only `label` is a number.

    A class may be named `001`, `NA` or `TRUE`.
    """
    text = {"file": str, "class": str}
    return pd.read_csv(path, dtype=text, keep_default_na=False)


def class_names() -> list[str]:
    """Return the class names of the images, in label order."""
    table = read_table(IMAGES / "train.csv").drop_duplicates("label").sort_values("label")
    return list(table["class"])
