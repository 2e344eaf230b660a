"""A pretrained convolutional base, from raw pixels to a feature map: weights, checks and split."""

import difflib
import errno
import inspect
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from convnets.backbones import lite
from convnets.base import files
from convnets.base.console import InputError
from convnets.base.params import Backbone
from convnets.models import internals, saved

FILE = Path("dvc-outs/backbone.keras")
SAMPLE = Path(__file__).with_name("sample.npz")  # made by `python -m pretraining`


def build(how: Backbone, size: int) -> keras.Model:
    """Build a frozen backbone without its top.

    Args:
        how: a model of `keras.applications` or of the package, or the path of a `.keras` file, its
            weights and its pooling. Random weights are from Keras's global seed.
        size: side of the square images, in pixels.

    Returns:
        A model from (n, size, size, 3) RGB pixels of 0 to 255 to a feature map, with its
        preprocessing inside.

    Raises:
        InputError: the model or its weights do not exist, do not fit, or cannot be loaded safely.
    """
    if how.name == lite.NAME:
        return _in_package(how, size)
    own = how.name.endswith(".keras")
    base = _own(how, size) if own else _application(how, size)
    if how.pooling == "mean":
        mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name="mean")
        base = keras.Model(base.inputs, mean(base.outputs[0]), name=base.name)
    like = {"auto": None if own else how.name, "none": None}.get(
        how.preprocessing, how.preprocessing
    )
    constructor = None if like is None else _constructor("preprocessing", like)
    try:
        whole = _whole(base, size, constructor and internals.preprocessing(constructor))
    except Exception as error:  # of any kind: the model may be anything
        raise InputError(
            f"{how.name}: not a backbone at image_size {size} ({saved.reason(error)}); correct the "
            "model, its weights, backbone.preprocessing or image_size"
        ) from error
    whole.trainable = False
    return whole


def _whole(base: keras.Model, size: int, preprocess: Any) -> keras.Model:
    """Return one flat model from pixels to a base's features.

    Raises:
        Exception: the base cannot be called so, or its features are not those of two images.
    """
    start = keras.Input((size, size, 3), name="image")
    pixels = preprocess(start) if preprocess else start
    called_twice = keras.Model(start, internals.steps(base, pixels)[0], name=base.name)
    whole = keras.models.clone_model(called_twice)  # in which each layer is called once
    internals.copy_weights(called_twice, whole)
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype(np.float32)
    given = preprocess(images.copy()) if preprocess else images
    expected, found = (  # as a graph, which has rules of its own, such as for names
        np.asarray(tf.function(model, autograph=False)(pixels, training=False), np.float32)
        for model, pixels in ((base, given), (whole, images))
    )
    if found.ndim != 4 or len(found) != 2 or 0 in found.shape:
        raise ValueError(f"two images give {found.shape}, not two feature maps")
    if not np.isfinite(found.astype(np.float16)).all():
        raise ValueError("its features are not finite, or beyond ±65,504")
    if not np.allclose(found, expected, rtol=0, atol=0.01 * np.abs(found).max()):
        raise ValueError("the same images give other features")
    return whole


def write(how: Backbone, size: int, seed: int, out: Path) -> None:
    """Write a backbone as a `.keras` file.

    Raises:
        InputError: see `build`.
        OSError: the disk is full.
    """
    keras.utils.set_random_seed(seed)
    base = build(how, size)
    # h5py crashes the process if the disk fills up while it writes.
    out.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(out.parent).free < 8 * base.count_params() + 2**20:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out))
    saved.save(base, out)


def load(path: Path = FILE) -> keras.Model:
    """Load the frozen backbone that `write` wrote, to compute with the current dtype policy."""
    base, policy = saved.load(path), keras.config.dtype_policy()
    if any(layer.dtype_policy != policy for layer in base.layers):
        loaded, base = base, internals.with_policy(base, policy)
        internals.copy_weights(loaded, base)
    base.trainable = False
    return base


def _in_package(how: Backbone, size: int) -> keras.Model:
    """Return the model that comes with the package. It needs no trial."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / lite.MODEL.name
        lite.write(how, size, path)
        base = saved.load(path)
    base.trainable = False
    return base


def _application(how: Backbone, size: int) -> keras.Model:
    """Return a model of `keras.applications`, for preprocessed pixels."""
    construct = _constructor("name", how.name)
    if how.weights is None:
        raise InputError("backbone.weights: null is for a .keras file, which has its own weights")
    try:
        weights = "imagenet" if how.weights == "imagenet" else None
        base = construct(weights=weights, include_top=False, input_shape=(size, size, 3))
    except Exception as error:  # Keras raises a bare Exception for a failed download
        if isinstance(error, ValueError):
            raise InputError(f"backbone.name {how.name} at image_size {size}: {error}") from error
        raise InputError(
            f"the ImageNet weights of {how.name} cannot be downloaded ({error}); connect to a "
            "network, or set backbone.weights to a local .weights.h5 file"
        ) from error
    if how.weights == "sample":
        _widen(base)
    elif how.weights not in ("imagenet", "random"):
        weights_file = files.given(how.weights)
        try:
            base.load_weights(weights_file)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{weights_file}: not the weights of {how.name} without its top "
                f"({saved.reason(error)}); correct backbone.weights or backbone.name"
            ) from error
    return base


def _own(how: Backbone, size: int) -> keras.Model:
    """Return a user's own model, for pixels as `backbone.preprocessing` makes them."""
    path = files.given(how.name)
    if how.weights is not None:
        raise InputError(f"{path}: has its own weights; set backbone.weights to null")
    base = saved.load(path, "export it again without custom code, or correct backbone.name")
    if not isinstance(base, keras.Model) or not base.built:
        raise InputError(f"{path}: not a backbone: call the model on an image, then save it")
    inputs, outputs = base.input_shape, base.output_shape
    if not (isinstance(inputs, tuple) and isinstance(outputs, tuple)):
        why = f"it has several inputs or outputs, {inputs} and {outputs}; save one with one of each"
    elif len(inputs) != 4 or inputs[3] != 3:
        why = f"it takes {inputs}, not (n, height, width, 3); save a model for RGB images"
    elif not {*inputs[1:3]} <= {None, size}:
        why = f"it takes images of {inputs[1]} × {inputs[2]} pixels, and image_size is {size}"
        why += "; save it for any size, or set image_size"
    elif len(outputs) != 4:
        why = f"it returns {outputs}, not a feature map; save it without its top"
    else:
        return base
    raise InputError(f"{path}: not a backbone: {why}")


def _widen(base: keras.Model) -> None:
    """Give a VGG16 the sample's weights, which have a quarter of its channels. The rest are zero.

    Raises:
        InputError: the backbone is another one.
    """
    if base.name != "vgg16":
        raise InputError(
            "backbone.weights: sample has the weights of VGG16 alone; set backbone.name to VGG16, "
            "or backbone.weights to imagenet"
        )
    with np.load(SAMPLE, allow_pickle=False) as narrow:
        for layer in base.layers:
            for weight in layer.weights:
                part = narrow[f"{layer.name}/{weight.name}"]
                whole = np.zeros(weight.shape, np.float32)
                whole[tuple(map(slice, part.shape))] = part
                weight.assign(whole)


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
    parts = _parts(base, first)
    if parts is None:
        why = f"backbone.fine_tune_from: {fine_tune_from} does not split {base.name} in two"
        place = base.layers.index(first)
        around = sorted(enumerate(base.layers), key=lambda item: abs(item[0] - place))
        for near, layer in around:
            if _parts(base, layer):
                number = len(names) - near
                raise InputError(f"{why}; the nearest layer that does is {layer.name} ({number})")
        raise InputError(f"{why}; no layer does; take another backbone")
    lower, upper = parts
    lower.trainable = False
    for layer in upper.layers:
        layer.trainable = not isinstance(layer, keras.layers.BatchNormalization)
    return lower, upper


def _parts(base: keras.Model, first: keras.layers.Layer) -> tuple[keras.Model, keras.Model] | None:
    """Return a backbone's parts below and above a layer's input, or None if they are not two."""
    if not internals.divides(base, first):
        return None
    cut = internals.input_in(first)
    try:
        lower = keras.Model(base.input, cut, name="frozen")
        return lower, keras.Model(cut, base.output, name="tuned")
    except ValueError:  # a layer is called on both sides
        return None


def applications() -> dict[str, Any]:
    """Return the constructors of the models of `keras.applications`, by name."""
    return {
        key: value for key, value in vars(keras.applications).items() if inspect.isfunction(value)
    }


def _constructor(param: str, name: str) -> Any:
    """Return the constructor of a model of `keras.applications`, which a param names."""
    models = applications()
    if name not in models:
        known = [*models, *(["none", "auto"] if param == "preprocessing" else [lite.NAME])]
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"
        raise InputError(f"backbone.{param}: no model {name!r} in keras.applications; {hint}")
    return models[name]
