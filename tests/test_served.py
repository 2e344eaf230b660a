"""The champion as ONNX: the same answers, the same bytes, and only for its own `.keras` file."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest

from convnets.evaluation import served
from convnets.models import answers, saved
from convnets.networks import architectures
from convnets.serving import runtime
from convnets.sources import sample
from tests.commands import ROOT, record, with_champion
from tests.test_export import mirrored

CLASSES = ["cat", "dog", "lynx"]
SIZE = 78


def pixels(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)


def written(folder, model, classes):
    path = folder / "champion.keras"
    saved.save(model, path, record(classes))
    assert served.write(model, path, classes, pixels(4), folder / "served") is None
    return path


@pytest.mark.parametrize("kind", ["two", "three", "mirrored"])
def test_both_runtimes_say_the_same(tmp_path, kind):
    keras.utils.set_random_seed(0)
    count = 3 if kind == "three" else 2
    model = mirrored() if kind == "mirrored" else architectures.plain(SIZE, count, 0.5)
    path = written(tmp_path, model, CLASSES[:count])
    found = served.load(path, tmp_path / "served")
    assert (found.classes, found.size) == (CLASSES[:count], SIZE)
    given = pixels(5)
    expected = answers.read(model.predict(given, verbose=0))
    answer = found.compute(given)
    assert answer.unlike is None
    np.testing.assert_allclose(answer.probabilities, expected.probabilities, atol=1e-5)
    weights = sum(weight.nbytes for weight in model.get_weights())
    assert (tmp_path / "served/champion.onnx").stat().st_size < weights + 40_000  # each once


def test_the_same_model_gives_the_same_bytes(tmp_path):
    project = with_champion(tmp_path / "project", CLASSES)
    path, here = project / "models/champion.keras", tmp_path / "here"
    pictures = np.zeros((3, SIZE, SIZE, 3), np.uint8)
    assert served.write(saved.load(path), path, CLASSES, pictures, here) is None
    code = (
        "import sys; import numpy as np; from pathlib import Path\n"
        "from convnets.models import saved; from convnets.evaluation import served\n"
        "path = Path(sys.argv[1]); zeros = np.zeros((3, 78, 78, 3), np.uint8)\n"
        "served.write(saved.load(path), path, saved.class_names(path), zeros, Path(sys.argv[2]))"
    )
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "again")]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT / "src")}, check=True)
    for name in ("champion.onnx", "about.json"):
        assert (here / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_what_cannot_be_converted_or_says_something_else_has_the_reason(tmp_path, monkeypatch):
    keras.utils.set_random_seed(0)
    model = architectures.plain(SIZE, 3, 0)
    path = written(tmp_path, model, CLASSES)
    other = keras.models.clone_model(model)
    other.layers[-1].kernel.assign(40 * other.layers[-1].kernel)
    monkeypatch.setattr(answers, "model_by_class", lambda _: other)
    why = served.write(model, path, CLASSES, pixels(4), tmp_path / "served")
    assert why.startswith("probabilities differ by")
    assert [each.name for each in (tmp_path / "served").iterdir()] == ["about.json"]
    assert json.loads((tmp_path / "served/about.json").read_text())["why"] == why
    assert served.load(path, tmp_path / "served") is None


@pytest.mark.parametrize("change", ["champion", "onnx", "large", "damaged", "gone", "no json"])
def test_only_its_own_file_is_used(tmp_path, monkeypatch, change):
    project = with_champion(tmp_path / "project", CLASSES)
    champion, folder = project / "models/champion.keras", project / served.FOLDER
    assert served.load(champion, folder) is not None
    onnx, about = folder / served.MODEL, folder / served.ABOUT
    if change == "champion":
        champion.write_bytes(champion.read_bytes() + b"\0")
    if change == "onnx":
        onnx.write_bytes(onnx.read_bytes() + b"\0")
    if change == "large":
        monkeypatch.setattr(served, "SPARE", -champion.stat().st_size)
    if change == "damaged":
        onnx.write_bytes(b"nothing")
        known = json.loads(about.read_text()) | {"onnx": served.files.sha256(onnx)}
        about.write_text(json.dumps(known))
    if change == "gone":
        onnx.unlink()
    if change == "no json":
        about.write_bytes(b"[" * 10**6)
    assert served.load(champion, folder) is None


def test_the_workspaces_champion_is_loaded_when_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(with_champion(tmp_path / "project", CLASSES))
    loaded = []
    load = saved.load
    monkeypatch.setattr(saved, "load", lambda path: loaded.append(path) or load(path))
    model = runtime.load("models/champion.keras")
    given = pixels(2)
    answer = model(given)
    assert not loaded
    expected = answers.read(model.model.predict_on_batch(given))
    assert len(loaded) == 1
    np.testing.assert_allclose(answer.probabilities, expected.probabilities, atol=1e-5)
    np.testing.assert_allclose(answer.unlike, expected.unlike, atol=1e-5)


def test_predict_and_sort_import_neither_keras_nor_pandas(tmp_path):
    project = with_champion(tmp_path / "project", CLASSES)
    (tmp_path / "in").mkdir()
    sample.draw("cat", 0, 0).save(tmp_path / "in/a.jpg")
    code = (
        "import runpy, sys; sys.argv = ['convnets', *sys.argv[1:]]\n"
        "runpy.run_module('convnets', run_name='__main__')\n"
        "print({'keras', 'tensorflow', 'mlflow', 'pandas', 'scipy'} & set(sys.modules))"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    for arguments in (["predict", "../in"], ["sort", "../in", "../out"]):
        command = [sys.executable, "-c", code, *arguments]
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.endswith("set()\n")
