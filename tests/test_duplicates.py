"""Pictures that occur twice, and pictures that belong together."""

import io
import pickle
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from convnets.base import params
from convnets.base.console import InputError
from convnets.listing import labels, listing, subset
from convnets.listing.listing import Image as Found
from convnets.listing.subset import SPLITS
from convnets.pages import overview
from convnets.pictures import arrays, duplicates
from convnets.sources import sample
from tests.commands import decoded, recognised
from tests.test_sources import encoded, packed


def found_in(contents: list[bytes]) -> list[duplicates.Copy]:
    def pixels(content: bytes) -> np.ndarray:
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB").resize((90, 90)))

    return duplicates.find([duplicates.of(content, pixels(content)) for content in contents])


PHOTO = sample.draw("cat", 3, 0)  # not of one strong colour: grey would be another picture
COPIES = {
    "another quality": encoded(PHOTO, quality=30),
    "another format": encoded(PHOTO, "PNG"),
    "another size": encoded(PHOTO.resize((60, 70))),
    "without colour": encoded(PHOTO.convert("L")),
    "a little brighter": encoded(ImageEnhance.Brightness(PHOTO).enhance(1.1)),
}


@pytest.mark.parametrize("change", COPIES)
def test_the_same_picture_in_other_bytes_is_found(change):
    other = encoded(sample.draw("cat", 1, 0))
    first = encoded(PHOTO)
    assert found_in([first, other, COPIES[change]]) == [duplicates.Copy(2, 0, exact=False)]
    assert found_in([first, other, first]) == [duplicates.Copy(2, 0, exact=True)]


def test_pictures_that_only_resemble_each_other_are_not():
    drawn = [encoded(sample.draw(kind, n, 0)) for kind in ("cat", "dog") for n in range(60)]
    plain = [
        encoded(Image.new("RGB", (90, 90), colour), "PNG") for colour in ("red", "blue", "#fff")
    ]
    assert found_in(drawn + plain) == []


def test_what_is_kept_of_each_picture_holds_nothing_in_an_object_store():
    """Ray keeps a task's results until no array refers to them."""
    kept: list[pickle.PickleBuffer] = []
    found = duplicates.of(encoded(PHOTO), np.asarray(PHOTO))
    pickle.dumps(found, protocol=5, buffer_callback=kept.append)
    assert kept == []


@settings(max_examples=30)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_a_copy_s_original_is_the_first_and_no_copy(numbers):
    pictures = [encoded(sample.draw("dog", number, 0), "PNG") for number in numbers]
    copies = found_in(pictures)
    assert {(copy.place, copy.original) for copy in copies} == {
        (place, numbers.index(number))
        for place, number in enumerate(numbers)
        if numbers.index(number) < place
    }
    kept = [n for place, n in enumerate(numbers) if place not in {copy.place for copy in copies}]
    assert sorted(kept) == sorted(set(numbers))


SOME = {"train": 4, "validation": 2, "test": 2, "max_rejected": 0}


def archived(tmp_path: Path) -> Path:
    """Eight pictures of each class in splits. Of the cats, each test picture is in train too. One
    of the dogs is among the cats.
    """
    drawn = {c: [encoded(sample.draw(c, n, 0)) for n in range(8)] for c in ("cat", "dog")}
    names = [*(f"train/{{}}/{n}.jpg" for n in range(4)), *(f"val/{{}}/{n}.jpg" for n in range(2))]
    names += [f"test/{{}}/{n}.jpg" for n in range(2)]
    members = {
        name.format(label): content
        for label, contents in drawn.items()
        for name, content in zip(names, contents, strict=True)
    }
    for number in range(2):
        members[f"train/cat/{number}.jpg"] = members[f"test/cat/{number}.jpg"]
    members["train/cat/2.jpg"] = encoded(sample.draw("dog", 2, 0), quality=40)
    return packed(tmp_path / "x.zip", members)


def test_duplicates_are_told_or_dropped(tmp_path):
    path = archived(tmp_path)
    told = decoded(path, tmp_path / "told", params.Subset(**SOME))
    assert told["train"] == {"cat": 4, "dog": 4}
    assert (told["duplicates"], told["duplicates_dropped"]) == (3, 0)
    assert told["duplicates_across_splits"] == 2
    assert told["duplicates_across_classes"] == 1
    first, *others = told["duplicate_files"]
    assert sorted(first["classes"]) == ["cat", "dog"]  # contradictions come first
    assert [other["splits"] for other in others] == [["train", "test"]] * 2

    drop = params.Subset(**SOME, duplicates="drop")
    summary = decoded(path, tmp_path / "dropped", drop)
    # The copies of test images, and both pictures of the contradiction.
    assert summary["train"] == {"cat": 1, "dog": 3}
    assert (summary["test"], summary["duplicates_dropped"]) == ({"cat": 2, "dog": 2}, 4)
    tables = {s: pd.read_csv(tmp_path / f"dropped/{s}.csv") for s in SPLITS}
    pixels = {s: np.load(tmp_path / f"dropped/{s}.npy") for s in SPLITS}
    assert {s: len(table) for s, table in tables.items()} == {s: len(p) for s, p in pixels.items()}
    again = [duplicates.of(bytes(one), one) for split in SPLITS for one in pixels[split]]
    assert duplicates.find(again) == []
    whole, names = np.load(tmp_path / "told/train.npy"), pd.read_csv(tmp_path / "told/train.csv")
    rows = [list(names["file"]).index(file) for file in tables["train"]["file"]]
    assert (pixels["train"] == whole[rows]).all()


def test_the_same_split_twice_in_one_archive(tmp_path):
    """`train/` once more in a folder: every picture is used, and each copy is told."""
    drawn = {
        f"{c}/{n}.jpg": encoded(sample.draw(c, n, 0)) for c in sample.CLASSES for n in range(12)
    }
    members = {f"{place}train/{n}": c for n, c in drawn.items() for place in ("", "set/")}
    path = packed(tmp_path / "x.zip", members)
    how = params.Subset(train="rest", validation=0.2, test=0.2, max_rejected=0)
    summary = decoded(path, tmp_path / "told", how)
    assert summary["duplicates"] == 24
    assert summary["duplicates_across_splits"] > 0
    dropped = decoded(path, tmp_path / "none", how.model_copy(update={"duplicates": "drop"}))
    assert sum(sum(dropped[split].values()) for split in SPLITS) == 24


def test_a_class_that_duplicates_empty_is_an_error(tmp_path):
    one = encoded(PHOTO)
    path = packed(tmp_path / "x.zip", {f"{c}/{n}.jpg": one for c in "ab" for n in range(3)})
    how = params.Subset(train=1, validation=1, test=1, max_rejected=0, duplicates="drop")
    with pytest.raises(
        InputError, match=r"no image of class 'a' is left for train: all are unread"
    ):
        decoded(path, tmp_path / "out", how)
    assert not (tmp_path / "out").exists()


def test_the_page_of_the_images_shows_what_is_used_and_what_is_not(tmp_path):
    path, out = archived(tmp_path), tmp_path / "out"
    with zipfile.ZipFile(path, "a") as target:
        target.writestr("cover<b>.jpg", encoded(PHOTO))
        target.writestr("train/cat/broken.jpg", b"no picture")
    how = params.Subset(**SOME | {"train": "rest", "max_rejected": 0.2})
    found = recognised(path)
    summary = arrays.write(path, found, tmp_path, out, how, 78, 0)
    tables = labels.write(out, tmp_path / "labels", {})
    pixels = [np.load(out / f"{name}.npy") for name in ("train", "duplicates")]
    page = overview.html(found, summary, tables, *pixels)
    assert "16 images of 2 classes are used" in page
    assert "cover&lt;b&gt;.jpg" in page
    assert "beside the class folders" in page
    assert "not a JPEG, PNG" in page
    assert "look the same, but in two classes" in page
    assert page.count("<img") == 4 + 4 + 2 * 3  # two mosaics, three pairs
    assert "http" not in page.replace("http-equiv", "")
    reasons = listing.by_reason({"a": "too large: 3", "b": "too large: 4", "c": "an empty file"})
    assert reasons["too large"] == {"files": 2, "examples": ["a", "b"]}


# Groups


GROUPS = st.dictionaries(
    st.integers(0, 40), st.tuples(st.integers(0, 5), st.integers(1, 5)), min_size=10, max_size=30
)


def patients(groups: dict[int, tuple[int, int]]) -> list[Found]:
    return [
        Found(label, None, f"{label}/p{name:02d}_{n}.jpg")
        for name, counts in groups.items()
        for label, count in zip("ab", counts, strict=True)
        for n in range(count)
    ]


SHARES = params.Subset(train="rest", validation=0.2, test=0.2, max_rejected=0, group=r"p\d+")


def places(found: list[Found], how: params.Subset, seed: int) -> dict[str, str]:
    chosen = subset.choose(found, how, seed)
    return {image.member: split for split, images in chosen.items() for image in images}


@settings(max_examples=60)
@given(groups=GROUPS, added=GROUPS, seed=st.integers(0, 9))
def test_a_group_stays_in_one_split(groups, added, seed):
    found = patients(groups)
    try:
        place = places(found, SHARES, seed)
    except InputError as error:  # so few groups that a class has none of its own somewhere
        assert "class" in str(error)
        return
    assert len(place) == len(found)  # each image once
    splits: dict[str, set[str]] = {}
    for image in found:
        splits.setdefault(image.member[2:5], set()).add(place[image.member])
    assert all(len(each) == 1 for each in splits.values())
    # By names alone: the order of the files does not matter.
    assert places(found[::-1], SHARES, seed) == place


@settings(max_examples=40)
@given(
    size=st.integers(2, 6),
    count=st.integers(30, 80),
    extra=st.integers(0, 5),
    seed=st.integers(0, 9),
)
def test_proportions_are_kept_and_more_files_move_few(size, count, extra, seed):
    groups = {n: (size, 0) if n % 2 else (0, size) for n in range(count)}
    found = patients(groups)
    place = places(found, SHARES, seed)
    for label in "ab":
        of_class = Counter(split for member, split in place.items() if member[0] == label)
        total = of_class.total()
        for split, share in (("validation", 0.2), ("test", 0.2), ("train", 0.6)):
            assert abs(of_class[split] - share * total) <= size + 1
    more = patients(groups | {100 + n: (1, 1) for n in range(extra)})
    after = places(more, SHARES, seed)
    moved = [member for member, split in place.items() if after[member] != split]
    # Two boundaries in each of two classes; at each, as many move as are new, in whole groups.
    assert len(moved) <= 4 * (extra + size)


def test_a_group_in_two_given_splits_is_an_error():
    found = [
        Found(c, None, f"{split}/{c}/p{n}.jpg", split)
        for split, numbers in (("train", (1, 2, 3)), ("test", (3, 4)))
        for c in "ab"
        for n in numbers
    ]
    how = params.Subset(train="rest", validation=0.3, test="rest", max_rejected=0, group=r"p\d+")
    with pytest.raises(InputError, match=r"the group 'p3' is in two given splits, 'train/a/p3"):
        subset.choose(found, how, 0)


def test_a_pattern_that_groups_nothing_is_an_error():
    how = SHARES.model_copy(update={"group": "x"})
    with pytest.raises(InputError, match=r"no two images are in one group; correct subset\.group"):
        subset.choose(patients(dict.fromkeys(range(20), (2, 2))), how, 0)
    with pytest.raises(ValueError, match="not a regular expression"):
        params.Subset(train=1, validation=1, test=1, max_rejected=0, group="(")


def test_what_parentheses_find_names_the_group():
    image = Found("a", None, "a/IMG_0012_BURST001.jpg")
    assert subset.group_of(image, r"(IMG_\d+)_BURST") == "IMG_0012"
    assert subset.group_of(image, r"IMG_\d+_") == "IMG_0012_"
    assert subset.group_of(image, "x") is None
    assert subset.group_of(image, None) is None


@pytest.mark.slow("real data")
@pytest.mark.real_data
def test_the_book_s_subset_has_two_pairs(shared, tmp_path):
    how = params.Subset(train=1000, validation=500, test=1000, max_rejected=0)
    summary = decoded(shared / "dogs-vs-cats.zip", tmp_path / "out", how, 180)
    assert sorted(sorted(pair["files"]) for pair in summary["duplicate_files"]) == [
        ["train/dog.1273.jpg", "train/dog.980.jpg"],
        ["train/dog.180.jpg", "train/dog.74.jpg"],
    ]
    assert (summary["duplicates_across_splits"], summary["duplicates_across_classes"]) == (1, 0)
