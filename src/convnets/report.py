"""What `evaluate` found, as one page that needs nothing else: no network, no script, no server."""

import base64
import io
from typing import Any

import keras
import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from convnets import evaluation, explain, figures

TITLES = {
    "train_mnist_max_pooling": "digits, max pooling",
    "train_mnist_no_pooling": "digits, no pooling",
    "train_scratch": "from scratch",
    "train_augmented": "from scratch, augmented",
    "train_feature_head": "dense head on features",
    "train_augmented_head": "dense head on augmented views",
    "fine_tune": "fine-tuned backbone",
    "train_mirrored_head": "normalised head, with the mirror image",
}
THUMBNAIL, MOSAIC = 192, 1536  # pixels to a side, at most
MAPS = 32  # of the first convolution


def picture(pixels: NDArray[Any], size: int = THUMBNAIL) -> str:
    """Return (h, w, 3) pixels of 0 to 255 as the data URI of a WebP image.

    It is made smaller where a side has more than `size` pixels.
    """
    image = Image.fromarray(np.asarray(pixels).clip(0, 255).astype(np.uint8))
    image.thumbnail((size, size))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def drawing(figure: Figure) -> Markup:
    """Return a figure as safe markup, and close it."""
    plt.close(figure)
    return Markup(figures.svg(figure))  # noqa: S704 - Matplotlib escapes the texts


def content(
    results: evaluation.Results,
    histories: dict[str, pd.DataFrame],
    trained: dict[str, keras.Model],
    images: NDArray[np.uint8],
    views: NDArray[np.float32],
) -> dict[str, Any]:
    """Return what the page shows.

    Args:
        results: of all models.
        histories: a row an epoch for each model.
        trained: the models of the images, by name.
        images: the test images, (n, h, w, 3).
        views: of one training image, (k, h, w, 3): itself, then augmented.
    """
    best = results.tested[results.champion]
    mistakes = evaluation.mistakes(best, 12)
    explained = [*mistakes[:4], *evaluation.successes(best, 4)]
    evidence = explain.grad_cam(
        trained[results.champion], images[explained], best.predicted[explained]
    )

    def example(row: int) -> dict[str, Any]:
        return {
            "picture": picture(images[row]),
            "file": results.images["file"][row],
            "actual": results.images["class"][row],
            "predicted": results.classes[best.predicted[row]],
            "sure": best.probabilities[row].max(),
        }

    return {
        "champion": results.champion,
        "titles": TITLES,
        "table": results.table.reset_index().to_dict("records"),
        "epochs": {name: len(history) for name, history in histories.items()},
        "best_epoch": {name: history["val_loss"].idxmin() for name, history in histories.items()},
        "classes": [
            {"name": name, "count": int(count)}
            for name, count in zip(
                results.classes,
                np.bincount(best.labels, minlength=len(results.classes)),
                strict=True,
            )
        ],
        "comparison": drawing(figures.comparison(results.table)),
        "overviews": [
            drawing(figures.overview(histories, metric)) for metric in ("val_accuracy", "val_loss")
        ],
        "curves": [drawing(figures.curves(history, name)) for name, history in histories.items()],
        "views": [picture(view) for view in views],
        "confusions": [
            drawing(figures.confusion(tested.labels, tested.predicted, results.names(name), name))
            for name, tested in results.tested.items()
        ],
        "mistakes": [example(row) for row in mistakes],
        "explained": [
            example(row) | {"evidence": picture(figures.overlay(images[row], found))}
            for row, found in zip(explained, evidence, strict=True)
        ],
        "feature_maps": {
            name: picture(
                figures.mosaic(explain.feature_maps(trained[name], images[0])[..., :MAPS]), MOSAIC
            )
            for name in ("train_scratch", "fine_tune")
        },
        "maps": MAPS,
        "mapped": picture(images[0]),
    }


def render(shown: dict[str, Any], seconds: dict[str, float] | None = None) -> str:
    """Return the page as HTML; whatever comes from outside is escaped.

    Args:
        shown: from `content`.
        seconds: what each stage took, if the page is to tell.
    """
    environment = Environment(
        loader=PackageLoader("convnets", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    return environment.get_template("report.html").render(shown, seconds=seconds)
