"""The label of each image: its class where it came from, unless a person corrected it."""

import csv
import io
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from convnets.base import files
from convnets.base.console import InputError, printable
from convnets.examples.examples import read_text
from convnets.listing.subset import SPLITS

CORRECTIONS = Path("corrections.csv")  # in git
COLUMNS = ("sha256", "file", "before", "after", "why")
DROP = "drop"  # in the column `after`: leave the picture out


class Labelled(NamedTuple):
    """The labels of all splits."""

    tables: dict[str, pd.DataFrame]  # `file`, `class`, `label` and `row`
    counts: dict[str, int]  # of the images corrected and dropped
    told: list[str]  # what of the corrections could not be used


def corrections(path: Path = CORRECTIONS) -> dict[str, dict[str, str]]:
    """Return the corrections by the SHA-256 of the picture's file.

    Args:
        path: a CSV file with `COLUMNS`. A missing one is empty.

    Raises:
        InputError: it is not such a file, or a picture has two different corrections in it.
    """
    if not path.exists():
        return {}
    try:
        text = path.read_bytes().decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""), strict=True)
        lacking = {"sha256", "after"}.difference(rows.fieldnames or ())
        found = list(rows)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); correct it") from error
    if any(line.startswith(("<<<<<<<", ">>>>>>>")) for line in text.splitlines()):
        raise InputError(f"{path}: has git's marks of a conflict; keep the lines that are right")
    if lacking:
        raise InputError(f"{path}: its first line must be {','.join(COLUMNS)}")
    known: dict[str, dict[str, str]] = {}
    for row in found:
        one = {name: (row.get(name) or "").strip() for name in COLUMNS}
        if not one["sha256"]:
            continue  # an empty line
        other = known.setdefault(one["sha256"].lower(), one)
        if other["after"] != one["after"]:
            raise InputError(
                f"{path}: {one['file'] or one['sha256']} is {other['after']!r} in one line and "
                f"{one['after']!r} in another; remove one of them"
            )
    return known


def write(images: Path, out: Path, corrected: dict[str, dict[str, str]]) -> Labelled:
    """Write a table for each split, atomically, and return them.

    The columns are `file`, `class`, `label`, which is the place of the class among all names in
    alphabetical order, and `row`, the image's place in the arrays. A corrected image keeps its
    split.

    Args:
        images: the folder with the tables of `subset`.
        out: the folder to write.
        corrected: from `corrections`.

    Raises:
        InputError: a class has no image left in a split.
    """
    tables = {split: read_text(images / f"{split}.csv") for split in SPLITS}
    classes = sorted(set(tables["train"]["class"]))
    if DROP in classes and any(one["after"] == DROP for one in corrected.values()):
        raise InputError(f"{CORRECTIONS}: {DROP!r} is a class too; give the class another name")
    wanted = {name: one["after"] for name, one in corrected.items()}
    usable = {name: after for name, after in wanted.items() if after in (*classes, DROP)}
    before = list(tables.values())
    counts: Counter[str] = Counter()
    with files.atomic(out) as part:
        part.mkdir()
        for split, table in tables.items():
            after = table["sha256"].map(usable).fillna(table["class"])
            counts["corrected"] += int(((after != table["class"]) & (after != DROP)).sum())
            counts["dropped"] += int((after == DROP).sum())
            if gone := sorted({*table["class"]} - {*after}):
                raise InputError(
                    f"{CORRECTIONS}: no image of {gone[0]!r} is left for {split}; correct fewer"
                )
            made = table.assign(row=range(len(table)), **{"class": after})
            made = made[made["class"] != DROP]
            made["label"] = made["class"].map(classes.index)
            tables[split] = made[["file", "class", "label", "row"]].reset_index(drop=True)
            tables[split].to_csv(part / f"{split}.csv", index=False)
    given = pd.concat(before).set_index("sha256")["class"].to_dict()
    moved = [
        one["file"]
        for name, one in corrected.items()
        if one["before"] and given.get(name, one["before"]) not in (one["before"], one["after"])
    ]
    told = []
    if moved:
        told.append(
            f"{CORRECTIONS}: {len(moved):,} pictures are of another class now than when they were "
            f"corrected, such as {printable(moved[0])}; the corrections are used"
        )
    if missing := len(wanted.keys() - given.keys()):
        told.append(f"{CORRECTIONS}: {missing:,} corrections are of pictures that are not here")
    if unknown := sorted({wanted[name] for name in wanted.keys() - usable.keys()}):
        named = ", ".join(printable(repr(name)) for name in unknown[:5])
        told.append(f"{CORRECTIONS}: no such class: {named}; these corrections are not used")
    return Labelled(tables, dict(counts), told)
