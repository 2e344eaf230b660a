"""Predictions of a model for image files."""

import csv
import heapq
import io
import json
import os
import sys
from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import IO, Any, NamedTuple

import keras
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.cells import cell_len, set_cell_size

from convnets.base import console
from convnets.base.console import InputError
from convnets.base.files import atomic, root
from convnets.listing.kinds import ImageError
from convnets.models import answers, saved
from convnets.pictures import images
from convnets.sources import archive, layout
from convnets.tracking import store

BATCH = 32
LARGEST = 100_000_000  # bytes per image file
COLUMNS, NAME = 100, 20  # of a terminal: for a line, and at most for a class's name
CHAMPION = Path("models/champion.keras")  # the workspace's own: `dvc checkout` brings a commit's


class Prediction(NamedTuple):
    """An image's probabilities, in the order of the model's classes."""

    file: str
    probabilities: NDArray[np.float64]


def load(name: str) -> tuple[keras.Model, list[str]]:
    """Return a model and its class names.

    Args:
        name: the path of a `.keras` file, or `champion` for MLflow's model with that alias.

    Raises:
        InputError: the model does not exist, cannot be loaded safely, or is not for photographs.
    """
    if name == store.CHAMPION:
        path, classes = _registered()
    else:
        path = Path(name)
        if path == CHAMPION:
            path = root() / CHAMPION  # from a folder in the project, too
            if not path.exists():
                raise InputError(
                    f"{CHAMPION}: does not exist in {root()}; run `dvc repro` or `dvc pull "
                    f"{CHAMPION}` in the project's folder, or use --model champion for MLflow's"
                )
        classes = saved.class_names(path)
    model = saved.load(path)
    # Neither is there before a model is built. A model with several inputs has several shapes.
    takes = getattr(model, "input_shape", None)
    match takes:
        case (None, int(high), int(wide), 3) if high == wide:
            fits = answers.are_for(model, classes)
        case _:
            shape = str(takes).replace("None, ", "", 1)
            raise InputError(
                f"{name}: takes {shape}, not square RGB images; choose another --model"
            )
    if not fits:
        raise InputError(f"{name}: {len(classes)} class names do not match its output; train again")
    return model, classes


def file_of(name: str) -> Path:
    """Return the file of a model that `load` takes."""
    if name == store.CHAMPION:
        return _registered()[0]
    return root() / CHAMPION if Path(name) == CHAMPION else Path(name)


def _registered() -> tuple[Path, list[str]]:
    import mlflow  # takes seconds, and a model in a file does not need it

    store.quieten()
    uri = f"models:/{store.MODEL}@{store.CHAMPION}"
    local = not os.environ.get("MLFLOW_TRACKING_URI")
    try:
        if local and not (root() / "mlflow.db").exists():
            raise FileNotFoundError(f"no mlflow.db in {root()}")
        with store.waiting():
            mlflow.set_tracking_uri(store.uri())
            folder = Path(mlflow.artifacts.download_artifacts(uri))
        (file,) = (folder / "artifacts").glob("*.keras")
        metadata = mlflow.models.Model.load(folder).metadata or {}
        return file, [str(name) for name in metadata.get("classes", ())]
    except Exception as error:
        if store.is_a_defect(error):
            raise
        raise InputError(
            f"{uri}: is not available ({store.reason(error)}); run `dvc repro` first, "
            "`dvc repro -s -f evaluate` if there is nothing to do, or give --model a .keras file"
        ) from error


def files(names: list[str], failed: Callable[[str, str], None]) -> list[str]:
    """Return the names of image files. Folders are replaced by the image files in them.

    A folder is searched as training does: links are followed, hidden files and those of the system
    are skipped. A folder without image files keeps its own name, so that it is reported.

    Args:
        names: files and folders, or `-` for an image on stdin.
        failed: see `predict`.
    """
    found = []
    for name in names:
        inside = []
        try:
            if Path(name).is_dir():
                inside = _pictures(Path(name))
        except (OSError, InputError) as error:
            failed(name, _reason(error))
        else:
            found += inside or [name]
    return found


def _pictures(folder: Path) -> list[str]:
    shown = {console.printable(path): folder / path for path in archive.names(folder)}

    def start(name: str, most: int) -> bytes:
        with shown[name].open("rb") as file:
            return file.read(most)

    return [str(shown[name]) for name in layout.sort_out(shown, start)[0]]


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def content(file: IO[bytes]) -> bytes:
    """Return the content of an open image file.

    Raises:
        ImageError: it is larger than `LARGEST`.
    """
    found = file.read(LARGEST + 1)
    if len(found) > LARGEST:
        raise ImageError(f"larger than {LARGEST / 1e6:.0f} MB")
    return found


def _read(name: str) -> bytes:
    if name == "-":
        return content(sys.stdin.buffer)
    if Path(name).is_dir():
        raise ImageError("no images in it")
    with Path(name).open("rb") as file:
        return content(file)


def predict(
    model: keras.Model,
    names: list[str],
    failed: Callable[[str, str], None],
    explained: Path | None = None,
) -> list[Prediction]:
    """Return a model's predictions for all readable images, decoded as for training.

    Args:
        model: from `load`.
        names: see `files`.
        failed: called with the name of each unreadable image or folder and the reason.
        explained: a folder for each image with its evidence in colours, by Grad-CAM.
    """
    if explained is not None:
        explained.mkdir(parents=True, exist_ok=True)
    size, found = model.input_shape[1], files(names, failed)
    # Keras compiles a model for its first batch. For a single one, that takes longer than it saves.
    compiled = len(found) > BATCH
    starts = range(0, len(found), BATCH)
    made: list[Prediction] = []
    for start in console.progress(starts, "predict (batches)", len(starts), beside_output=True):
        decoded, read = [], []
        for name in found[start : start + BATCH]:
            try:
                decoded.append(images.decode(_read(name), size))
                read.append(name)
            except (OSError, ValueError) as error:
                failed(name, _reason(error))
        if read:
            pixels = np.stack(decoded)
            outputs = answers.by_class(
                model.predict_on_batch(pixels) if compiled else np.asarray(model(pixels))
            )
            if explained is not None:
                shown = overlays(model, pixels, outputs)
                for number, (name, picture) in enumerate(zip(read, shown, strict=True), len(made)):
                    stem = Path(name).stem.encode(errors="replace")[:200].decode(errors="ignore")
                    try:
                        with atomic(explained / f"{number + 1}-{stem}.png") as part:
                            picture.save(part, "PNG")
                    except OSError as error:
                        failed(name, f"its evidence cannot be written: {_reason(error)}")
            made += [Prediction(*pair) for pair in zip(read, outputs, strict=True)]
    return made


def overlays(
    model: keras.Model, pixels: NDArray[np.uint8], outputs: NDArray[np.float64]
) -> list[Image.Image]:
    """Return images with their evidence for the predicted class in colours, by Grad-CAM.

    Args:
        model: from `load`.
        pixels: (n, h, w, 3).
        outputs: (n, classes), the images' probabilities.
    """
    from convnets.evaluation import explain  # takes a second, and few need it
    from convnets.pages import figures

    evidence = explain.grad_cam(model, pixels, outputs.argmax(axis=1))
    return [
        Image.fromarray(figures.overlay(image, heat))
        for image, heat in zip(pixels, evidence, strict=True)
    ]


def row(one: Prediction, classes: list[str], **marks: bool) -> dict[str, Any]:
    """Return a prediction by names: the file, the class, the marks, each class's probability."""
    return {
        "file": one.file,
        "class": classes[int(one.probabilities.argmax())],
        **marks,
        "probabilities": dict(zip(classes, map(float, one.probabilities), strict=True)),
    }


def show(made: list[Prediction], classes: list[str], form: str, unsure: float | None = None) -> str:
    """Return predictions as text.

    Args:
        made: from `predict`.
        classes: the class names.
        form: table, json or csv.
        unsure: mark the predictions whose probability is below.
    """
    rows = [
        row(
            one,
            classes,
            **({} if unsure is None else {"unsure": bool(one.probabilities.max() < unsure)}),
        )
        for one in made
    ]
    if form == "json":
        return json.dumps(rows, indent=2, ensure_ascii=False)
    marks = [] if unsure is None else ["unsure"]
    if form == "csv":
        text = io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(["file", "class", *marks, *classes])
        for named in rows:
            told = ["unsure" * named[mark] for mark in marks]
            lines.writerow([named["file"], named["class"], *told, *named["probabilities"].values()])
        return text.getvalue().rstrip("\n")
    table = [["file", "class", "probability", "second", "probability", *marks]]
    for named in rows:
        best = heapq.nlargest(2, named["probabilities"].items(), key=itemgetter(1))
        cells = [cell for name, share in best for cell in (name, f"{share:.4f}")]
        table.append([named["file"], *cells, *("unsure" * named[mark] for mark in marks)])
    table = [[console.printable(cell) for cell in line] for line in table]
    widths = [min(max(map(cell_len, column)), NAME) for column in zip(*table, strict=True)]
    # The files' names have the place that the others leave.
    left = COLUMNS - sum(width + 1 for width in widths[1:])
    widths[0] = min(max(cell_len(line[0]) for line in table), left)
    return "\n".join(" ".join(map(_cut, line, widths)) for line in table) if rows else ""


def _cut(text: str, width: int) -> str:
    """Return a text in so many columns: with spaces before it, or without its middle."""
    spare = width - cell_len(text)
    if spare >= 0:
        return " " * spare + text
    head = set_cell_size(text, (width - 1) // 2)
    return f"{head}…{set_cell_size(text[::-1], width // 2)[::-1]}"
