"""Archives in archives, odd and damaged ones: used rightly, or one line, at linear cost."""

import bz2
import gzip
import io
import lzma
import os
import stat
import subprocess
import tarfile
import tempfile
import tracemalloc
import warnings
import zipfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import growth
from convnets.base import params
from convnets.base.console import InputError
from convnets.sources import archive, inputs, layout, sample, sources
from tests.commands import recognised

JPEG = io.BytesIO()
sample.draw("cat", 0, 0).save(JPEG, "JPEG")
PHOTO = JPEG.getvalue()
TWO = {"cat/1.jpg": PHOTO, "dog/1.jpg": PHOTO}
TABLE = b"file_name,label\n1.jpg,cat\n2.jpg,dog\n"


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as packed:
        for name, content in members.items():
            packed.writestr(zipfile.ZipInfo(name), content, how)
    return out.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w", **options) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, **options) as packed:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    return out.getvalue()


def seen(content: bytes, path: Path) -> dict[str, str]:
    """The class of each picture of an archive. All can be read."""
    path.write_bytes(content)
    with archive.opened(path) as files:
        found = layout.recognise(files)
        assert all(files.read(image.member) == PHOTO for image in found.images)
    return {image.member: image.label for image in found.images}


ONE = {"1.jpg": PHOTO}
CATS_AND_DOGS = {"cat/1.jpg": "cat", "dog/1.jpg": "dog"}
NESTED = {
    "a zip for each class": (
        zipped({"cat.zip": zipped(ONE), "dog.zip": zipped(ONE)}),
        CATS_AND_DOGS,
    ),
    "a tar for each class": (
        tarred({"cat.tar": tarred(ONE), "dog.tgz": tarred(ONE, "w:gz")}),
        CATS_AND_DOGS,
    ),
    "a folder in each": (
        zipped({f"{c}.zip": zipped({f"{c}/1.jpg": PHOTO}) for c in ("cat", "dog")}),
        CATS_AND_DOGS,
    ),
    "a stray picture beside": (
        zipped({"cover.jpg": PHOTO, "cat.zip": zipped(ONE), "dog.zip": zipped(ONE)}),
        CATS_AND_DOGS,
    ),
    "a tar in a zip": (zipped({"all.tar.xz": tarred(TWO, "w:xz")}), CATS_AND_DOGS),
    "three in one another": (
        zipped({"a.zip": tarred({"b.tar": zipped({"c.zip": zipped(TWO)})})}),
        CATS_AND_DOGS,
    ),
    "as a web disk splits a folder": (
        zipped(
            {f"p-2024-00{n}.zip": zipped({f"p/{c}/{n}.jpg": PHOTO}) for n, c in enumerate("ab")}
        ),
        {"p/a/0.jpg": "a", "p/b/1.jpg": "b"},
    ),
    "a table beside": (
        zipped({"train.zip": zipped({"1.jpg": PHOTO, "2.jpg": PHOTO}), "labels.csv": TABLE}),
        {"1.jpg": "cat", "2.jpg": "dog"},
    ),
    "a table beside two": (
        zipped(
            {
                "train.zip": zipped({"train/1.jpg": PHOTO, "train/2.jpg": PHOTO}),
                "test.zip": zipped({"test/3.jpg": PHOTO}),
                "labels.csv": TABLE,
            }
        ),
        {"train/1.jpg": "cat", "train/2.jpg": "dog"},
    ),
}


@pytest.mark.parametrize("case", NESTED)
def test_archives_in_archives(tmp_path, case):
    content, classes = NESTED[case]
    assert seen(content, tmp_path / "x") == classes


def test_a_folder_of_archives(tmp_path):
    tree = tmp_path / "photos"
    tree.mkdir()
    (tree / "cat.zip").write_bytes(zipped({f"{n}.jpg": PHOTO for n in range(3)}))
    (tree / "dog.tar.gz").write_bytes(tarred({f"{n}.jpg": PHOTO for n in range(3)}, "w:gz"))
    before = inputs.stamp(tree)
    how = params.Data(source="folder", path=str(tree))
    some = params.Subset(train=1, validation=1, test=1, max_rejected=0)
    found = sources.write(how, some, 0, tmp_path / "out.zip")
    assert [image.label for image in found.images] == ["cat"] * 3 + ["dog"] * 3
    assert len(zipfile.ZipFile(tmp_path / "out.zip").namelist()) == 6
    (tree / "dog.tar.gz").write_bytes(b"another")
    assert inputs.stamp(tree) != before


REFUSED = {
    "a 7z archive, .*; unpack it": b"7z\xbc\xaf\x27\x1c" + bytes(100),
    "a RAR archive, .*; unpack it": b"Rar!\x1a\x07\x01\0" + bytes(100),
    "'cat.rar': a RAR archive": zipped({"cat.rar": b"Rar!\x1a\x07\0" + bytes(50), "a.txt": b""}),
    "no tar archive; unpack it": gzip.compress(PHOTO),
    "but no tar archive; unpack it": bz2.compress(b""),
    "compressed, but no tar": lzma.compress(PHOTO),
    "image of a disc": bytes(0x8001) + b"CD001" + bytes(99),
    "image of a disk": bytes(900) + b"koly" + bytes(508),
    r"'d\.zip': more than 3 archives in one another": zipped(
        {"a.zip": zipped({"b.zip": zipped({"c.zip": zipped({"d.zip": zipped(TWO)})})})}
    ),
    r"'dog\.zip': not a complete zip": zipped(
        {"cat.zip": zipped(ONE), "dog.zip": zipped(ONE)[:-9]}
    ),
    r"'dog\.tgz': not a complete": zipped(
        {"cat.zip": zipped(ONE), "dog.tgz": tarred(ONE, "w:gz")[:99]}
    ),
    "'all.zip' is passed over: not a complete": zipped({"all.zip": b"<html>"}),
    "is passed over: it has no name": zipped({"": PHOTO}),
    r"a header of 9,\d+,\d+ bytes": tarred({}, pax_headers={"comment": "x" * 9_000_000}),
    "not a complete zip or tar file": b"",
    "get it again": PHOTO,
}


@pytest.mark.parametrize("problem", REFUSED)
def test_what_cannot_be_opened_is_one_line_with_a_remedy(tmp_path, problem):
    (tmp_path / "x.bin").write_bytes(REFUSED[problem])
    with pytest.raises(InputError, match=problem) as caught:
        recognised(tmp_path / "x.bin")
    assert str(caught.value).startswith(f"{tmp_path}/x.bin: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [zipped, tarred, lambda files: zipped({"a.tar": tarred(files)})])
def test_pictures_without_an_ending_beside_what_is_skipped(tmp_path, make):
    files = {"cat/1": PHOTO, "dog/2": PHOTO, ".hidden": b"", "dog/notes": b"text"}
    assert seen(make(files), tmp_path / "x") == {"cat/1": "cat", "dog/2": "dog"}


def test_a_pipe_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="pipe: neither a file nor a folder"):
        recognised(tmp_path / "pipe")


def test_what_is_odd_in_a_zip_costs_itself_and_is_told(tmp_path):
    link = zipfile.ZipInfo("dog/link.jpg")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with (
        zipfile.ZipFile(tmp_path / "x.zip", "w") as packed,
        warnings.catch_warnings(action="ignore"),
    ):
        for name, content in (
            ("cat/1.jpg", b"the first"),
            ("cat/1.jpg", PHOTO),
            ("/dog/1.jpg", PHOTO),
            ("", PHOTO),
            (link, b"../cat/1.jpg"),
            ("cat/é.jpg", PHOTO),
            ("dog/ü.jpg", PHOTO),
            ("/".join("a" * 200) + "/1.jpg", PHOTO),
            ("cat/" + "b" * 5000 + ".jpg", PHOTO),
            ("#recycle/cat/1.jpg", PHOTO),
        ):
            packed.writestr(zipfile.ZipInfo(name) if isinstance(name, str) else name, content)
    content = (tmp_path / "x.zip").read_bytes().replace("ü".encode(), b"\xff\xfe")
    assert seen(content, tmp_path / "x.zip") == {
        "cat/1.jpg": "cat",
        "cat/é.jpg": "cat",
        "dog/1.jpg": "dog",
    }
    reasons = list(recognised(tmp_path / "x.zip").skipped.values())
    for why in ("there again", "no name", "symbolic link", "not text", "hidden"):
        assert sum(why in reason for reason in reasons) == 1
    assert sum("deeper than 100 folders" in reason for reason in reasons) == 2


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_names_of_many_folders_cost_nothing(tmp_path, form):
    """Two of 40,000 took 3.2 GB and 30 seconds."""
    deep = {"/".join("a" * 40_000) + f"/{n}.jpg": PHOTO for n in range(2)}
    content = tarred(TWO | deep, "w:gz", format=form)
    tracemalloc.start()
    try:
        assert seen(content, tmp_path / "x.tgz") == CATS_AND_DOGS
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
    assert len(recognised(tmp_path / "x.tgz").skipped) == 2


def test_one_name_of_a_tar_that_is_not_text(tmp_path):
    names = {"고양이/1.jpg": PHOTO, "강아지/1.jpg": PHOTO, "강아지/\udcff.jpg": PHOTO}
    content = tarred(names, format=tarfile.GNU_FORMAT)
    assert set(seen(content, tmp_path / "x.tar").values()) == {"고양이", "강아지"}
    assert list(recognised(tmp_path / "x.tar").skipped) == [r"강아지/\xff.jpg"]


def test_links_in_a_tar_end(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        for name, target in (
            ("cat/1.jpg", None),
            ("dog/1.jpg", "/cat/1.jpg"),
            ("dog/a.jpg", "dog/b.jpg"),
            ("dog/b.jpg", "dog/a.jpg"),
            *((f"owl/{n}.jpg", f"owl/{n + 1}.jpg") for n in range(100)),
            ("owl/100.jpg", "cat/1.jpg"),
        ):
            member = tarfile.TarInfo(name)
            if target:
                member.type, member.linkname = tarfile.LNKTYPE, target
            else:
                member.size = len(PHOTO)
            packed.addfile(member, io.BytesIO(PHOTO))
    found = recognised(tmp_path / "x.tar")
    assert {"cat/1.jpg", "dog/1.jpg", "owl/100.jpg", "owl/99.jpg"} <= {
        i.member for i in found.images
    }
    assert found.skipped["dog/a.jpg"] == found.skipped["owl/0.jpg"] == "a link that leads nowhere"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("size", ["-5000", "-512", str(2**62), str(2**88)])
def test_a_size_that_leads_back_or_nowhere_ends(tmp_path, size, mode):
    with tarfile.open(tmp_path / "x", mode) as packed:
        for n in range(9):
            member = tarfile.TarInfo(f"cat/{n}.jpg")
            member.size, member.pax_headers = len(PHOTO), {"size": size} if n == 4 else {}
            packed.addfile(member, io.BytesIO(PHOTO))
    try:
        assert len(recognised(tmp_path / "x").images) <= 9
    except InputError as error:
        assert "x: not a complete zip or tar file" in str(error)


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_only_what_is_wanted_is_unpacked(tmp_path, kind):
    """A sparse file of 2 GiB would be written out."""
    for name in TWO:
        (tmp_path / "p" / name).parent.mkdir(parents=True)
        (tmp_path / "p" / name).write_bytes(PHOTO)
    for name in ("p/core.bin", "p/cat/huge.jpg"):
        with (tmp_path / name).open("wb") as file:
            file.truncate(2**31)
    path = tmp_path / f"x.{kind}"
    subprocess.run(["tar", "-S", "-caf", path, "p"], cwd=tmp_path, check=True)
    written = []
    room = archive.files.room
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            archive.files, "room", lambda place, size: written.append(size) or room(place, size)
        )
        found = recognised(path)
    assert sum(written) == 2 * len(PHOTO)
    assert found.skipped["p/cat/huge.jpg"].startswith("larger than 1,073,741,824 bytes")
    assert found.skipped["p/core.bin"] == "not an image"


def test_what_does_not_fit_is_not_unpacked(tmp_path):
    content = bytearray(zipped({"train.zip": zipped(TWO)}, zipfile.ZIP_STORED))
    start = content.rindex(b"PK\1\2") + 24
    content[start : start + 4] = (0xFFFFFFF0).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(content)
    disk = type(archive.files.shutil.disk_usage(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archive.files.shutil, "disk_usage", lambda _: disk(2**32, 0, 2**32))
        with pytest.raises(
            InputError, match=r"'train\.zip': /.* 4,295\.0 MB are needed, .* free some"
        ):
            recognised(tmp_path / "x.zip")


@pytest.mark.parametrize(
    ("how", "size", "most"),
    [
        (zipfile.ZIP_DEFLATED, 2**27, 20e6),
        (zipfile.ZIP_BZIP2, 2**28, 150e6),
        (zipfile.ZIP_LZMA, 2**26, 20e6),
    ],
)
def test_a_member_that_lies_about_its_size_takes_little_memory(tmp_path, how, size, most):
    content = bytearray(zipped({"cat/1.jpg": bytes(size), "dog/1.jpg": PHOTO}, how))
    start = content.index(b"PK\1\2") + 24
    content[start : start + 4] = (1000).to_bytes(4, "little")
    (tmp_path / "x.zip").write_bytes(content)
    with archive.opened(tmp_path / "x.zip") as files:
        tracemalloc.start()
        try:
            assert len(files.read("cat/1.jpg")) == 1000
        except ValueError as error:
            assert "damaged" in str(error)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < most


def test_folders_of_the_system_are_passed_over_and_one_s_own_is_named():
    with tempfile.TemporaryDirectory() as name:  # another user may not enter pytest's own
        tree = Path(name)
        tree.chmod(0o755)
        for member, content in TWO.items():
            (tree / member).parent.mkdir()
            (tree / member).write_bytes(content)
        systems = ("lost+found", ".Trash-1000", "#recycle", "@eaDir", "$RECYCLE.BIN")
        for folder in (*systems, "System Volume Information", "owl"):
            (tree / folder).mkdir(mode=0)
        if os.geteuid() == 0:
            os.seteuid(65534)
        try:
            with pytest.raises(PermissionError) as caught:
                recognised(tree)
            assert caught.value.filename == str(tree / "owl")
            os.seteuid(os.getuid())
            (tree / "owl").rmdir()
            os.seteuid(65534)
            found = recognised(tree)
        finally:
            os.seteuid(os.getuid())
    assert [image.label for image in found.images] == ["cat", "dog"]
    assert found.skipped == dict.fromkeys(
        (*systems, "System Volume Information"), "hidden or a system's"
    )


def test_a_picture_that_may_not_be_read_costs_itself(tmp_path, capsys):
    """It was the end of the run."""
    for n in range(9):
        for label in ("cat", "dog"):
            (tmp_path / "p" / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / f"p/{label}/{n}.jpg").write_bytes(PHOTO)
    with archive.opened(tmp_path / "p") as files:
        found = layout.recognise(files)
        (tmp_path / "p/cat/3.jpg").unlink()
        archive.pack(files, sorted(image.member for image in found.images), tmp_path / "out.zip")
    assert "cat/3.jpg: left out" in capsys.readouterr().out
    with archive.opened(tmp_path / "out.zip") as files:
        assert len(files.names) == 17
        with pytest.raises(ValueError, match="could not be read"):
            files.read("cat/3.jpg")


def test_links_between_folders_are_followed_once(tmp_path):
    """Thirty levels of two links each would be a billion folders."""
    for n in range(30):
        (tmp_path / f"p/d{n}").mkdir(parents=True)
        (tmp_path / f"p/d{n}/1.jpg").write_bytes(PHOTO)
        for link in "ab":
            (tmp_path / f"p/d{n}/{link}").symlink_to(tmp_path / f"p/d{n + 1}")
    with archive.opened(tmp_path / "p") as files:
        assert sorted(files.names) == sorted(f"d{n}/1.jpg" for n in range(30))


def test_a_folder_of_two_hundred_levels(tmp_path):
    for member, content in TWO.items():
        (tmp_path / "p" / member).parent.mkdir(parents=True)
        (tmp_path / "p" / member).write_bytes(content)
    deep = tmp_path / "p/cat" / "/".join("a" * 200)
    deep.mkdir(parents=True)
    found = recognised(tmp_path / "p")
    assert len(found.images) == 2
    assert any("deeper than 100 folders" in why for why in found.skipped.values())


@pytest.mark.parametrize("form", growth.FORMS)
def test_ten_times_the_pictures_cost_at_most_fifteen_times_the_calls(tmp_path, form):
    few, many = (growth.made(form, count, tmp_path) for count in (100, 1000))
    assert (growth.read(few), growth.read(many)) == (100, 1000)
    counts = [growth.calls(lambda path=path: growth.read(path)) for path in (few, many)]
    assert counts[1] < 15 * counts[0]


SMALL = {"cat/1.jpg": PHOTO[:300], "dog/1.jpg": PHOTO[:300], "고/labels.csv": TABLE}
REAL = {
    "zip": zipped(SMALL),
    "stored zip": zipped(SMALL, zipfile.ZIP_STORED),
    "bzip2 zip": zipped(SMALL, zipfile.ZIP_BZIP2),
    "LZMA zip": zipped(SMALL, zipfile.ZIP_LZMA),
    "tar": tarred(SMALL),
    "GNU tar": tarred(SMALL | {"dog/" + "x" * 200 + ".jpg": b""}, format=tarfile.GNU_FORMAT),
    "tar.gz": tarred(SMALL, "w:gz"),
    "tar.bz2": tarred(SMALL, "w:bz2"),
    "tar.xz": tarred(SMALL, "w:xz"),
    "zip in zip": zipped({"cat.zip": zipped(SMALL), "dog.zip": zipped(SMALL)}, zipfile.ZIP_STORED),
    "tar in zip": zipped({"a.tar": tarred(SMALL)}, zipfile.ZIP_STORED),
}
EDITS = st.lists(
    st.tuples(
        st.integers(0, 2**16),
        st.sampled_from(
            [b"\0", b"\xff", b"\xff" * 8, b"\x7f" + b"\xff" * 7, b"-9", b"PK\1\2", b"9" * 11]
        )
        | st.binary(max_size=4),
        st.booleans(),
    ),
    min_size=1,
    max_size=4,
)


@cache
def place() -> Path:
    return Path(tempfile.mkdtemp()) / "mutated"


@pytest.mark.parametrize("kind", REAL)
@settings(max_examples=60, derandomize=True, deadline=None)
@given(edits=EDITS, cut=st.integers(0, 2**14))
def test_a_damaged_archive_is_read_or_one_line(kind, edits, cut):
    """No other exception, and no more memory than the file is worth."""
    content = bytearray(REAL[kind])
    for at, patch, from_end in edits:
        at %= len(content)  # noqa: PLW2901 - a place in it
        at = len(content) - min(at % 200, len(content)) if from_end else at  # noqa: PLW2901
        content[at : at + len(patch)] = patch
    if cut % 4 == 0:
        del content[cut % len(content) :]
    place().write_bytes(content)
    tracemalloc.start()
    try:
        with archive.opened(place()) as files:
            layout.recognise(files)
            for name in files.names:
                try:
                    files.read(name)
                except archive.ImageError as error:
                    assert "\n" not in str(error)
    except InputError as error:
        assert str(error).startswith(f"{place()}: ")
        assert "\n" not in str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 200e6
