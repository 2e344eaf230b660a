"""Predictions of a model for image files."""

import csv
import heapq
import io
import json
import os
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.cells import cell_len, set_cell_size

from convnets.base import console
from convnets.base.console import InputError
from convnets.base.files import atomic
from convnets.listing.kinds import ImageError, kind
from convnets.models.answers import Answer
from convnets.pictures import images
from convnets.serving.runtime import Classifier

if TYPE_CHECKING:
    import keras
    from PIL import Image

BATCH = 32
LARGEST = 100_000_000  # bytes per image file
COLUMNS, NAME = 100, 20  # of a terminal: for a line, and at most for a class's name
UNLIKE = "unlike the training pictures"
DECODING = min(4, os.cpu_count() or 1)  # threads
Failed = Callable[[str, str], None]


class Prediction(NamedTuple):
    """What a model says of an image."""

    file: str
    probabilities: NDArray[np.float64]  # in the order of the model's classes
    unlike: float | None  # more than 1: unlike the training pictures; None: the model cannot say

    @property
    def best(self) -> int:
        """The class."""
        return int(self.probabilities.argmax())

    @property
    def is_unlike(self) -> bool:
        """Whether it is unlike the training pictures."""
        return self.unlike is not None and self.unlike > 1

    def is_unsure(self, share: float) -> bool:
        """Whether its class has a probability below this share."""
        return bool(self.probabilities.max() < share)


def files(names: Iterable[str], failed: Failed) -> Iterator[str]:
    """Yield the names of image files. Folders are replaced by the image files in them.

    A folder is searched as training does: links are followed, hidden files and those of the system
    are skipped. A folder without image files keeps its own name, so that it is reported.

    Args:
        names: files and folders, or `-` for an image on stdin.
        failed: called with the name of each unreadable image or folder and the reason.
    """
    for name in names:
        try:
            inside = _pictures(Path(name)) if Path(name).is_dir() else iter(())
            first = next(inside, name)
            yield first
            yield from inside
        except (OSError, InputError) as error:
            failed(name, _reason(error))


def _pictures(folder: Path) -> Iterator[str]:
    from convnets.sources import archive, layout  # which a single file does not need

    for name in archive.names(folder):

        def start(_: str, most: int, path: Path = folder / name) -> bytes:
            with path.open("rb") as file:
                return file.read(most)

        if layout.sort_out([console.printable(name)], start)[0]:
            yield str(folder / name)


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
    model: Classifier, names: Iterable[str], failed: Failed, explained: Path | None = None
) -> Iterator[Prediction]:
    """Yield a model's predictions for all readable images, in order, decoded as for training.

    While it computes, threads decode the next images. What waits is bounded.

    Args:
        model: from `runtime.load`.
        names: from `files`.
        failed: see `files`.
        explained: a folder for each image with its evidence in colours, by Grad-CAM.
    """
    if explained is not None:
        explained.mkdir(parents=True, exist_ok=True)
    made = 0
    for read, pixels in _decoded(names, model.size, failed):
        found = model(pixels)
        if explained is not None:
            shown = overlays(model.model, pixels, found.probabilities)
            for number, (name, picture) in enumerate(zip(read, shown, strict=True), made + 1):
                stem = Path(name).stem.encode(errors="replace")[:200].decode(errors="ignore")
                try:
                    with atomic(explained / f"{number}-{stem}.png") as part:
                        picture.save(part, "PNG")
                except OSError as error:
                    failed(name, f"its evidence cannot be written: {_reason(error)}")
        yield from predictions(read, found)
        made += len(read)


def predictions(names: Iterable[str], found: Answer) -> list[Prediction]:
    """Return a model's answer as one for each image. What is said is what decides: rounded."""
    unlike = [None] * len(found.probabilities) if found.unlike is None else found.unlike
    return [
        Prediction(name, row, None if far is None else round(float(far), 3))
        for name, row, far in zip(names, found.probabilities, unlike, strict=True)
    ]


def _decoded(
    names: Iterable[str], size: int, failed: Failed
) -> Iterator[tuple[list[str], NDArray[np.uint8]]]:
    """Yield batches of names and pixels."""
    rest, waiting = iter(names), deque[tuple[str, Future[NDArray[np.uint8] | None]]]()
    with (
        warnings.catch_warnings(action="ignore"),  # see `images.decode`
        ThreadPoolExecutor(DECODING) as pool,
    ):
        try:
            while True:
                for name in islice(rest, 2 * BATCH - len(waiting)):
                    waiting.append((name, pool.submit(_decode, name, size)))
                read: list[str] = []
                pixels: list[NDArray[np.uint8]] = []
                while waiting and len(read) < BATCH:
                    name, future = waiting.popleft()
                    try:
                        found = future.result()
                        pixels.append(images.decode(_read(name), size) if found is None else found)
                        read.append(name)
                    except (OSError, ValueError) as error:
                        failed(name, _reason(error))
                if read:
                    yield read, np.stack(pixels)
                elif not waiting:
                    return
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(name: str, size: int) -> NDArray[np.uint8] | None:
    """Return an image's pixels, or None if it is not for threads, see `images.decode`."""
    content = b"" if name == "-" else _read(name)
    return None if name == "-" or kind(content) == "TIFF" else images.decode(content, size)


def overlays(
    model: "keras.Model", pixels: NDArray[np.uint8], outputs: NDArray[np.float64]
) -> "list[Image.Image]":
    """Return images with their evidence for the predicted class in colours, by Grad-CAM.

    Args:
        model: of the classifier.
        pixels: (n, h, w, 3).
        outputs: (n, classes), the images' probabilities.
    """
    from PIL import Image

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
        "class": classes[one.best],
        "unlike": one.unlike,
        **marks,
        "probabilities": dict(zip(classes, map(float, one.probabilities), strict=True)),
    }


def show(
    made: Iterable[Prediction],
    classes: list[str],
    form: str,
    unsure: float | None = None,
    names: Iterable[str] = (),
) -> Iterator[str]:
    """Yield predictions as lines of text, as they come.

    Args:
        made: from `predict`.
        classes: the class names.
        form: table, json or csv. JSON and CSV have all.
        unsure: mark the predictions whose probability is below.
        names: of all images, for a table's width.
    """
    if form == "table":
        return _table(made, classes, unsure, names)
    return (_json if form == "json" else _csv)(made, classes, unsure)


def _row(one: Prediction, classes: list[str], unsure: float | None) -> dict[str, Any]:
    return row(one, classes, **({} if unsure is None else {"unsure": one.is_unsure(unsure)}))


def _json(made: Iterable[Prediction], classes: list[str], unsure: float | None) -> Iterator[str]:
    last = "["
    for one in made:
        yield last
        text = json.dumps([_row(one, classes, unsure)], indent=2, ensure_ascii=False)
        last = text.removeprefix("[\n").removesuffix("\n]") + ","
    yield "[]" if last == "[" else f"{last[:-1]}\n]"


def _csv(made: Iterable[Prediction], classes: list[str], unsure: float | None) -> Iterator[str]:
    marks = [] if unsure is None else ["unsure"]
    yield line(["file", "class", "unlike", *marks, *classes])
    for one in made:
        named = _row(one, classes, unsure)
        told = ["unsure" * named[mark] for mark in marks]
        first = [named[key] for key in ("file", "class", "unlike")]
        yield line([*first, *told, *named["probabilities"].values()])


def line(cells: Iterable[Any]) -> str:
    """Return a line of CSV, without its end."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue()[:-1]


def _table(
    made: Iterable[Prediction], classes: list[str], unsure: float | None, names: Iterable[str]
) -> Iterator[str]:
    titles = ["file", "class", "probability", "second", "probability"]
    titles += [] if unsure is None else ["unsure"]
    widths = [cell_len(title) for title in titles]
    widths[1] = min(max(map(cell_len, map(console.printable, [*classes, titles[1]]))), NAME)
    # An unlike picture has the two columns of the second class for saying so.
    widths[3] = max(widths[1], cell_len(UNLIKE) - widths[4] - 1)
    # The files' names have the place that the others leave.
    left = COLUMNS - sum(width + 1 for width in widths[1:])
    longest = max((cell_len(console.printable(name)) for name in names), default=left)
    widths[0] = min(max(longest, widths[0]), left)
    for number, one in enumerate(made):
        if not number:
            yield " ".join(map(_cut, titles, widths))
        named = _row(one, classes, unsure)
        best = heapq.nlargest(2, named["probabilities"].items(), key=itemgetter(1))
        cells = [one.file, *(cell for name, share in best for cell in (name, f"{share:.4f}"))]
        cells += ["unsure" * named["unsure"]] if len(titles) > 5 else []
        shown = [_cut(console.printable(each), w) for each, w in zip(cells, widths, strict=True)]
        if one.is_unlike:
            shown[3:5] = [_cut(UNLIKE, widths[3] + 1 + widths[4])]
        yield " ".join(shown)


def _cut(text: str, width: int) -> str:
    """Return a text in so many columns: with spaces before it, or without its middle."""
    spare = width - cell_len(text)
    if spare >= 0:
        return " " * spare + text
    head = set_cell_size(text, (width - 1) // 2)
    return f"{head}…{set_cell_size(text[::-1], width // 2)[::-1]}"
