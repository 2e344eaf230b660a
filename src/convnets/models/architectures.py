"""The book's architectures, and additional ones.

To add one, write a function under `@convnet` or `@head`. `architecture` in `params.yaml` selects it
by name.
"""

import difflib
from collections.abc import Callable
from typing import TypeVar

import keras
from keras import layers

from convnets.base.console import InputError
from convnets.base.params import ConvnetTraining, HeadTraining
from convnets.models import internals  # noqa: F401 - Keras with settings of its own
from convnets.models.answers import classifier

T = TypeVar("T")
Convnet = Callable[[int, int, float], keras.Model]
Body = Callable[[keras.KerasTensor, HeadTraining], keras.KerasTensor]
CONVNETS: dict[str, Convnet] = {}
HEADS: dict[str, Body] = {}


def mnist_convnet(pooling: bool) -> keras.Model:
    """Return the chapter's first convnet: 104,202 parameters (listing 8.1), or 712,202 without
    max pooling (listing 8.5). Its input is (n, 28, 28, 1) pixels from 0 to 255.
    """
    inputs = keras.Input((28, 28, 1), name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.MaxPooling2D(2)(x) if pooling else x
    x = layers.Conv2D(64, 3, activation="relu")(x)
    x = layers.MaxPooling2D(2)(x) if pooling else x
    x = layers.Conv2D(128, 3, activation="relu")(x)
    return keras.Model(inputs, classifier(layers.Flatten()(x), 10))


def convnet(build: Convnet) -> Convnet:
    """Register a function as a convnet to train from scratch, under its name.

    It takes the side of the square images in pixels, the number of classes and the dropout.
    """
    CONVNETS[build.__name__] = build
    return build


def build_convnet(size: int, classes: int, how: ConvnetTraining) -> keras.Model:
    """Return a convnet that takes (n, size, size, 3) pixels from 0 to 255.

    Args:
        size: side of the square images, in pixels.
        classes: number of classes.
        how: the convnet's section of the params.

    Raises:
        InputError: the architecture does not exist.
    """
    return _named(how.architecture, CONVNETS, "convnet")(size, classes, how.dropout)


@convnet
def plain(size: int, classes: int, dropout: float) -> keras.Model:
    """Return the book's convnet (listings 8.7 and 8.16).

    It has 991,041 parameters at 180 × 180 with two classes.

    Args:
        size: side of the square images, in pixels.
        classes: number of classes.
        dropout: rate before the last layer; 0 omits the dropout layer.
    """
    inputs = keras.Input((size, size, 3), name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    for filters in (32, 64, 128, 256):
        x = layers.Conv2D(filters, 3, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(256, 3, activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(inputs, classifier(x, classes))


@convnet
def residual(size: int, classes: int, dropout: float) -> keras.Model:
    """Return a residual convnet, with normalisation before each convolution (He et al., 2016).

    It has 1,232,609 parameters with two classes. Its last layer reads the mean over all places.

    Args:
        size: side of the square images, in pixels.
        classes: number of classes.
        dropout: rate before the last layer.
    """

    def normalised(x: keras.KerasTensor) -> keras.KerasTensor:
        return layers.ReLU()(_batch_normalised(x))

    def conv(x: keras.KerasTensor, filters: int, kernel: int, strides: int) -> keras.KerasTensor:
        options = {"padding": "same", "use_bias": False, "kernel_initializer": "he_normal"}
        return layers.Conv2D(filters, kernel, strides, **options)(x)

    inputs = keras.Input((size, size, 3), name="image")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = conv(x, 32, kernel=7, strides=3)
    for filters in (32, 64, 128, 256):
        change = conv(normalised(x), filters, kernel=3, strides=1)
        change = conv(normalised(change), filters, kernel=3, strides=1)
        change = layers.MaxPooling2D(3, strides=2, padding="same")(change)
        x = layers.Add()([conv(x, filters, kernel=1, strides=2), change])
    x = layers.GlobalAveragePooling2D(dtype="float32")(normalised(x))
    return keras.Model(inputs, classifier(layers.Dropout(dropout)(x), classes))


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
    body = _named(how.architecture, HEADS, "head")
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
    x = _batch_normalised(x, dtype="float32")
    x = layers.Dense(how.units, activation="relu", dtype="float32")(x) if how.units else x
    return layers.Dropout(how.dropout)(x)


def _batch_normalised(x: keras.KerasTensor, dtype: str | None = None) -> keras.KerasTensor:
    # The mean of ten batches: a small data set has few. Several GPUs take it as one does.
    return layers.BatchNormalization(momentum=0.9, synchronized=True, dtype=dtype)(x)


def _named(name: str, known: dict[str, T], kind: str) -> T:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
        raise InputError(f"architecture: no {kind} {name!r}; {hint}")
    return known[name]
