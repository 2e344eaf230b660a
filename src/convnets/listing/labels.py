"""The label of each image."""

from pathlib import Path

import pandas as pd

from convnets.base import files
from convnets.examples.examples import read_text
from convnets.listing.subset import SPLITS


def write(images: Path, out: Path) -> dict[str, pd.DataFrame]:
    """Write a table for each split, atomically, and return them.

    The columns are `file`, `class`, `label`, which is the place of the class among all names in
    alphabetical order, and `row`, the image's place in the arrays.

    Args:
        images: the folder with the tables of `subset`.
        out: the folder to write.
    """
    tables = {split: read_text(images / f"{split}.csv") for split in SPLITS}
    classes = sorted(set(tables["train"]["class"]))
    with files.atomic(out) as part:
        part.mkdir()
        for split, table in tables.items():
            table["label"] = table["class"].map(classes.index)
            table["row"] = range(len(table))
            table[["file", "class", "label", "row"]].to_csv(part / f"{split}.csv", index=False)
    return tables
