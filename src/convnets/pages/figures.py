"""Figures of the models' results."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image
from sklearn.metrics import ConfusionMatrixDisplay

from convnets.base import files
from convnets.evaluation import calibration, decided
from convnets.evaluation.metrics import Predictions
from convnets.evaluation.scores import Results
from convnets.pages.style import BLUE, INK, RED

COUNTS = LinearSegmentedColormap.from_list("counts", [f"{BLUE}00", BLUE])  # from transparent


class Drawn(NamedTuple):
    """The charts of all models."""

    comparison: Figure
    reliability: Figure
    decided: Figure
    overview: dict[str, Figure]  # by metric
    curves: dict[str, Figure]  # by model
    confusion: dict[str, Figure]

    def by_name(self) -> dict[str, Figure]:
        """Return the charts by name, such as `confusion/fine_tune`."""
        return {name: getattr(self, name) for name in ("comparison", "reliability", "decided")} | {
            f"{kind}/{name}": figure
            for kind in ("overview", "curves", "confusion")
            for name, figure in getattr(self, kind).items()
        }


def of_results(results: Results) -> Drawn:
    """Draw the charts of all models."""
    histories = {name: each.history for name, each in results.trained.items()}
    return Drawn(
        comparison(results),
        reliability(results.tested[results.champion], results.answers),
        without_a_person(results),
        {metric: overview(histories, metric) for metric in ("val_accuracy", "val_loss")},
        {name: curves(each, name, results.kept[name]) for name, each in histories.items()},
        {
            name: confusion(each.labels, each.predicted, results.trained[name].record.classes, name)
            for name, each in results.tested.items()
        },
    )


def save(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG, atomically. The same figure gives the same bytes."""
    with files.atomic(path) as part:
        figure.savefig(part, dpi=120, metadata={"Software": None})


def comparison(results: Results) -> Figure:
    """Draw each model's test accuracy with its 95 % interval, beside the book's accuracy.

    The models of digits have axes of their own.
    """
    groups = results.by_kind()
    heights = [len(names) for names in groups.values()]
    figure, axes = plt.subplots(
        len(groups),
        squeeze=False,
        sharex=True,
        height_ratios=heights,
        figsize=(6.4, 0.5 * sum(heights) + 0.5 * len(groups) + 0.8),
        layout="constrained",
    )
    for part, (kind, names) in zip(axes.flat, groups.items(), strict=True):
        table = results.table.loc[names]
        rows = np.arange(len(table))[::-1]
        accuracy = table["test_accuracy"]
        errors = np.array([accuracy - table["low"], table["high"] - accuracy])
        part.barh(
            rows,
            accuracy,
            xerr=errors,
            height=0.55,
            color=BLUE,
            ecolor=INK,
            capsize=3,
            label="ours",
        )
        if results.table["book"].notna().any():
            # For one model the book gives the validation accuracy: a hollow mark.
            tested = [results.trained[name].record.book_split == "test" for name in names]
            mark = partial(part.scatter, marker="D", edgecolors=RED, zorder=3)
            mark(table["book"], rows, facecolors=[RED if on_test else "none" for on_test in tested])
            mark([], [], facecolors=RED, label="the book")
            mark([], [], facecolors="none", label="the book, validation")
        part.set_yticks(rows, names)
        part.set_xlim(0, 1.04)
        for row, value in zip(rows, accuracy, strict=True):
            part.text(0.01, row, f"{value:.1%}", va="center", color="white")
        if len(groups) > 1:
            part.set_title(f"the {kind}", loc="left", fontsize="medium")
    part.set_xlabel("test accuracy, with its 95 % Wilson interval")
    if results.table["book"].notna().any():
        figure.legend(*part.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


def overview(histories: dict[str, pd.DataFrame], metric: str) -> Figure:
    """Draw one metric of all models by epoch, on common axes.

    Args:
        histories: one row per epoch for each model, with the index `epoch`.
        metric: a column in every history.
    """
    figure, axes = plt.subplots(figsize=(4.8, 3.6), layout="constrained")
    for place, (name, history) in enumerate(histories.items()):
        history[metric].plot(ax=axes, label=name, marker=".", color=f"C{place}")
    axes.set_title(metric)
    if "loss" in metric:  # from 0.1 to 10
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def curves(history: pd.DataFrame, title: str, best: int) -> Figure:
    """Draw one model's training and validation accuracy and loss by epoch.

    Args:
        history: one row per epoch, with the index `epoch`.
        title: the figure's title.
        best: the epoch that was kept.
    """
    figure, both = plt.subplots(1, 2, figsize=(4.8, 2.5), layout="constrained")
    for axes, metric in zip(both, ("accuracy", "loss"), strict=True):
        plot(axes, history, metric, best)
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    figure.suptitle(title)
    return figure


def confusion(
    labels: NDArray[Any], predicted: NDArray[Any], names: Sequence[str], title: str
) -> Figure:
    """Draw a confusion matrix of integer labels. Omit the counts for more than 20 classes."""
    few = len(names) <= 20
    side = 3 + 0.35 * min(len(names), 20)
    figure, axes = plt.subplots(figsize=(side, side), layout="constrained")
    shown = ConfusionMatrixDisplay.from_predictions(
        labels,
        predicted,
        labels=range(len(names)),
        display_labels=names,
        ax=axes,
        cmap=COUNTS,
        colorbar=False,
        include_values=few,
        text_kw={"color": INK},
        xticks_rotation="vertical" if max(map(len, names)) > 4 else "horizontal",
    )
    if not few:
        shown.ax_.set(xticks=[], yticks=[])
    axes.set_title(title)
    return figure


def reliability(before: Predictions, after: Predictions) -> Figure:
    """Draw the share of right predictions by confidence, before and after calibration.

    A larger mark stands for more images. On the diagonal, a model is as often right as it says.
    """
    figure, both = plt.subplots(1, 2, sharey=True, figsize=(5.6, 3.1), layout="constrained")
    titles = ("before calibration", "after calibration")
    for axes, tested, title in zip(both, (before, after), titles, strict=True):
        binned = calibration.reliability(tested)
        lowest = 1 / tested.probabilities.shape[1]
        axes.plot([lowest, 1], [lowest, 1], color="grey", linestyle=":")
        axes.plot(binned["confidence"], binned["accuracy"], color=BLUE)
        sizes = 10 + 200 * binned["images"] / binned["images"].sum()
        axes.scatter(binned["confidence"], binned["accuracy"], sizes, color=BLUE)
        axes.set_title(title, fontsize="medium")
        axes.set_xlabel("probability of the prediction")
    both[0].set_ylabel("share that is right")
    return figure


def without_a_person(results: Results) -> Figure:
    """Draw the champion's accuracy on the surest pictures by their share. Marks are at limits."""
    figure, axes = plt.subplots(figsize=(5.6, 3.1), layout="constrained")
    marked = [row for row in decided.checked(results.limits, results.answers) if "limit" in row]
    both = (("validation", results.validation, RED), ("test", results.answers, BLUE))
    for name, tested, colour in both:
        curve = decided.curve(tested)
        axes.plot(curve["share"], curve["accuracy"], color=colour, label=name)
        for row in marked:
            reached = curve[curve["limit"] >= row["limit"]].tail(1)
            axes.scatter(reached["share"], reached["accuracy"], 16, color=colour)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda share, _: f"{100 * share:.5g} %")
    axes.set_xlabel("share of the pictures that is decided, the surest first")
    axes.set_ylabel("accuracy of these")
    axes.set_xlim(0, 1.01)
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def overlay(image: NDArray[np.uint8], evidence: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Colour an image by its evidence. Places without evidence stay unchanged.

    Args:
        image: (h, w, 3).
        evidence: (h', w'), 0 to 1, from `explain.grad_cam`.
    """
    height, width = image.shape[:2]
    stretched = Image.fromarray(evidence).resize((width, height), Image.Resampling.BILINEAR)
    heat = np.asarray(stretched)
    share = 0.6 * heat[..., None]
    coloured = share * 255 * colormaps["turbo"](heat)[..., :3] + (1 - share) * image
    return np.asarray(coloured.round(), np.uint8)


def mosaic(maps: NDArray[np.float32], columns: int = 8, side: int = 64) -> NDArray[np.uint8]:
    """Arrange feature maps in a grid, each scaled from its lowest to its highest value.

    Args:
        maps: (h, w, n).
        columns: maps per row.
        side: side of each map, in pixels.

    Returns:
        (rows · side, columns · side, 3).
    """
    rows = -(-maps.shape[2] // columns)
    grid = np.zeros((rows, columns, side, side))
    for place in range(maps.shape[2]):
        small = np.asarray(Image.fromarray(maps[..., place]).resize((side, side)))
        grid[divmod(place, columns)] = (small - small.min()) / max(np.ptp(small), 1e-6)
    whole = grid.swapaxes(1, 2).reshape(rows * side, columns * side)
    return (255 * colormaps["viridis"](whole)[..., :3]).round().astype(np.uint8)


def plot(axes: Axes, history: pd.DataFrame, metric: str, best: int) -> None:
    """Draw a metric of training and validation by epoch, with a line at the epoch that was kept.

    Args:
        axes: to draw on.
        history: one row per epoch, counted from 1.
        metric: accuracy or loss.
        best: the epoch that was kept.
    """
    history[metric].plot(ax=axes, label="training", marker=".", color=RED, linestyle="--")
    history[f"val_{metric}"].plot(ax=axes, label="validation", marker=".", color=BLUE)
    axes.axvline(best, linestyle=":", color="grey")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
