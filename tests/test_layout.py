"""How people's pictures lie in folders and archives: used rightly, or explained in one line.

Each case is tried as a folder, as a zip and as a tar.gz of it.
"""

import io
import os
import re
import tarfile
import zipfile
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from convnets.base import files, params
from convnets.base.console import InputError
from convnets.listing import listing, subset
from convnets.sources import archive, layout, sample, sources
from convnets.sources.layout import Files
from convnets.sources.splits import split_of
from tests.commands import recognised

JPEG = io.BytesIO()
sample.draw("cat", 0, 0).save(JPEG, "JPEG")
PHOTO = JPEG.getvalue()
ONE = params.Subset(train=1, validation=1, test=1, max_rejected=0)

# The files, the layout that is recognised, its classes, and the files that are used.
GIVEN = {
    "no endings, or odd ones": (
        "cat/1 cat/2.JPG_large cat/d41d8cd98f00b204 dog/1.jpg!d dog/2.jpeg?x=1 dog/3.txt",
        "classes",
        {"cat": 3, "dog": 2},
    ),
    "class folders with any names": (
        "cat/a.jpg cat/holiday.2019.jpg dog/b.jpg dog/walk.2020.jpg",
        "classes",
        {"cat": 2, "dog": 2},
    ),
    "splits below the classes": (
        "x/cat/train/1.jpg x/cat/test/2.jpg x/dog/train/1.jpg x/dog/test/2.jpg",
        "classes",
        {"cat": 2, "dog": 2},
    ),
    "video frames": ("cat/frame.0000.jpg dog/frame.0000.jpg", "classes", {"cat": 1, "dog": 1}),
    "a split, and test images without classes": (
        "train/maize/a.png train/wheat/b.png test/c.png",
        "splits",
        {"maize": 1, "wheat": 1},
    ),
    "two splits in a folder": (
        "set/train/ants/1.jpg set/train/bees/1.jpg set/val/ants/2.jpg set/val/bees/2.jpg",
        "splits",
        {"ants": 2, "bees": 2},
    ),
    "words around the splits, and folders twice": (
        "seg_train/seg_train/sea/1.jpg seg_train/seg_train/ice/1.jpg "
        "seg_test/seg_test/sea/3.jpg seg_test/seg_test/ice/3.jpg seg_pred/seg_pred/5.jpg",
        "splits",
        {"ice": 2, "sea": 2},
    ),
    "numbered names in class folders in splits": (
        "training_set/cats/cat.1.jpg training_set/dogs/dog.1.jpg "
        "validation/cats/cat.2000.jpg validation/dogs/dog.2000.jpg",
        "splits",
        {"cats": 2, "dogs": 2},
    ),
    "capitals": (
        "Train/a/1.jpg Train/b/1.jpg TEST/a/1.jpg TEST/b/1.jpg",
        "splits",
        {"a": 2, "b": 2},
    ),
    "one split alone": ("train/a/1.jpg train/b/1.jpg", "classes", {"a": 1, "b": 1}),
    "classes that look like numbers": (
        "00/a.jpg 01/b.jpg 10/c.jpg",
        "classes",
        {"00": 1, "01": 1, "10": 1},
    ),
    "classes that look like nothing": (
        "None/a.jpg NA/b.jpg TRUE/c.jpg 1e5/d.jpg 고양이/e.jpg",
        "classes",
        {"1e5": 1, "NA": 1, "None": 1, "TRUE": 1, "고양이": 1},
    ),
    "deeper folders, and pictures beside the classes": (
        "photos/cat/1.jpg photos/cat/old/2.jpg photos/dog/3.jpg photos/cover.jpg",
        "classes",
        {"cat": 2, "dog": 1},
    ),
    "junk beside the classes": (
        "cat/1.jpg dog/2.jpg .ipynb_checkpoints/a-checkpoint.jpg cat/._1.jpg cat/Thumbs.db "
        "__MACOSX/cat/1.jpg .DS_Store notes.pdf @eaDir/1.jpg",
        "classes",
        {"cat": 1, "dog": 1},
    ),
    "Kaggle's": ("train/cat.0.jpg train/dog.0.jpg test1/1.jpg", "numbered", {"cat": 1, "dog": 1}),
    "Kaggle's, flat": ("cat.0.jpg dog.0.jpg", "numbered", {"cat": 1, "dog": 1}),
    "Kaggle's in splits": (
        "train/cat.0.jpg train/dog.0.jpg validation/cat.1.jpg validation/dog.1.jpg",
        "numbered",
        {"cat": 2, "dog": 2},
    ),
    "every format": (
        "a/1.webp a/2.BMP a/3.gif b/1.tiff b/2.avif b/3.JPEG",
        "classes",
        {"a": 3, "b": 3},
    ),
}
TABLES = {
    "labels.csv": "id,breed\nab,001\ncd,NA\nmissing,001\n",
    "train/metadata.csv": "file_name,label\nab.jpg,001\ncd.jpg,NA\n",
}
REFUSED = {
    "a/cat.0.jpg a/dog.0.jpg b/cat.1.jpg": r"may be a, b \(pattern '\{.*'\) or cat, dog \(pat",
    "train/x/1.jpg train/y/1.jpg bus/1.jpg car/2.jpg": r"x, y \(.*\) or bus, car, train \(pat",
    "Cat/1.jpg cat/2.jpg": "differ only by capitals",
    "caf\u00e9/1.jpg cafe\u0301/2.jpg": "differ only by capitals or Unicode form",
    "1.jpg 2.jpg": "nothing names the class of '1.jpg'",
    "train/1.jpg test/2.jpg": "nothing names the class",
    "readme.txt": "no images found",
    ".hidden/1.jpg": "no images found",
}


def of(names: str) -> Files:
    """Files of these names, all with the same picture."""
    return Files(names.split(), lambda _: PHOTO)


def asked(names: str, **told) -> list[str]:
    """The patterns that the error about more than one reading lists."""
    with pytest.raises(InputError, match="ambiguous") as caught:
        layout.recognise(of(names), **told)
    assert "\n" not in str(caught.value)
    listed = str(caught.value).partition("the classes may be ")[2]
    return [pattern.strip("'") for pattern in re.findall(r"\(pattern ('.*?'|\S+)\)", listed)]


def folder(path: Path, given: dict[str, bytes]) -> Path:
    for name, content in given.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def packed_as(kind: str, given: dict[str, bytes], where: Path) -> Path:
    """A folder of these files, or an archive of it."""
    tree = folder(where / "tree", given)
    if kind == "folder":
        return tree
    path = where / f"packed.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as packed:
            for name, content in given.items():
                packed.writestr(name, content)
    else:
        with tarfile.open(path, f"w:{kind.removeprefix('tar.')}") as packed:
            packed.add(tree, ".")
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.gz", "tar.xz"])
@pytest.mark.parametrize("case", GIVEN)
def test_layouts(tmp_path, case, kind):
    names, name, classes = GIVEN[case]
    path = packed_as(kind, dict.fromkeys(names.split(), PHOTO), tmp_path)
    with archive.opened(path) as files:
        found = layout.recognise(files)
        assert all(files.read(image.member) == PHOTO for image in found.images)
    assert found.name == name
    labels = [image.label for image in found.images]
    assert {label: labels.count(label) for label in labels} == classes
    assert not {image.member for image in found.images} & set(found.skipped)
    assert len(found.images) + len(found.skipped) == len(names.split())
    listing.save(found, tmp_path / "images.json")
    assert listing.load(tmp_path / "images.json") == found


@pytest.mark.parametrize("kind", ["folder", "zip", "tar.bz2"])
@pytest.mark.parametrize("table", TABLES)
def test_a_table_names_the_classes(tmp_path, table, kind):
    pictures = dict.fromkeys(("train/ab.jpg", "train/cd.jpg", "test/ef.jpg"), PHOTO)
    given = pictures | {table: TABLES[table].encode("utf-8-sig")}
    found = recognised(packed_as(kind, given, tmp_path))
    assert found.name == "table"
    assert [(i.member, i.label) for i in found.images] == [
        ("train/ab.jpg", "001"),
        ("train/cd.jpg", "NA"),
    ]
    more = {"missing": "in the table, but no such file"} if table == "labels.csv" else {}
    assert found.skipped == {"test/ef.jpg": "not in the table"} | more


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp949"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_table_as_spreadsheets_write_it(encoding, delimiter):
    rows = [
        ("file_name", "label"),
        ("train\\ab.jpg", "고양이 사진"),
        ("cd.jpg", "강아지, 작은; 개"),
    ]
    text = "".join(delimiter.join(f'"{cell}"' for cell in row) + "\r\n" for row in rows)
    files = Files(["train/ab.jpg", "train/cd.jpg", "labels.csv"], lambda _: text.encode(encoding))
    found = layout.recognise(files)
    assert [image.label for image in found.images] == ["강아지, 작은; 개", "고양이 사진"]
    assert found.skipped == {}


def test_a_table_that_stands_elsewhere(tmp_path):
    """`data.labels` decides, whatever the folders say."""
    tree = folder(tmp_path / "tree", dict.fromkeys(("x/1.jpg", "y/2.jpg", "y/3.jpg"), PHOTO))
    table = tmp_path / "table.csv"
    table.write_text("Image,Species\nx/1.jpg,01\n2,1e5\n")
    out = tmp_path / "out.zip"
    how = params.Data(source="folder", path=str(tree), labels=str(table))
    with archive.opened(tree) as files:
        found = layout.recognise(files, labels=table)
    assert (found.name, [image.label for image in found.images]) == ("table", ["01", "1e5"])
    assert found.skipped == {"y/3.jpg": "not in the table"}
    for content, problem in (
        ("a,b\n7,8\n", r"table\.csv: names none of the images; it needs the columns .* a, b"),
        ("Hello\n", r"table\.csv: no table of labels; correct data\.labels"),
        ("file,label\n1.jpg,a\nx/1.jpg,b\n", r"'x/1\.jpg' has two classes; remove one row"),
    ):
        table.write_text(content)
        with archive.opened(tree) as files, pytest.raises(InputError, match=problem):
            layout.recognise(files, labels=table)
    table.unlink()
    with pytest.raises(InputError, match=r"table\.csv: No such file .*correct data\.labels"):
        sources.write(how, ONE, 0, out)
    assert not out.exists()


@pytest.mark.parametrize(
    "names",
    [
        "a/cat.0.jpg a/dog.0.jpg b/cat.1.jpg",
        "train/x/1.jpg train/y/1.jpg bus/1.jpg car/2.jpg",
        "cat/train/x/1.jpg cat/train/y/1.jpg dog/train/x/1.jpg",
    ],
)
def test_what_is_ambiguous_names_the_param_that_decides(names):
    patterns = asked(names)
    found = [layout.recognise(of(names), pattern=pattern) for pattern in patterns]
    assert all(each.name == "pattern" for each in found)
    assert all(one.images != other.images for one, other in pairwise(found))
    with pytest.raises(InputError, match=r"data\.layout table does not fit; possible: "):
        layout.recognise(of(names), "table")


def test_a_split_below_the_classes_is_kept():
    given = "cat/train/1.jpg cat/val/2.jpg cat/test/3.jpg dog/train/1.jpg dog/test/3.jpg"
    found = layout.recognise(of(given))
    assert [image.split for image in found.images] == [
        *("test", "train", "validation"),
        *("test", "train"),
    ]
    # Stray pictures never drop them.
    more = layout.recognise(of(f"{given} cat/cover.jpg README.png"))
    assert more.images == found.images
    assert more.skipped == dict.fromkeys(
        ("README.png", "cat/cover.jpg"), "beside the class folders"
    )


def test_a_split_in_a_folder_of_its_own_is_one_too():
    """Not classes `one` and `two`, and no file passed over."""
    given = "one/train/cat/1.jpg one/train/dog/1.jpg two/test/cat/2.jpg two/test/dog/2.jpg"
    found = layout.recognise(Files(given.split(), lambda _: PHOTO), "splits")
    assert {(i.label, i.split) for i in found.images} == {
        (label, split) for label in ("cat", "dog") for split in ("train", "test")
    }
    assert found.skipped == {}


def test_a_table_that_says_what_the_folders_say_is_no_contradiction():
    names = ["a/1.jpg", "b/2.jpg", "labels.csv"]
    assert layout.recognise(Files(names, lambda _: b"file,label\n1.jpg,a\n")).name == "classes"
    with pytest.raises(InputError, match=r"may be a, b \(pattern .*\) or b \(layout table\)"):
        layout.recognise(Files(names, lambda _: b"file,label\n1.jpg,b\n"))
    assert layout.recognise(Files(names, lambda _: b"x,y\n1,2\n")).name == "classes"


@pytest.mark.parametrize("names", REFUSED)
def test_what_is_not_clear_is_refused_in_one_line(tmp_path, names):
    with pytest.raises(InputError, match=REFUSED[names]) as caught:
        recognised(packed_as("folder", dict.fromkeys(names.split(), PHOTO), tmp_path))
    assert "\n" not in str(caught.value)


def test_given_splits_are_kept_and_a_missing_one_is_drawn_from_train():
    names = [f"train/{c}/{n}.jpg" for c in "ab" for n in range(5)]
    names += [f"valid/{c}/{n}.jpg" for c in "ab" for n in range(2)]
    found = layout.recognise(Files(names, lambda _: b""))
    chosen = subset.choose(found.images, ONE, 0)
    of = {split: {i.member.split("/")[0] for i in images} for split, images in chosen.items()}
    assert of == {"train": {"train"}, "validation": {"valid"}, "test": {"train"}}
    everything = [image.member for images in chosen.values() for image in images]
    assert len(set(everything)) == 6
    many = ONE.model_copy(update={"validation": 3})
    with pytest.raises(
        InputError, match=r"class 'a' has 2 images for validation, too few for subset\.val"
    ):
        subset.choose(found.images, many, 0)


@given(
    sizes=st.lists(st.integers(5, 60), min_size=2, max_size=4),
    share=st.floats(0.1, 0.6),
    seed=st.integers(0, 9),
)
def test_shares_and_the_rest_take_every_image_once(sizes, share, seed):
    found = [
        listing.Image(str(place), None, f"{place}/{n}.jpg")
        for place, size in enumerate(sizes)
        for n in range(size)
    ]
    how = params.Subset(train="rest", validation=share / 2, test=share / 2, max_rejected=0)
    try:
        chosen = subset.choose(found, how, seed)
    except InputError:
        assert min(sizes) < 3  # too few for one image of each split
        return
    members = [image.member for images in chosen.values() for image in images]
    assert sorted(members) == sorted(image.member for image in found)
    for place, size in enumerate(sizes):
        of_class = [image for image in chosen["test"] if image.label == str(place)]
        assert len(of_class) == max(1, round(share / 2 * size))


def test_the_rest_goes_to_one_split_of_those_that_share_images():
    names = [f"{split}/{c}/{n}.jpg" for split in ("train", "test") for c in "ab" for n in range(5)]
    how = params.Subset(train="rest", validation=1, test="rest", max_rejected=0)
    chosen = subset.choose(layout.recognise(Files(names, lambda _: b"")).images, how, 0)
    assert {split: len(images) for split, images in chosen.items()} == {
        "train": 8,
        "validation": 2,
        "test": 10,
    }
    with pytest.raises(InputError, match="only one of train, validation, test can be rest"):
        subset.choose(layout.recognise(Files(names[:10], lambda _: b"")).images, how, 0)


def test_of_a_large_folder_only_what_is_taken_is_copied(tmp_path):
    tree = folder(tmp_path / "tree", {f"{c}/{n}.jpg": PHOTO for c in "ab" for n in range(40)})
    how = params.Data(source="folder", path=str(tree))
    found = sources.write(how, ONE, 0, tmp_path / "out.zip")
    assert len(found.images) == 80
    with zipfile.ZipFile(tmp_path / "out.zip") as packed:
        assert len(packed.namelist()) == 6


def test_links_and_folders_that_look_like_images(tmp_path):
    tree = folder(tmp_path / "tree", dict.fromkeys(("cat/1.jpg", "dog/1.jpg"), PHOTO))
    (tree / "cat/2.jpg").symlink_to("nowhere")
    (tree / "cat/x.jpg").mkdir()
    (tree / "dog/around").symlink_to(tree)
    elsewhere = folder(tmp_path / "elsewhere", {"1.jpg": PHOTO})
    (tree / "eel").symlink_to(elsewhere)
    os.mkfifo(tree / "dog/pipe.jpg")
    with archive.opened(tree) as files:
        assert set(files.names) == {"cat/1.jpg", "dog/1.jpg", "eel/1.jpg"}
    skipped = recognised(tree).skipped
    assert skipped["cat/2.jpg"] == "a link that leads nowhere"
    assert skipped["dog/pipe.jpg"] == "not a file"
    assert skipped["dog/around"] == "a link to a folder that is there already"


def renamed(path: Path, names: dict[str, bytes]) -> Path:
    """A zip whose members' names are these bytes, not said to be UTF-8."""
    given = {f"{place:0{len(name)}d}": name for place, name in enumerate(names.values())}
    with zipfile.ZipFile(path, "w") as packed:
        for name in given:
            packed.writestr(name, PHOTO)
    content = path.read_bytes()
    for name, raw in given.items():
        content = content.replace(name.encode(), raw)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "cp949", "cp932", "big5"])
def test_names_of_other_systems_come_out_right(tmp_path, encoding):
    words = {
        "utf-8": ("고양이", "강아지"),
        "cp949": ("고양이 사진", "강아지 사진"),
        "cp932": ("ねこのしゃしん", "いぬのしゃしん"),
        "big5": ("貓", "狗"),
    }[encoding]
    names = {word: f"{word}/{n}.jpg".encode(encoding) for n, word in enumerate(words)}
    with archive.opened(renamed(tmp_path / "x.zip", names)) as files:
        found = layout.recognise(files)
        assert {image.label for image in found.images} == set(words)
        assert all(files.read(image.member) == PHOTO for image in found.images)


def test_a_zip_of_powershell(tmp_path):
    names = {label: rf"p\{label}\1.jpg".encode() for label in ("cat", "dog")}
    found = recognised(renamed(tmp_path / "x.zip", names))
    assert [image.label for image in found.images] == ["cat", "dog"]
    with pytest.raises(InputError, match="points outside"):
        recognised(renamed(tmp_path / "y.zip", {"a": rb"..\..\cat\1.jpg", "b": rb"dog\1.jpg"}))


def test_a_night_photograph_is_no_bomb(tmp_path):
    dark = io.BytesIO()
    Image.new("RGB", (4000, 3000), (1, 1, 2)).save(dark, "BMP")
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("cat/1.bmp", dark.getvalue())
        packed.writestr("dog/1.jpg", PHOTO)
    assert len(recognised(tmp_path / "x.zip").images) == 2


@pytest.mark.parametrize("name", ["../cat/1.jpg", "cat/../../1.jpg"])
def test_a_tar_that_points_outside_is_refused_and_leaves_nothing(tmp_path, name):
    with tarfile.open(tmp_path / "x.tar", "w") as packed:
        member = tarfile.TarInfo(name)
        member.size = len(PHOTO)
        packed.addfile(member, io.BytesIO(PHOTO))
    with (
        pytest.raises(InputError, match=r"x\.tar: member .* points outside"),
        files.atomic(tmp_path / "out.zip") as part,
    ):
        how = params.Data(source="archive", path=str(tmp_path / "x.tar"))
        sources.write(how, ONE, 0, part)
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_a_truncated_tar_is_refused(tmp_path):
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as packed:
        packed.add(folder(tmp_path / "tree", {"cat/1.jpg": os.urandom(50_000)}), ".")
    path = tmp_path / "x.tgz"
    path.write_bytes(path.read_bytes()[:-20_000])
    with pytest.raises(InputError, match=r"x\.tgz: not a complete zip or tar file"):
        recognised(path)


def test_an_archive_in_a_read_only_place(tmp_path):
    nested = io.BytesIO()
    with zipfile.ZipFile(nested, "w") as inner:
        inner.writestr("train/cat.0.jpg", PHOTO)
        inner.writestr("train/dog.0.jpg", PHOTO)
    place = tmp_path / "place"
    place.mkdir()
    with zipfile.ZipFile(place / "x.zip", "w") as outer:
        outer.writestr("train.zip", nested.getvalue())
    place.chmod(0o555)
    assert len(recognised(place / "x.zip").images) == 2


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(
            ("train", "train"),
            ("Training Set", "train"),
            ("seg_train", "train"),
            ("TRAIN2", "train"),
        ),
        *(("val", "validation"), ("valid_set", "validation"), ("Dev", "validation")),
        *(("test1", "test"), ("testing_data", "test"), ("trains", None), ("train_station", None)),
        *(("latest", None), ("set", None), ("", None), ("data", None)),
    ],
)
def test_the_names_of_splits(name, split):
    assert split_of(name) == split


@given(st.lists(st.text("ab./", min_size=1, max_size=9).map(lambda t: f"{t}.jpg"), max_size=12))
def test_every_file_is_used_or_has_a_reason(names):
    names = sorted({str(Path(name)) for name in names if not name.startswith("/")})
    try:
        found = layout.recognise(Files(names, lambda _: b""))
    except InputError as error:
        assert "\n" not in str(error)
    else:
        used = [image.member for image in found.images]
        assert sorted([*used, *found.skipped]) == names
        assert all(
            image.label in Path(image.member).parts[:-1] or image.number is not None
            for image in found.images
        )
