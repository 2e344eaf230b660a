"""What a model looks at: feature maps and Grad-CAM (the book's section 9.4)."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from convnets.models import answers, internals

FEWEST = 7  # positions along each side of a map of evidence
POOLING = (keras.layers.MaxPooling2D, keras.layers.AveragePooling2D)


def feature_maps(model: keras.Model, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the first convolution's output for an image, (h, w, filters).

    Args:
        model: a model that takes pixels.
        image: (h, w, c).
    """
    maps = _maps(internals.steps(_without_mirror(model), tf.cast(image[None], tf.float32))[1])
    # Also a separable or a depthwise one; and any map if there is none.
    first = next((step for step in maps if "Conv2D" in type(step.layer).__name__), maps[0])
    return np.asarray(first.output[0], np.float32)


def grad_cam(
    model: keras.Model, images: NDArray[np.uint8], classes: NDArray[np.integer[Any]]
) -> NDArray[np.float32]:
    """Return a map of a model's evidence for a class, by Grad-CAM.

    Selvaraju et al. (2017), arXiv:1610.02391.

    The map is from the last layer before pooling that still has at least 7 × 7 positions, the
    fewest in the paper. On fewer, the evidence runs over the edges of what is seen. If there is
    none, it is from the last of the largest. The score is taken before the sigmoid or softmax, as
    in the paper.

    Args:
        model: takes pixels and ends in a dense layer, or in the mean over an image and its
            mirror image. Then the output for the image itself is explained.
        images: (n, h, w, c).
        classes: (n,), the class to explain for each image.

    Returns:
        (n, h', w'), 0 to 1, smaller than the images.
    """
    model = _without_mirror(model)
    pixels = tf.cast(images, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        path = internals.steps(model, pixels)[1]
        candidates = [step for step in _maps(path) if not isinstance(step.layer, POOLING)]
        maps = max(reversed(candidates), key=_places).output
        dense = path[-1].layer
        scores = answers.scores(tf.linalg.matmul(path[-1].input, dense.kernel) + dense.bias)
        score = tf.gather(scores, classes, axis=1, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(score, maps), axis=(1, 2), keepdims=True)
    evidence = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1)).numpy()
    highest = evidence.max(axis=(1, 2), keepdims=True)
    scaled: NDArray[np.float32] = evidence / np.where(highest > 0, highest, 1)
    return scaled


def _without_mirror(model: keras.Model) -> keras.Model:
    """Return a model of the probabilities for the image itself."""
    model = answers.alone(model)
    if isinstance(model.layers[-1], keras.layers.Average):
        model = keras.Model(model.input, model.layers[-1].input[0])
    return model


def _places(step: internals.Step) -> int:
    return int(min(FEWEST, *step.output.shape[1:3]))


def _maps(path: list[internals.Step]) -> list[internals.Step]:
    """Return the calls whose output is a feature map, (n, h, w, c)."""
    return [step for step in path if len(getattr(step.output, "shape", ())) == 4]
