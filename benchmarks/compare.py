"""The book's way and ours in turn, A B A B, on the same data and machine: `make bench`.

Ours are the pipeline's stages as `dvc repro` runs them, in a temporary clone of the last commit.
The book's way is `book.py`. Both run a few epochs on the same photographs, weights and digits. The
time of an epoch is the median of the epochs after the first. The total time at the book's number of
epochs is computed from this median and the time outside the epochs. Neither side scores the test
images.

If it is interrupted, run the same command again: it resumes after the last measurement. With
another commit, other data or another machine, it starts over.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from matplotlib.figure import Figure

from benchmarks import book
from benchmarks.measure import matrix_peak, run
from convnets.base import cluster, console, files, params
from convnets.examples import examples
from convnets.models import precision
from convnets.sources import archive

ROOT = Path(__file__).parents[1]
UNFINISHED = ROOT / ".unfinished/bench"
SPLITS = ("train", "validation", "test")
PREPARING = ("download", "subset", "download_weights", "download_mnist")
ROWS = {  # the book's rows, and our stages for each
    "mnist": ["train_mnist@max_pooling"],
    "scratch": ["train_scratch"],
    "augmented": ["train_augmented"],
    "features": ["extract_features", "train_feature_head"],
    "augmented_head": ["extract_views", "train_augmented_head"],
    "fine_tune": ["fine_tune"],
}
PRODUCT = "a matrix product"
EPOCHS = 4
EPOCHS_OF_BOOK = {"augmented_head": 2, "fine_tune": 2}  # these take minutes each; others run EPOCHS


def prepare(clone: Path, given: argparse.Namespace) -> params.Params:
    """Write the clone's params: the book's, with fewer epochs and the given data."""
    values = yaml.safe_load((ROOT / "presets/book.yaml").read_text())
    values |= {"epochs": EPOCHS, "data": {"source": "sample", "path": None}}
    values |= {"mnist": {"source": "digits", "path": None}}
    values["backbone"]["weights"] = str(given.weights.absolute()) if given.weights else "random"
    values["subset"] |= {s: max(16, round(given.share * values["subset"][s])) for s in SPLITS}
    if given.archive:
        values["data"] = {"source": "archive", "path": str(given.archive.absolute())}
    if given.digits:
        with np.load(given.digits) as digits:
            few = {name: digits[name][: round(given.share * len(digits[name]))] for name in digits}
        np.savez(clone / "digits.npz", **few)
        values["mnist"] = {"source": "file", "path": "digits.npz"}
    (clone / "params.yaml").write_text(yaml.safe_dump(values))
    return params.load(clone / "params.yaml")


def begin(given: argparse.Namespace) -> Path:
    """Clone the last commit into a new folder, or return the folder of an interrupted comparison.

    It resumes only with the same code, data and machine. The number of rounds may change.
    """
    commit, changes = (
        subprocess.run(["git", "-C", str(ROOT), *command], check=True, capture_output=True).stdout
        for command in (["rev-parse", "HEAD"], ["diff", "HEAD"])
    )
    data = given.archive, given.weights, given.digits
    inputs = [file and (file, file.stat().st_size, file.stat().st_mtime_ns) for file in data]
    same = (commit, changes, cluster.this_node(), os.cpu_count(), given.share, inputs)
    folder = UNFINISHED / hashlib.sha256(repr(same).encode()).hexdigest()[:16]
    if not folder.exists():
        with files.atomic(folder) as part:
            clone = ["git", "clone", "-q", str(ROOT), str(part / "convnets")]
            subprocess.run(clone, check=True)
    return folder


def unpack(clone: Path, folder: Path) -> None:
    """Write the images of our subset in the book's folder layout, unless they are there."""
    if folder.exists():
        return
    with archive.opened(clone / "dvc-outs/images.zip") as opened, files.atomic(folder) as part:
        for split in SPLITS:
            table = examples.read_text(clone / f"dvc-outs/images/{split}.csv")
            for member, label in zip(table["file"], table["class"], strict=True):
                path = part / split / label / Path(member).name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(opened.read(member))


def operations(layers: list[Any]) -> float:
    """Return the operations of one image's forward pass. A multiply-add counts as two."""
    heavy = [layer for layer in layers if hasattr(layer, "kernel")]
    places = [np.prod(layer.output.shape[1:-1]) for layer in heavy]  # one in a dense layer
    return float(
        sum(2 * np.prod(layer.kernel.shape) * n for layer, n in zip(heavy, places, strict=True))
    )


def work(clone: Path) -> pd.DataFrame:
    """Return the images and the operations of a step of each stage, the book's and ours.

    A step is an epoch, or an image in extraction. A backward pass counts as two forward passes.
    """
    digits, *_ = book.mnist(clone / "dvc-outs/mnist.npz")
    base = book.backbone(None)
    vgg, block5 = operations(base.layers), operations(base.layers[-4:])
    head, convnet = operations(book.feature_head().layers), operations(book.convnet(False).layers)
    n, held = (len(pd.read_csv(clone / f"dvc-outs/images/{s}.csv")) for s in SPLITS[:2])
    with np.load(clone / "dvc-outs/mnist.npz") as arrays:
        n_digits = len(arrays["y_train"])

    def epoch(trained: float, frozen: float = 0) -> float:
        return n * (frozen + 3 * trained) + held * (frozen + trained)

    mnist = n_digits * operations(digits.layers) * (0.9 * 3 + 0.1)
    rows = {
        "train_mnist@max_pooling": (0.9 * n_digits, mnist, mnist),
        "train_scratch": (n, epoch(convnet), epoch(convnet)),
        "train_augmented": (n, epoch(convnet), epoch(convnet)),
        "extract_features": (1, vgg, vgg),
        "train_feature_head": (n, epoch(head), epoch(head)),
        "extract_views": (1, vgg, vgg),
        "train_augmented_head": (n, epoch(head, vgg), epoch(head)),
        "fine_tune": (n, epoch(block5 + head, vgg - block5), epoch(block5 + head)),
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["images", "book", "ours"])


def of_book(row: str, clone: Path, images: Path, weights: Path | None) -> list[dict[str, Any]]:
    """Run the book's program; return its measurements under the names of our stages."""
    epochs = EPOCHS_OF_BOOK.get(row, EPOCHS)
    command = [sys.executable, str(ROOT / "benchmarks/book.py"), row, "--epochs", str(epochs)]
    command += ["--images", str(images)]
    if weights is not None:
        command += ["--weights", str(weights)]
    seen = run([*command, "--digits", str(clone / "dvc-outs/mnist.npz")], ROOT)
    told = json.loads(seen.last)
    memory = {"peak": seen.peak, "anonymous": seen.anonymous}
    extraction, step = told.get("extraction", 0), float(np.median(told["epochs"][1:]))
    fixed = seen.wall - extraction - epochs * step
    measured = [memory | {"stage": ROWS[row][-1], "step": step, "fixed": fixed}]
    if extraction:
        step = extraction / told["images"]
        measured.append(memory | {"stage": ROWS[row][0], "step": step, "fixed": extraction})
    return measured


def of_ours(stage: str, clone: Path, images: int) -> list[dict[str, Any]]:
    """Run one of our stages. An extraction reports each quarter of its `images`."""
    steps = r"epoch \d|extract (train|views):"
    seen = run(["dvc", "repro", "--quiet", "--single-item", "--force", stage], clone, steps)
    measured = {"stage": stage, "peak": seen.peak, "anonymous": seen.anonymous, "fixed": seen.wall}
    if not seen.steps:
        return [measured]
    step = float(np.median(np.diff(seen.steps)))
    measured["before"] = seen.steps[0] - step  # imports, MLflow, tracing
    if stage.startswith("extract"):
        return [measured | {"step": 4 * step / images}]
    return [measured | {"step": step, "fixed": seen.wall - EPOCHS * step}]


def product(numbers: str) -> list[dict[str, Any]]:
    """Return the operations per second of a matrix product."""
    return [{"stage": PRODUCT, "operations": matrix_peak(numbers)}]


def measure(folder: Path, p: params.Params, weights: Path | None, rounds: int) -> pd.DataFrame:
    """Run what is left to run; return one row per stage, side and round.

    Args:
        folder: has the clone, and gets the book's images and each measurement.
        p: the clone's params.
        weights: of VGG16, or None for random ones.
        rounds: how often each is measured.
    """
    clone, images, journal = folder / "convnets", folder / "images", folder / "measured.json"
    earlier = json.loads(journal.read_text()) if journal.exists() else []
    done = {tuple(key): measured for key, measured in earlier}
    rows: list[dict[str, Any]] = []

    def keep(turn: int, side: str, name: str, take: Callable[[], list[dict[str, Any]]]) -> None:
        if (turn, side, name) not in done:
            shutil.rmtree(clone / ".unfinished", ignore_errors=True)  # of an interrupted stage
            done[turn, side, name] = take()
            files.write_json(journal, list(done.items()))
        for measured in done[turn, side, name]:
            rows.append({"round": turn, "side": side} | measured)
            shown = "  ".join(f"{key} {v:.3g}" for key, v in measured.items() if key != "stage")
            print(f"{turn} {side} {measured['stage']}: {shown}", flush=True)

    for stage in PREPARING:
        keep(1, "ours", stage, partial(of_ours, stage, clone, 0))
    unpack(clone, images)
    needed = work(clone)
    peaks = {"book": "float32", "ours": precision.policy(p.precision).removeprefix("mixed_")}
    for turn in range(1, rounds + 1):
        for side, numbers in peaks.items():
            keep(turn, side, PRODUCT, partial(product, numbers))
        for row, stages in ROWS.items():
            keep(turn, "book", row, partial(of_book, row, clone, images, weights))
            for stage in stages:
                views = p.views.count if stage == "extract_views" else 1
                count = views * needed["images"]["fine_tune"]
                keep(turn, "ours", stage, partial(of_ours, stage, clone, count))
    table = pd.DataFrame(rows)
    products = table["stage"] == PRODUCT
    peak = table[products].groupby("side")["operations"].max()
    table = table[~products].drop(columns="operations")
    table["numbers"], table["matrix_peak"] = table.side.map(peaks), table.side.map(peak)
    steps = [needed[side].get(stage) for side, stage in zip(table.side, table.stage, strict=True)]
    table["images_per_second"] = table.stage.map(needed["images"]) / table.step
    table["share_of_peak"] = np.array(steps, float) / table.step / table.matrix_peak
    epochs = [getattr(getattr(p, name.split("@")[0], None), "epochs", 0) for name in table.stage]
    table["minutes"] = (table.fixed + (epochs * table.step).fillna(0)) / 60
    return table


def summary(table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the medians over the rounds by stage, and the minutes of each row of the book."""
    row_of = dict.fromkeys(PREPARING, "preparing")
    row_of |= {stage: row for row, stages in ROWS.items() for stage in stages}
    by_side = table.drop(columns="round").groupby(["stage", "side"])
    medians = pd.DataFrame(by_side.median(numeric_only=True).unstack("side")).reindex(list(row_of))
    of_stages = pd.DataFrame(medians["minutes"])
    minutes = of_stages.groupby(medians.index.map(row_of), sort=False).sum(min_count=1)
    minutes.loc["all"] = minutes.sum()
    minutes["times as fast"] = minutes["book"] / minutes["ours"]
    return medians, minutes


def write(table: pd.DataFrame, folder: Path, note: str) -> str:
    """Write the measurements, the README's tables with a note, and the plot; return the text."""
    medians, minutes = summary(table)
    shown = pd.DataFrame(index=medians.index)
    rate = medians["images_per_second"]
    for side in ("book", "ours"):
        shown[f"{side}: images/s"] = rate[side].map("{:,.0f}".format)
        shown[f"{side}: of peak"] = medians["share_of_peak"][side].map("{:.0%}".format)
        shown[f"{side}: GiB (anonymous)"] = [
            f"{peak:.1f} ({own:.1f})"
            for peak, own in zip(medians["peak"][side], medians["anonymous"][side], strict=True)
        ]
    shown.insert(0, "times as fast", (rate["ours"] / rate["book"]).map("{:.1f}".format))
    shown = shown.drop(index=list(PREPARING))
    first = table.groupby("side")[["numbers", "matrix_peak"]].first()
    for side, numbers, peak in first.itertuples(name=None):
        note += f" Peak of {side}: a matrix product in {numbers}, {peak / 1e9:,.0f} GFLOP/s."
    text = f"{note}\n\n"
    text += shown.replace(r".*nan.*", "–", regex=True).to_markdown(disable_numparse=True)
    whole = minutes.rename(columns={"book": "book: min", "ours": "ours: min"})
    whole = whole.map("{:.1f}".format).replace("nan", "–")
    text += f"\n\n{whole.to_markdown(disable_numparse=True)}\n"
    figure = Figure(layout="constrained")
    drawn = minutes[["book", "ours"]].iloc[::-1]
    axes = figure.subplots()
    drawn.plot.barh(ax=axes, logx=True, xlabel="minutes, at the book's epochs", ylabel="")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.legend()
    with files.atomic(folder / "results.png") as part:
        figure.savefig(part, dpi=120, metadata={"Software": None}, format="png")
    with files.atomic(folder / "results.csv") as part:
        table.to_csv(part, index=False, float_format="%.5g")
    with files.atomic(folder / "results.md") as part:
        part.write_text(text, encoding="utf-8")
    return text


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--archive", type=Path, help="photographs (default: drawn images)")
    parser.add_argument("--weights", type=Path, help="VGG16 without its top (default: random)")
    parser.add_argument("--digits", type=Path, help="an mnist.npz (default: scikit-learn's)")
    parser.add_argument("--share", type=float, default=1, help="of the book's number of images")
    parser.add_argument("--rounds", type=int, default=2)
    given = parser.parse_args()
    folder = begin(given)
    table = measure(folder, prepare(folder / "convnets", given), given.weights, given.rounds)
    kind = "photographs" if given.archive else "drawn images"
    note = (
        f"{os.cpu_count()} CPU cores; rounds: {given.rounds}; "
        f"{given.share:.0%} of the book's number of images, {kind}."
    )
    print(write(table, ROOT / "benchmarks", note))
    shutil.rmtree(folder)


if __name__ == "__main__":
    console.run(main)
