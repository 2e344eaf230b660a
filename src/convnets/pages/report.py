"""The results of `evaluate` as one self-contained page: no network, no script, no server."""

from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convnets.evaluation import chance, decided
from convnets.evaluation.limits import RISK
from convnets.evaluation.metrics import METRICS
from convnets.evaluation.scores import Results, mistakes, successes
from convnets.pages import figures
from convnets.pages.figures import Drawn
from convnets.pages.page import picture, render
from convnets.pages.style import svg

MOSAIC = 1536  # the longer side in pixels, at most
MAPS = 32  # shown of the first convolution
MANY = 20  # classes, above which a matrix of them cannot be read
PAIRS = 15  # of classes that are confused most


def content(
    results: Results,
    drawn: Drawn,
    images: NDArray[np.uint8],
    views: NDArray[np.float32],
    evidence: NDArray[np.float32],
    maps: NDArray[np.float32],
    labels: str,
    audit: dict[str, Any],
    unlike: float | None,
) -> dict[str, Any]:
    """Return the content of the page.

    Args:
        results: the results of all models.
        drawn: from `figures.of_results`.
        images: the test images, (n, h, w, 3).
        views: one training image and then its augmented views, (k, h, w, 3).
        evidence: the champion's, for the images of `explained`.
        maps: the champion's first convolution's, for the first image.
        labels: a hash of all labels.
        audit: from `audit.pictures.summary`.
        unlike: see `scores.write`.
    """
    best = results.answers
    recall = results.recall().sort_values(results.champion, kind="stable")
    others = [name for name in drawn.confusion if name != results.champion]
    wrong = mistakes(best, 12)
    classes = results.best.record.classes
    records = {name: trained.record for name, trained in results.trained.items()}

    def example(row: int) -> dict[str, Any]:
        return {
            "picture": picture(images[row]),
            "file": results.images["file"][row],
            "actual": results.images["class"][row],
            "predicted": classes[best.predicted[row]],
            "sure": best.probabilities[row].max(),
        }

    def drawing(figure: Figure) -> Markup:
        return Markup(svg(figure))  # noqa: S704 - texts are escaped

    return {
        "labels": labels,
        "audit": audit,
        "unlike": unlike,
        "champion": results.champion,
        "records": records,
        "kept": results.kept,
        "epochs": {name: len(each.history) for name, each in results.trained.items()},
        "monitor": results.monitor,
        "metrics": METRICS,
        "groups": {
            kind: results.table.loc[names].reset_index().to_dict("records")
            for kind, names in results.by_kind().items()
        },
        "recall": recall.to_dict("index"),
        "confused": results.confused().head(PAIRS).to_dict("records"),
        "many": len(classes) > MANY,
        "matrix": drawing(drawn.confusion[results.champion]),
        "validated": len(results.validation.labels),
        "counts": results.images["class"].value_counts().reindex(classes, fill_value=0).to_dict(),
        "decided": decided.checked(results.limits, best),
        "confidence": 1 - RISK,
        "surest": drawing(drawn.decided),
        "comparison": drawing(drawn.comparison),
        "differences": {
            (row["first"], row["second"]): row for row in results.differences().to_dict("records")
        },
        "level": chance.LEVEL,
        "curves": [drawing(each) for each in (*drawn.overview.values(), *drawn.curves.values())],
        "views": [picture(view) for view in views],
        "matrices": [drawing(drawn.confusion[name]) for name in others],
        "calibration": results.calibration.to_dict("index"),
        "reliability": drawing(drawn.reliability),
        "mistakes": [example(row) for row in wrong],
        "explained": [
            example(row) | {"evidence": picture(figures.overlay(images[row], found))}
            for row, found in zip(explained(results), evidence, strict=True)
        ],
        "feature_maps": picture(figures.mosaic(maps[..., :MAPS]), MOSAIC),
        "maps": MAPS,
        "mapped": picture(images[0]),
    }


def explained(results: Results) -> list[int]:
    """Return the rows of the test images whose evidence is shown: some mistakes and successes."""
    return [*mistakes(results.answers, 4), *successes(results.answers, 4)]


def html(shown: dict[str, Any], seconds: dict[str, float] | None = None) -> str:
    """Return the page. The same results give the same bytes.

    Args:
        shown: from `content`.
        seconds: the duration of each stage, if the page is to show it.
    """
    return render("convnets.pages", "report.html", shown | {"seconds": seconds})
