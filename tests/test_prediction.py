"""`python -m convnets predict` with good and bad images."""

import csv
import io
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress

import keras
import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

from convnets.base.console import InputError
from convnets.models import saved
from convnets.models.answers import Answer
from convnets.networks import architectures
from convnets.pictures import images
from convnets.serving import predict as prediction
from convnets.serving import runtime
from convnets.sources import sample
from tests.commands import ROOT, record, said

CLASSES = ["chat", "chien", "고양이"]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "three.keras"
    keras.utils.set_random_seed(0)
    saved.save(architectures.plain(78, 3, 0), path, record(CLASSES))
    return path


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    for number in range(3):
        sample.draw("cat", number, 0).save(folder / "inner" / f"{number}.png")
    (folder / "bad.jpg").write_bytes(b"nothing")
    (folder / "note.txt").write_text("no image")
    return folder


def predict(capsys, monkeypatch, *arguments: str) -> tuple[str, list[str]]:
    """The program's stdout and the lines on its stderr. It must fail if there are any."""
    status, out, error = said(capsys, monkeypatch, "predict", *arguments)
    assert status == bool(error)
    return out, error.splitlines()


def test_all_but_the_bad_are_predicted(model, pictures, capsys, monkeypatch):
    missing, empty = str(pictures / "\x1b[2Jno.jpg"), pictures / "empty"
    empty.mkdir()
    arguments = (str(pictures), missing, str(empty), "--model", str(model))
    out, errors = predict(capsys, monkeypatch, *arguments, "--format", "json")
    assert [line.split(": ")[-1] for line in errors] == [
        "not a JPEG, PNG, WebP, AVIF, HEIC, TIFF, JPEG2000, PNM, GIF or BMP",
        "No such file or directory",
        "no images in it",
    ]
    assert all("\x1b" not in line for line in errors)
    rows = json.loads(out)
    files = sorted((pictures / "inner").iterdir())
    assert [row["file"] for row in rows] == [str(file) for file in files]
    pixels = np.stack([images.decode(file.read_bytes(), 78) for file in files])
    expected = saved.load(model).predict(pixels, verbose=0)
    for row, probabilities in zip(rows, expected, strict=True):
        assert list(row["probabilities"]) == CLASSES
        np.testing.assert_allclose(list(row["probabilities"].values()), probabilities, atol=1e-6)
        assert row["class"] == CLASSES[probabilities.argmax()]

    out, _ = predict(capsys, monkeypatch, *arguments, "--format", "csv")
    header, *lines = csv.reader(io.StringIO(out))
    assert header == ["file", "class", "unlike", *CLASSES]
    assert [line[:2] for line in lines] == [[row["file"], row["class"]] for row in rows]
    out, _ = predict(capsys, monkeypatch, *arguments)
    assert len(out.splitlines()) == 4


def test_the_unsure_are_marked_and_the_evidence_is_shown(
    model, pictures, tmp_path, capsys, monkeypatch
):
    (pictures / "bad.jpg").unlink()
    arguments = (str(pictures), "--model", str(model))
    out, _ = predict(capsys, monkeypatch, *arguments, "--format", "json")
    sure = sorted(max(row["probabilities"].values()) for row in json.loads(out))
    between = str((sure[0] + sure[1]) / 2)
    for form, count in (("json", "true"), ("csv", ",unsure,"), ("table", " unsure")):
        out, _ = predict(capsys, monkeypatch, *arguments, "--unsure", between, "--format", form)
        lines = out.splitlines()[form != "json" :]  # below the header
        assert sum(count in line for line in lines) == 1
    folder = tmp_path / "evidence"
    predict(capsys, monkeypatch, *arguments, "--explain", str(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["1-0.png", "2-1.png", "3-2.png"]
    shown = images.decode((folder / "1-0.png").read_bytes(), 78)
    plain = images.decode((pictures / "inner/0.png").read_bytes(), 78)
    assert shown.shape == plain.shape
    assert (shown != plain).any()


def test_the_default_is_the_champion_of_the_workspace(
    model, pictures, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    picture = str(pictures / "inner/0.png")
    _, (line,) = predict(capsys, monkeypatch, picture)
    assert line.startswith(f"error: models/champion.keras: does not exist in {tmp_path}; run `dvc")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/champion.keras").write_bytes(model.read_bytes())
    out, errors = predict(capsys, monkeypatch, picture, "--format", "csv")
    assert errors == []
    assert out.startswith("file,class,unlike,chat,chien,고양이")
    code = (
        "import runpy, sys; sys.argv = ['convnets', 'predict', *sys.argv[1:]]\n"
        "runpy.run_module('convnets', run_name='__main__')\n"
        "print('mlflow' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, "-c", code, picture]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("False\n")


@pytest.mark.parametrize("count", [2, 3, 1000])
def test_a_table_has_the_two_best_in_100_columns(count):
    names = ["긴 이름, " * 20, "a\nb", *(f"{number}" * 40 for number in range(count - 2))]
    probabilities = np.linspace(1, 0, count) ** 2
    made = [
        prediction.Prediction(name, probabilities / probabilities.sum(), None)
        for name in ("a.png", "folder/" * 50 + "b.png", "사진" * 90 + "\udcff\n.png")
    ]
    lines = list(prediction.show(made, names, "table", 1))
    assert lines[0].split() == ["file", "class", "probability", "second", "probability", "unsure"]
    assert len(lines) == 4
    assert {cell_len(line) for line in lines} == {100}
    assert ("…" in lines[2], "/b.png " in lines[2]) == (True, True)
    rows = list(csv.reader(io.StringIO("\n".join(prediction.show(made, names, "csv", 1)))))
    assert rows[0] == ["file", "class", "unlike", "unsure", *names]
    assert rows[3][0] == made[2].file
    assert (
        len(json.loads("\n".join(prediction.show(made, names, "json")))[0]["probabilities"])
        == count
    )


@pytest.mark.parametrize("share", ["-0.1", "1.5", "nan", "inf", "much"])
def test_unsure_is_a_share(share, capsys, monkeypatch):
    status, _, error = said(capsys, monkeypatch, "predict", "a.png", f"--unsure={share}")
    assert (status, "--unsure" in error) == (2, True)


def test_a_fault_of_one_picture_costs_that_picture(model, tmp_path, capsys, monkeypatch):
    content, folder = io.BytesIO(), tmp_path / "evidence"
    sample.draw("cat", 0, 0).save(content, "PNG")
    names = ["a.png", "n" * 251 + ".png", "층" * 83 + ".png", "\udcff.png", "new\nline.png"]
    for name in names:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(content.getvalue())
    arguments = ("--model", str(model), "--format", "json", "--explain", str(folder))
    given = [*(str(tmp_path / "in" / name) for name in names), "x" * 5000]
    out, errors = predict(capsys, monkeypatch, *given, *arguments)
    assert [row["file"] for row in json.loads(out)] == given[:-1]
    assert len(list(folder.iterdir())) == len(names)
    (line,) = errors
    assert line.endswith("File name too long")
    (tmp_path / "in" / names.pop(3)).unlink()  # a folder with such a name is refused
    out, errors = predict(capsys, monkeypatch, str(tmp_path / "in"), *arguments)
    assert (len(json.loads(out)), errors) == (len(names), [])


def test_models_of_odd_shapes_are_refused(tmp_path):
    keras_, image = keras.layers, keras.Input((8, 8, 3))
    flat = keras_.Flatten()(image)
    for outputs, inputs in (
        ([flat, flat], image),
        (keras_.Dense(3)(flat), [image, keras.Input((2,))]),
        (image, image),
        (keras_.Dense(2)(flat), image),
    ):
        saved.save(keras.Model(inputs, outputs), tmp_path / "odd.keras", record(["a", "b", "b"]))
        with pytest.raises(InputError, match=r"odd\.keras: .*(takes|class names)"):
            runtime.load(str(tmp_path / "odd.keras"))
    with pytest.raises(InputError, match="has no class names"):
        runtime.load(str(tmp_path))


def test_a_database_that_is_down_is_not_waited_for(monkeypatch):
    asked = []
    with socket.create_server(("127.0.0.1", 0)) as down:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    asked.append(down.accept()[0].close())

        threading.Thread(target=answer, daemon=True).start()
        place = f"127.0.0.1:{down.getsockname()[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql+psycopg2://u:secret@{place}/x")
        with pytest.raises(InputError, match="is not available") as refused:
            runtime.load("champion")
    assert "secret" not in str(refused.value)
    assert 0 < len(asked) < 10


def test_an_image_on_stdin(model, pictures, capsys, monkeypatch):
    content = (pictures / "inner" / "0.png").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    out, errors = predict(capsys, monkeypatch, "-", "--model", str(model), "--format", "json")
    assert errors == []
    assert [row["file"] for row in json.loads(out)] == ["-"]


def test_models_that_do_not_fit_are_refused(tmp_path, monkeypatch):
    digits = record(list("0123456789"))
    saved.save(architectures.mnist_convnet(True), tmp_path / "digits.keras", digits)
    with pytest.raises(InputError, match=r"digits\.keras: takes \(28, 28, 1\)"):
        runtime.load(str(tmp_path / "digits.keras"))
    two = record(["cat", "dog"])
    saved.save(architectures.plain(78, 3, 0), tmp_path / "two.keras", two)
    with pytest.raises(InputError, match="2 class names do not match its output"):
        runtime.load(str(tmp_path / "two.keras"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(InputError, match=r"champion: is not available .*dvc repro"):
        runtime.load("champion")
    assert not (tmp_path / "mlflow.db").exists()


def test_help_imports_neither_tensorflow_nor_mlflow(root):
    code = (
        "import runpy, sys; sys.argv = ['convnets', '--help']\n"
        "try: runpy.run_module('convnets', run_name='__main__')\n"
        "except SystemExit: print({'tensorflow', 'keras', 'mlflow'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root / "src", capture_output=True, text=True, check=True)
    assert "predict" in done.stdout
    assert done.stdout.endswith("set()\n")


def test_pictures_of_a_folder_are_known_by_their_first_bytes(tmp_path):
    for name, kind in (("1", "PNG"), ("2.JPG_large", "JPEG"), ("3.ppm", "PPM")):
        sample.draw("cat", 0, 0).save(tmp_path / name, kind)
    (tmp_path / "notes").write_text("BMW is a car, and no picture")
    assert list(prediction.files([str(tmp_path)], pytest.fail)) == [
        str(tmp_path / name) for name in ("1", "2.JPG_large", "3.ppm")
    ]


class Slow:
    """A classifier that sees what is decoded beside it: the mean of each picture is its answer."""

    classes, size = ("dark", "bright"), 8

    def __init__(self, decoded: list[str], count: int) -> None:
        self.decoded, self.count, self.asked = decoded, count, 0

    def __call__(self, pixels: np.ndarray) -> Answer:
        until = time.monotonic() + 60
        self.asked += len(pixels)
        while len(set(self.decoded)) < min(self.count, self.asked + prediction.BATCH):
            assert time.monotonic() < until, "the next are not decoded meanwhile"
            time.sleep(0.001)
        shares = pixels.mean(axis=(1, 2, 3)) / 255
        return Answer(np.stack([1 - shares, shares], axis=1), shares * 2)


def test_decoding_goes_on_beside_computing_in_order_and_bounded(tmp_path, monkeypatch):
    names, expected = [], {}
    for number in range(250):
        names.append(str(tmp_path / f"{number}.{'tif' if number % 9 == 0 else 'png'}"))
        Image.new("RGB", (9, 9), (number,) * 3).save(names[-1])
        expected[names[-1]] = number / 255
    names.insert(100, str(tmp_path / "no"))
    decoded: list[str] = []
    read = prediction._read
    monkeypatch.setattr(prediction, "_read", lambda name: decoded.append(name) or read(name))
    model, refused = Slow(decoded, len(names)), []
    made = prediction.predict(model, iter(names), lambda name, _: refused.append(name))
    first = next(made)
    assert first.file == names[0]
    assert len(decoded) <= 2 * prediction.BATCH + 5  # a TIFF is read twice
    rest = list(made)
    assert [one.file for one in (first, *rest)] == [name for name in names if name in expected]
    assert refused == [str(tmp_path / "no")]
    for one in (first, *rest):
        assert one.probabilities[1] == pytest.approx(expected[one.file])
        assert one.unlike == round(2 * one.probabilities[1], 3)
        assert one.is_unlike == (one.unlike > 1)


def test_errors_of_a_tiffs_library_neither_hide_nor_are_hidden(tmp_path, model, capfd):
    """Its decoder turns stderr off: only the thread that also tells of unreadable files may."""
    for number in range(80):
        content = io.BytesIO()
        sample.draw("cat", number, 0).save(content, "TIFF", compression="tiff_lzw")
        whole = content.getvalue()
        (tmp_path / f"{number:02}.tif").write_bytes(whole[: len(whole) // 2 * (1 + number % 2)])
    code = "import runpy; runpy.run_module('convnets', run_name='__main__')"
    command = [sys.executable, "-c", code, "predict", str(tmp_path), "--model", str(model)]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    errors = done.stderr.splitlines()
    assert len(errors) == 40
    assert all(line.startswith("error: ") for line in errors)


def test_what_is_unlike_is_said_in_each_format():
    made = [
        prediction.Prediction(name, np.array([0.25, 0.75]), unlike)
        for name, unlike in (("a.png", 1.001), ("b.png", 1.0), ("c.png", None))
    ]
    classes = ["cat", "dog"]
    header, *lines = prediction.show(made, classes, "table", None, ["a.png"])
    assert ["unlike the training pictures" in line for line in lines] == [True, False, False]
    assert {len(line) for line in (header, *lines)} == {len(header)}
    rows = json.loads("\n".join(prediction.show(made, classes, "json")))
    assert [row["unlike"] for row in rows] == [1.001, 1.0, None]
    header, *lines = csv.reader(prediction.show(made, classes, "csv"))
    assert header == ["file", "class", "unlike", *classes]
    assert [line[2] for line in lines] == ["1.001", "1.0", ""]
    assert json.loads("\n".join(prediction.show([], classes, "json"))) == []
