"""Only new pictures are extracted, and no byte tells whether they were."""

import shutil
from collections.abc import Iterable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convnets.backbones import backbone
from convnets.base.console import InputError
from convnets.features import computed, features
from convnets.features.computed import Computed
from convnets.features.features import BATCH
from convnets.models import saved
from tests.commands import backbone_of

KEY, OTHER = "0123456789abcdef", "fedcba9876543210"
PICTURES = np.random.default_rng(0).integers(1, 256, (70, 8, 8, 3), np.uint8)
ALL = list(range(len(PICTURES)))


def tiny() -> keras.Model:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3), name="image")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="below")(inputs)
    return keras.Model(inputs, keras.layers.Conv2D(5, 3, name="above")(x), name="tiny")


class Counted:
    """Computes the last parts of the tiny backbone's features, and counts the pictures."""

    def __init__(self, parts: int) -> None:
        self.extract = features.extractor(*backbone.split(tiny(), "above"))
        self.parts, self.pictures = parts, 0

    def __call__(self, items: Iterable[tuple[Any, ...]]) -> Iterator[list[np.ndarray]]:
        for (pixels,) in items:
            assert len(pixels) == BATCH
            self.pictures += int(pixels.any((1, 2, 3)).sum())  # the others fill up the batch
            yield [output.numpy() for output in self.extract(pixels)[-self.parts :]]


TOP, BOTH = Counted(1), Counted(2)


@pytest.fixture(autouse=True)
def _place(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)


def written(chosen: list[int], extract: Counted = TOP) -> tuple[list[bytes], int]:
    """The bytes of the files of these pictures' features, and how many pictures were computed."""
    outs = [Path(f"{part}.npy") for part in computed.PARTS[-extract.parts :]]
    extract.pictures = 0
    features.write(extract, PICTURES[chosen], outs, "extract", Computed(KEY))
    return [out.read_bytes() for out in outs], extract.pictures


def kept() -> list[Path]:
    return sorted((computed.FOLDER / KEY).glob("*.npy"))


RUN = st.tuples(
    st.lists(st.sampled_from(ALL), min_size=1, max_size=80), st.sampled_from([TOP, BOTH])
)


@settings(max_examples=15)
@given(runs=st.lists(RUN, min_size=2, max_size=4))
def test_additions_removals_and_any_order_give_the_bytes_from_nothing(tmp_path_factory, runs):
    project = tmp_path_factory.mktemp("project")
    known: dict[Counted, set[int]] = {TOP: set(), BOTH: set()}
    for chosen, extract in runs:
        with chdir(project):
            found, count = written(chosen, extract)
        assert count == len(set(chosen) - known[extract])
        known[TOP] |= set(chosen)
        if extract is BOTH:
            known[BOTH] |= set(chosen)
        with chdir(tmp_path_factory.mktemp("nothing")):
            assert written(chosen, extract) == (found, len(set(chosen)))


def test_an_interrupted_extraction_goes_on(capsys):
    def interrupted(items: Iterable[tuple[Any, ...]]) -> Iterator[list[np.ndarray]]:
        yield next(TOP(items))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        features.write(interrupted, PICTURES, [Path("top.npy")], "extract", Computed(KEY))
    assert not Path("top.npy").exists()
    _, count = written(ALL)
    assert count == len(PICTURES) - BATCH
    assert "extract: 32 of 70 images are computed already" in capsys.readouterr().out


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def of_another_key(path: Path) -> None:
    with chdir(Path.cwd()):
        other = Computed(OTHER)
        rows = np.load(path)
        other.add([row.tobytes() for row in rows["picture"]], [rows["top"] + 1])
        shutil.move(next((computed.FOLDER / OTHER).glob("*.npy")), path.parent)
    path.unlink()


def under_another_name(path: Path) -> None:
    path.rename(path.with_name("mine.npy"))


@pytest.mark.parametrize(
    "damage",
    [
        flipped,
        of_another_key,
        under_another_name,
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
        lambda path: path.write_bytes(b""),
        lambda path: np.save(path, np.zeros((32, 5), "f4")),
        lambda path: np.save(path, np.array([{}]), allow_pickle=True),
        lambda path: shutil.copy(kept()[1], path),
    ],
)
def test_what_is_damaged_or_foreign_is_told_and_not_used(damage, capsys):
    whole, _ = written(ALL)
    first, *_ = kept()
    lost = len(np.load(first))
    damage(first)
    capsys.readouterr()
    assert written(ALL) == (whole, lost)
    said = capsys.readouterr().out
    assert said.count("damaged or foreign") == 1
    assert written(ALL) == (whole, 0)
    assert Path(computed.FOLDER, KEY, "mine.npy").exists() == (damage is under_another_name)


def test_features_that_are_not_finite_are_refused_and_not_kept():
    def extract(items: Iterable[tuple[Any, ...]]) -> Iterator[list[np.ndarray]]:
        return ([np.full((len(pixels), 2), np.inf, "f4")] for (pixels,) in items)

    with pytest.raises(InputError, match=r"not finite; correct backbone\.preprocessing"):
        features.write(extract, PICTURES, [Path("top.npy")], "extract", Computed(KEY))
    assert not kept()


def test_what_was_not_used_for_longest_goes_first():
    written(ALL[:32])
    written(ALL[32:64])
    size = kept()[0].stat().st_size
    written(ALL[:32])
    computed.prune(size)
    assert written(ALL[:32])[1] == 0
    assert written(ALL[32:64])[1] == 32


def test_the_key_is_of_all_that_the_bits_depend_on():
    Path("dvc-outs").mkdir()
    saved.save(tiny(), backbone.FILE)
    first = features.key("float32", "above")
    assert features.key("float32", "above") == first
    assert len({first, features.key("float32", None), features.key("mixed_bfloat16", "above")}) == 3
    model = tiny()
    model.layers[1].bias.assign(np.ones(4))
    saved.save(model, backbone.FILE)
    assert features.key("float32", "above") != first


@pytest.mark.parametrize("name", ["EfficientNetLite2", "VGG16"])
def test_a_row_s_bits_do_not_depend_on_the_batch(name):
    """If this fails on a new kind of processor, rows cannot be put together there."""
    base = backbone_of(name, 78, "imagenet" if name == "EfficientNetLite2" else "random")
    extract = features.extractor(base)
    pixels = np.random.default_rng(0).integers(0, 256, (BATCH, 78, 78, 3), np.uint8)
    (whole,) = extract(pixels)
    moved = np.zeros_like(pixels)
    moved[[0, 9, 31]] = pixels[[31, 0, 9]]
    (alone,) = extract(moved)
    np.testing.assert_array_equal(alone.numpy()[[0, 9, 31]], whole.numpy()[[31, 0, 9]])
