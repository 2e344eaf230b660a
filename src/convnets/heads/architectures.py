"""Heads: what stands on a backbone's features.

To add one, write a function under `@head`. `architecture` in `params.yaml` selects it by name.
"""

from collections.abc import Callable

import keras
from keras import layers

from convnets.base import console
from convnets.base.params import HeadTraining
from convnets.models.answers import classifier
from convnets.models.layers import batch_normalised

Body = Callable[[keras.KerasTensor, HeadTraining], keras.KerasTensor]
HEADS: dict[str, Body] = {}


def head(body: Body) -> Body:
    """Register a function as a head architecture under its name.

    The function takes the raw features, such as (n, 5, 5, 512), and returns the classifier's input.
    """
    HEADS[body.__name__] = body
    return body


def build_head(shape: tuple[int, ...], classes: int, how: HeadTraining) -> keras.Model:
    """Return a classifier on a backbone's features.

    Args:
        shape: shape of one image's features, such as (5, 5, 512).
        classes: number of classes.
        how: the head's section of the params.

    Raises:
        InputError: the architecture does not exist.
    """
    body = console.named(how.architecture, HEADS, "architecture: no head")
    inputs = keras.Input(shape, name="features")
    # A linear head has one optimum. From zeros, nothing of a random start is left in it.
    start = "glorot_uniform" if how.units else "zeros"
    model = keras.Model(inputs, classifier(body(inputs, how), classes, start), name="head")
    for operation in model.operations:  # no name that a backbone has: Keras calls each `dense_1`
        operation.name = f"head_{operation.name}"
    return model


@head
def dense(features: keras.KerasTensor, how: HeadTraining) -> keras.KerasTensor:
    """The book's head: a linear hidden layer of `units`, then dropout (listing 8.21)."""
    x = layers.Flatten()(features)
    x = layers.Dense(how.units)(x) if how.units else x
    return layers.Dropout(how.dropout)(x) if how.dropout else x


@head
def normalised(features: keras.KerasTensor, how: HeadTraining) -> keras.KerasTensor:
    """Normalise each image's features first (Ba et al., 2016), with dropout around a hidden layer.

    A pretrained backbone's features are in the tens. On raw features the book's head is sure of
    itself even when it is wrong. Normalisation gives the features of all images the same scale.
    """
    # In bfloat16, the mean and variance of 12,800 values would lose too much precision.
    x = layers.LayerNormalization(dtype="float32")(layers.Flatten()(features))
    x = layers.Dropout(how.dropout)(x)
    if how.units:
        x = layers.Dense(how.units, activation="relu")(x)
        x = layers.Dropout(how.dropout)(x)
    return x


@head
def pooled(features: keras.KerasTensor, how: HeadTraining) -> keras.KerasTensor:
    """The mean over all places (Lin et al., 2014), evened out, then dropout.

    A few means are far larger than the others. Their square roots are closer (Perronnin et al.,
    2010). Batch normalisation (Ioffe & Szegedy, 2015) takes away what all images share, which the
    last layer's bias learns too slowly. It needs batches of several images.
    """
    x = layers.GlobalAveragePooling2D(dtype="float32")(features)
    # A root with a sign: x/√|x|. The constants bound its slope, which fine_tune needs at 0.
    x = x / (0.1 + keras.ops.sqrt(0.01 + keras.ops.abs(x)))
    x = batch_normalised(x, dtype="float32")
    x = layers.Dense(how.units, activation="relu", dtype="float32")(x) if how.units else x
    return layers.Dropout(how.dropout)(x)
