"""Arrays into batches: a stream whose every epoch is a function of the seed and the epoch alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from convnets.base.params import Augmentation
from convnets.data.examples import Examples
from convnets.training.augmentation import augment


def training(
    examples: Examples,
    batch_size: int,
    epochs: range,
    seed: int,
    augmentation: Augmentation | None = None,
) -> tf.data.Dataset:
    """Return the shuffled batches of some epochs, one after the other.

    Where there are several views of each example, an epoch takes one, and K epochs take all:
    every view counts the same.

    Args:
        examples: memory-mapped; only a batch at a time is read.
        batch_size: the last batch of an epoch may be smaller.
        epochs: which, counted from 0; each is the same whichever came before.
        seed: of the order and the augmentation.
        augmentation: drawn anew for each image in each epoch, if given.

    Returns:
        Batches of ((n, …) inputs, (n,) labels), `steps(examples, batch_size)` to the epoch.
    """

    def generate() -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[np.int64]]]:
        for epoch in epochs:
            order = np.random.default_rng([seed, epoch]).permutation(len(examples.labels))
            for step, start in enumerate(range(0, len(order), batch_size)):
                chosen = order[start : start + batch_size]
                rows = chosen * examples.views + (chosen + epoch) % examples.views
                stamp = np.array([seed, epoch * 2**32 + step], np.int64)
                yield examples.inputs[rows], examples.labels[chosen], stamp

    signature = (
        tf.TensorSpec((None, *examples.inputs.shape[1:]), examples.inputs.dtype),
        tf.TensorSpec((None,), examples.labels.dtype),
        tf.TensorSpec((2,), tf.int64),
    )
    stream = tf.data.Dataset.from_generator(generate, output_signature=signature)
    if augmentation is None:
        stream = stream.map(lambda inputs, labels, _: (inputs, labels))
    else:
        stream = stream.map(
            lambda inputs, labels, stamp: (augment(inputs, stamp, augmentation), labels),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    return stream.prefetch(tf.data.AUTOTUNE)


def in_order(examples: Examples, batch_size: int) -> tf.data.Dataset:
    """Return the examples once, in their order, in batches of (inputs, labels)."""

    def generate() -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        for start in range(0, len(examples.labels), batch_size):
            rows = slice(start, start + batch_size)
            yield examples.inputs[rows], examples.labels[rows]

    signature = (
        tf.TensorSpec((None, *examples.inputs.shape[1:]), examples.inputs.dtype),
        tf.TensorSpec((None,), examples.labels.dtype),
    )
    stream = tf.data.Dataset.from_generator(generate, output_signature=signature)
    whole = tf.data.experimental.assert_cardinality(steps(examples, batch_size))
    return stream.apply(whole).prefetch(tf.data.AUTOTUNE)


def steps(examples: Examples, batch_size: int) -> int:
    """Return the number of batches in an epoch."""
    return -(-len(examples.labels) // batch_size)
