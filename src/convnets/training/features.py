"""A frozen backbone run once over the images; its features are kept as NumPy files."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from convnets.base.console import InputError, progress, say
from convnets.base.params import Augmentation, Views
from convnets.data import npy
from convnets.models.backbone import preprocess
from convnets.training.augmentation import augment

BATCH = 32


def extractor(name: str, *parts: keras.Model) -> Any:
    """Compile the function from pixels to the outputs of each part, one on top of the other.

    Args:
        name: of the backbone, for its preprocessing.
        parts: frozen models; each takes the output of the one before.

    Returns:
        A function of (n, h, w, 3) pixels to a list of float32 arrays, one for each part.
    """

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def extract(pixels: tf.Tensor) -> list[tf.Tensor]:
        outputs = []
        x = preprocess(name, tf.cast(pixels, tf.float32))
        for part in parts:
            x = part(x, training=False)
            outputs.append(tf.cast(x, tf.float32))
        return outputs

    return extract


def write(extract: Any, images: NDArray[np.uint8], outs: list[Path], what: str) -> None:
    """Write the features of each part as (n, …) float32, a batch at a time.

    What an interrupted process wrote of them is kept, and resumed.

    Args:
        extract: from `extractor`.
        images: (n, h, w, 3).
        outs: the file for each part.
        what: the work's name, for showing progress.
    """

    def batch(start: int) -> NDArray[np.uint8]:
        return images[start : start + BATCH]

    _stream(batch, range(0, len(images), BATCH), 1, extract, outs, "float32", what)


def write_views(
    extract: Any,
    images: NDArray[np.uint8],
    outs: list[Path],
    views: Views,
    augmentation: Augmentation,
    seed: int,
) -> None:
    """Write the features of K augmented views of each image, in float16.

    Row i·K + k is view k of image i. Half precision halves the cache; its 11 bits are more than
    the 8 of the bfloat16 that the features may have been computed in. What an interrupted process
    wrote is kept, and resumed.

    Raises:
        InputError: the cache would be larger than allowed or than the disk has room for.
    """
    shapes = [array.shape[1:] for array in extract(images[:1])]
    needed = sum(2 * views.count * len(images) * int(np.prod(shape)) for shape in shapes)
    done = sum(file.stat().st_size for out in outs for file in out.parent.glob(f"{out.name}*"))
    free = shutil.disk_usage(Path.cwd()).free + done
    if needed > views.max_gigabytes * 1e9:
        raise InputError(
            f"views.max_gigabytes: {views.count} views of {len(images)} images take "
            f"{needed / 1e9:.2f} GB, allowed are {views.max_gigabytes}; lower views.count or raise "
            "it"
        )
    if needed > free:
        raise InputError(
            f"data/views: {needed / 1e9:.2f} GB needed, the disk has {free / 1e9:.2f} free; free "
            "some or lower views.count"
        )
    per_batch = max(1, BATCH // views.count)

    def batch(start: int) -> tf.Tensor:
        repeated = np.repeat(images[start : start + per_batch], views.count, axis=0)
        return augment(repeated, tf.constant([seed, start], tf.int64), augmentation)

    starts = range(0, len(images), per_batch)
    _stream(batch, starts, views.count, extract, outs, "float16", "extract views")


def _stream(
    batch: Callable[[int], Any],
    starts: range,
    rows: int,
    extract: Any,
    outs: list[Path],
    dtype: str,
    what: str,
) -> None:
    """Write what `extract` makes of each batch, a file for each of its outputs.

    Args:
        batch: makes the batch that starts with an image.
        starts: the first image of each batch.
        rows: how many an image becomes.
        extract: from `extractor`.
        outs: the file for each output.
        dtype: of the files.
        what: the work's name.
    """
    if all(out.exists() for out in outs):
        return
    with ExitStack() as stack:
        writers = [
            stack.enter_context(npy.writer(out, result.shape[1:], dtype, resume=True))
            for out, result in zip(outs, extract(batch(0)), strict=True)
        ]
        # The last process may have stopped between two files, or inside a batch.
        done = min(writer.rows for writer in writers) // (rows * starts.step)
        if done:
            say(f"{what}: resuming after {done} of {len(starts)} batches")
        for writer in writers:
            writer.keep(done * starts.step * rows)
        for start in progress(starts[done:], what, len(starts) - done):
            for writer, result in zip(writers, extract(batch(start)), strict=True):
                writer.append(result.numpy())
