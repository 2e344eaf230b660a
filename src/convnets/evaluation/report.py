"""The results of `evaluate` as one self-contained page: no network, no script, no server."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from convnets.base import files
from convnets.evaluation import explain, figures
from convnets.evaluation.metrics import METRICS
from convnets.evaluation.scores import Results, mistakes, successes

THUMBNAIL, MOSAIC = 192, 1536  # the longer side in pixels, at most
MAPS = 32  # shown of the first convolution


def picture(pixels: NDArray[Any], size: int = THUMBNAIL) -> str:
    """Return (h, w, 3) pixels from 0 to 255 as the data URI of a WebP image.

    An image with a side of more than `size` pixels is reduced.
    """
    image = Image.fromarray(np.asarray(pixels).clip(0, 255).astype(np.uint8))
    image.thumbnail((size, size))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


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
    best = results.tested[results.champion]
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
        "table": results.table.reset_index().to_dict("records"),
        "counts": results.images["class"].value_counts().reindex(classes).to_dict(),
        "comparison": drawings("comparison")[0],
        "curves": drawings("overview/") + drawings("curves/"),
        "views": [picture(view) for view in views],
        "confusions": drawings("confusion/"),
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


def render(shown: dict[str, Any], seconds: dict[str, float] | None = None) -> str:
    """Return the page as HTML. All external text is escaped.

    Args:
        shown: from `content`.
        seconds: the duration of each stage, if the page is to show it.
    """
    environment = Environment(
        loader=PackageLoader("convnets.evaluation", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    environment.filters["number"] = lambda value, form: form.format(value).replace("%", " %")
    return environment.get_template("report.html").render(shown, seconds=seconds)


def write(shown: dict[str, Any], path: Path) -> None:
    """Write the page, atomically. The same results give the same bytes."""
    with files.atomic(path) as part:
        part.write_text(render(shown), encoding="utf-8")
