"""A pretrained convolutional base of `keras.applications`: weights, preprocessing and cut."""

import difflib
import inspect
import sys
from pathlib import Path
from typing import Any

import keras

from convnets.console import InputError


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


def write_weights(name: str, size: int, weights: str, seed: int, out: Path) -> None:
    """Write a backbone's weights: random from a seed, Keras's ImageNet ones, or a checked file.

    Raises:
        InputError: the weights cannot be had or are another model's.
    """
    keras.utils.set_random_seed(seed)
    if weights == "imagenet":
        try:
            base = _constructor(name)(include_top=False, input_shape=(size, size, 3))
        except Exception as error:  # Keras raises a bare Exception for a failed download
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"the ImageNet weights of {name} cannot be downloaded ({error}); connect, or set "
                "backbone.weights to a local .weights.h5 file"
            ) from error
    else:
        base = build(name, size, None if weights == "random" else Path(weights).expanduser())
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f"part.{out.name}")
    base.save_weights(unfinished)
    unfinished.replace(out)


def preprocess(name: str, pixels: Any) -> Any:
    """Apply the backbone's own preprocessing to (n, h, w, 3) RGB pixels of 0 to 255.

    On a `KerasTensor` it becomes serialisable operations of the model.
    """
    return sys.modules[_constructor(name).__module__].preprocess_input(pixels)


def split(base: keras.Model, last_layers: int) -> tuple[keras.Model, keras.Model]:
    """Cut a backbone in two before its last layers; the parts share its weights.

    Args:
        base: the backbone.
        last_layers: how many layers the upper part has.

    Returns:
        The lower part, from images to the cut, frozen, and the upper part, trainable but for
        BatchNormalization, which also stays in inference mode.

    Raises:
        InputError: something passes around the cut, as in the middle of a residual block.
    """
    if last_layers >= len(base.layers) - 1:
        raise InputError(
            f"backbone.fine_tune_layers: {base.name} has {len(base.layers)} layers, "
            f"not more than {last_layers}; lower it"
        )
    cut = base.layers[-last_layers - 1].output
    try:
        upper = keras.Model(cut, base.output, name="tuned")
    except ValueError as error:
        raise InputError(
            f"backbone.fine_tune_layers: {last_layers} cuts {base.name} inside a block; choose "
            "the start of one"
        ) from error
    lower = keras.Model(base.input, cut, name="frozen")
    lower.trainable = False
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
