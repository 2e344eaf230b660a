"""The champion as ONNX: its runtime starts in a fraction of the time that Keras takes.

Keras and TensorFlow are imported only to write it, ONNX Runtime only to use it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from convnets.base import files
from convnets.models import answers

if TYPE_CHECKING:
    import keras

FOLDER = Path("dvc-outs/served")
MODEL, ABOUT = "champion.onnx", "about.json"
CHECKED = 8  # validation pictures, on which both must say the same
LARGEST_ABOUT = 1_000_000  # bytes
SPARE = 8_000_000  # bytes that the graph may take besides the weights
TOLERANCE = {"probabilities": 0.001, "unlike": 0.01}  # of what is more than 1, a share
Compute = Callable[[NDArray[Any]], answers.Answer]


class Served(NamedTuple):
    """A model that ONNX Runtime computes."""

    compute: Compute
    classes: list[str]  # in label order
    size: int  # of a picture's side


def write(
    model: "keras.Model", path: Path, classes: list[str], pictures: NDArray[Any], folder: Path
) -> str | None:
    """Write a saved model as ONNX, or why it cannot be used. The same model gives the same bytes.

    Args:
        model: with a probability for each class, or one for two.
        path: its `.keras` file.
        classes: in label order.
        pictures: (n, size, size, 3), on which both must say the same.
        folder: for the two files.

    Returns:
        None, or why Keras must be used.
    """
    with files.atomic(folder) as part:
        part.mkdir()
        about: dict[str, Any] = {"champion": files.sha256(path)}
        try:
            to_onnx(answers.model_by_class(model), part / MODEL, {})
            # Keras compiles a model for its first batch, which takes longer than it saves.
            _agree(answers.read(model(pictures)), load_onnx(part / MODEL)(pictures))
            about |= {"onnx": files.sha256(part / MODEL), "classes": classes}
            about |= {"size": int(pictures.shape[1])}
        except OSError:
            raise
        except Exception as error:  # a converter raises any kind for a model that it cannot convert
            (part / MODEL).unlink(missing_ok=True)
            about |= {"why": " ".join(str(error).split())[:200] or type(error).__name__}
        files.write_json(part / ABOUT, about)
    return about.get("why")


def _agree(expected: answers.Answer, found: answers.Answer) -> None:
    for name, tolerance in TOLERANCE.items():
        one, two = getattr(expected, name), getattr(found, name)
        if one is None and two is None:
            continue
        difference = float((np.abs(one - two) / np.maximum(1, np.abs(one))).max())
        if not difference <= tolerance:  # NaN, too
            raise ValueError(f"{name} differ by {difference:.2g}")


def to_onnx(model: "keras.Model", path: Path, about: dict[str, str]) -> None:
    """Write a model as ONNX. Its input is `image`, float32, and its outputs have names.

    Keras's own export lets tf2onnx improve the graph, for most of its time. ONNX Runtime does that
    anyway when it loads a model.

    Args:
        model: from `answers.model_by_class`.
        path: the file.
        about: the file's metadata.
    """
    import onnx
    import tensorflow as tf
    import tf2onnx

    def call(image: Any) -> dict[str, Any]:
        found = model(image, training=False)
        return found if isinstance(found, dict) else {"probabilities": found}

    spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, "image")
    traced = tf.function(call, autograph=False).get_concrete_function(spec)
    start = [traced.inputs[0].name]
    ends = {tensor.name: name for name, tensor in traced.structured_outputs.items()}
    frozen = tf2onnx.tf_loader.from_function(traced, start, [*ends])
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen, name="")
        converted = tf2onnx.tfonnx.process_tf_graph(
            graph,
            input_names=start,
            output_names=[*ends],
            tensors_to_rename={start[0]: "image", **ends},
        )
    proto = converted.make_model("model")
    del proto.graph.input[1:]  # tf2onnx also declares constants as inputs
    # A mirrored model computes its layers twice, and tf2onnx writes their weights twice. Its names
    # depend on what the process has done before.
    names = {"": "", "image": "image"} | {name: name for name in ends.values()}
    first: dict[bytes, str] = {}
    weights = [*proto.graph.initializer]
    del proto.graph.initializer[:]
    for tensor in weights:
        name, tensor.name = tensor.name, ""
        content = tensor.SerializeToString()
        names[name] = first.setdefault(content, f"w{len(first)}")
        if names[name] == f"w{len(proto.graph.initializer)}":
            tensor.name = names[name]
            proto.graph.initializer.append(tensor)
    for number, node in enumerate(proto.graph.node):
        node.name = str(number)
        node.input[:] = [names.setdefault(name, str(len(names))) for name in node.input]
        node.output[:] = [names.setdefault(name, str(len(names))) for name in node.output]
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    del proto.graph.value_info[:]
    onnx.helper.set_model_props(proto, about)
    onnx.save(proto, path)


def load_onnx(path: Path) -> Compute:
    """Return what computes an ONNX file of `to_onnx`, on all processor cores."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised
    # Its threads would keep the cores busy while they wait, and pictures are decoded beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def compute(pixels: NDArray[Any]) -> answers.Answer:
        values = session.run(names, {"image": pixels.astype(np.float32)})
        return named(dict(zip(names, values, strict=True)))

    return compute


def named(outputs: dict[str, Any]) -> answers.Answer:
    """Read several outputs by name, and a single one, whose name is the converter's, alone."""
    return answers.read(outputs if len(outputs) > 1 else next(iter(outputs.values())))


def load(champion: Path, folder: Path) -> Served | None:
    """Return a `.keras` file's ONNX, if `write` has made it of just this file; else None."""
    try:
        with (folder / ABOUT).open("rb") as file:
            about = json.loads(file.read(LARGEST_ABOUT))
        model = folder / MODEL
        if (
            model.stat().st_size <= champion.stat().st_size + SPARE
            and about["champion"] == files.sha256(champion)
            and about["onnx"] == files.sha256(model)
        ):
            return Served(load_onnx(model), about["classes"], about["size"])
    except Exception:  # ONNX Runtime raises any kind for damaged bytes; Keras's file is there
        return None
    return None
