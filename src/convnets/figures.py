"""Pictures of what the models do."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import ConfusionMatrixDisplay

plt.switch_backend("Agg")  # stages draw into files, also where there is no screen


def comparison(table: pd.DataFrame) -> Figure:
    """Draw each model's test accuracy with its 95 % interval, the book's beside it.

    Args:
        table: from `evaluation.compare`.
    """
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(table) + 1.4), layout="constrained")
    rows = np.arange(len(table))[::-1]
    accuracy = table["test_accuracy"]
    errors = np.array([accuracy - table["low"], table["high"] - accuracy])
    axes.barh(rows, accuracy, xerr=errors, height=0.55, color="#4c78a8", capsize=3, label="ours")
    # The book gives no test accuracy for the feature head: a hollow mark.
    filled = ["none" if name == "train_feature_head" else "#e45756" for name in table.index]
    mark = partial(axes.scatter, marker="D", edgecolors="#e45756", zorder=3)
    mark(table["book"], rows, facecolors=filled)
    mark([], [], facecolors="#e45756", label="the book")
    mark([], [], facecolors="none", label="the book, validation")
    axes.set_yticks(rows, list(table.index))
    axes.set_xlim(min(0.4, float(table["low"].min())), 1.04)
    for row, value in zip(rows, accuracy, strict=True):
        axes.text(axes.get_xlim()[0] + 0.005, row, f"{value:.1%}", va="center", color="white")
    axes.set_xlabel("test accuracy, with its 95 % Wilson interval")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)
    return figure


def confusion(
    labels: NDArray[Any], predicted: NDArray[Any], names: Sequence[str], title: str
) -> Figure:
    """Draw a confusion matrix of integer labels."""
    figure, axes = plt.subplots(figsize=(4.5, 4), layout="constrained")
    ConfusionMatrixDisplay.from_predictions(
        labels,
        predicted,
        labels=range(len(names)),
        display_labels=names,
        ax=axes,
        cmap="Blues",
        colorbar=False,
    )
    axes.set_title(title)
    return figure


def gallery(images: NDArray[Any], titles: Sequence[str], columns: int = 5) -> Figure:
    """Draw images in a grid, each under its title.

    Args:
        images: (n, h, w, 3), 0 to 255.
        titles: n of them.
        columns: images in a row.
    """
    rows = max(1, -(-len(images) // columns))
    figure, grid = plt.subplots(
        rows, columns, figsize=(2 * columns, 2.3 * rows), layout="constrained", squeeze=False
    )
    for axes in grid.flat:
        axes.axis("off")
    for axes, image, title in zip(grid.flat, images, titles, strict=False):
        axes.imshow(np.asarray(image).clip(0, 255).astype(np.uint8))
        axes.set_title(title, fontsize=8)
    return figure
