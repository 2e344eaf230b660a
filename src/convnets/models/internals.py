"""The only uses of undocumented Keras behaviour, each with a test."""

import io
import json
import math
import re
import sys
import zipfile
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import keras
import tensorflow as tf
from keras.src.backend.common import global_state
from keras.src.backend.common.variables import initialize_all_variables
from keras.src.saving import saving_lib

# The book's layers and our arrays are so. A user's keras.json may say otherwise.
keras.config.set_image_data_format("channels_last")
keras.config.set_floatx("float32")
keras.config.set_epsilon(1e-7)

# TensorFlow takes these before its first computation. Else a process takes all of a GPU's memory,
# so that no other can share it, and sums are added in another order each time.
for gpu in tf.config.list_physical_devices("GPU"):
    tf.config.experimental.set_memory_growth(gpu, True)
    tf.config.experimental.enable_op_determinism()

LARGEST_OUTPUT = 2**28  # values that a layer may return for one image


class Step(NamedTuple):
    """One call of a layer in a model."""

    layer: keras.layers.Layer
    input: Any
    output: Any


def steps(model: keras.Model, start: Any) -> tuple[Any, list[Step]]:
    """Call a model, and return its output and the calls of its layers in their order.

    Nested models are replaced by their layers.

    Args:
        model: a functional or sequential model.
        start: the input: of Keras, or images as a tensor.
    """
    found: list[Step] = []

    def call(layer: keras.layers.Layer, *inputs: Any, **how: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            return reduce(lambda x, inner: call(inner, x), layer.layers, inputs[0])
        if isinstance(layer, keras.Model):
            return unfold(layer, inputs[0])
        found.append(Step(layer, [*inputs, *how.values()][0], layer(*inputs, **how)))
        return found[-1].output

    def unfold(inner: keras.Model, inputs: Any) -> Any:
        # As `keras.models.clone_model` does, which cannot replace a model by its layers.
        return inner._run_through_graph(inputs, operation_fn=lambda layer: partial(call, layer))

    return call(model, start), found


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    """Give a model the weights of another one with the same layers in the same order."""
    target.set_weights(source.get_weights())
    for layer in target._flatten_layers():
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it computes with copies of its weights


def needs_several_images(model: keras.Model) -> bool:
    """Return whether a layer normalises over the images of a batch, and over no places of each.

    In a batch of one image, such a layer returns the same for every image.
    """
    # `_flatten_layers` is undocumented: the layers of nested models too.
    return any(
        isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
        and layer.input_spec.ndim == 2
        for layer in model._flatten_layers()
    )


def with_policy(model: keras.Model, policy: keras.DTypePolicy) -> keras.Model:
    """Return a functional model with new weights, whose layers have another dtype policy."""

    def changed(config: Any) -> Any:
        if isinstance(config, dict):
            if config.get("class_name") == "DTypePolicy":
                return keras.dtype_policies.serialize(policy)
            return {key: changed(value) for key, value in config.items()}
        if isinstance(config, (list, tuple)):
            return type(config)(map(changed, config))
        return config

    return type(model).from_config(changed(model.get_config()))


def divides(model: keras.Model, layer: keras.layers.Layer) -> bool:
    """Return whether no connection bypasses a layer's input, unlike inside a residual block."""
    # `operations` is undocumented: layers and operations in topological order.
    place = model.operations.index(layer)
    if place < 2:  # the images themselves
        return False
    cut = input_in(layer)
    below = {id(_side("output", operation)) for operation in model.operations[:place]}
    above = (input_in(operation) for operation in model.operations[place:])
    return not any(
        tensor is not cut and id(tensor) in below for tensor in keras.tree.flatten(list(above))
    )


def input_in(operation: keras.Operation) -> Any:
    """Return an operation's input in the enclosing model.

    A nested model overrides `input` with its own. The parent class has the outer input.
    """
    return _side("input", operation)


def _side(side: str, operation: keras.Operation) -> Any:
    return getattr(keras.Operation, side).fget(operation)


def preprocessing(application: Callable[..., keras.Model]) -> Callable[[Any], Any]:
    """Return `preprocess_input` for a model of `keras.applications`, from its constructor.

    Their common module is the only link between the two.
    """
    found: Callable[[Any], Any] = sys.modules[application.__module__].preprocess_input
    return found


def reproducible(source: Path, target: Path, metadata: dict[str, Any]) -> None:
    """Copy a `.keras` archive so that the same model always gives the same bytes.

    Keras writes the time into `metadata.json` and into every member's entry. It writes the memory
    addresses of shared objects into `config.json`. The copy has no time, and numbers instead of
    addresses, so DVC sees only real changes.

    Args:
        source: the file that Keras saved.
        target: the copy.
        metadata: extra values for `metadata.json`. Keras ignores unknown keys there.
    """
    with zipfile.ZipFile(source) as saved, zipfile.ZipFile(target, "w") as copy:
        for name in sorted(saved.namelist()):
            content = saved.read(name)
            if name == "metadata.json":
                known = json.loads(content)
                del known["date_saved"]
                content = json.dumps(known | metadata).encode()
            elif name == "config.json":
                content = _counted(content)
            copy.writestr(zipfile.ZipInfo(name), content)


def load(archive: zipfile.ZipFile) -> keras.Model:
    """Load a `.keras` archive in safe mode, unless it takes more memory than its size suggests.

    As `keras.models.load_model`, but the model is made without arrays first: Keras knows their
    shapes. To make it twice would take a second for a large model.

    Raises:
        Exception: of any kind, since Keras and h5py raise their own for what is damaged.
    """
    stored = archive.getinfo("model.weights.h5")
    try:
        with keras.StatelessScope(initialize_variables=False):
            config = archive.read("config.json")
            model = saving_lib._model_from_config(config, None, compile=False, safe_mode=True)
        _refuse_too_large(model, archive, stored)
        initialize_all_variables()
    finally:
        global_state.set_global_attribute("uninitialized_variables", [])  # else, made later
    failed: dict[str, Any] = {"failed_saveables": set(), "error_msgs": {}}
    weights = saving_lib.H5IOStore(io.BytesIO(archive.read(stored)), mode="r")
    try:
        saving_lib._load_state(model, weights, None, "", visited_saveables=set(), **failed)
    finally:
        weights.close()
    if failed["failed_saveables"]:
        saving_lib._raise_loading_failure(failed["error_msgs"])
    return model


def _refuse_too_large(model: Any, archive: zipfile.ZipFile, stored: zipfile.ZipInfo) -> None:
    if not isinstance(model, keras.Model):
        raise ValueError("it is not a model")
    operations = {
        operation
        for layer in model._flatten_layers()
        for operation in (layer, *getattr(layer, "operations", ()))
    }
    outputs = [
        math.prod(size or 1 for size in tensor.shape)
        for operation in operations
        for node in operation._inbound_nodes
        for tensor in node.output_tensors
    ]
    if max(outputs, default=0) > LARGEST_OUTPUT:
        raise ValueError(f"a layer returns {max(outputs):,} values for an image")
    values = sum(math.prod(variable.shape) for variable in model.variables)
    arrays: list[int] = []
    with h5py.File(archive.open(stored)) as weights:
        weights.visititems(lambda _, item: arrays.append(getattr(item, "nbytes", 0)))
    if max(values, sum(arrays)) > stored.file_size:
        raise ValueError("it has fewer weights than it says")


def _counted(config: bytes) -> bytes:
    """Return a model's config with its memory addresses replaced by 0, 1, 2 …"""
    numbers: dict[bytes, int] = {}
    return re.sub(
        rb'(?<="shared_object_id": )\d+',
        lambda address: b"%d" % numbers.setdefault(address[0], len(numbers)),
        config,
    )
