"""Full and read-only disks: one line on the screen, nothing half-written, nothing lost."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from convnets.backbones import backbone
from convnets.base import console, files, params
from convnets.base.console import InputError
from convnets.examples import digits
from convnets.features import features
from convnets.features.computed import Computed
from convnets.models import saved
from convnets.networks import architectures
from convnets.pictures import arrays
from convnets.sources import sample, sources
from tests.commands import decoded, recognised, record

COUNTS = params.Subset(train=6, validation=2, test=2, max_rejected=0)
MANY = params.Subset(train=30, validation=5, test=5, max_rejected=0)
BACKBONE = params.Backbone(
    name="MobileNetV2", weights="random", preprocessing="auto", fine_tune_from=1
)
DIGITS = params.Mnist(source="digits", path=None)
MODEL = record(["cat", "dog"])


def mount(folder: Path, options: str) -> None:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
    )
    if done.returncode:
        pytest.skip("no permission to mount a disk")


@pytest.fixture
def disk(tmp_path):
    """A disk of 200 KiB with a folder `data`, which has an earlier out."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount(folder, "size=200k")
    (folder / "data").mkdir()
    (folder / "data/earlier").write_text("as it was")
    yield folder / "data"
    subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture
def archive(tmp_path) -> Path:
    for _ in sample.write_archive(tmp_path / "sample.zip", 40, 0):
        pass
    return tmp_path / "sample.zip"


def told(work: Callable[[], object], capsys) -> str:
    """The one line that a failing program shows."""
    with pytest.raises(SystemExit) as end:
        console.run(work)
    assert end.value.code == 1
    line = capsys.readouterr().err
    assert line.startswith("error: ")
    assert line.count("\n") == 1
    return line


def write(kind: str, path: Path, out: Path) -> None:
    sources.write(params.Data(source=kind, path=str(path)), MANY, 0, out)


def subset_of(archive: Path, out: Path) -> None:
    decoded(archive, out, COUNTS, 128)


def some_features(out: Path) -> None:
    def extract(items):
        return ([pixels.astype(np.float32)] for (pixels,) in items)

    pixels = np.random.default_rng(0).integers(0, 256, (300, 12, 12, 3), np.uint8)
    features.write(extract, pixels, [out], "extract", Computed("0"))


WORK = {
    "images.zip": lambda out, archive: sources.write_sample(out, 100, 0),
    "own.zip": lambda out, archive: write("folder", unpacked(archive), out),
    "copy.zip": lambda out, archive: write("archive", archive, out),
    "images": lambda out, archive: subset_of(archive, out),
    "backbone.keras": lambda out, archive: backbone.write(BACKBONE, 96, 0, out),
    "mnist.npz": lambda out, archive: digits.write(DIGITS, 0, out),
    "model.keras": lambda out, archive: saved.save(architectures.plain(90, 2, 0), out, MODEL),
}


def unpacked(archive: Path) -> Path:
    folder = archive.parent / "photos"
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(40):
            sample.draw(label, number, 0).save(folder / label / f"{number}.png")
    return folder


@pytest.mark.parametrize("name", WORK)
def test_a_full_disk(disk, archive, capsys, name):
    out = disk / name

    def work() -> None:
        # `download` gives its sources a path to write to. The others choose their own.
        if name.endswith(".zip"):
            with files.atomic(out) as part:
                WORK[name](part, archive)
        else:
            WORK[name](out, archive)

    line = told(work, capsys)
    if name in ("copy.zip", "own.zip", "images"):  # the size is known before
        assert re.search(
            rf"{disk}: \d\.\d MB are needed, but 0\.[012] MB can be used .* free ", line
        )
    else:
        assert line.startswith(f"error: {out}: No space left on device; free ")
    assert {path.name: path.read_text() for path in disk.iterdir()} == {"earlier": "as it was"}


def test_what_was_extracted_before_the_disk_was_full_is_kept(disk, capsys, monkeypatch):
    """As after a kill, the next run resumes from there."""
    monkeypatch.chdir(disk)
    line = told(lambda: some_features(disk / "train.npy"), capsys)
    assert re.search(r"\.features/0/\w+\.npy: No space left on device; free some space", line)
    kept = [path.name for path in (disk / ".features/0").iterdir()]
    assert kept
    assert not any(name.startswith(".part") for name in kept)
    assert not (disk / "train.npy").exists()


def test_what_was_decoded_before_the_disk_was_full_is_kept(disk, archive, tmp_path, capsys):
    packed = tmp_path / "packed.zip"
    write("archive", archive, packed)

    def work(unfinished: Path) -> None:
        arrays.write(packed, recognised(archive), unfinished, tmp_path / "out", MANY, 40, 0)

    line = told(lambda: work(disk), capsys)
    assert line.startswith(f"error: {disk}/")
    assert line.endswith(": No space left on device; free some space\n")
    assert not (tmp_path / "out").exists()
    unfinished = Path(shutil.copytree(disk, tmp_path / "roomy"))
    work(unfinished)
    assert "decode: resuming after " in capsys.readouterr().out
    assert len(np.load(tmp_path / "out/train.npy")) == 60


def test_a_full_disk_leaves_the_earlier_out(disk, archive, capsys):
    out = disk / "model.keras"
    small = architectures.plain(78, 2, 0)
    out.write_bytes(b"the model before")
    told(lambda: saved.save(small, out, MODEL), capsys)
    assert out.read_bytes() == b"the model before"


def test_a_disk_that_cannot_be_written_to(tmp_path, archive, capsys):
    folder = tmp_path / "data"
    folder.mkdir()
    mount(folder, "ro")
    try:
        line = told(lambda: subset_of(archive, folder / "images"), capsys)
    finally:
        subprocess.run(["umount", str(folder)], check=True)
    assert f"{folder}/images: Read-only file system; use a writable disk" in line


def test_a_folder_that_may_not_be_written_to(tmp_path, archive, capsys):
    subset_of(archive, tmp_path / "images")  # import now: another user may not read the modules
    # Another user may not enter pytest's own folders.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = Path(shutil.copy(archive, folder))
        folder.chmod(0o555)
        if os.geteuid() == 0:  # root may write everywhere
            os.seteuid(65534)
        try:
            line = told(lambda: subset_of(source, folder / "images"), capsys)
        finally:
            os.seteuid(os.getuid())
            folder.chmod(0o755)
    assert line.startswith(f"error: {folder}/")
    assert line.endswith(": Permission denied; make it readable and writable\n")


def test_a_file_where_the_folder_should_be(tmp_path, archive, capsys):
    (tmp_path / "dvc-outs").write_text("a file")
    line = told(lambda: subset_of(archive, tmp_path / "dvc-outs/images"), capsys)
    assert "expected a folder there; move the file away" in line
    assert (tmp_path / "dvc-outs").read_text() == "a file"


def test_other_failures_are_defects_and_keep_their_traceback():
    with pytest.raises(FileNotFoundError):
        console.run(lambda: Path("none").read_text())


def test_what_is_whole_replaces_what_was_there(tmp_path):
    for content in ("one", "two"):
        with files.atomic(tmp_path / "out") as part:
            part.mkdir()
            (part / content).write_text(content)
    assert [path.name for path in tmp_path.glob("*/*")] == ["two"]
    with pytest.raises(ZeroDivisionError), files.atomic(tmp_path / "out") as part:
        part.write_text("half")
        raise ZeroDivisionError
    assert [str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")] == ["out", "out/two"]


def test_some_of_a_disk_stays_free(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    files.room(tmp_path / "none/so/far", 0)
    with pytest.raises(InputError, match=rf"^{tmp_path}: .* are needed, but .*; free some space$"):
        files.room(tmp_path / "none/so/far", free - 1000)


def test_json_is_for_people(tmp_path):
    files.write_json(tmp_path / "x.json", {"rien à voir": "고양이"})
    assert (tmp_path / "x.json").read_text("utf-8") == '{\n  "rien à voir": "고양이"\n}\n'
