"""What we know of Keras beyond its documented interface: here alone, each with its test."""

import json
import re
import sys
import zipfile
from collections.abc import Callable
from functools import partial, reduce
from pathlib import Path
from typing import Any, NamedTuple

import keras


class Step(NamedTuple):
    """A layer where a model calls it."""

    layer: keras.layers.Layer
    input: Any
    output: keras.KerasTensor


def steps(model: keras.Model) -> tuple[keras.KerasTensor, list[Step]]:
    """Return a functional model's input, and its layers in the order of their calls.

    The layers of the models inside it come in their place, as if there were no models but one.
    """
    found: list[Step] = []

    def call(layer: keras.layers.Layer, *inputs: Any, **how: Any) -> Any:
        if isinstance(layer, keras.Sequential):
            return reduce(lambda x, inner: call(inner, x), layer.layers, inputs[0])
        if isinstance(layer, keras.Model):
            return unfold(layer, inputs[0])
        found.append(Step(layer, inputs[0], layer(*inputs, **how)))
        return found[-1].output

    def unfold(inner: keras.Model, inputs: keras.KerasTensor) -> keras.KerasTensor:
        # What `keras.models.clone_model` does, which itself cannot replace a model by its layers.
        return inner._run_through_graph(inputs, operation_fn=lambda layer: partial(call, layer))

    start = keras.Input(model.input_shape[1:])
    unfold(model, start)
    return start, found


def divides(model: keras.Model, layer: keras.layers.Layer) -> bool:
    """Tell whether nothing passes around the input of a layer, as inside a residual block."""
    # `operations` is not documented: layers and operations, each after those that it needs.
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
    """Return an operation's input in the model around it.

    A layer that is a model has an `input` of its own; the one around it is the parent class's.
    """
    return _side("input", operation)


def _side(side: str, operation: keras.Operation) -> Any:
    return getattr(keras.Operation, side).fget(operation)


def preprocessing(application: Callable[..., keras.Model]) -> Callable[[Any], Any]:
    """Return `preprocess_input` for a model of `keras.applications`, from its constructor.

    Nothing but the module that both are in ties the one to the other.
    """
    found: Callable[[Any], Any] = sys.modules[application.__module__].preprocess_input
    return found


def reproducible(source: Path, target: Path, metadata: dict[str, Any]) -> None:
    """Copy a `.keras` archive so that the same model always gives the same bytes.

    Keras writes the time into it, in `metadata.json` and in every member's entry, and into
    `config.json` the memory addresses of objects that layers share. The time is taken out and the
    addresses are counted instead, so that DVC sees a change only where there is one.

    Args:
        source: as Keras saved it.
        target: the copy.
        metadata: goes into `metadata.json` beside what Keras wrote, which ignores what it does not
            know.
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


def _counted(config: bytes) -> bytes:
    """Return a model's config with its memory addresses replaced by 0, 1, 2 …"""
    numbers: dict[bytes, int] = {}
    return re.sub(
        rb'(?<="shared_object_id": )\d+',
        lambda address: b"%d" % numbers.setdefault(address[0], len(numbers)),
        config,
    )
