"""Convnets to train from scratch: the book's, and another.

To add one, write a function under `@convnet`. `architecture` in `params.yaml` selects it by name.
"""

from collections.abc import Callable

import keras
from keras import layers

from convnets.base import console
from convnets.base.params import ConvnetTraining
from convnets.models.answers import classifier
from convnets.models.layers import batch_normalised

Convnet = Callable[[int, int, float], keras.Model]
CONVNETS: dict[str, Convnet] = {}


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
    build = console.named(how.architecture, CONVNETS, "architecture: no convnet")
    return build(size, classes, how.dropout)


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
        return layers.ReLU()(batch_normalised(x))

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
