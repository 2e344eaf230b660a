"""Run a frozen backbone once over the images, and keep its features as NumPy files."""

import ast
import hashlib
import inspect
import shutil
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from convnets.backbones import backbone
from convnets.base import cluster, files
from convnets.base.cluster import Map
from convnets.base.console import InputError, progress, say
from convnets.base.params import Augmentation, Views
from convnets.examples import npy
from convnets.features.computed import Computed
from convnets.models import internals, precision

BATCH = 32
HALF = np.float16  # has 11 significant bits, more than the 8 of bfloat16, the usual precision
Features = list[NDArray[np.float32 | np.float16]]


def extractor(*parts: keras.Model) -> Any:
    """Compile a function from pixels to the output of each part, where the parts form a chain.

    The weights are those of now.

    Args:
        parts: frozen models. The first takes pixels. Each takes the output of the previous model.

    Returns:
        A function from (n, h, w, 3) pixels to a list of float32 arrays, one for each part.
    """

    @tf.function  # type: ignore[untyped-decorator]  # TensorFlow has no types
    def extract(pixels: tf.Tensor) -> list[tf.Tensor]:
        outputs = []
        x = pixels
        for part in parts:
            x = part(x, training=False)
            outputs.append(tf.cast(x, tf.float32))
        return outputs

    # With weights that are constants, TensorFlow folds each normalisation into a convolution: of
    # EfficientNet-Lite2, a fifth of the time.
    spec = tf.TensorSpec((None, *parts[0].input_shape[1:]))
    frozen = convert_variables_to_constants_v2(extract.get_concrete_function(spec))
    return lambda pixels: frozen(tf.cast(pixels, tf.float32))


def prepare(
    dtype_policy: str, fine_tune_from: int | str | None = None, parts: int = 2
) -> Callable[[NDArray[np.uint8] | tf.Tensor], Features]:
    """Load the backbone to compute features, in a process that may be on another machine.

    Args:
        dtype_policy: from `precision.policy`.
        fine_tune_from: see `backbone.split`; None for no features at a cut.
        parts: 1 for the features at the top alone.

    Returns:
        A function from (n, h, w, 3) pixels to the features at the cut, if any, and at the top.
    """
    extract = _extractor(dtype_policy, fine_tune_from)
    return lambda pixels: [output.numpy() for output in extract(pixels)[-parts:]]


@cache  # in a process, all features are from one
def _extractor(dtype_policy: str, fine_tune_from: int | str | None) -> Any:
    precision.use(dtype_policy)
    base = backbone.load()
    return extractor(*([base] if fine_tune_from is None else backbone.split(base, fine_tune_from)))


def key(dtype_policy: str, fine_tune_from: int | str | None, file: Path = backbone.FILE) -> str:
    """Return a hash of all that the bits of a picture's features depend on, but its pixels.

    Args:
        dtype_policy: see `prepare`.
        fine_tune_from: see `prepare`.
        file: has the backbone.
    """
    code = [
        ast.dump(ast.parse(inspect.getsource(module)))
        for module in (backbone, internals, precision, sys.modules[__name__])
    ]
    given = [
        *(files.sha256(file), dtype_policy, fine_tune_from, code),
        *(cluster.processors(), precision.gpus()),
        cluster.installed(("keras", "numpy", "tensorflow")),
    ]
    return hashlib.sha256(repr(given).encode()).hexdigest()[:16]


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


def write(
    extract: Map[Features],
    images: NDArray[np.uint8],
    outs: list[Path],
    what: str,
    known: Computed,
) -> None:
    """Write the features of each part as (n, …) float32. Only what is not known is computed.

    The bits of a row do not depend on its place in a batch, nor on the others, as long as all
    batches have the same size. So the last one is filled up.

    Args:
        extract: applies what `prepare` returns.
        images: (n, h, w, 3).
        outs: the file for the features at the cut, if any, and the file for those at the top.
        what: the task's name.
        known: what was computed before. What is computed here is added, so that an interrupted
            extraction goes on from there.

    Raises:
        InputError: a feature is not finite.
    """
    pictures = [
        hashlib.sha256(np.ascontiguousarray(pixels).data).digest()
        for start in range(0, len(images), BATCH)
        for pixels in _read(images, slice(start, start + BATCH))
    ]
    places = {picture: place for place, picture in enumerate(pictures)}  # each only once
    new = [place for name, place in places.items() if not known.has(name, len(outs))]
    if len(new) < len(places):
        say(f"{what}: {len(places) - len(new):,} of {len(places):,} images are computed already")
    batches = [new[start : start + BATCH] for start in range(0, len(new), BATCH)]

    def filled(batch: list[int]) -> tuple[NDArray[np.uint8]]:
        pixels = np.zeros((BATCH, *images.shape[1:]), images.dtype)
        pixels[: len(batch)] = _read(images, batch)
        return (pixels,)

    computed = progress(extract(map(filled, batches)), what, len(batches)) if new else ()
    for batch, results in zip(batches, computed, strict=True):
        rows = [result[: len(batch)] for result in results]
        if not all(np.isfinite(part).all() for part in rows):
            raise InputError(
                f"{what}: the features are not finite; correct backbone.preprocessing or "
                "backbone.weights"
            )
        known.add([pictures[place] for place in batch], rows)
    known.write(pictures, outs)


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
    what, per_batch = "extract views", max(1, BATCH // views.count)
    starts = range(0, len(images), per_batch)
    with ExitStack() as stack:
        writers = [stack.enter_context(npy.writer(out, HALF, resume=True)) for out in outs]
        # An interrupted process may have stopped between two files or within a batch.
        done = min(writer.rows for writer in writers) // (per_batch * views.count)
        if done:
            say(f"{what}: resuming after {done} of {len(starts)} batches")
        for writer in writers:
            writer.keep(done * per_batch * views.count)
        left = starts[done:]
        given = ((_read(images, slice(start, start + per_batch)), start) for start in left)
        for results in progress(extract(given), what, len(left)):
            for writer, result in zip(writers, results, strict=True):
                try:
                    writer.append(result)
                except ValueError as error:
                    raise InputError(
                        f"{what}: {error}; correct backbone.preprocessing or backbone.weights"
                    ) from error


def _read(images: NDArray[np.uint8], rows: slice | list[int]) -> NDArray[np.uint8]:
    batch = np.array(images[rows])
    npy.give_back(images)
    return batch
