"""A pretrained convolutional base of `keras.applications`: weights, preprocessing and split."""

import difflib
import errno
import inspect
import os
import shutil
from pathlib import Path
from typing import Any

import keras

from convnets.base import files
from convnets.base.console import InputError
from convnets.base.params import Backbone
from convnets.models import internals

WEIGHTS = Path("data/backbone.weights.h5")


def build(name: str, size: int, weights: Path | None = None) -> keras.Model:
    """Build a frozen backbone without its top, with the current dtype policy.

    Args:
        name: any model of `keras.applications`, such as VGG16.
        size: side of the square images, in pixels.
        weights: a `.weights.h5` file. Without it, random weights from Keras's global seed.

    Raises:
        InputError: the model does not exist, does not accept the image size, or does not match the
            weights.
    """
    try:
        base = _constructor(name)(weights=None, include_top=False, input_shape=(size, size, 3))
    except ValueError as error:
        raise InputError(f"backbone.name {name} at image_size {size}: {error}") from error
    if weights is not None:
        try:
            base.load_weights(weights)
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = " ".join(str(error).split())[:160]
            raise InputError(
                f"{weights}: not the weights of {name} without its top ({reason}); correct "
                "backbone.weights or backbone.name"
            ) from error
    base.trainable = False
    return base


def write_weights(how: Backbone, size: int, seed: int, out: Path) -> None:
    """Write a backbone's weights: random from a seed, Keras's ImageNet weights, or a checked file.

    Raises:
        InputError: the weights are unavailable or belong to another model.
        OSError: the disk is full.
    """
    keras.utils.set_random_seed(seed)
    if how.weights == "imagenet":
        try:
            base = _constructor(how.name)(include_top=False, input_shape=(size, size, 3))
        except Exception as error:  # Keras raises a bare Exception for a failed download
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"the ImageNet weights of {how.name} cannot be downloaded ({error}); connect to a "
                "network, or set backbone.weights to a local .weights.h5 file"
            ) from error
    else:
        local = None if how.weights == "random" else Path(how.weights).expanduser()
        base = build(how.name, size, local)
    with files.atomic(out) as part:
        # h5py crashes the process if the disk fills up while it writes.
        if shutil.disk_usage(part.parent).free < 4 * base.count_params() + 2**20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        base.save_weights(part)


def preprocess(name: str, pixels: Any) -> Any:
    """Apply the backbone's own preprocessing to (n, h, w, 3) RGB pixels from 0 to 255.

    For a `KerasTensor`, the operations become a serialisable part of the model.
    """
    return internals.preprocessing(_constructor(name))(pixels)


def split(base: keras.Model, fine_tune_from: int | str) -> tuple[keras.Model, keras.Model]:
    """Split a backbone in two. The parts share its weights.

    Args:
        base: the backbone.
        fine_tune_from: the name of the upper part's first layer, or the number of its layers.

    Returns:
        The frozen lower part, from images to the cut, and the trainable upper part. In the upper
        part, BatchNormalization stays frozen and in inference mode.

    Raises:
        InputError: the layer does not exist, or a connection bypasses the cut, as inside a residual
            block.
    """
    names = [layer.name for layer in base.layers]
    if isinstance(fine_tune_from, int):
        first = base.layers[max(0, len(names) - fine_tune_from)]
    elif fine_tune_from in names:
        first = base.get_layer(fine_tune_from)
    else:
        near = difflib.get_close_matches(fine_tune_from, names, n=1, cutoff=0)[0]
        raise InputError(
            f"backbone.fine_tune_from: {base.name} has no layer {fine_tune_from!r}; did you mean "
            f"{near}?"
        )
    if not internals.divides(base, first):
        place = base.layers.index(first)
        around = sorted(enumerate(base.layers), key=lambda item: abs(item[0] - place))
        place, start = next(item for item in around if internals.divides(base, item[1]))
        raise InputError(
            f"backbone.fine_tune_from: {fine_tune_from} does not split {base.name} in two; the "
            f"nearest layer that does is {start.name} ({len(names) - place})"
        )
    cut = internals.input_in(first)
    lower = keras.Model(base.input, cut, name="frozen")
    lower.trainable = False
    upper = keras.Model(cut, base.output, name="tuned")
    for layer in upper.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return lower, upper


def _constructor(name: str) -> Any:
    """Return the constructor of a model of `keras.applications`."""
    models = {
        key: value for key, value in vars(keras.applications).items() if inspect.isfunction(value)
    }
    if name not in models:
        near = difflib.get_close_matches(name, models, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(models)}"
        raise InputError(f"backbone.name: no model {name!r} in keras.applications; {hint}")
    return models[name]
