"""Run a frozen backbone once over the images, and keep its features as NumPy files."""

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
    """Compile a function from pixels to the output of each part, where the parts form a chain.

    Args:
        name: the backbone's name, for its preprocessing.
        parts: frozen models. Each takes the output of the previous model.

    Returns:
        A function from (n, h, w, 3) pixels to a list of float32 arrays, one for each part.
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
    """Write the features of each part as (n, …) float32, one batch at a time.

    An interrupted extraction is resumed.

    Args:
        extract: from `extractor`.
        images: (n, h, w, 3).
        outs: the file for each part.
        what: the task's name, for the progress bar.
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

    Row i·K + k is view k of image i. Half precision halves the cache. It has 11 significant bits,
    which is more than the 8 of bfloat16, in which the features may have been computed. An
    interrupted extraction is resumed.

    Raises:
        InputError: the cache would exceed the limit or the free disk space.
    """
    shapes = [array.shape[1:] for array in extract(images[:1])]
    needed = sum(2 * views.count * len(images) * int(np.prod(shape)) for shape in shapes)
    done = sum(file.stat().st_size for out in outs for file in out.parent.glob(f"{out.name}*"))
    free = shutil.disk_usage(Path.cwd()).free + done
    if needed > views.max_gigabytes * 1e9:
        raise InputError(
            f"views.max_gigabytes: {views.count} views of {len(images)} images take "
            f"{needed / 1e9:.2f} GB, more than {views.max_gigabytes}; lower views.count or raise "
            "the limit"
        )
    if needed > free:
        raise InputError(
            f"data/views: {needed / 1e9:.2f} GB needed, the disk has {free / 1e9:.2f} GB free; "
            "free some space or lower views.count"
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
    """Write the outputs of `extract` for each batch, one file per output.

    Args:
        batch: returns the batch that starts at an image.
        starts: the first image of each batch.
        rows: number of rows per image.
        extract: from `extractor`.
        outs: the file for each output.
        dtype: dtype of the files.
        what: the task's name.
    """
    if all(out.exists() for out in outs):
        return
    with ExitStack() as stack:
        writers = [
            stack.enter_context(npy.writer(out, result.shape[1:], dtype, resume=True))
            for out, result in zip(outs, extract(batch(0)), strict=True)
        ]
        # An interrupted process may have stopped between two files or within a batch.
        done = min(writer.rows for writer in writers) // (rows * starts.step)
        if done:
            say(f"{what}: resuming after {done} of {len(starts)} batches")
        for writer in writers:
            writer.keep(done * starts.step * rows)
        for start in progress(starts[done:], what, len(starts) - done):
            for writer, result in zip(writers, extract(batch(start)), strict=True):
                writer.append(result.numpy())
