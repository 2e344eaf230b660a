"""External archives and images, honest and hostile, and the subset made from them."""

import io
import os
import stat
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from convnets.base import params
from convnets.base.console import InputError
from convnets.listing import subset
from convnets.sources import archive, sample, sources
from convnets.sources.layout import Image as Found
from tests.commands import ROOT, decoded, recognised

COUNTS = {"train": 3, "validation": 2, "test": 1}


def some(max_rejected: float) -> params.Subset:
    """As many images as `COUNTS`, and the given share of unreadable images."""
    return params.Subset(**COUNTS, max_rejected=max_rejected)


def of_folder(path: Path) -> params.Data:
    return params.Data(source="folder", path=str(path))


def encoded(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


PHOTO = encoded(sample.draw("cat", 0, 0))
RED = Image.new("RGB", (60, 40), (250, 10, 10))


def packed(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in members.items():
            target.writestr(name, content)
    return path


def kaggle(count: int = 6) -> dict[str, bytes]:
    return {f"train/{label}.{i}.jpg": PHOTO for label in ("cat", "dog") for i in range(count)}


def opened(path: Path) -> list[Found]:
    return recognised(path).images


def test_nested_flat_and_foldered_archives(tmp_path):
    flat = packed(tmp_path / "train.zip", kaggle() | {"test1/1.jpg": PHOTO})
    nested = packed(tmp_path / "n.zip", {"a/train.zip": flat.read_bytes(), "test1.zip": b"?"})
    assert opened(flat) == opened(nested)
    assert [found.number for found in opened(flat)] == [0, 1, 2, 3, 4, 5] * 2
    foldered = packed(tmp_path / "f.zip", {"x/cat/a.png": PHOTO, "x/dog/b.jpeg": PHOTO})
    assert [found.label for found in opened(foldered)] == ["cat", "dog"]


def link(path: Path) -> Path:
    info = zipfile.ZipInfo("train/cat.0.jpg")
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "w") as target:
        target.writestr(info, "/etc/passwd")
    return path


def encrypted(path: Path) -> Path:
    packed(path, {"train/cat.0.jpg": PHOTO})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        start = content.index(signature) + offset
        (flags,) = struct.unpack_from("<H", content, start)
        struct.pack_into("<H", content, start, flags | 1)
    path.write_bytes(content)
    return path


def truncated(path: Path) -> Path:
    packed(path, kaggle())
    path.write_bytes(path.read_bytes()[:-50])
    return path


def claiming(path: Path, name: str, size: int) -> zipfile.ZipFile:
    """A zip with a member that unpacks to so many bytes, as it says."""
    target = zipfile.ZipFile(path, "w")
    target.writestr(name, PHOTO)
    target.filelist[0].file_size = size
    return target


def bomb(path: Path) -> Path:
    claiming(path, "cat/0.jpg", archive.MAX_MEMBER_BYTES + 1).close()
    return path


def misnamed(path: Path) -> Path:
    """A name that is declared as UTF-8 but is not."""
    packed(path, {"train/chät.0.jpg": PHOTO})
    path.write_bytes(path.read_bytes().replace("ä".encode(), b"\xff\xff"))
    return path


def damaged(path: Path) -> Path:
    """A nested zip with invalid compressed bytes."""
    packed(path, {"train.zip": b"a" * 100})
    content = bytearray(path.read_bytes())
    start = content.index(b"train.zip") + len("train.zip")
    content[start : start + 3] = b"\xff\xff\xff"
    path.write_bytes(content)
    return path


def unknown_compression(path: Path) -> Path:
    packed(path, {"train.zip": PHOTO})
    content = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        struct.pack_into("<H", content, content.index(signature) + offset, 99)
    path.write_bytes(content)
    return path


def packed_with_folder(path: Path, folder: str) -> Path:
    packed(path, {"x/cat/a.jpg": PHOTO, "x/cat/b.jpg": PHOTO})
    with zipfile.ZipFile(path, "a") as target:
        for name in ("x/", "x/cat/", "__MACOSX/", folder):
            target.mkdir(name)
    return path


HOSTILE = {
    "points outside": lambda path: packed(path, {"../../cat.0.jpg": PHOTO}),
    "symbolic link": link,
    "is encrypted": encrypted,
    "larger than 1,073,741,824 bytes": bomb,
    "not a complete zip or tar": truncated,
    "not a complete zip or tar file": lambda path: packed(path, {"train.zip": b"no zip"}),
    "not a complete zip or tar file .Error -3": damaged,
    "not a complete zip or tar file .That compression": unknown_compression,
    "its name is not text": misnamed,
    "'cat.01.jpeg' and 'cat.1.jpg' are both number 1 of 'cat'": lambda path: packed(
        path, {"cat.1.jpg": PHOTO, "cat.01.jpeg": PHOTO, "dog.1.jpg": PHOTO}
    ),
    "class 'dog' has no images": lambda path: packed_with_folder(path, "x/dog/"),
    "only one class of images, 'cat'": lambda path: packed(path, {"cat.0.jpg": PHOTO}),
    "no images found": lambda path: packed(path, {"readme.txt": b""}),
    "no such file": lambda path: path,
}


@pytest.mark.parametrize("problem", HOSTILE)
def test_hostile_archives_get_one_line_and_leave_nothing(tmp_path, problem):
    path = HOSTILE[problem](tmp_path / "bad.zip")
    out = tmp_path / "out"
    with pytest.raises(InputError, match=problem) as caught:
        decoded(path, out, some(0.0))
    assert "bad.zip" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_the_subset_is_the_books(tmp_path):
    source = packed(tmp_path / "train.zip", kaggle(10))
    summary = decoded(source, tmp_path / "out", some(0.0))
    train = pd.read_csv(tmp_path / "out/train.csv")
    assert list(train["file"]) == [f"train/{c}.{i}.jpg" for c in ("cat", "dog") for i in range(3)]
    assert list(train["class"]) == 3 * ["cat"] + 3 * ["dog"]
    test = pd.read_csv(tmp_path / "out/test.csv")
    assert list(test["file"]) == ["train/cat.5.jpg", "train/dog.5.jpg"]
    pixels = np.load(tmp_path / "out/validation.npy")
    assert (pixels.shape, pixels.dtype) == ((4, 78, 78, 3), np.uint8)
    assert summary["train"] == {"cat": 3, "dog": 3}


def test_folders_beside_the_classes_are_passed_over(tmp_path):
    assert len(opened(packed_with_folder(tmp_path / "x.zip", "x/.thumbnails/"))) == 2


def test_missing_numbers_are_told(tmp_path):
    members = kaggle()
    del members["train/dog.4.jpg"]
    source = packed(tmp_path / "train.zip", members)
    with pytest.raises(
        InputError,
        match=r"class 'dog' has 5 images, too few for subset\.train 3, subset\.validation 2, ",
    ):
        decoded(source, tmp_path / "out", some(0.0))
    del members["train/cat.4.jpg"]
    more = {f"train/{label}.{number}.jpg": PHOTO for label in ("cat", "dog") for number in (7, 9)}
    summary = decoded(packed(source, members | more), tmp_path / "out", some(0.0))
    assert summary["missing_numbers"] == {"cat": 3, "dog": 3}  # 4, 6 and 8
    test = pd.read_csv(tmp_path / "out/test.csv")
    assert list(test["file"]) == ["train/cat.7.jpg", "train/dog.7.jpg"]


UNREADABLE = {
    "not a JPEG, PNG": b"<html></html>",
    "truncated": PHOTO[: len(PHOTO) // 2],
    "too large: 400.0 megapixels": encoded(Image.new("1", (20_000, 20_000)), "PNG"),
}


@pytest.mark.parametrize("problem", UNREADABLE)
def test_unreadable_images_are_counted_and_too_many_refused(tmp_path, problem):
    bad = {"train/cat.1.jpg": UNREADABLE[problem]}
    source = packed(tmp_path / "train.zip", kaggle() | bad)
    expected = rf"1 of 12 images are unreadable, the first is 'train/cat\.1\.jpg' \(.*{problem}"
    with pytest.raises(InputError, match=expected):
        decoded(source, tmp_path / "out", some(0.05))
    assert not (tmp_path / "out").exists()
    summary = decoded(source, tmp_path / "out", some(0.1))
    assert summary["rejected"] == 1
    assert len(np.load(tmp_path / "out/train.npy")) == 5


def test_a_class_whose_images_are_all_unreadable_is_refused(tmp_path):
    source = packed(tmp_path / "train.zip", kaggle() | {"train/dog.5.jpg": b""})
    with pytest.raises(InputError, match="no image of class 'dog' is left for test"):
        decoded(source, tmp_path / "out", some(0.5))


def test_a_failure_leaves_the_earlier_subset(tmp_path):
    out = tmp_path / "out"
    decoded(packed(tmp_path / "a.zip", kaggle()), out, some(0.0))
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert len(before) == 7
    # Its train and validation images are good and different.
    bad = {f"{label}.{i}.jpg": encoded(RED) for label in ("cat", "dog") for i in range(5)}
    bad |= {f"{label}.5.jpg": b"" for label in ("cat", "dog")}
    with pytest.raises(InputError, match="2 of 12 images are unreadable"):
        decoded(packed(tmp_path / "b.zip", bad), out, some(0.0))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before
    good = {name: encoded(RED) for name in bad}
    decoded(packed(tmp_path / "b.zip", good), out, some(0.0))
    assert (out / "train.npy").read_bytes() != before["train.npy"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "b.zip", "out"]


NAMES = st.sets(st.text("abcdefgh", min_size=1, max_size=6), min_size=8, max_size=30)


@settings(max_examples=50)
@given(names=NAMES, extra=NAMES, seed=st.integers(0, 99))
def test_splits_are_disjoint_balanced_and_by_name_alone(names, extra, seed):
    def found(chosen):
        return [Found(label, None, f"{label}/{n}.jpg") for label in "ab" for n in sorted(chosen)]

    splits = subset.choose(found(names), some(0), seed)
    members = [image.member for chosen in splits.values() for image in chosen]
    assert len(members) == len(set(members)) == 2 * sum(COUNTS.values())
    for split, count in COUNTS.items():
        assert [image.label for image in splits[split]].count("a") == count
    assert subset.choose(found(names)[::-1], some(0), seed)["test"] == splits["test"]
    # More files never reorder the earlier files.
    group = {i.member: i.member for i in found(names | extra)}
    order = [i.member for i in subset._ordered(found(names)[: len(names)], group, seed)]
    more = found(names | extra)[: len(names | extra)]
    larger = [i.member for i in subset._ordered(more, group, seed)]
    assert [member for member in larger if member in order] == order


@settings(max_examples=30)
@given(extra=st.integers(0, 20))
def test_the_books_split_is_stable_under_extra_files(extra):
    found = [Found(c, n, f"{c}.{n}.jpg") for c in ("cat", "dog") for n in range(6 + extra)]
    assert subset.choose(found, some(0), 0) == subset.choose(
        found[:6] + found[6 + extra :][:6], some(0), 0
    )


def test_one_class_is_not_enough():
    with pytest.raises(InputError, match="only one class"):
        subset.choose([Found("cat", 0, "cat.0.jpg")], some(0), 0)


def test_a_folder_is_packed_with_its_classes(tmp_path):
    for label in ("ant", "bee", "cow"):
        (tmp_path / "own" / label).mkdir(parents=True)
        for number in range(6):
            (tmp_path / "own" / label / f"{number}x.jpg").write_bytes(PHOTO)
    sources.write(of_folder(tmp_path / "own"), some(0), 0, tmp_path / "own.zip")
    summary = decoded(tmp_path / "own.zip", tmp_path / "out", some(0.0))
    assert summary["test"] == {"ant": 1, "bee": 1, "cow": 1}
    with pytest.raises(InputError, match="no such file or folder"):
        sources.write(of_folder(tmp_path / "none"), some(0), 0, tmp_path / "none.zip")
    (tmp_path / "own/dog").mkdir()
    with pytest.raises(InputError, match="own: class 'dog' has no images"):
        sources.write(of_folder(tmp_path / "own"), some(0), 0, tmp_path / "own.zip")
    Path(os.fsdecode(bytes(tmp_path / "own/dog") + b"/\xff.jpg")).write_bytes(PHOTO)
    found = sources.write(of_folder(tmp_path / "own"), some(0), 0, tmp_path / "own.zip")
    assert found.skipped == {r"dog/\xff.jpg": "its name is not text; rename it"}


def test_digits_that_were_tampered_with_are_not_taken(tmp_path):
    """Keras checks the hash of MNIST, even of a cached file."""
    (tmp_path / "datasets").mkdir()
    arrays = {"x": np.zeros((9, 28, 28), np.uint8), "y": np.zeros(9, np.uint8)}
    np.savez(
        tmp_path / "datasets/mnist.npz",
        **{f"{name}_{split}": arrays[name] for name in "xy" for split in ("train", "test")},
    )
    code = (
        "from pathlib import Path; from convnets.base import console, params;"
        "from convnets.examples import digits; how = params.Mnist(source='keras', path=None);"
        "console.run(lambda: digits.write(how, 0, Path('out.npz')))"
    )
    nowhere = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | nowhere | {"KERAS_HOME": str(tmp_path), "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "error: mnist.npz: cannot be downloaded" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.npz").exists()
