"""`python -m convnets export`: each format computes what the model does, or nothing is written."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import tensorflow as tf

from convnets.evaluation import unlike
from convnets.examples import examples
from convnets.heads import cached
from convnets.models import answers, saved
from convnets.networks import architectures
from convnets.serving import export as exporting
from tests.commands import ROOT, backbone_of, record, said, some_slow
from tests.test_disks import mount

pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")

SIZE = 78
TWO, THREE = ["chat", "고양이"], ["a", "b", "c"]
KINDS = {
    "onnx": ("onnx", "{}.onnx", 1e-4),
    "litert": ("litert", "{}.tflite", 1e-4),
    "float16": ("litert --quantize float16", "{}-float16.tflite", 0.02),
    "int8": ("litert --quantize int8", "{}-int8.tflite", 0.1),
    "saved_model": ("saved_model", "{}", 1e-4),
}


def mirrored() -> keras.Model:
    """As `cached.finish` builds it, with VGG16's preprocessing and a smaller backbone."""
    pixels = keras.Input((SIZE, SIZE, 3))
    maps = keras.layers.Conv2D(8, 3, strides=8)(keras.applications.vgg16.preprocess_input(pixels))
    frozen = keras.Model(pixels, keras.layers.BatchNormalization()(maps))
    features = keras.Input(frozen.output_shape[1:])
    flat = keras.layers.LayerNormalization()(keras.layers.Flatten()(features))
    top = keras.Model(features, answers.classifier(flat, 2), name="head")
    return cached.end_to_end(frozen, top, "mirrored", mirrored=True)


def convnet(classes: int, dropout: float) -> keras.Model:
    model = architectures.plain(SIZE, classes, dropout)
    last = model.layers[-1].kernel
    last.assign(40 * last)  # else an untrained one answers alike for all images
    return model


def with_unlike(model: keras.Model) -> keras.Model:
    """As the champion is: with a second output."""
    start = keras.Input(model.input_shape[1:], name="image")
    probabilities = model(start)
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(8, 3, strides=8)(start))
    random = np.random.default_rng(0)
    few = unlike.Split(random.normal(size=(50, 8)).astype("f4"), np.arange(50) % 2)
    measure = unlike.build(few, random.normal(size=(40, 8)).astype("f4"), 0.05, 10**6)
    return keras.Model(start, {"probabilities": probabilities, "unlike": measure(means)})


MODELS = {
    "two": (lambda: convnet(2, 0.5), TWO),
    "three": (lambda: convnet(3, 0), THREE),
    "mirrored": (mirrored, TWO),
    "unlike": (lambda: with_unlike(convnet(2, 0.5)), TWO),
}


def write_project(folder: Path, model: keras.Model, classes: list[str]) -> None:
    """Write a model, as the champion, and images of its size."""
    saved.save(model, folder / "models/champion.keras", record(classes))
    for place in (examples.IMAGES, examples.LABELS):
        (folder / place).mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in {"train": 40, "test": 37}.items():
        light = random.random((count, 1, 1, 1))
        coarse = (light * random.integers(0, 256, (count, 3, 3, 3))).astype(np.uint8)
        side = model.input_shape[1] // 3
        path = folder / examples.IMAGES / f"{split}.npy"
        np.save(path, coarse.repeat(side, axis=1).repeat(side, axis=2))
        labels = np.arange(count) % len(classes)
        names = [classes[label] for label in labels]
        rows = {"file": "x.png", "class": names, "label": labels, "row": range(count)}
        table = pd.DataFrame(rows)
        table.to_csv(folder / examples.LABELS / f"{split}.csv", index=False)


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """A folder for each of `MODELS`."""
    folders = {}
    for name, (build, classes) in MODELS.items():
        keras.utils.set_random_seed(0)
        folders[name] = tmp_path_factory.mktemp(name)
        write_project(folders[name], build(), classes)
    return folders


@pytest.fixture
def project(projects, monkeypatch):
    """The folder of the model with two classes; nothing is left in it that a test wrote."""
    monkeypatch.chdir(projects["two"])
    before = set(Path().rglob("*"))
    yield projects["two"]
    assert set(Path().rglob("*")) == before


def export(capsys, monkeypatch, *arguments: str) -> tuple[list[str], str]:
    """The lines on stdout, and the one on stderr if the program fails."""
    status, out, error = said(capsys, monkeypatch, "export", "--format", *arguments)
    if status:
        assert status == 1
        assert error.startswith("error: ")
        assert error.count("\n") == 1
    return out.splitlines(), error if status else ""


def answered(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """What an exported file answers by name, in its own runtime; a single output has no name."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path)
        assert [given.name for given in session.get_inputs()] == ["image"]
        names = [made.name for made in session.get_outputs()]
        return dict(zip(names, session.run(None, {"image": images}), strict=True))
    if path.suffix == ".tflite":
        interpreter = tf.lite.Interpreter(str(path))
        details = interpreter.get_input_details() + interpreter.get_output_details()
        assert {each["dtype"] for each in details} == {np.float32}
        return interpreter.get_signature_runner()(image=images)
    loaded = tf.saved_model.load(str(path))  # without it, no weights
    made = loaded.signatures["serving_default"](image=tf.constant(images))
    return {name: value.numpy() for name, value in made.items()}


def about(path: Path) -> dict[str, object]:
    if path.suffix == ".onnx":
        found = {row.key: row.value for row in onnx.load(path).metadata_props}
        return found | {"classes": json.loads(found["classes"])}
    if path.suffix == ".tflite":
        return json.loads(zipfile.ZipFile(path).read("model.json"))
    return json.loads((path / "assets.extra/model.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("kind", some_slow(KINDS, ["float16", "saved_model"]))
@pytest.mark.parametrize("name", some_slow(MODELS, ["two"]))
def test_an_export_answers_as_the_model_and_the_table_says_how_nearly(
    projects, name, kind, capsys, monkeypatch
):
    monkeypatch.chdir(projects[name])
    arguments, form, tolerance = KINDS[kind]
    lines, error = export(capsys, monkeypatch, *arguments.split())
    assert not error
    path = Path("models", form.format("champion"))
    assert lines[0] == (
        f"export: models/champion.keras to {path}, {kind if 'quantize' in arguments else 'float32'}"
    )
    assert not list(Path("models").glob(".*"))
    classes = MODELS[name][1]
    told = about(path)
    assert ("unlike" in told) == (name == "unlike")
    told.pop("unlike", None)
    assert told == {
        "input": f"image: float32, (n, {SIZE}, {SIZE}, 3), RGB from 0 to 255",
        "output": f"float32, (n, {len(classes)}), the probability of each class",
        "classes": classes,
    }
    images, labels, *_ = examples.load(Path("dvc-outs/images/test.npy"), "test")
    model = saved.load(Path("models/champion.keras"))
    expected, unlike = answers.read(model.predict(images, verbose=0))
    assert expected.std(axis=0).min() > 0.05  # else any answer would be near
    made = answered(path, images.astype(np.float32))
    assert set(made) == {"probabilities", "unlike"} if name == "unlike" else len(made) == 1
    found = made["probabilities"] if name == "unlike" else next(iter(made.values()))
    difference = np.abs(found - expected).max()
    assert difference < tolerance
    header, keras_row, row = (line.split() for line in lines[1:])
    assert header[:4] == ["model", "largest", "difference", "accuracy"]
    count = len(arguments.replace(" --quantize", "").split())
    for told, outputs in ((keras_row[1:], expected), (row[count:], found)):
        away, accuracy, *of_unlike, megabytes, milliseconds = map(float, told)
        assert len(of_unlike) == (2 if name == "unlike" else 0)
        if unlike is not None and outputs is found:
            apart = np.abs(made["unlike"][:, 0] - unlike) / np.maximum(1, unlike)
            assert of_unlike[0] == pytest.approx(apart.max(), abs=1e-4)
            assert "quantize" in arguments or apart.max() < 0.01
            same = (made["unlike"][:, 0] > 1) == (unlike > 1)
            assert of_unlike[1] == pytest.approx(same.mean(), abs=1e-4)
            assert same.mean() > 0.75
        assert away == pytest.approx(0 if outputs is expected else difference, abs=1e-4)
        assert accuracy == pytest.approx((outputs.argmax(axis=1) == labels).mean(), abs=1e-4)
        assert megabytes > 0
        assert milliseconds > 0


def test_an_export_that_computes_something_else_is_not_written(project, capsys, monkeypatch):
    monkeypatch.setattr(exporting, "TOLERANCE", -1.0)
    for arguments, form, _ in (KINDS["onnx"], KINDS["litert"], KINDS["saved_model"]):
        earlier = Path("models", form.format("champion"))
        before = earlier.stat().st_mtime_ns if earlier.exists() else None
        _, error = export(capsys, monkeypatch, *arguments.split())
        assert "not written, its probabilities differ by" in error
        assert "choose another --format" in error
        assert (earlier.stat().st_mtime_ns if earlier.exists() else None) == before


def test_an_export_whose_unlike_is_another_is_not_written(projects, capsys, monkeypatch):
    monkeypatch.chdir(projects["unlike"])
    monkeypatch.setattr(exporting, "UNLIKE_TOLERANCE", -1.0)
    before = set(Path().rglob("*"))
    _, error = export(capsys, monkeypatch, "saved_model", "--out", "models/other")
    assert "`unlike` differs by" in error
    assert set(Path().rglob("*")) == before


def test_an_earlier_export_is_replaced_and_nothing_else(project, tmp_path, capsys, monkeypatch):
    out = tmp_path / "served"
    for _ in range(2):
        _, error = export(capsys, monkeypatch, "saved_model", "--out", str(out))
        assert not error
    assert about(out)["classes"] == TWO
    mine = tmp_path / "photos.onnx"
    mine.mkdir()
    (mine / "one.png").write_text("a photo")
    for form in ("saved_model", "onnx"):
        _, error = export(capsys, monkeypatch, form, "--out", str(mine))
        assert error == f"error: {mine}: a folder that is no earlier export; choose another --out\n"
    assert (mine / "one.png").read_text() == "a photo"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos.onnx", "served"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("onnx --quantize int8", "--quantize int8: only LiteRT has it; add --format litert"),
        ("onnx --out a.tflite", "a.tflite: a file of onnx ends in .onnx; change --out"),
        ("litert --out champion", "champion: a file of litert ends in .tflite; change --out"),
        ("litert --out dvc-outs/images/test.npy/a.tflite", "expected a folder there"),
        ("saved_model --out dvc-outs/images/test.npy/a", "expected a folder there"),
        ("saved_model --out dvc-outs/images/test.npy", "expected a folder there"),
        ("litert --model nothing.keras", "nothing.keras: has no class names"),
    ],
)
def test_what_cannot_be_is_told_in_one_line(project, arguments, told, capsys, monkeypatch):
    _, error = export(capsys, monkeypatch, *arguments.split())
    assert told in error


def test_a_full_disk_is_told_and_nothing_is_left(project, tmp_path, capsys, monkeypatch):
    mount(tmp_path, "size=200k")
    try:
        for arguments, form, _ in (KINDS["onnx"], KINDS["litert"], KINDS["saved_model"]):
            out = tmp_path / form.format("full")
            _, error = export(capsys, monkeypatch, *arguments.split(), "--out", str(out))
            assert error == f"error: {out}: No space left on device; free some space\n"
            assert not list(tmp_path.iterdir())
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_without_fitting_images_there_is_no_export(projects, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = str(projects["two"] / "models/champion.keras")
    _, error = export(capsys, monkeypatch, "litert", "--model", model)
    assert "dvc-outs/labels/test.csv: does not exist" in error
    assert "run `dvc repro labels`, or `dvc pull`" in error
    monkeypatch.chdir(projects["three"])
    _, error = export(capsys, monkeypatch, "litert", "--model", model)
    assert "not the size or the classes of the model" in error
    assert not list(tmp_path.iterdir())


def test_a_model_with_code_is_refused(project, tmp_path, capsys, monkeypatch):
    inputs = keras.Input((SIZE, SIZE, 3))
    code = keras.layers.Lambda(lambda x: x[:, 0, 0, :2])(inputs)
    saved.save(keras.Model(inputs, code), tmp_path / "hostile.keras", record(TWO))
    _, error = export(capsys, monkeypatch, "litert", "--model", str(tmp_path / "hostile.keras"))
    assert "cannot be loaded safely" in error


def test_a_model_that_a_format_cannot_hold_is_told(project, tmp_path, capsys, monkeypatch):
    inputs = keras.Input((SIZE, SIZE, 3))
    odd = keras.ops.erfinv(keras.ops.mean(inputs, axis=(1, 2)) / 1000)
    path = tmp_path / "odd.keras"
    saved.save(keras.Model(inputs, answers.classifier(odd, 2)), path, record(TWO))
    for form, suffix in (("litert", ".tflite"), ("onnx", ".onnx")):
        out = tmp_path / f"odd{suffix}"
        _, error = export(capsys, monkeypatch, form, "--model", str(path), "--out", str(out))
        assert f"{out}: cannot be written as {form} (" in error
        assert error.endswith("); choose another --format\n")
    assert list(tmp_path.iterdir()) == [path]


def run(folder: Path, *arguments: str) -> tuple[str, str]:
    """The program's stdout and stderr, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "convnets", "export", "--format", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, done.stderr


@pytest.mark.slow
def test_the_screen_shows_the_export_and_the_table_only(projects):
    for arguments, _, _ in (KINDS["onnx"], KINDS["int8"]):
        out, error = run(projects["two"], *arguments.split())
        assert len(out.splitlines()) == 4
        assert error == ""


@pytest.mark.slow
def test_a_real_backbone(tmp_path):
    frozen = backbone_of("VGG16", 48)
    features = keras.Input(frozen.output_shape[1:])
    flat = keras.layers.LayerNormalization()(keras.layers.Flatten()(features))
    top = keras.Model(features, answers.classifier(flat, 2), name="head")
    model = cached.end_to_end(frozen, top, "mirrored", mirrored=True)
    write_project(tmp_path, model, TWO)
    images = np.load(tmp_path / "dvc-outs/images/test.npy")
    expected = answers.by_class(model.predict(images, verbose=0))
    for arguments, form, tolerance in (KINDS["onnx"], KINDS["int8"]):
        run(tmp_path, *arguments.split())
        path = tmp_path / "models" / form.format("champion")
        (found,) = answered(path, images.astype(np.float32)).values()
        assert np.abs(found - expected).max() < tolerance, arguments
