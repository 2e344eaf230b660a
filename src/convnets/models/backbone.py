"""A pretrained convolutional base of `keras.applications`: weights, preprocessing and cut."""

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
        name: of any model of `keras.applications`, such as VGG16.
        size: of the square images, in pixels.
        weights: a `.weights.h5` file; random ones from Keras's global seed without.

    Raises:
        InputError: no such model, an image size that it cannot take, or weights of another one.
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
                f"{weights}: no whole weights of {name} without its top ({reason}); correct "
                "backbone.weights or backbone.name"
            ) from error
    base.trainable = False
    return base


def write_weights(how: Backbone, size: int, seed: int, out: Path) -> None:
    """Write a backbone's weights: random from a seed, Keras's ImageNet ones, or a checked file.

    Raises:
        InputError: the weights cannot be had or are another model's.
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
                f"the ImageNet weights of {how.name} cannot be downloaded ({error}); connect, or "
                "set backbone.weights to a local .weights.h5 file"
            ) from error
    else:
        local = None if how.weights == "random" else Path(how.weights).expanduser()
        base = build(how.name, size, local)
    with files.atomic(out) as part:
        # h5py brings the process down on a disk that fills up under it.
        if shutil.disk_usage(part.parent).free < 4 * base.count_params() + 2**20:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        base.save_weights(part)


def preprocess(name: str, pixels: Any) -> Any:
    """Apply the backbone's own preprocessing to (n, h, w, 3) RGB pixels of 0 to 255.

    On a `KerasTensor` it becomes serialisable operations of the model.
    """
    return internals.preprocessing(_constructor(name))(pixels)


def split(base: keras.Model, fine_tune_from: int | str) -> tuple[keras.Model, keras.Model]:
    """Cut a backbone in two; the parts share its weights.

    Args:
        base: the backbone.
        fine_tune_from: the first layer of the upper part by name, or how many layers that has.

    Returns:
        The lower part, from images to the cut, frozen, and the upper part, trainable but for
        BatchNormalization, which also stays in inference mode.

    Raises:
        InputError: no such layer, or something passes around the cut, as inside a residual block.
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
            f"backbone.fine_tune_from: {fine_tune_from} does not part {base.name} in two; the "
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
    """Find a model of `keras.applications` by its name."""
    models = {
        key: value for key, value in vars(keras.applications).items() if inspect.isfunction(value)
    }
    if name not in models:
        near = difflib.get_close_matches(name, models, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(models)}"
        raise InputError(f"backbone.name: no model {name!r} in keras.applications; {hint}")
    return models[name]
