"""How unlike the training pictures a picture is: the champion's second output.

It is the Mahalanobis distance to the nearest class, less a share of that to the mean of all
classes: of the mean over all places of the last feature map. With the whole of it (Ren et al.,
2021, arXiv:2106.09022), another flower is told best, and digits or noise are not; with nothing of
it, the other way round. benchmarks/README.md has the numbers.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray
from scipy.linalg import eigh

from convnets.base.console import say
from convnets.examples import examples, npy
from convnets.examples.examples import FEATURES, IMAGES
from convnets.models import internals

SHARE = 0.7
DIRECTIONS = 64  # in which the features vary most; in all others, they do so by the mean variance
LARGEST = 0.24  # of the model's weights
CACHED, COMPUTED = 10_000, 1_000  # pictures of a split, at most
BLOCK, BATCH = 1_000, 32
COMPARED = 4  # pictures, with the cache
SAME = 0.02  # of the largest feature: in bfloat16, those of another batch differ by less

Floats = NDArray[np.float32]


class Split(NamedTuple):
    """The features, (n, d), and the labels, (n,), of some pictures of a split."""

    features: Floats
    labels: NDArray[np.integer[Any]]


def add(model: keras.Model, false_alarms: float) -> tuple[keras.Model, float | None]:
    """Return a model with two outputs, and the share of the test pictures that seem unlike.

    The outputs are `probabilities`, and `unlike`, (n, 1): 0 for the most typical training picture,
    and 1 for the limit that a share of the validation pictures passes. If the features say nothing,
    the model is returned as it was, with None.

    Args:
        model: takes pixels. The result shares its layers.
        false_alarms: the share of the validation pictures.
    """
    start = keras.Input(model.input_shape[1:], name="image")
    probabilities, path = internals.steps(model, start)
    maps = [step for step in path if len(getattr(step.output, "shape", ())) == 4]
    measure = None
    if maps:
        # A layer's call for a picture has one operation fewer above it than for its mirror image.
        calls = [step.output for step in maps if step.layer is maps[-1].layer]
        own = min(calls, key=lambda output: len(keras.Model(start, output).operations))
        means = layers.GlobalAveragePooling2D(dtype="float32", name="unlike_means")(own)
        splits = _features(keras.Model(start, means))
        largest = int(LARGEST * model.count_params())
        measure = build(splits["train"], splits["validation"].features, false_alarms, largest)
    if measure is None:
        say("unlike: the champion has no features that differ, so it cannot tell what is unlike")
        return model, None
    outputs = {"probabilities": probabilities, "unlike": measure(means)}
    refused = np.asarray(measure(splits["test"].features)) > 1
    return keras.Model(start, outputs, name=model.name), float(refused.mean())


def _features(body: keras.Model) -> dict[str, Split]:
    """Return features of each split's pictures: those in the cache, if the model computes them."""
    splits = ("train", "validation", "test")
    cached = {split: FEATURES / f"{split}.npy" for split in splits}
    if all(path.exists() for path in cached.values()) and _same(body, cached["validation"]):
        return {split: _read(cached[split], split, CACHED, _means) for split in splits}

    def compute(pixels: NDArray[Any]) -> Floats:
        return np.asarray(body.predict(pixels, BATCH, verbose=0))

    most = {"train": COMPUTED, "validation": CACHED, "test": COMPUTED}
    return {split: _read(IMAGES / f"{split}.npy", split, most[split], compute) for split in splits}


def _same(body: keras.Model, cached: Path) -> bool:
    computed = np.asarray(body(npy.read(IMAGES / "validation.npy")[:COMPARED]))
    known = _means(npy.read(cached)[:COMPARED])
    near = SAME * np.abs(computed).max()
    return known.shape == computed.shape and np.allclose(known, computed, rtol=0, atol=near)


def _means(maps: NDArray[Any]) -> Floats:
    """Return (n, d) means over all places of (n, …, d) features."""
    return np.asarray(maps.mean(axis=tuple(range(1, maps.ndim - 1))), np.float32)


def _read(path: Path, split: str, most: int, features: Callable[[NDArray[Any]], Floats]) -> Split:
    """Return the features of at most so many pictures, evenly chosen, block by block."""
    known = examples.load(path, split)
    count = len(known.labels)
    rows = np.unique(np.linspace(0, count - 1, min(most, count)).astype(int))
    blocks = np.array_split(rows, math.ceil(len(rows) / BLOCK))
    return Split(
        np.concatenate([features(known.at(block)) for block in blocks]), known.labels[rows]
    )


def build(
    train: Split, validation: Floats, false_alarms: float, largest: int
) -> keras.Model | None:
    """Return the measure, from (n, d) features to (n, 1), or None if the features do not differ.

    Args:
        train: of which the classes are learned.
        validation: (n, d), of which the limit is.
        false_alarms: the share of `validation` that passes the limit.
        largest: weights that it may have.
    """
    inputs = keras.Input(train.features.shape[1:], name="features")
    # Roots are more alike than a rectifier's activations, and their length is the contrast.
    # Without a length, LiteRT would return NaN.
    roots = ops.sqrt(ops.relu(inputs) + 1e-12)
    unit = layers.UnitNormalization(dtype="float32")(roots)
    known = np.asarray(keras.Model(inputs, unit)(train.features), np.float64)

    classes, label = np.unique(train.labels, return_inverse=True)
    middle = known.mean(axis=0)
    centres = np.stack([known[label == each].mean(axis=0) for each in range(len(classes))])
    within = known - centres[label]
    count = within.shape[1]
    covariance = within.T @ within / len(within)
    added = np.trace(covariance) / count  # the mean variance, against singularity
    if not 1e-12 < added < np.inf:  # or not a number
        return None
    directions = int(np.clip(largest // (count + 1) - len(classes), 1, min(DIRECTIONS, count)))
    variances, axes = eigh(np.float32(covariance), subset_by_index=(count - directions, count - 1))
    # By Woodbury, added · inverse(covariance + added · identity) = identity - kept @ kept.T
    kept = axes * np.sqrt(np.maximum(variances, 0) / (np.maximum(variances, 0) + added))
    moved = centres - middle
    whitened = moved - moved @ kept @ kept.T

    by_class = -2 * (whitened.T + (1 - SHARE) * middle[:, None])
    constant = (1 - SHARE) * (1 + middle @ middle) + ((moved + 2 * middle) * whitened).sum(axis=1)
    turned = math.sqrt(1 - SHARE) * kept
    linear = layers.Dense(len(classes), dtype="float32", name="unlike_classes")
    squared = layers.Dense(directions, dtype="float32", name="unlike_directions")
    distance = ops.min(linear(unit), axis=1, keepdims=True)
    distance -= ops.sum(ops.square(squared(unit)), axis=1, keepdims=True)
    measure = keras.Model(inputs, distance, name="unlike")

    def scaled(lowest: float, spread: float) -> None:
        linear.set_weights([by_class / spread, (constant - lowest) / spread])
        squared.set_weights([each / math.sqrt(spread) for each in (turned, -middle @ turned)])

    scaled(0, 1)
    typical, others = (np.asarray(measure(x))[:, 0] for x in (train.features, validation))
    # More than this share of other pictures pass only by chance (conformal prediction).
    rank = math.ceil((len(others) + 1) * (1 - false_alarms))
    if rank > len(others):
        say(
            f"unlike: too few validation images ({len(others)}) for a limit that "
            f"{false_alarms:.0%} pass; some 1 in {len(others) + 1} like them will pass it"
        )
    limit = max(np.sort(others)[min(rank, len(others)) - 1], np.median(typical))
    lowest = typical.min()
    if not lowest < limit:
        return None
    scaled(lowest, (limit - lowest) * (1 + 1e-5))  # rounding refuses nothing
    return measure
