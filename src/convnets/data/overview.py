"""The page of the images: what is used, and what is not, before anything is trained."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convnets.data import npy
from convnets.data.arrays import Written
from convnets.data.examples import read_table
from convnets.data.layout import Layout
from convnets.data.page import picture, render
from convnets.data.subset import SPLITS

EXAMPLES = 3  # of the files that are left out for one reason
MOSAIC, SMALL = 24, 96  # pictures of a class, and their longer side in pixels
MOST = 480  # pictures of all classes


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


def html(found: Layout, written: Written, folder: Path) -> str:
    """Return the page.

    Args:
        found: the layout of all images.
        written: what became of them.
        folder: the arrays.
    """
    summary = written.summary
    table, pixels = read_table(folder / "train.csv"), npy.read(folder / "train.npy")
    available = Counter(image.label for image in found.images)
    each = max(4, min(MOSAIC, MOST // len(available)))
    classes = {
        label: {
            "counts": {split: summary[split][label] for split in SPLITS},
            "found": count,
            "pictures": [
                picture(pixels[row], SMALL) for row in table.index[table["class"] == label][:each]
            ],
        }
        for label, count in sorted(available.items())
    }
    shown = {
        "layout": found.name,
        "available": len(found.images),
        "total": sum(sum(summary[split].values()) for split in SPLITS),
        "splits": SPLITS,
        "classes": classes,
        "missing_numbers": summary["missing_numbers"],
        "without_group": summary["without_group"],
        "rejected": summary["rejected"],
        "left_out": by_reason(found.skipped) | by_reason(summary["rejected_files"]),
        "duplicates": summary["duplicates"],
        "across_splits": summary["duplicates_across_splits"],
        "across_classes": summary["duplicates_across_classes"],
        "dropped": summary["duplicates_dropped"],
        "pairs": [
            pair.told() | {"pictures": [picture(one) for one in pixels]}
            for pair, pixels in written.pairs
        ],
    }
    return render("convnets.data", "overview.html", shown)
