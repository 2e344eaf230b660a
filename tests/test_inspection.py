"""`python -m convnets inspect`: what would be used, before anything is changed."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from convnets.base import params
from convnets.commands import inspection
from convnets.sources import sample
from tests.commands import ROOT, said

ODD = [
    *("2024", "my photos", "a,b", "(x)", "k=v", "#1", "it's", 'say "hi"', "고양이"),
    *("${x}", "back\\slash", 'odd\\"', "end\\", "null", "[a]", "{b: 1}", "~home", "%d"),
]


@pytest.fixture
def photos(tmp_path) -> Path:
    """Eight drawn pictures of each class; one of them twice, and one in both classes."""
    for kind in ("cat", "dog"):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for number in range(8):
            sample.draw(kind, number, 0).save(tmp_path / f"photos/{kind}/{number}.png")
    shutil.copy(tmp_path / "photos/cat/0.png", tmp_path / "photos/cat/again.png")
    shutil.copy(tmp_path / "photos/cat/1.png", tmp_path / "photos/dog/contradiction.png")
    (tmp_path / "photos/dog/broken.jpg").write_bytes(b"no picture")
    (tmp_path / "photos/readme.txt").write_text("what these are")
    return tmp_path / "photos"


@pytest.fixture
def run(capsys, monkeypatch) -> Callable[..., str]:
    def run(*arguments: str, status: int = 0) -> str:
        ended, out, error = said(capsys, monkeypatch, "inspect", *arguments)
        assert ended == status, error
        return out if status == 0 else error

    return run


def state(folder: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_what_is_there_is_told_and_nothing_changes(photos, run, monkeypatch):
    monkeypatch.chdir(photos.parent)
    before = state(photos.parent)
    text = run(str(photos))
    assert "19 images of 2 classes (layout: classes)" in text
    assert re.search(r"cat +9\ndog +10", text)
    assert "1 cannot be read as images, such as dog/broken.jpg" in text
    assert "2 are copies of others, such as cat/0.png = cat/again.png" in text
    assert "1 are in more than one class, such as cat/1.png = dog/contradiction.png" in text
    assert "skipped 1: not an image, such as readme.txt" in text
    seen = json.loads(run(str(photos), "--format", "json"))
    assert seen["classes"] == {"cat": {"all": 9}, "dog": {"all": 10}}
    assert seen["formats"] == {"PNG": 18}
    assert seen["would_use"] == {"train": 13, "validation": 3, "test": 3}
    assert seen["seconds"] is None  # outside of a project
    assert state(photos.parent) == before
    monkeypatch.chdir(ROOT)
    assert json.loads(run(str(photos), "--format", "json"))["seconds"] > 10
    assert re.search(r"test; the run takes about \d+ (seconds|minutes):\n", run(str(photos)))


@pytest.mark.parametrize("form", ["zip", "gztar"])
def test_an_archive_is_seen_as_the_folder_is(photos, form):
    packed = shutil.make_archive(str(photos.parent / "packed"), form, photos.parent, "photos")
    seen, folder = inspection.inspect(packed), inspection.inspect(str(photos))
    for same in ("layout", "images", "classes", "formats", "megapixels", "would_use"):
        assert seen[same] == folder[same]
    assert seen["duplicates"]["pictures"] == folder["duplicates"]["pictures"] == 2


@pytest.mark.parametrize("name", ODD)
def test_dvc_takes_the_command_as_it_is(photos, name):
    odd = photos.rename(photos.with_name(name))
    command, then = inspection.inspect(str(odd))["command"].split(" && ")
    program, *words = shlex.split(command)
    assert (program, words[:4]) == ("python", ["-m", "convnets", "preset", "photos"])
    assert then == "dvc repro"
    assert set(words[4::2]) == {"-S"}
    shutil.copy(ROOT / "params.yaml", photos.parent)
    changed = photos.parent / "params.yaml"
    apply_overrides(str(changed), words[5::2])
    assert yaml.safe_load(changed.read_text())["data"]["path"] == str(odd)
    p = params.load(changed)
    assert (p.data.source, p.subset.train, p.subset.test) == ("folder", "rest", 0.15)


def test_what_cannot_be_used_is_one_line_and_exit_status_1(tmp_path, run):
    assert "no such file" in run(str(tmp_path / "none"), status=1)
    (tmp_path / "empty").mkdir()
    assert "empty: no images found" in run(str(tmp_path / "empty"), status=1)
    (tmp_path / "flat").mkdir()
    sample.draw("cat", 0, 0).save(tmp_path / "flat/1.png")
    line = run(str(tmp_path / "flat"), status=1)
    assert "nothing names the class of '1.png'" in line
    assert line.count("\n") == 1


@pytest.mark.slow("real data")
@pytest.mark.real_data
def test_kaggle_s_archive(shared):
    seen = inspection.inspect(str(shared / "dogs-vs-cats.zip"))
    assert seen["layout"] == "numbered"
    assert seen["classes"] == {"cat": {"all": 2500}, "dog": {"all": 2500}}
    assert seen["missing_numbers"] == {}
