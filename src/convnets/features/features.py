"""Run a frozen backbone once over the images, and keep its features as NumPy files."""

import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import DTypeLike, NDArray

from convnets.backbones import backbone
from convnets.base.cluster import Map
from convnets.base.console import InputError, progress, say
from convnets.base.params import Augmentation, Views
from convnets.examples import npy
from convnets.models import precision

BATCH = 32
HALF = np.float16  # has 11 significant bits, more than the 8 of bfloat16, the usual precision
Features = list[NDArray[np.float32 | np.float16]]


def extractor(*parts: keras.Model) -> Any:
    """Compile a function from pixels to the output of each part, where the parts form a chain.

    Args:
        parts: frozen models. The first takes pixels. Each takes the output of the previous model.

    Returns:
        A function from (n, h, w, 3) pixels to a list of float32 arrays, one for each part.
    """

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def extract(pixels: tf.Tensor) -> list[tf.Tensor]:
        outputs = []
        x = tf.cast(pixels, tf.float32)
        for part in parts:
            x = part(x, training=False)
            outputs.append(tf.cast(x, tf.float32))
        return outputs

    return extract


def prepare(
    dtype_policy: str, fine_tune_from: int | str | None = None
) -> Callable[[NDArray[np.uint8] | tf.Tensor], Features]:
    """Load the backbone to compute features, in a process that may be on another machine.

    Args:
        dtype_policy: from `precision.policy`.
        fine_tune_from: see `backbone.split`; None for no features at a cut.

    Returns:
        A function from (n, h, w, 3) pixels to the features at the cut, if any, and at the top.
    """
    precision.use(dtype_policy)
    base = _backbone()
    parts = [base] if fine_tune_from is None else backbone.split(base, fine_tune_from)
    extract = extractor(*parts)
    return lambda pixels: [output.numpy() for output in extract(pixels)]


_backbone = cache(backbone.load)  # in a process, all features are from one


def prepare_views(
    dtype_policy: str, fine_tune_from: int | str | None, count: int, how: Augmentation, seed: int
) -> Callable[[NDArray[np.uint8], int], Features]:
    """Load the backbone to compute features of augmented views.

    Args:
        dtype_policy: see `prepare`.
        fine_tune_from: see `prepare`.
        count: views of each image.
        how: the augmentation.
        seed: of the augmentation.

    Returns:
        A function from (n, h, w, 3) pixels, and the place of the first, to the features of n·K
        views, in float16, infinite where that cannot hold them.
    """
    extract = prepare(dtype_policy, fine_tune_from)

    from convnets.augmentation.augment import augment  # a dep of `extract_views` alone

    def views(pixels: NDArray[np.uint8], start: int) -> Features:
        repeated = np.repeat(pixels, count, axis=0)
        found = extract(augment(repeated, tf.constant([seed, start], tf.int64), how))
        with np.errstate(over="ignore"):  # told by whoever writes them
            return [features.astype(HALF) for features in found]  # half as much for a network

    return views


def write(extract: Map[Features], images: NDArray[np.uint8], outs: list[Path], what: str) -> None:
    """Write the features of each part as (n, …) float32, one batch at a time.

    An interrupted extraction is resumed.

    Args:
        extract: applies what `prepare` returns.
        images: (n, h, w, 3).
        outs: the file for the features at the cut, if any, and the file for those at the top.
        what: the task's name, for the progress bar.
    """

    def batch(start: int) -> tuple[NDArray[np.uint8]]:
        return (_read(images, start, BATCH),)

    _stream(batch, range(0, len(images), BATCH), 1, extract, outs, "float32", what)


def write_views(
    extract: Map[Features], images: NDArray[np.uint8], outs: list[Path], views: Views
) -> None:
    """Write the features of K augmented views of each image, in float16.

    Row i·K + k is view k of image i. Half precision halves the cache. An interrupted extraction is
    resumed.

    Args:
        extract: applies what `prepare_views` returns.
        images: (n, h, w, 3).
        outs: the file for the features at the cut, and the file for those at the top.
        views: how many, and the largest cache.

    Raises:
        InputError: the cache would exceed the limit or the free disk space.
    """
    (first,) = extract([(images[:1], 0)])
    shapes = [array.shape[1:] for array in first]
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
            f"dvc-outs/views: {needed / 1e9:.2f} GB needed, the disk has {free / 1e9:.2f} GB free; "
            "free some space or lower views.count"
        )
    per_batch = max(1, BATCH // views.count)

    def batch(start: int) -> tuple[NDArray[np.uint8], int]:
        return _read(images, start, per_batch), start

    starts = range(0, len(images), per_batch)
    _stream(batch, starts, views.count, extract, outs, HALF, "extract views")


def _read(images: NDArray[np.uint8], start: int, count: int) -> NDArray[np.uint8]:
    batch = np.array(images[start : start + count])
    npy.give_back(images)
    return batch


def _stream(
    batch: Callable[[int], tuple[Any, ...]],
    starts: range,
    rows: int,
    extract: Map[Features],
    outs: list[Path],
    dtype: DTypeLike,
    what: str,
) -> None:
    """Write the outputs of `extract` for each batch, one file per output.

    Args:
        batch: returns what `extract` takes for the batch that starts at an image.
        starts: the first image of each batch.
        rows: number of rows per image.
        extract: applies what computes the features.
        outs: the file for each output.
        dtype: dtype of the files.
        what: the task's name.
    """
    if all(out.exists() for out in outs):
        return
    with ExitStack() as stack:
        writers = [stack.enter_context(npy.writer(out, dtype, resume=True)) for out in outs]
        # An interrupted process may have stopped between two files or within a batch.
        done = min(writer.rows for writer in writers) // (rows * starts.step)
        if done:
            say(f"{what}: resuming after {done} of {len(starts)} batches")
        for writer in writers:
            writer.keep(done * starts.step * rows)
        computed = extract(map(batch, starts[done:]))
        for results in progress(computed, what, len(starts) - done):
            for writer, result in zip(writers, results, strict=True):
                try:
                    writer.append(result)
                except ValueError as error:
                    raise InputError(
                        f"{what}: {error}; correct backbone.preprocessing or backbone.weights"
                    ) from error
