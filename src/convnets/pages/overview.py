"""The page of the images: what is used, and what is not, before anything is trained."""

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convnets.listing.labels import Labelled
from convnets.listing.listing import Layout, by_reason
from convnets.pages.page import picture, render

MOSAIC, SMALL = 24, 96  # pictures of a class, and their longer side in pixels
MOST = 480  # pictures of all classes


def html(
    found: Layout,
    summary: dict[str, Any],
    labelled: Labelled,
    pixels: NDArray[np.uint8],
    duplicates: NDArray[np.uint8],
) -> str:
    """Return the page.

    Args:
        found: the layout of all images.
        summary: what became of them, from `subset`.
        labelled: the labels.
        pixels: of the training images, (n, h, w, 3).
        duplicates: of the first pairs of the summary's, (k, 2, h, w, 3).
    """
    tables = labelled.tables
    train = tables["train"]
    available = Counter(image.label for image in found.images)
    counts = {split: Counter(table["class"]) for split, table in tables.items()}
    each = max(4, min(MOSAIC, MOST // len(available)))
    classes = {
        label: {
            "counts": {split: counts[split][label] for split in tables},
            "found": count,
            "pictures": [
                picture(pixels[row], SMALL) for row in train["row"][train["class"] == label][:each]
            ],
        }
        for label, count in sorted(available.items())
    }
    shown = {
        "layout": found.name,
        "available": len(found.images),
        "total": sum(map(len, tables.values())),
        "splits": list(tables),
        "classes": classes,
        "corrections": labelled.counts,
        "missing_numbers": summary["missing_numbers"],
        "without_group": summary["without_group"],
        "rejected": summary["rejected"],
        "left_out": by_reason(found.skipped) | by_reason(summary["rejected_files"]),
        "duplicates": summary["duplicates"],
        "across_splits": summary["duplicates_across_splits"],
        "across_classes": summary["duplicates_across_classes"],
        "dropped": summary["duplicates_dropped"],
        "pairs": [
            pair | {"pictures": [picture(one) for one in both]}
            for pair, both in zip(summary["duplicate_files"], duplicates, strict=False)
        ],
    }
    return render("convnets.pages", "overview.html", shown)
