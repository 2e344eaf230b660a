"""Random changes of images, from a given seed.

The book stacks layers (listing 8.14), and each layer interpolates every pixel again. Here flip,
rotation and zoom are multiplied into one affine map first. The draws depend only on the given seed,
so any batch of any epoch can be reproduced, in any order.

To add a change, add a key to `params.Augmentation`, with 0 for none, and a function to `STEPS`.
"""

import math

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from convnets.base.params import Augmentation


def augment(images: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    """Change each image by its own random amounts.

    Args:
        images: (n, h, w, 3) pixels from 0 to 255, any numeric dtype.
        seed: two integers.
        how: the largest amount of each kind of change.

    Returns:
        (n, h, w, 3), float32.
    """
    images = tf.cast(images, tf.float32)
    for place, step in enumerate(STEPS):
        # Geometry uses the seed itself, so its draws do not depend on the other steps.
        own = tf.random.experimental.stateless_fold_in(seed, place) if place else seed
        images = step(images, own, how)
    return images


def geometry(images: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    """Flip half of the images left to right, unless `flip` is none, and rotate and zoom each.

    `rotation` is the largest angle, as a share of a full turn. `zoom` is the largest share by which
    the image shrinks or grows, the same on both axes. Areas outside the image show its reflection,
    as with Keras's layers.
    """
    draws = tf.random.stateless_uniform((3, tf.shape(images)[0]), seed, -1.0, 1.0)
    flip = tf.where((draws[0] < 0) & (how.flip == "horizontal"), -1.0, 1.0)
    angle = draws[1] * (2 * math.pi * how.rotation)
    scale = 1.0 + draws[2] * how.zoom
    transforms = affine(tf.shape(images)[1], tf.shape(images)[2], flip, angle, scale)
    return keras.ops.image.affine_transform(
        images, transforms, interpolation="bilinear", fill_mode="reflect"
    )


def contrast(images: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    """Move each image's pixels towards or away from their mean, by up to a share.

    Keras's RandomContrast does the same.
    """
    if not how.contrast:
        return images
    factor = 1.0 + how.contrast * _draw(images, seed)
    mean = tf.reduce_mean(images, axis=(1, 2), keepdims=True)
    return tf.clip_by_value((images - mean) * factor + mean, 0.0, 255.0)


def brightness(images: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    """Add or subtract up to a share of the pixel range, as Keras's RandomBrightness does."""
    if not how.brightness:
        return images
    return tf.clip_by_value(images + 255 * how.brightness * _draw(images, seed), 0.0, 255.0)


STEPS = (geometry, contrast, brightness)


def _draw(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return a number from −1 to 1 for each image, (n, 1, 1, 1)."""
    return tf.random.stateless_uniform((tf.shape(images)[0], 1, 1, 1), seed, -1.0, 1.0)


def preview(
    image: NDArray[np.uint8], count: int, seed: int, how: Augmentation
) -> NDArray[np.float32]:
    """Return an image, (h, w, 3), followed by `count` augmented views of it, (1 + n, h, w, 3)."""
    repeated = np.repeat(image[None], count, axis=0)
    views = augment(repeated, tf.constant([seed, 0], tf.int64), how)
    return np.concatenate([image[None], views.numpy()])


def affine(
    height: tf.Tensor, width: tf.Tensor, flip: tf.Tensor, angle: tf.Tensor, scale: tf.Tensor
) -> tf.Tensor:
    """Return each image's map from positions in the result to positions in the source.

    Args:
        height: in pixels.
        width: in pixels.
        flip: (n,), −1 for a mirror image, 1 for none.
        angle: (n,), in radians.
        scale: (n,), the visible share of the source; below 1 zooms in.

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
