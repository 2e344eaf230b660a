"""A stream of batches from arrays. Each epoch depends only on the seed and the epoch's number."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from convnets.examples import npy
from convnets.examples.examples import Examples

Augment = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
AHEAD = 2  # batches that are made ready while the model computes


def training(
    examples: Examples,
    batch_size: int,
    epochs: range,
    seed: int,
    augment: Augment | None = None,
) -> tf.data.Dataset:
    """Return the shuffled batches of consecutive epochs.

    With K views per example, an epoch uses one view of each example, and K epochs use all of them.
    Every view counts the same.

    Args:
        examples: memory-mapped; only one batch at a time is read, and held.
        batch_size: the last batch of an epoch may be smaller.
        epochs: the epochs, counted from 0. Each is independent of the epochs before it.
        seed: seed of the order and the augmentation.
        augment: if given, a function of the inputs and two integers, drawn anew for each image in
            each epoch.

    Returns:
        Batches of ((n, …) inputs, (n,) labels), `steps(examples, batch_size)` per epoch.
    """

    def generate() -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]]:
        for epoch in epochs:
            order = np.random.default_rng([seed, epoch]).permutation(len(examples.labels))
            for step, start in enumerate(range(0, len(order), batch_size)):
                chosen = order[start : start + batch_size]
                stamp = np.array([seed, epoch * 2**32 + step], np.int64)
                view = (chosen + epoch) % examples.views
                yield examples.at(chosen, view), examples.labels[chosen], stamp
                npy.give_back(examples.inputs)

    signature = (
        tf.TensorSpec((None, *examples.inputs.shape[1:]), examples.inputs.dtype),
        tf.TensorSpec((None,), examples.labels.dtype),
        tf.TensorSpec((2,), tf.int64),
    )
    stream = tf.data.Dataset.from_generator(generate, output_signature=signature)
    if augment is None:
        stream = stream.map(lambda inputs, labels, _: (inputs, labels))
    else:
        stream = stream.map(
            lambda inputs, labels, stamp: (augment(inputs, stamp), labels),
            num_parallel_calls=AHEAD,
        )
    return stream.prefetch(AHEAD).with_options(_options())


def in_order(examples: Examples, batch_size: int) -> tf.data.Dataset:
    """Return the examples once, in order, in batches of (inputs, labels)."""

    def generate() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        for start in range(0, len(examples.labels), batch_size):
            rows = slice(start, start + batch_size)
            yield examples.at(rows), examples.labels[rows]
            npy.give_back(examples.inputs)

    signature = (
        tf.TensorSpec((None, *examples.inputs.shape[1:]), examples.inputs.dtype),
        tf.TensorSpec((None,), examples.labels.dtype),
    )
    stream = tf.data.Dataset.from_generator(generate, output_signature=signature)
    whole = tf.data.experimental.assert_cardinality(steps(examples, batch_size))
    return stream.apply(whole).prefetch(AHEAD).with_options(_options())


def _options() -> tf.data.Options:
    """Return options without TensorFlow's tuning of a stream.

    At the end of a training its thread sleeps on for up to a minute, and everything waits for it.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def steps(examples: Examples, batch_size: int) -> int:
    """Return the number of batches in an epoch."""
    return -(-len(examples.labels) // batch_size)
