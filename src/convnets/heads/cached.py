"""Training on cached features: a head's inputs, and the complete model that it becomes part of."""

from typing import Any

import keras
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convnets.base.params import HeadTraining, Views
from convnets.examples import examples, npy
from convnets.examples.examples import FEATURES, IMAGES, MIRRORED, VIEWS, Examples
from convnets.models.layers import with_mirror
from convnets.models.saved import Record
from convnets.models.trained import HELD_OUT, Trained, publish
from convnets.tracking.run import Run
from convnets.training.fit import answered


def to_learn_from(how: HeadTraining, views: Views) -> Examples:
    """Return the features of the training images or of their augmented views, with labels.

    The mirror images are views, too, for a head that sees them later.

    Args:
        how: the head's section of the params.
        views: the number of views per image in the cache.
    """
    if how.features == "views":
        return examples.load(VIEWS / "top.npy", "train", views.count)
    plain = examples.load(FEATURES / "train.npy", "train")
    if not how.mirrored:
        return plain
    both = np.stack([plain.inputs, npy.read(FEATURES / f"train{MIRRORED}.npy")], axis=1)
    return plain._replace(inputs=both.reshape(-1, *plain.inputs.shape[1:]), views=2)


def held_out(split: str, suffixes: list[str]) -> list[Examples]:
    """Return the features of the validation or test images, with labels, file by file."""
    return [examples.load(FEATURES / f"{split}{suffix}.npy", split) for suffix in suffixes]


def validation(suffixes: list[str]) -> Examples:
    """Return the validation images' features, with labels, file after file.

    An image and its mirror image count as two examples. The model returns the mean of both. The
    loss of the mean is at most the mean of their losses (Jensen's inequality).
    """
    loaded = held_out("validation", suffixes)
    if len(loaded) == 1:
        return loaded[0]
    return loaded[0]._replace(
        inputs=np.concatenate([each.at(slice(None)) for each in loaded]),
        labels=np.concatenate([each.labels for each in loaded]),
        rows=None,
    )


def finish(
    top: keras.Model,
    history: pd.DataFrame,
    frozen: keras.Model,
    suffixes: list[str],
    record: Record,
    run: Run,
) -> None:
    """Publish a part trained on the cache as a complete model, and log how far the two differ.

    Args:
        top: the trained part, which takes the frozen part's features.
        history: of its training.
        frozen: the frozen part, which takes pixels.
        suffixes: of the files with the features; with `MIRRORED`, the model sees both images.
        record: the model's.
        run: the stage's run; the model is named after the stage.
    """
    model = end_to_end(frozen, top, run.stage, mirrored=MIRRORED in suffixes)
    given = {split: held_out(split, suffixes) for split in HELD_OUT}
    images = npy.read(IMAGES / "validation.npy")[:4]  # eager: no graph for so few
    cached = [each.inputs[:4] for each in given["validation"]]
    run.metrics({"cache_disagreement": disagreement(model, images, top, *cached)})
    publish(model, Trained(record, history, answered(top, given)), run)


def end_to_end(
    frozen: keras.Model, top: keras.Model, name: str, mirrored: bool = False
) -> keras.Model:
    """Assemble a classifier of raw pixels: the frozen part, the trained part.

    Args:
        frozen: the frozen part, which takes pixels.
        top: the trained part, which takes the frozen part's features.
        name: the name of the result.
        mirrored: also evaluate each image's mirror image, and return the mean of both.

    Returns:
        A model from (n, size, size, 3) pixels from 0 to 255 to probabilities.
    """

    def classify(pixels: keras.KerasTensor) -> keras.KerasTensor:
        return top(frozen(pixels, training=False))

    pixels = keras.Input(frozen.input_shape[1:], name="image")
    outputs = with_mirror(classify, pixels) if mirrored else classify(pixels)
    return keras.Model(pixels, outputs, name=name)


def disagreement(
    model: keras.Model, images: NDArray[np.uint8], top: keras.Model, *features: NDArray[Any]
) -> float:
    """Return the largest difference between a model's probabilities from pixels and from the cache.

    Args:
        model: from `end_to_end`.
        images: (n, h, w, 3), a few images.
        top: the model's trained part.
        features: (n, …), the cached features of these images. A mirrored model needs two arrays.
    """
    whole = np.asarray(model(images))  # not `predict`, which would compile it for a few images
    cached = np.mean([top.predict(given, verbose=0) for given in features], axis=0)
    return float(np.abs(whole - cached).max())
