"""The pictures that there are, each with its class, as `download` writes them down."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from convnets.base import files


class Image(NamedTuple):
    """One labelled picture."""

    label: str
    number: int | None  # of a name such as `cat.12.jpg`: it gives the order
    member: str  # its path in the folder or archive
    split: str | None = None  # train, validation or test, where folders say so
    group: str | None = None  # where `data.pattern` says so; it stays in one split


EXAMPLES = 3  # of the files that are left out for one reason
LISTING = Path("dvc-outs/images.json")  # the layout of the pipeline's images


class Layout(NamedTuple):
    """How the pictures are laid out."""

    name: str  # classes, splits, numbered, table or pattern
    images: list[Image]  # by class, then by number or path
    skipped: dict[str, str]  # the path of each file that is not used, and why


def save(found: Layout, path: Path) -> None:
    """Write a layout, for `load`."""
    files.write_json(path, found._asdict())


def load(path: Path) -> Layout:
    """Return a layout that `save` wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return Layout(**found | {"images": [Image(*row) for row in found["images"]]})


def by_reason(left_out: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return for each reason the number of files, and the first of them.

    Args:
        left_out: the reason for each file. After a colon it has details.
    """
    reasons = {name: why.partition(":")[0] for name, why in left_out.items()}
    return {
        why: {
            "files": count,
            "examples": [name for name, reason in reasons.items() if reason == why][:EXAMPLES],
        }
        for why, count in Counter(reasons.values()).most_common()
    }
