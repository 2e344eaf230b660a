"""What folders mean: one reading is used, several are asked, and the user can say it."""

import io
import re
import shlex
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml
from dvc.utils.hydra import apply_overrides

from benchmarks import growth, growth_layouts
from convnets.base import params
from convnets.base.console import InputError
from convnets.commands import inspection
from convnets.evaluation import metrics
from convnets.listing import labels, subset
from convnets.pages import overview
from convnets.pictures import arrays
from convnets.sources import layout, sample
from convnets.sources.layout import Files
from convnets.sources.splits import split_of, splits_of
from tests.commands import ROOT, said


def tree(*names: str) -> list[str]:
    """Two pictures for each name in which `{}` stands for a number, else one."""
    return [name.format(n) for name in names for n in range(2 if "{}" in name else 1)]


def crossed(form: str, *choices: str) -> list[str]:
    """The names of a form, for all combinations of words."""
    names = [form]
    for words in choices:
        names = [name.replace("@", word, 1) for name in names for word in words.split("|")]
    return tree(*names)


def found(names: list[str], **told) -> layout.Layout:
    return layout.recognise(Files(names, lambda *_: b""), **told)


def counted(of: layout.Layout) -> dict[tuple[str, str | None], int]:
    return dict(Counter((image.label, image.split) for image in of.images))


ASKED = {  # and a pattern that must be listed
    "variants": (crossed("x/@/@/{}.jpg", "color|grayscale|segmented", "a|b"), "x/color/{class}/**"),
    "folds": (crossed("@/@/{}.jpg", "fold1|fold2|fold3", "cat|dog"), "*/{class}/**"),
    "years": (crossed("@/@/{}.jpg", "2023|2024", "cat|dog"), "{class}/**"),
    "lenses": (crossed("@/@/{}.jpg", "40x|100x", "benign|malignant"), "*/{class}/**"),
    "masks": (crossed("@/@/{}.png", "COVID|Normal", "images|masks"), "{class}/images/**"),
    "masks of one": (tree("a/images/{}.png", "a/masks/{}.png", "b/x{}.png"), "{class}/**"),
    "mask endings": (crossed("@ ({})@.png", "a/a|b/b", "|_mask"), "{class}/*).png"),
    "mask formats": (crossed("@{}.@", "a/a|b/b", "jpg|png"), "{class}/*.jpg"),
    "mask beginnings": (crossed("@/@{}.jpg", "a|b", "img_|mask_"), "{class}/img_*"),
    "masks at the top": (crossed("@/{}.jpg", "images|masks"), "{class}/**"),
    "a class test": (crossed("@/{}.jpg", "test|cat|dog"), "{class}/**"),
    "letters": (tree("a/abbey/{}.jpg", "b/bakery/{}.jpg", "a/cover.jpg"), "*/{class}/**"),
    "families": (crossed("@/{}.jpg", "a/cat|a/dog|b/oak|b/elm"), "*/{class}/**"),
    "holdout": (crossed("@/@/{}.jpg", "train|test|holdout", "a|b"), "{class}/**"),
    "eval": (crossed("@/@/{}.jpg", "cat|dog", "train|eval"), "{class}/**"),
    "test beside": (crossed("@/{}.jpg", "cat|dog|cat/test|dog/test"), "{class}/**"),
    "numbered holdout": (crossed("@/@.{}.jpg", "train|holdout", "cat|dog"), "{class}/**"),
    "other words": (crossed("@/@/{}.jpg", "δοκιμή|εκπαίδευση", "cat|dog"), "*/{class}/**"),
}


@pytest.mark.parametrize("case", ASKED)
def test_what_has_several_readings_is_asked_and_each_can_be_pasted(case):
    names, expected = ASKED[case]
    with pytest.raises(InputError, match="ambiguous") as caught:
        found(names)
    assert "\n" not in str(caught.value)
    patterns = re.findall(r"\(pattern '(.*?)'\)", str(caught.value))
    assert expected in patterns
    meant = [found(names, pattern=pattern) for pattern in patterns]
    assert all(each.name == "pattern" and each.images for each in meant)
    # Each is another reading, and what it does not use is told.
    assert len({tuple(each.images) for each in meant}) == len(patterns)
    for each in meant:
        assert len(each.images) + len(each.skipped) == len(names)


SPLIT = {  # the names of the folders, and the splits
    "TrainSet|TestSet": ("train", "test"),
    "birds_train|birds_test": ("train", "test"),
    "birdstrain|birdstest": ("train", "test"),
    "train_images|valid_images": ("train", "validation"),
    "Entrenamiento|Prueba|Validación": ("train", "test", "validation"),
    "Trainingsdaten|Testdaten": ("train", "test"),
    "訓練|テスト": ("train", "test"),
    "训练集|测试集|验证集": ("train", "test", "validation"),
    "훈련 데이터|테스트 데이터": ("train", "test"),
}


@pytest.mark.parametrize("words", SPLIT)
def test_a_stem_and_the_word_of_a_split(words):
    splits = SPLIT[words]
    expected = {(label, split): 2 for label in ("cat", "dog") for split in splits}
    assert counted(found(crossed("@/@/{}.jpg", words, "cat|dog"))) == expected
    assert counted(found(crossed("x/@/@/{}.jpg", "cat|dog", words))) == expected
    # Without classes, they are none.
    with pytest.raises(InputError, match=r"no classes found.*if they are classes, set data\.pat"):
        found(crossed("@/{}.jpg", words))


USED = {
    "strays": (
        [*crossed("@/@/{}.jpg", "cat|dog", "train|test"), "cat/cover.jpg", "README.png"],
        {("cat", "train"): 2, ("cat", "test"): 2, ("dog", "train"): 2, ("dog", "test"): 2},
    ),
    "class and split in one name": (
        crossed("@@/@@{}.jpg".replace("@@/@@", "@_@/"), "cat|dog", "train|test"),
        {("cat", "train"): 2, ("cat", "test"): 2, ("dog", "train"): 2, ("dog", "test"): 2},
    ),
    "without labels": (
        [*crossed("train/@/{}.jpg", "cat|dog"), *tree("test/{}.jpg", "val/images/{}.jpg")],
        {("cat", "train"): 2, ("dog", "train"): 2},
    ),
    "a class that a split lacks": (
        [*crossed("@/@/{}.jpg", "train|test", "cat|dog"), *tree("train/owl/{}.jpg")],
        {("cat", "train"): 2, ("cat", "test"): 2, ("dog", "train"): 2, ("dog", "test"): 2}
        | {("owl", "train"): 2},
    ),
    "the same folder in each": (
        crossed("@/images/{}.jpg", "cat|dog"),
        {("cat", None): 2, ("dog", None): 2},
    ),
    "unpacked twice": (
        tree("cat/cat/{}.jpg", "dog/dog/{}.jpg"),
        {("cat", None): 2, ("dog", None): 2},
    ),
    "texts beside": (
        [*crossed("@/{}.jpg", "cat|dog"), "docs/readme.md", "notes/a.txt"],
        {("cat", None): 2, ("dog", None): 2},
    ),
}


@pytest.mark.parametrize("case", USED)
def test_what_has_one_reading_is_used(case):
    names, expected = USED[case]
    of = found(names)
    assert counted(of) == expected
    assert len(of.images) + len(of.skipped) == len(names)


PATTERNS = {
    "color/{class}/*": ("x/color/a/1.jpg", "a", None, None),
    "{split}/{class}/**": ("val/cat/old/1.jpg", "cat", "validation", None),
    "{class}/{group}_*.png": ("cat/p1_2_3.PNG", "cat", None, "p1"),
    "**/{class}_*.jpg": ("x/great_pyrenees_12.jpg", "great_pyrenees", None, None),
    "{class}.*": ("cat.12.jpg", "cat", None, None),
    "{split}_{class}/{group}/*": ("train_hot_dog/7/a.jpg", "hot_dog", "train", "7"),
    "(café)/{class}/*": ("(cafe\u0301)/a/1.jpg", "a", None, None),
}


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_names_the_parts_of_a_path(pattern):
    path, *expected = PATTERNS[pattern]
    of = found([path, "z/nothing.jpg"], pattern=pattern)
    assert [(i.label, i.split, i.group) for i in of.images] == [tuple(expected)]
    assert of.skipped == {"z/nothing.jpg": "does not match data.pattern"}


def test_a_word_for_a_split_is_known_or_said_or_an_error():
    names = crossed("@/@/{}.jpg", "train|holdout", "cat|dog")
    with pytest.raises(InputError, match=r"'holdout' is no split .* data\.splits .*holdout"):
        found(names, pattern="{split}/{class}/**")
    for told in ({"pattern": "{split}/{class}/**"}, {}):
        of = found(names, splits={"Holdout": "test"}, **told)
        assert counted(of)["cat", "test"] == 2
    assert split_of("dev", {"dev": "test"}) == "test"
    assert splits_of(["Train", "TEST1"], None) == {"Train": "train", "TEST1": "test"}
    with pytest.raises(InputError, match="'extra', 'unseen' is no split"):
        splits_of(["train", "unseen", "extra"], None)
    with pytest.raises(InputError, match=r"matches none of the 8 images, such as 'holdout/cat/0"):
        found(names, pattern="x/{class}/*")


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("{klass}/*", "unknown {klass}; known are {class}, {split}, {group}"),
        ("{split}/*", "no {class}"),
        ("{class/*", "a brace without its partner"),
        ("{class}/{class}/*", "occurs twice"),
        ("/{class}/*", "between two slashes"),
        ("{class}/a**", "whole folders"),
    ],
)
def test_a_pattern_that_is_none_is_named(value, problem):
    with pytest.raises(InputError, match="pattern: not a pattern of paths") as caught:
        inspection.inspect(str(ROOT), pattern=value)
    assert problem in str(caught.value)


def test_a_pattern_and_a_table_exclude_each_other():
    with pytest.raises(InputError, match="pattern says all of the layout"):
        inspection.inspect(str(ROOT), pattern="{class}/*", labels="x.csv")
    with pytest.raises(InputError, match=r"columns.*did you mean label"):
        inspection.inspect(str(ROOT), columns="{lable: a}")
    with pytest.raises(InputError, match=r"splits\.a: input should be 'train'"):
        inspection.inspect(str(ROOT), splits="{a: tset}")


def test_a_class_without_a_picture_that_can_be_read_names_its_formats():
    names = [*crossed("@/{}.jpg", "cat|dog"), "bird/1.xcf", "bird/2.xcf", "bird/3.cr2"]
    with pytest.raises(InputError, match=r"class 'bird' has no images .*2 \.xcf, 1 \.cr2"):
        found(names)


def test_a_group_of_a_pattern_stays_in_one_split():
    names = [f"{c}/p{p}_{n}.png" for c in "ab" for p in range(9) for n in range(3)]
    of = found(names, pattern="{class}/{group}_*.png")
    how = params.Subset(train="rest", validation=0.2, test=0.2, max_rejected=0)
    chosen = subset.choose(of.images, how, 0)
    places = {(i.group, split) for split, images in chosen.items() for i in images}
    assert len(places) == 9


def numbers(**counts: int) -> layout.Layout:
    return found([f"{label}/{n}.jpg" for label, count in counts.items() for n in range(count)])


def test_a_rare_class_is_told_and_can_be_left_out():
    of, how = numbers(a=60, b=60, c=3), params.Subset
    shares = how(train="rest", validation=0.15, test=0.15, max_rejected=0)
    chosen = subset.choose(of.images, shares, 0)
    assert Counter(image.label for image in chosen["test"]) == {"a": 9, "b": 9, "c": 1}
    assert "c (1), a (9), b (9)" in subset.doubts(of.images, chosen)[0]
    ones = how(train=1, validation=1, test=1, max_rejected=0)
    told = subset.doubts(of.images, subset.choose(of.images, ones, 0))
    assert "9 of 123 images are used, since c has only 3" in told[1]
    kept = subset.without_rare(of, 10)
    assert {image.label for image in kept.images} == {"a", "b"}
    assert set(kept.skipped.values()) == {"of a class with fewer than 10 images (subset.minimum)"}
    with pytest.raises(InputError, match=r"lower subset\.minimum"):
        subset.without_rare(of, 100)


def test_a_class_that_a_given_split_lacks_is_used_where_it_is():
    names, _ = USED["a class that a split lacks"]
    how = params.Subset(train="rest", validation=1, test="rest", max_rejected=0)
    chosen = subset.choose(found(names).images, how, 0)
    assert Counter(image.label for image in chosen["test"]) == {"cat": 2, "dog": 2}
    assert Counter(image.label for image in chosen["train"]) == {"cat": 1, "dog": 1, "owl": 1}
    tested = metrics.Predictions(np.array([0, 0, 1, 1]), np.eye(3)[[0, 0, 1, 2]])
    assert np.isnan(metrics.recalls(tested)[2])
    assert metrics.area(tested) == 0.875


def test_the_arrays_and_the_page_of_a_class_that_a_given_split_lacks(tmp_path):
    names, _ = USED["a class that a split lacks"]
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as packed:
        for number, name in enumerate(names):
            picture = io.BytesIO()
            sample.draw("cat", number, 0).save(picture, "PNG")
            packed.writestr(name, picture.getvalue())
    how = params.Subset(train="rest", validation=1, test="rest", max_rejected=0)
    given = found(names)
    place, out = tmp_path / "unfinished", tmp_path / "out"
    place.mkdir()
    written = arrays.write(tmp_path / "x.zip", given, place, out, how, 78, 0)
    assert written["test"] == {"cat": 2, "dog": 2, "owl": 0}
    assert "owl (0)" in written["doubts"][0]
    labelled = labels.write(out, tmp_path / "labels", {})
    pixels = [np.load(out / f"{name}.npy") for name in ("train", "duplicates")]
    page = overview.html(given, written, labelled, *pixels)
    assert "10 images of 3 classes are used" in page


@pytest.fixture
def photos(tmp_path) -> Path:
    """Twelve pictures of each of two classes in each of two odd splits."""
    for n, name in enumerate(crossed("@/@/", "learn|훈련, 2=a", "cat|dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(12):
            drawn = sample.draw(("cat", "dog")[n % 2], 20 * n + number, 0)
            drawn.save(tmp_path / f"photos/{name}/p{n}x{number // 2}_{number}.png")
    return tmp_path / "photos"


def test_what_was_told_is_in_the_command_and_dvc_takes_it_as_it_is(photos):
    told = {
        "pattern": "{split}/{class}/{group}_*.png",
        "splits": "{learn: train, '훈련, 2=a': test}",
    }
    seen = inspection.inspect(str(photos), **told)
    assert seen["would_use"]["test"] == 24
    shutil.copy(ROOT / "params.yaml", photos.parent)
    changed = photos.parent / "params.yaml"
    apply_overrides(str(changed), shlex.split(seen["command"].partition(" && ")[0])[6::2])
    assert {key: yaml.safe_load(changed.read_text())["data"][key] for key in told} == told
    p = params.load(changed)
    assert p.data.splits == {"learn": "train", "훈련, 2=a": "test"}
    # The params' own form, too.
    values = yaml.safe_load(changed.read_text())
    values["data"]["columns"] = {"file": "name"}
    changed.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match="pattern says all of the layout"):
        params.load(changed)


def test_the_command_of_inspect_takes_them(photos, capsys, monkeypatch):
    status, _, error = said(capsys, monkeypatch, "inspect", str(photos))
    assert (status, error.count("\n")) == (1, 1)
    splits = '{"learn": "train", "훈련, 2=a": "test"}'
    status, told, _ = said(capsys, monkeypatch, "inspect", str(photos), "--splits", splits)
    assert status == 0
    assert "48 images of 2 classes (layout: splits)" in told
    assert "data.splits=" in told


def test_inspect_counts_unreadable_pictures_as_the_run_will(photos):
    told = {"pattern": "*/{class}/*"}
    whole = (photos / "learn/cat/p0x0_0.png").read_bytes()
    for number in range(2, 6):  # the header is whole
        (photos / f"learn/cat/p0x{number // 2}_{number}.png").write_bytes(whole[:-200])
    seen = inspection.inspect(str(photos), **told)
    assert seen["unreadable"]["files"] == 4
    assert "PNG cannot be decoded" in next(iter(seen["reasons"]))
    share = float(re.search(r"subset\.max_rejected=(\S+)", seen["command"])[1])
    assert 4 <= share * 48 < 5
    assert (
        "max_rejected" not in inspection.inspect(str(photos), max_rejected=0.1, **told)["command"]
    )
    for path in photos.rglob("cat/*.png"):
        path.write_bytes(whole[:-200])
    with pytest.raises(InputError, match=r"class 'cat' has no image for .* PNG cannot be decoded"):
        inspection.inspect(str(photos), **told)


@pytest.mark.parametrize("name", growth_layouts.LAYOUTS)
def test_ten_times_the_pictures_cost_at_most_fifteen_times_the_calls(name):
    few, many = (
        growth.calls(lambda count=count: growth_layouts.recognise(name, count))
        for count in (100, 1000)
    )
    assert many <= 15 * few
