"""The results of `evaluate` as one self-contained page: no network, no script, no server."""

from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convnets.data.page import picture, render
from convnets.evaluation import chance, explain, figures
from convnets.evaluation.metrics import METRICS
from convnets.evaluation.scores import Results, mistakes, successes

MOSAIC = 1536  # the longer side in pixels, at most
MAPS = 32  # shown of the first convolution


def content(
    results: Results,
    drawn: dict[str, Figure],
    images: NDArray[np.uint8],
    views: NDArray[np.float32],
) -> dict[str, Any]:
    """Return the content of the page.

    Args:
        results: the results of all models.
        drawn: from `figures.of_results`.
        images: the test images, (n, h, w, 3).
        views: one training image and then its augmented views, (k, h, w, 3).
    """
    best = results.answers
    wrong = mistakes(best, 12)
    explained = [*wrong[:4], *successes(best, 4)]
    evidence = explain.grad_cam(results.best.model, images[explained], best.predicted[explained])
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

    def drawings(kind: str) -> list[Markup]:
        chosen = [figure for name, figure in drawn.items() if name.startswith(kind)]
        return [Markup(figures.svg(figure)) for figure in chosen]  # noqa: S704 - texts are escaped

    return {
        "champion": results.champion,
        "records": records,
        "metrics": METRICS,
        "groups": {
            data: results.table.loc[names].reset_index().to_dict("records")
            for data, names in results.by_data().items()
        },
        "recall": results.recall().to_dict("index"),
        "counts": results.images["class"].value_counts().reindex(classes, fill_value=0).to_dict(),
        "comparison": drawings("comparison")[0],
        "differences": {
            (row["first"], row["second"]): row for row in results.differences().to_dict("records")
        },
        "level": chance.LEVEL,
        "curves": drawings("overview/") + drawings("curves/"),
        "views": [picture(view) for view in views],
        "confusions": drawings("confusion/"),
        "calibration": results.calibration.to_dict("index"),
        "reliability": drawings("reliability")[0],
        "mistakes": [example(row) for row in wrong],
        "explained": [
            example(row) | {"evidence": picture(figures.overlay(images[row], found))}
            for row, found in zip(explained, evidence, strict=True)
        ],
        "feature_maps": {
            name: picture(
                figures.mosaic(
                    explain.feature_maps(results.trained[name].model, images[0])[..., :MAPS]
                ),
                MOSAIC,
            )
            for name in _first_convolutions(results)
        },
        "maps": MAPS,
        "mapped": picture(images[0]),
    }


def _first_convolutions(results: Results) -> list[str]:
    """Return one model per first convolution. All models on the backbone share a frozen one."""
    names = results.of_images()
    on_backbone = [name for name in names if results.trained[name].record.part is not None]
    return [name for name in names if name not in on_backbone[1:]]


def html(shown: dict[str, Any], seconds: dict[str, float] | None = None) -> str:
    """Return the page. The same results give the same bytes.

    Args:
        shown: from `content`.
        seconds: the duration of each stage, if the page is to show it.
    """
    return render("convnets.evaluation", "report.html", shown | {"seconds": seconds})
