"""Inputs and labels of a split, and the names of its classes."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convnets.data import npy

IMAGES = Path("data/images")  # a `.npy` and a `.csv` for each split


class Examples(NamedTuple):
    """Inputs and labels of a split; with K views an input, row i·K + k is view k of example i."""

    inputs: NDArray[Any]
    labels: NDArray[np.integer[Any]]
    source: Path  # the file that the inputs are in
    views: int = 1


def load(inputs: Path, table: Path, views: int = 1) -> Examples:
    """Memory-map a split's images or features, with the labels of the split.

    Args:
        inputs: a `.npy` file.
        table: a `.csv` file with a row for each example, of which `label` is a column.
        views: rows of `inputs` to each example.
    """
    return Examples(npy.read(inputs), pd.read_csv(table)["label"].to_numpy(), inputs, views)


def class_names() -> list[str]:
    """Return the names of the classes of the images, in the order of their labels."""
    table = pd.read_csv(IMAGES / "train.csv").drop_duplicates("label").sort_values("label")
    return [str(name) for name in table["class"]]
