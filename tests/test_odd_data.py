"""Odd folders and archives, as people have them: used rightly, or explained in one line."""

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import hypothesis
import pytest
from hypothesis import strategies as st

from convnets.base import params
from convnets.base.console import InputError
from convnets.commands import inspection
from convnets.listing import subset
from convnets.sources import archive, layout, sample, web
from convnets.sources.layout import Files
from tests.commands import ROOT, recognised

JPEG = io.BytesIO()
sample.draw("cat", 0, 0).save(JPEG, "JPEG")
PHOTO = JPEG.getvalue()


def found(names: str, **tables: bytes) -> layout.Layout:
    """The layout of these files and tables, whose names have `_` for a dot."""
    contents = dict.fromkeys(names.split(), PHOTO)
    contents |= {name.replace("_", ".").replace("..", "/"): text for name, text in tables.items()}
    return layout.recognise(Files(contents, contents.__getitem__))


def labels(of: layout.Layout) -> dict[str, str]:
    return {image.member: image.label for image in of.images}


@pytest.mark.parametrize("encoding", ["cp949", "utf-8", "utf-16"])
def test_labels_in_any_encoding_stay_apart(encoding):
    words = ["고양이", "강아지", "비둘기", "cat"]
    text = "file,label\n" + "".join(f"{n}.jpg,{word}\n" for n, word in enumerate(words))
    of = found("0.jpg 1.jpg 2.jpg 3.jpg", labels_csv=text.encode(encoding))
    assert [labels(of)[f"{n}.jpg"] for n in range(4)] == words


def test_a_western_table_keeps_its_accents_apart():
    of = found("0.jpg 1.jpg", labels_csv="file,label\n0.jpg,café\n1.jpg,cafè\n".encode("cp1252"))
    assert len(set(labels(of).values())) == 2


def test_a_table_that_is_not_used_is_told():
    of = found("a/0.jpg b/1.jpg", labels_csv=b"x;y\n7.jpg;cat\n")
    assert "names none of the images" in of.skipped["labels.csv"]
    with pytest.raises(InputError, match=r"not a table .*field limit"):
        found("a/0.jpg b/1.jpg", labels_csv=b'file,label\n0.jpg,"' + b"x" * 200_000)


def test_a_table_s_folders_count():
    rows = b"file,label\nbatchA/0.jpg,cat\nbatchB/0.jpg,dog\nbatchC/0.jpg,owl\n"
    names = ["x/batchA/0.jpg", "x/batchB/0.jpg", "x/batchD/0.jpg", "x/labels.csv"]
    of = layout.recognise(Files(names, lambda _: rows), "table")
    assert set(labels(of).values()) == {"cat", "dog"}
    assert of.skipped["batchC/0.jpg"] == "in the table, but no such file"
    of = found("p/0.jpg p/1.jpg", labels_csv=b"file,label\nC:\\pics\\0.jpg,a\n/home/x/1.jpg,b\n")
    assert set(labels(of).values()) == {"a", "b"}


def test_pictures_in_one_folder_beside_a_table():
    rows = b"file_name,label\n0.jpg,cat\n1.jpg,dog\n2.jpg,\n"
    of = found("images/0.jpg images/1.jpg images/2.jpg", images__metadata_csv=rows)
    assert of.name == "table"
    assert of.skipped == {"images/2.jpg": "without a class in the table"}


def test_a_table_s_split_column():
    rows = b"file,label,split\n0.jpg,a,train\n1.jpg,b,train\n2.jpg,a,test\n3.jpg,b,val\n"
    of = found("0.jpg 1.jpg 2.jpg 3.jpg", labels_csv=rows)
    assert {i.member: i.split for i in of.images}["2.jpg"] == "test"
    assert {i.member: i.split for i in of.images}["3.jpg"] == "validation"


@pytest.mark.parametrize("label", ['"do\rg"', '"a\nb"', "cat ", "\x1b[2J"])
def test_labels_that_nobody_can_tell_apart_or_see_are_refused(label):
    given = {"a": "cat", "b": label.strip('"')}
    files = Files({f"{value}/1.jpg": PHOTO for value in given.values()}, lambda _: PHOTO)
    with pytest.raises(InputError) as caught:
        found_one = layout.recognise(files)
        subset.choose(
            found_one.images, params.Subset(train=1, validation=1, test=1, max_rejected=0), 0
        )
    assert "\n" not in str(caught.value)
    rows = f"file,label\n0.jpg,cat\n1.jpg,{label}\n".encode()
    if label != "cat ":  # a table's spaces are cut off
        with pytest.raises(InputError, match="control character"):
            found("0.jpg 1.jpg", labels_csv=rows)


def test_a_folder_around_the_classes_of_each_split():
    of = found(
        "train/images/cat/1.jpg train/images/dog/1.jpg val/images/cat/2.jpg val/images/dog/2.jpg"
    )
    assert {(image.label, image.split) for image in of.images} == {
        (label, split) for label in ("cat", "dog") for split in ("train", "validation")
    }


def test_a_date_in_a_name_is_no_number():
    of = found("cat/IMG.20230101.jpg cat/IMG.20240101.jpg dog/IMG.20230101.jpg cats/cat.7.jpg")
    assert {i.member: i.number for i in of.images} == {
        **dict.fromkeys(("cat/IMG.20230101.jpg", "cat/IMG.20240101.jpg", "dog/IMG.20230101.jpg")),
        "cats/cat.7.jpg": 7,
    }


def test_a_share_takes_all_of_a_given_split_and_shares_of_one_take_all():
    given = " ".join(
        f"{s}/{c}/{n}.jpg" for s in ("train", "val", "test") for c in "ab" for n in range(9)
    )
    how = params.Subset(train="rest", validation=0.15, test=0.15, max_rejected=0)
    chosen = subset.choose(found(given).images, how, 0)
    assert {split: len(images) for split, images in chosen.items()} == dict.fromkeys(chosen, 18)
    ten = found(" ".join(f"{c}/{n}.jpg" for c in "ab" for n in range(10)))
    how = params.Subset(train=0.7, validation=0.15, test=0.15, max_rejected=0)
    chosen = subset.choose(ten.images, how, 0)
    assert sum(map(len, chosen.values())) == 20


def tarred(path: Path, encoding: str = "utf-8") -> Path:
    """A tar of two classes of files, two of links to them, an empty folder, and odd names."""
    with tarfile.open(path, "w:gz", encoding=encoding) as packed:
        for name in ("고양이/1.jpg", "강아지/1.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(PHOTO)
            packed.addfile(member, io.BytesIO(PHOTO))
        for name, kind, target in (
            ("부엉이/1.jpg", tarfile.LNKTYPE, "고양이/1.jpg"),
            ("여우/1.jpg", tarfile.SYMTYPE, "../부엉이/1.jpg"),
            ("여우/2.jpg", tarfile.SYMTYPE, "../../../etc/passwd"),
            ("여우/3.jpg", tarfile.SYMTYPE, "3.jpg"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target
            packed.addfile(member)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "cp949"])
def test_links_and_names_in_a_tar(tmp_path, encoding):
    path = tarred(tmp_path / "x.tar.gz", encoding)
    with archive.opened(path) as files:
        of = layout.recognise(files)
        assert all(files.read(image.member) == PHOTO for image in of.images)
    assert sorted(labels(of).values()) == ["강아지", "고양이", "부엉이", "여우"]
    assert of.skipped == dict.fromkeys(("여우/2.jpg", "여우/3.jpg"), "a link that leads nowhere")


def test_an_inner_train_zip_does_not_hide_pictures(tmp_path):
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as packed:
        packed.writestr("cat.0.jpg", PHOTO)
        packed.writestr("dog.0.jpg", PHOTO)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        packed.writestr("owl/1.jpg", PHOTO)
        packed.writestr("fox/1.jpg", PHOTO)
        packed.writestr("old/train.zip", inner.getvalue())
    of = recognised(tmp_path / "x.zip")
    assert sorted(labels(of).values()) == ["fox", "owl"]
    assert of.skipped == {"old/train.zip": "not an image"}


def test_a_member_that_cannot_be_sought_costs_only_itself(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_BZIP2) as packed:
        for name in ("cat/1.jpg", "dog/1.jpg"):
            packed.writestr(name, PHOTO)
    content = bytearray((tmp_path / "x.zip").read_bytes())
    content[60:200] = bytes(140)
    (tmp_path / "x.zip").write_bytes(content)
    with archive.opened(tmp_path / "x.zip") as files:
        of = layout.recognise(files)
        with pytest.raises(ValueError, match="damaged in the archive"):
            files.read(of.images[0].member)
        assert files.read(of.images[1].member) == PHOTO


@pytest.mark.parametrize("address", ["http://[::1/x.zip", "http://a℀.com/x.zip"])
def test_an_address_that_is_none_is_one_line(tmp_path, address):
    with pytest.raises(InputError, match="not an http or https address") as caught:
        web.download(address, tmp_path, None)
    assert "\n" not in str(caught.value)


def test_no_secret_of_an_address_is_in_the_error_about_its_section(tmp_path):
    text = (ROOT / "params.yaml").read_text()
    text = text.replace("source: sample", "source: archive").replace(
        "  path: null # path of the archive", "  path: https://u:TOKEN@host/x.zip?sig=SECRET # "
    )
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(InputError, match="needs source url") as caught:
        params.load(tmp_path / "params.yaml")
    assert "TOKEN" not in str(caught.value)
    assert "SECRET" not in str(caught.value)


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path):
    for n in range(40):
        (tmp_path / f"p/{n}").mkdir(parents=True)
        for m in range(4):
            (tmp_path / f"p/{n}/{m}.jpg").write_bytes(PHOTO)
    command = f"{sys.executable} -m convnets inspect {tmp_path / 'p'} --format json | head -1"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT / "src", capture_output=True, text=True)
    assert done.stdout == "{\n"
    assert "Traceback" not in done.stderr


def test_inspect_decodes_as_the_stage_does(tmp_path):
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for n in range(12):
            sample.draw(label, n, 0).save(tmp_path / f"{label}/{n}.jpg")
    sample.draw("cat", 0, 0).save(tmp_path / "cat/icon.jpg", "ICO")
    seen = inspection.inspect(str(tmp_path))
    assert seen["unreadable"] == {"files": 1, "examples": ["cat/icon.jpg"]}
    assert seen["would_use"]["test"] == 4


def test_a_folder_to_which_a_table_gives_no_class_is_none():
    """As `sort` leaves the doubtful ones. A class of which only some have no label stays."""
    rows = b"file,class\ncat/0.jpg,cat\ndog/1.jpg,dog\ndog/2.jpg,\nunsure/3.jpg,\nunsure/a/4.jpg,\n"
    names = "cat/0.jpg dog/1.jpg dog/2.jpg unsure/3.jpg unsure/a/4.jpg"
    for inside in ("", "sorted/"):
        paths = " ".join(f"{inside}{name}" for name in names.split())
        table = {f"{inside.replace('/', '__')}labels_csv": rows}
        of = found(paths, **table)
        assert set(labels(of).values()) == {"cat", "dog"}
        assert f"{inside}dog/2.jpg" in labels(of)
        for name in ("unsure/3.jpg", "unsure/a/4.jpg"):
            assert of.skipped[inside + name] == "without a class in the table"


@hypothesis.given(
    st.integers(5, 40), st.integers(1, 30), st.integers(0, 3), st.sampled_from([0.15, 2, "rest"])
)
def test_corrections_are_learned_from_and_move_nothing_else(photos, more, seed, train):
    """With `data.splits` of {photos: any}, `train` beside them is for training alone."""
    names = [f"photos/{label}/{n}.jpg" for label in ("cat", "dog") for n in range(photos)]
    added = [f"train/{label}/{n}x.jpg" for label in ("cat", "dog") for n in range(more)]
    how = params.Subset(train=train, validation=0.2, test=0.2, max_rejected=0)

    def chosen(*given: str) -> dict[str, set[str]]:
        source = Files(given, lambda _, __=0: PHOTO)
        of = layout.recognise(source, splits={"photos": "any"})
        kept = subset.choose(of.images, how, seed)
        return {split: {image.member for image in images} for split, images in kept.items()}

    before, after = chosen(*names), chosen(*names, *added)
    assert after == before | {"train": before["train"] | set(added)}


def test_a_class_of_corrections_alone_has_none_to_test_on():
    of = layout.recognise(
        Files(
            [f"photos/{n % 2}a/{n}.jpg" for n in range(20)] + ["train/2a/1.jpg"], lambda _: PHOTO
        ),
        splits={"photos": "any"},
    )
    with pytest.raises(InputError, match="class '2a' has 0 images"):
        how = params.Subset(train="rest", validation=0.2, test=0.2, max_rejected=0)
        subset.choose(of.images, how, 0)
