"""Layers that models of several kinds have."""

from collections.abc import Callable

import keras
from keras import layers

from convnets.models import internals  # noqa: F401 - Keras with settings of its own


def batch_normalised(x: keras.KerasTensor, dtype: str | None = None) -> keras.KerasTensor:
    """Normalise over the batch (Ioffe & Szegedy, 2015). Several GPUs do it as one does.

    In use it is by the mean of some ten batches: a small data set has few.
    """
    return layers.BatchNormalization(momentum=0.9, synchronized=True, dtype=dtype)(x)


def with_mirror(
    classify: Callable[[keras.KerasTensor], keras.KerasTensor], pixels: keras.KerasTensor
) -> keras.KerasTensor:
    """Return the mean of a classifier's outputs for images and for their mirror images.

    Args:
        classify: from pixels to probabilities, such as a model.
        pixels: (n, h, w, 3).
    """
    mirror = keras.ops.flip(pixels, axis=2)
    return layers.Average(name="both")([classify(pixels), classify(mirror)])
