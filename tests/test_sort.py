"""`python -m convnets sort`: nothing moves, nothing is overwritten, and a kill costs nothing."""

import csv
import os
import shutil
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convnets.commands import inspection
from convnets.models.answers import Answer
from convnets.serving import sort
from tests.commands import ROOT, said, with_champion

CLASSES = ["cat", "dog", "lynx"]
ODD = ["..", "a/b", "unsure", "Unlike", "labels.csv", "l" * 300, "Cat", "cat", ".x", "train", ""]
ODD += ["x\ny", "café", "cafe\u0301", " dog", "con.", "class 0 _", "고양이", "🐱"]


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return with_champion(tmp_path_factory.mktemp("champion") / "project", CLASSES)


def grey(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(value).integers(0, 30, (9, 9, 3))
    Image.fromarray((noise + value).clip(0, 255).astype(np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path) -> Path:
    """Dark pictures, of which some have the same name, and two that are unlike them."""
    for number in range(12):
        grey(tmp_path / f"photos/{'ab'[number % 2]}/{number // 2}.png", number)
    grey(tmp_path / "photos/a/deep/1.png", 20)
    grey(tmp_path / "photos/bright.png", 200)
    grey(tmp_path / "photos/b/bright.png", 201)
    (tmp_path / "photos/note.txt").write_text("no picture")
    return tmp_path / "photos"


@pytest.fixture
def sorting(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    return lambda *arguments: said(capsys, monkeypatch, "sort", *map(str, arguments))


def tree(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "labels.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("link", [False, True])
def test_each_picture_is_in_the_folder_of_its_class(photos, sorting, link):
    before, out = tree(photos), photos.with_name("out")
    (photos / "bad.jpg").write_bytes(b"nothing")
    status, told, error = sorting(photos, out, "--unsure", 0.5, *["--link"] * link)
    assert (status, error.count("\n"), "bad.jpg" in error) == (1, 1, True)
    assert told.endswith("; 1 left out\n")
    (photos / "bad.jpg").unlink()
    assert tree(photos) == before
    found = rows(out)
    assert {row["file"].partition("/")[2] for row in found} == before.keys() - {"note.txt"}
    for row in found:
        folder, _, name = row["file"].partition("/")
        path, shares = out / row["file"], [float(row[f"p({label})"]) for label in CLASSES]
        assert (path.is_symlink(), path.read_bytes()) == (link, before[name])
        assert row["best"] == CLASSES[int(np.argmax(shares))]
        unlike = float(row["unlike"]) > 1
        assert unlike == ("bright" in name)
        apart = "unlike" if unlike else "unsure" if max(shares) < 0.5 else ""
        assert (folder, row["class"]) == (apart or row["best"], "" if apart else row["best"])
    once = tree(out)
    assert sorting(photos, out, "--unsure", 0.5, *["--link"] * link)[0] == 0
    assert tree(out) == once


def test_nothing_is_overwritten(photos, sorting):
    out = photos.with_name("out")
    sorting(photos, out)
    (first, second, *_) = rows(out)
    expected = tree(out)
    shutil.rmtree(out)
    for row, content in ((first, b"mine"), (second, expected[second["file"]])):
        (out / row["file"]).parent.mkdir(parents=True, exist_ok=True)
        (out / row["file"]).write_bytes(content)
    status, told, error = sorting(photos, out)
    assert (status, "1 left out" in told) == (1, True)
    assert f"{out / first['file']} is there and differs" in error
    assert (out / first["file"]).read_bytes() == b"mine"
    assert {row["file"] for row in rows(out)} == {row for row in expected if "png" in row} - {
        first["file"]
    }


@pytest.mark.parametrize("place", ["photos", "photos/out", "."])
def test_no_folder_is_in_the_other(photos, sorting, place):
    before = tree(photos)
    (photos.parent / "link").symlink_to(photos)
    for folder in (photos, photos.parent / "link"):
        status, _, error = sorting(folder, photos.parent / place)
        assert (status, "one is in the other" in error) == (1, True)
    assert tree(photos) == before
    assert sorting(photos / "no", photos.parent / "out")[0] == 1


def test_one_folder_is_sorted_in_one_way(photos, sorting):
    out = photos.with_name("out")
    sorting(photos, out)
    once = tree(out)
    for others in ((photos, "--unsure", 0.9), (photos, "--link"), (photos / "a",)):
        folder, *options = others
        status, _, error = sorting(folder, out, *options)
        assert (status, "choose another folder" in error) == (1, True)
    assert tree(out) == once


def test_any_class_has_a_folder_of_its_own():
    names = sort.folders(ODD)
    assert len({name.casefold() for name in names}) == len(names)
    for name in names:
        assert 0 < len(name.encode()) < 200
        assert not set("/\n\0").intersection(name)
        assert not name.startswith(".")
        assert name.casefold() not in ("unsure", "unlike", "labels.csv", "train")
    kept = {label for label, name in zip(ODD, names, strict=True) if name == label}
    assert kept == {"Cat", "café", "class 0 _", "고양이"}
    assert sort.folders(CLASSES) == CLASSES


class Counting:
    """A classifier of its own, that counts what it is asked."""

    def __init__(self, path: Path, classes: list[str]) -> None:
        self.path, self.classes, self.size, self.asked = path, classes, 8, 0

    def __call__(self, pixels: np.ndarray) -> Answer:
        self.asked += len(pixels)
        best = pixels.reshape(len(pixels), -1).sum(axis=1) % len(self.classes)
        return Answer(0.1 + 0.8 * np.eye(len(self.classes))[best], np.zeros(len(pixels)))


@pytest.fixture
def counting(tmp_path) -> Counting:
    (tmp_path / "model.keras").write_bytes(b"a model")
    return Counting(tmp_path / "model.keras", CLASSES)


def test_odd_classes_are_sorted_and_inspected(tmp_path, counting):
    counting.classes = ["..", "a/b", 'x"\ny']
    for number in range(60):
        grey(tmp_path / f"in/{number}.png", number)
    counts = sort.sort(counting, tmp_path / "in", tmp_path / "out", pytest.fail)
    assert sum(counts.values()) == 60
    assert all(name.startswith("class ") for name in counts)
    assert {row["class"] for row in rows(tmp_path / "out")} == {*counting.classes}
    sort.sort(counting, tmp_path / "in", tmp_path / "out", pytest.fail)
    assert (counting.asked, len(rows(tmp_path / "out"))) == (60, 60)


@pytest.mark.parametrize("folders", [("",), ("a/", "b/")])
def test_inspect_takes_it_without_the_doubtful(tmp_path, counting, monkeypatch, folders):
    for number in range(90):
        grey(tmp_path / f"in/{folders[number % len(folders)]}{number}.png", number)
    doubtful = {f"{number}.png" for number in range(0, 90, 4)}
    monkeypatch.setattr(
        sort, "_apart", lambda one, _: ["", "unsure"][Path(one.file).name in doubtful]
    )
    sort.sort(counting, tmp_path / "in", tmp_path / "out", pytest.fail)
    seen = inspection.inspect(str(tmp_path / "out"))
    assert set(seen["classes"]) == set(CLASSES)
    assert seen["images"] == 90 - len(doubtful)
    assert seen["skipped"]["without a class in the table"]["files"] == len(doubtful)


def test_what_is_done_is_not_computed_again_and_memory_is_bounded(tmp_path, counting, monkeypatch):
    monkeypatch.setattr(
        sort.predict, "LARGEST", 10_000
    )  # else Python asks for as much, and shrinks
    (tmp_path / "in").mkdir()
    grey(tmp_path / "one.png", 1)
    content = (tmp_path / "one.png").read_bytes()
    peaks = []
    for start, end in ((0, 500), (500, 3000)):
        for number in range(start, end):
            (tmp_path / f"in/{number}.png").write_bytes(content)
        tracemalloc.start()
        sort.sort(counting, tmp_path / "in", tmp_path / "out", pytest.fail)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert counting.asked == 3000
    assert (peaks[1] - peaks[0]) / 2500 < 700  # bytes for each more: its name


@pytest.mark.parametrize("left", [b"cat/5.png,cat,", b'cat/5.png,"cat\n', b"\xff", b""])
def test_a_half_written_line_is_cut_off(tmp_path, counting, left):
    for number in range(9):
        grey(tmp_path / f"in/{number}.png", number)
    sort.sort(counting, tmp_path / "in", tmp_path / "out", pytest.fail)
    expected = tree(tmp_path / "out")
    table = tmp_path / "out/labels.csv"
    *kept, _ = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(kept) + left)
    (tmp_path / "out/.part").write_bytes(b"half")
    sort.sort(counting, tmp_path / "in", tmp_path / "out", pytest.fail)
    assert tree(tmp_path / "out") == expected


def test_a_kill_at_any_time_costs_nothing(tmp_path, project):
    for number in range(1500):
        grey(tmp_path / f"in/{number % 7}/{number}.png", number % 120)
    command = [sys.executable, "-m", "convnets", "sort", str(tmp_path / "in")]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}

    def start(out: str) -> "subprocess.Popen[bytes]":
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            [*command, str(tmp_path / out)], cwd=project, env=environment, stdout=quiet
        )

    assert start("whole").wait(300) == 0
    table, killed = tmp_path / "killed/labels.csv", 0
    for lines in (1, 300, 700):
        process = start("killed")
        while process.poll() is None:
            if table.exists() and table.read_bytes().count(b"\n") > lines:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.001)
        killed += process.wait(300) == -signal.SIGKILL
        assert all(None not in row.values() for row in rows(tmp_path / "killed"))
    assert killed
    assert start("killed").wait(300) == 0
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
