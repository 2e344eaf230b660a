"""What a model's last layer means: for two classes one sigmoid, as in the book; else a softmax.

Nothing else asks whether there is one output. Keras is imported only where there is a model, so
answers in arrays are read without it.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import keras

    from convnets.models import internals


class Answer(NamedTuple):
    """What a model says of n pictures."""

    probabilities: NDArray[np.float64]  # (n, classes)
    # (n,), more than 1 is unlike the training pictures; None: it cannot say
    unlike: NDArray[np.float64] | None


def read(outputs: Any) -> Answer:
    """Return a model's output by name: a champion's is a dict, any other's its probabilities."""
    if not isinstance(outputs, dict):
        return Answer(by_class(outputs), None)
    unlike = np.asarray(outputs["unlike"], np.float64)[:, 0]
    return Answer(by_class(outputs["probabilities"]), unlike)


def classifier(
    x: "keras.KerasTensor", classes: int, start: str = "glorot_uniform"
) -> "keras.KerasTensor":
    """Return probabilities: one per class, or for two classes only that of the second class.

    They are float32 even if the layers before compute in bfloat16.

    Args:
        x: (n, features).
        classes: number of classes.
        start: Keras's initializer of the layer's weights.
    """
    from keras import layers

    units, activation = (1, "sigmoid") if classes == 2 else (classes, "softmax")
    return layers.Dense(units, activation, kernel_initializer=start, dtype="float32")(x)


def learning(model: "keras.Model") -> dict[str, Any]:
    """Return the loss and the metric of a training, as `compile` takes them."""
    single = model.output_shape[-1] == 1
    loss = "binary_crossentropy" if single else "sparse_categorical_crossentropy"
    return {"loss": loss, "metrics": ["accuracy"]}


def are_for(model: "keras.Model", classes: list[str]) -> bool:
    """Tell whether a model's output is one answer for each of these classes, of different names."""
    units = (1, 2) if len(classes) == 2 else (len(classes),)
    shape = getattr(model, "output_shape", None)  # not there before a model is built
    if isinstance(shape, list) and isinstance(model.output, dict):
        shape = tuple(model.output["probabilities"].shape)
    return len(set(classes)) == len(classes) and shape in [(None, count) for count in units]


def by_class(probabilities: NDArray[Any]) -> NDArray[np.float64]:
    """Return (n, classes) probabilities from a model's output, which is (n, 1) for two."""
    wide = np.asarray(probabilities, np.float64)
    return np.hstack([1 - wide, wide]) if wide.shape[1] == 1 else wide


def model_by_class(model: "keras.Model") -> "keras.Model":
    """Return a model with one probability per class, also for two, as `by_class`.

    What else it returns stays.
    """
    import keras

    output = alone(model).output
    if output.shape[-1] == 1:
        output = keras.ops.concatenate([1 - output, output], axis=-1)
    both = isinstance(model.output, dict)
    return keras.Model(model.input, model.output | {"probabilities": output} if both else output)


def alone(model: "keras.Model") -> "keras.Model":
    """Return a model of the probabilities alone."""
    import keras

    output = model.output
    return keras.Model(model.input, output["probabilities"]) if isinstance(output, dict) else model


def scores(outputs: Any) -> Any:
    """Return a score for each class: what a softmax makes its probability of.

    A sigmoid's single number is for the second class. Half of it counts for that, half against the
    first.

    Args:
        outputs: (…, units), of the last layer before its sigmoid or softmax: an array or a tensor.
    """
    return outputs if outputs.shape[-1] > 1 else outputs * np.array([-0.5, 0.5], np.float32)


def against_the_rest(
    labels: NDArray[Any], probabilities: NDArray[np.float64]
) -> list[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """Return what a ROC curve needs: which examples are of a class, and its probabilities.

    Of two classes, this is the second; of more, each that the labels have.
    """
    several = [1] if probabilities.shape[1] == 2 else np.unique(labels)
    return [(labels == label, probabilities[:, label]) for label in several]


def probabilities(logits: NDArray[Any], temperature: float = 1.0) -> NDArray[np.float64]:
    """Return (n, classes) probabilities at a temperature: the mean over the views.

    Args:
        logits: from `logits`.
        temperature: more than 1 for less certainty.
    """
    from scipy.special import softmax  # takes half a second, and predictions do without

    wide = np.asarray(logits, np.float64)
    return np.asarray(softmax(wide / temperature, axis=-1).mean(axis=1))


def logits(model: "keras.Model", batches: Any) -> NDArray[np.float32]:
    """Return a model's `scores`, (n, views, classes). Probabilities would be rounded to 0 or 1.

    Args:
        model: ends in a dense layer, or in the mean over two views: an image and its mirror image.
        batches: of its inputs and labels.
    """
    import keras

    start, ends = _ends(model)
    body = keras.Model(start, [end.input for end in ends])
    kernel, bias = (np.asarray(weight, np.float64) for weight in ends[0].layer.get_weights())
    # Batch by batch: without pooling, 10,000 digits would be 5 GB of inputs to the last layer.
    found = [
        np.stack(keras.tree.flatten(body.predict_on_batch(inputs)), dtype=np.float64) @ kernel
        for inputs, _ in batches
    ]
    by_view = scores(np.concatenate(found, axis=1) + bias)
    return np.ascontiguousarray(by_view.swapaxes(0, 1), np.float32)


def divide(model: "keras.Model", temperature: float) -> None:
    """Divide the last dense layer by a temperature: calibration without another layer.

    Args:
        model: as for `logits`.
        temperature: more than 1 for less certainty.
    """
    layer = _ends(model)[1][0].layer
    layer.set_weights([weight / temperature for weight in layer.get_weights()])


def _ends(model: "keras.Model") -> tuple["keras.KerasTensor", "list[internals.Step]"]:
    """Return a model's input, and each call of its last dense layer: two with a mirror image."""
    import keras

    from convnets.models import internals

    start = keras.Input(model.input_shape[1:])
    path = internals.steps(alone(model), start)[1]
    dense = next(step.layer for step in path[::-1] if isinstance(step.layer, keras.layers.Dense))
    return start, [step for step in path if step.layer is dense]
