"""A model as a file for another runtime, checked in that runtime."""

import errno
import json
import os
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray

from convnets.base import console
from convnets.base.console import InputError
from convnets.base.files import atomic, write_json
from convnets.evaluation import served
from convnets.examples import examples
from convnets.models import answers
from convnets.models.trained import HISTORY
from convnets.serving import predict, runtime

CHECKED = 200  # test images
CALIBRATING = 100  # training images, from which int8 gets the range of each layer's values
TOLERANCE = 0.01  # of a probability, for an export that is not quantized
UNLIKE_TOLERANCE = 0.05  # of the limit
TIMED = 20  # runs with one image
ABOUT = "model.json"  # what goes in, what comes out, and the classes

Pixels = NDArray[np.float32]  # (n, size, size, 3), RGB from 0 to 255
Classifier = Callable[[Pixels], answers.Answer]


class Format(NamedTuple):
    """A file format and its runtime."""

    suffix: str
    write: Callable[[keras.Model, Path, dict[str, Any], dict[str, Any]], None]
    load: Callable[[Path], Classifier]


def export(name: str, form: str, out: Path | None, quantize: str | None) -> str:
    """Write a model in another format, check it, and return a table of the two.

    The export takes and returns float32.

    Args:
        name: the model, see `runtime.load_keras`.
        form: a key of `FORMATS`.
        out: the file, or for a SavedModel the folder. An earlier export is replaced, once the new
            one is checked. None: in `models`, named after the model.
        quantize: None, or for LiteRT float16 or int8 weights. int8 computes in int8, too.

    Returns:
        For the model and its export: the largest difference of a probability, the accuracy on at
        most `CHECKED` test images, the size, and the time for one image.

    Raises:
        InputError: the model or the images cannot be used, `out` is something else, the format
            cannot hold the model, or the export computes something else.
    """
    suffix, write, load = FORMATS[form]
    if quantize and form != "litert":
        raise InputError(f"--quantize {quantize}: only LiteRT has it; add --format litert")
    kind = f"{form} {quantize}" if quantize else form
    own = (
        Path(name).parent if (Path(name).parent / HISTORY).exists() else Path(name)
    )  # a training's
    out = out or Path("models") / f"{'-'.join(filter(None, [own.stem, quantize]))}{suffix}"
    if suffix and out.suffix != suffix:
        raise InputError(f"{out}: a file of {form} ends in {suffix}; change --out")
    if out.is_dir() and (suffix or not (out / "assets.extra" / ABOUT).exists()):
        raise InputError(f"{out}: a folder that is no earlier export; choose another --out")

    model, classes = runtime.load_keras(name)
    images, labels = _images("test", CHECKED, model, classes)
    how = _quantized(quantize, model, classes)
    about = {
        "input": f"image: float32, (n, {', '.join(map(str, images.shape[1:]))}), RGB from 0 to 255",
        "output": f"float32, (n, {len(classes)}), the probability of each class",
        "classes": classes,
    }
    model = answers.model_by_class(model)
    if isinstance(model.output, dict):
        about |= {"unlike": "float32, (n, 1), more than 1 is unlike the training images"}

    def known(pixels: Pixels) -> answers.Answer:
        return answers.read(model.predict_on_batch(pixels))

    console.say(f"export: {name} to {out}, {quantize or 'float32'}")
    with atomic(out) as part:
        try:
            with warnings.catch_warnings(action="ignore"):
                write(model, part, about, how)
                classify = load(part)
            expected = _answers(known, images, "keras")
            found = _answers(classify, images, kind)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # a converter raises any kind for a model that it cannot convert
            reason = " ".join(str(error).split())[:200]
            raise InputError(
                f"{out}: cannot be written as {kind} ({reason}); choose another --format"
            ) from error
        difference = float(np.abs(found.probabilities - expected.probabilities).max())
        if not quantize and not difference <= TOLERANCE:  # NaN, too
            raise InputError(
                f"{out}: not written, its probabilities differ by {difference:.2g} from the "
                "model's; choose another --format"
            )
        apart: dict[str, list[float]] = {}
        if found.unlike is not None and expected.unlike is not None:
            ratios = np.abs(found.unlike - expected.unlike) / np.maximum(1, expected.unlike)
            largest = float(ratios.max())
            if not quantize and not largest <= UNLIKE_TOLERANCE:
                raise InputError(
                    f"{out}: not written, `unlike` differs by {largest:.2g} from the model's; "
                    "choose another --format"
                )
            agrees = float(np.mean((found.unlike > 1) == (expected.unlike > 1)))
            apart = {"unlike differs": [0, largest], "unlike agrees": [1, agrees]}
        table = pd.DataFrame(
            {
                "model": ["keras", kind],
                "largest difference": [0, difference],
                "accuracy": [
                    float(np.mean(each.probabilities.argmax(axis=1) == labels))
                    for each in (expected, found)
                ],
                **apart,
                "MB": [_megabytes(Path(name)), _megabytes(part)],
                "ms for an image": [_milliseconds(each, images[:1]) for each in (known, classify)],
            }
        )
    digits = {"largest difference": 6, "accuracy": 4, "MB": 2, "ms for an image": 1}
    digits |= dict.fromkeys(apart, 4)
    formats = {column: f"{{:.{count}f}}".format for column, count in digits.items()}
    return table.to_string(index=False, formatters=formats)


def _images(
    split: str, count: int, model: keras.Model, classes: list[str]
) -> tuple[Pixels, NDArray[np.integer[Any]]]:
    """Return at most `count` of a split's images, evenly chosen, and their labels."""
    path = examples.IMAGES / f"{split}.npy"
    try:
        given, known = examples.load(path, split), examples.class_names()
    except FileNotFoundError as error:
        raise InputError(
            f"{error.filename}: does not exist, and the export is checked with these images; run "
            "`dvc repro labels`, or `dvc pull`"
        ) from error
    if given.inputs.shape[1:] != model.input_shape[1:] or known != classes:
        raise InputError(
            f"{path}: not the size or the classes of the model; run `dvc repro`, or choose another "
            "--model"
        )
    chosen = np.linspace(0, len(given.labels) - 1, min(count, len(given.labels))).astype(int)
    return given.at(chosen).astype(np.float32), given.labels[chosen]


def _quantized(quantize: str | None, model: keras.Model, classes: list[str]) -> dict[str, Any]:
    """Return LiteRT's settings. Its built-in operations are all that a phone's runtime has."""
    target: dict[str, Any] = {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}
    how: dict[str, Any] = {"target_spec": target}
    if quantize:
        how["optimizations"] = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        target["supported_types"] = [tf.float16]
    if quantize == "int8":
        images, _ = _images("train", CALIBRATING, model, classes)

        def each() -> Iterator[list[Pixels]]:
            for image in console.progress(images, "calibrate", len(images), beside_output=True):
                yield [image[None]]

        how["representative_dataset"] = each
    return how


def _save(model: keras.Model, path: Path, form: str, **how: Any) -> None:
    shape = (None, *model.input_shape[1:])
    signature = [keras.InputSpec(shape=shape, dtype="float32", name="image")]
    model.export(path, format=form, input_signature=signature, verbose=False, **how)


def _write_onnx(model: keras.Model, path: Path, about: dict[str, Any], _: dict[str, Any]) -> None:
    classes = json.dumps(about["classes"], ensure_ascii=False)
    served.to_onnx(model, path, about | {"classes": classes})


def _write_litert(
    model: keras.Model, path: Path, about: dict[str, Any], how: dict[str, Any]
) -> None:
    if "representative_dataset" in how:
        path.write_bytes(_int8(model, how))
    else:
        _save(model, path, "litert", **how)
    with zipfile.ZipFile(path, "a") as archive:  # a runtime ignores it, as it does metadata
        archive.writestr(ABOUT, json.dumps(about, indent=2, ensure_ascii=False))


def _int8(model: keras.Model, how: dict[str, Any]) -> bytes:
    """Quantize all but divisions, and what computes `unlike`.

    The runtime takes a divisor of 128/255 of its range for 0, and fails. `unlike` would end at the
    largest value for a calibrating image, so no image would be unlike these.
    """
    lite = tf.lite.experimental
    with TemporaryDirectory() as folder:
        _save(model, Path(folder), "tf_saved_model")
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        converter.optimizations = how["optimizations"]
        converter.target_spec.supported_ops = how["target_spec"]["supported_ops"]
        converter.representative_dataset = how["representative_dataset"]
        quantizer = lite.QuantizationDebugger(converter=converter, debug_dataset=list)
    calibrated = tf.lite.Interpreter(model_content=quantizer.calibrated_model)
    last = calibrated.get_signature_runner().get_output_details().get("unlike", {"name": ""})
    names = {each["name"] for each in calibrated.get_tensor_details()}
    kept = [name for name in names if "unlike" in name or name == last["name"]]
    quantizer.options = lite.QuantizationDebugOptions(
        denylisted_ops=["DIV"], denylisted_nodes=sorted(kept)
    )
    return bytes(quantizer.get_nondebug_quantized_model())


def _load_litert(path: Path) -> Classifier:
    interpreter = tf.lite.Interpreter(
        model_content=path.read_bytes(), num_threads=os.cpu_count() or 1
    )
    run = interpreter.get_signature_runner()
    return lambda pixels: served.named(run(image=pixels))


def _write_saved_model(
    model: keras.Model, path: Path, about: dict[str, Any], _: dict[str, Any]
) -> None:
    write_json(path / "assets.extra" / ABOUT, about)  # the place for what TensorFlow does not read
    try:
        _save(model, path, "tf_saved_model")
    except tf.errors.ResourceExhaustedError as error:  # so TensorFlow calls a full disk
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error


def _load_saved_model(path: Path) -> Classifier:
    loaded = tf.saved_model.load(path)  # its weights live as long as it does
    return lambda pixels: answers.read(loaded.serve(pixels))


FORMATS = {
    "onnx": Format(".onnx", _write_onnx, served.load_onnx),
    "litert": Format(".tflite", _write_litert, _load_litert),
    "saved_model": Format("", _write_saved_model, _load_saved_model),
}


def _answers(classify: Classifier, images: Pixels, kind: str) -> answers.Answer:
    starts = range(0, len(images), predict.BATCH)
    shown = console.progress(starts, f"check {kind} (batches)", len(starts), beside_output=True)
    found = [classify(images[start : start + predict.BATCH]) for start in shown]
    probabilities, unlike = zip(*found, strict=True)
    return answers.Answer(
        np.concatenate(probabilities), None if unlike[0] is None else np.concatenate(unlike)
    )


def _megabytes(path: Path) -> float:
    """Return a file's or folder's size; NaN if there is none, as for a model of MLflow's."""
    files = [file for file in (path, *path.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6 if files else float("nan")


def _milliseconds(classify: Classifier, image: Pixels) -> float:
    """Return the median time for one image, after a first run that only prepares."""
    times = []
    for _ in range(1 + TIMED):
        start = time.perf_counter()
        classify(image)
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[1:]))
