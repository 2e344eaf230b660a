"""Random flips, rotations and zooms, as one transformation and from a given seed.

The book stacks three layers (listing 8.14), each of which interpolates every pixel anew. Here the
three are multiplied into one affine map first. The draws depend on nothing but the seed passed
in, so that any batch of any epoch can be made again, in any order.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


def augment(images: tf.Tensor, seed: tf.Tensor, rotation: float, zoom: float) -> tf.Tensor:
    """Flip half of the images left to right, and rotate and zoom each by a random amount.

    What comes in from outside the image is its reflection, as with Keras's layers.

    Args:
        images: (n, h, w, 3), any numeric dtype.
        seed: two integers.
        rotation: the largest angle, as a share of a full turn.
        zoom: the largest share by which the picture shrinks or grows, the same on both axes.

    Returns:
        (n, h, w, 3), float32.
    """
    draws = tf.random.stateless_uniform((3, tf.shape(images)[0]), seed, -1.0, 1.0)
    flip = tf.where(draws[0] < 0, -1.0, 1.0)
    angle = draws[1] * (2 * math.pi * rotation)
    scale = 1.0 + draws[2] * zoom
    transforms = affine(tf.shape(images)[1], tf.shape(images)[2], flip, angle, scale)
    return keras.ops.image.affine_transform(
        tf.cast(images, tf.float32), transforms, interpolation="bilinear", fill_mode="reflect"
    )


def preview(
    image: NDArray[np.uint8], count: int, seed: int, rotation: float, zoom: float
) -> NDArray[np.float32]:
    """Return an image, (h, w, 3), and after it `count` augmented views of it, (1 + n, h, w, 3)."""
    repeated = np.repeat(image[None], count, axis=0)
    views = augment(repeated, tf.constant([seed, 0], tf.int64), rotation, zoom)
    return np.concatenate([image[None], views.numpy()])


def affine(
    height: tf.Tensor, width: tf.Tensor, flip: tf.Tensor, angle: tf.Tensor, scale: tf.Tensor
) -> tf.Tensor:
    """Return, for each image, the map from a place in the result to one in the source.

    Args:
        height: in pixels.
        width: in pixels.
        flip: (n,), −1 for a mirror image, 1 for none.
        angle: (n,), in radians.
        scale: (n,), how much of the source is seen: under 1 zooms in.

    Returns:
        (n, 8) coefficients, as `keras.ops.image.affine_transform` takes them.
    """
    center_x = (tf.cast(width, tf.float32) - 1) / 2
    center_y = (tf.cast(height, tf.float32) - 1) / 2
    cos, sin = scale * tf.cos(angle), scale * tf.sin(angle)
    a0, a1, b0, b1 = flip * cos, -flip * sin, sin, cos
    a2 = center_x - a0 * center_x - a1 * center_y
    b2 = center_y - b0 * center_x - b1 * center_y
    zero = tf.zeros_like(angle)
    return tf.stack([a0, a1, a2, b0, b1, b2, zero, zero], axis=1)
