"""Invariants of augmentation, batches and streamed files."""

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from convnets.augmentation import augment as augmentation
from convnets.base import params
from convnets.base.console import InputError
from convnets.examples import digits, npy
from convnets.examples.examples import Examples
from convnets.features import features
from convnets.features.computed import Computed
from convnets.training import batches
from tests.commands import ROOT

BOOK = params.load(ROOT / "presets/book.yaml").augmentation
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 31, 40, 3)).astype("float32")


def transform(flip: float, angle: float, scale: float) -> np.ndarray:
    count = len(IMAGES)
    coefficients = augmentation.affine(
        31, 40, *(tf.fill((count,), float(value)) for value in (flip, angle, scale))
    )
    return keras.ops.image.affine_transform(IMAGES, coefficients, fill_mode="reflect").numpy()


def test_no_change_changes_nothing():
    np.testing.assert_allclose(transform(1, 0, 1), IMAGES, atol=1e-3)


def test_a_flip_mirrors():
    np.testing.assert_allclose(transform(-1, 0, 1), IMAGES[:, :, ::-1], atol=1e-2)


def test_a_half_turn_turns():
    np.testing.assert_allclose(transform(1, np.pi, 1), IMAGES[:, ::-1, ::-1], atol=2e-1)


@pytest.mark.parametrize("factor", [-0.2, 0.15])
def test_zoom_and_rotation_are_those_of_keras(factor):
    """The book's layers with a fixed factor change the picture as ours does."""
    smooth = tf.image.resize(IMAGES[:, ::8, ::8], (60, 60)).numpy()
    fill = tf.fill((len(smooth),), 1.0)

    def ours(angle: float, scale: float) -> np.ndarray:
        coefficients = augmentation.affine(60, 60, fill, angle * fill, scale * fill)
        return keras.ops.image.affine_transform(smooth, coefficients, fill_mode="reflect").numpy()

    zoomed = keras.layers.RandomZoom((factor, factor))(smooth, training=True)
    rotated = keras.layers.RandomRotation((factor, factor))(smooth, training=True)
    inside = slice(12, -12)
    for theirs, mine in ((zoomed, ours(0, 1 + factor)), (rotated, ours(2 * np.pi * factor, 1))):
        np.testing.assert_allclose(
            theirs.numpy()[:, inside, inside], mine[:, inside, inside], atol=0.1
        )


def test_the_draws_depend_on_the_seed_alone():
    one, two, other = (
        augmentation.augment(IMAGES, tf.constant(seed, tf.int64), BOOK).numpy()
        for seed in ([1, 2], [1, 2], [1, 3])
    )
    assert (one == two).all()
    assert not (one == other).all()


def augmented(**amounts: float | str) -> np.ndarray:
    none = dict.fromkeys(type(BOOK).model_fields, 0) | {"flip": "horizontal"}
    how = params.Augmentation.model_validate(none | amounts)
    return augmentation.augment(IMAGES, tf.constant([1, 2], tf.int64), how).numpy()


def test_contrast_and_brightness_are_those_of_keras():
    """Each image has its own factor or step, which explains all its pixels."""
    plain = augmented()  # flipped or not
    for place, image in enumerate(augmented(contrast=0.3)):
        centred = plain[place] - plain[place].mean(axis=(0, 1))
        inside = (image > 0) & (image < 255)  # of the pixels that were not clipped
        factors = ((image - plain[place].mean(axis=(0, 1))) / centred)[inside & (abs(centred) > 9)]
        assert np.ptp(factors) < 1e-2
        assert 0.7 <= factors.mean() <= 1.3
    for place, image in enumerate(augmented(brightness=0.2)):
        steps = (image - plain[place])[(image > 0) & (image < 255)]
        assert np.ptp(steps) < 1e-2
        assert 1e-3 < abs(steps.mean()) <= 0.2 * 255
    together = augmented(contrast=0.9, brightness=0.9)
    assert together.min() >= 0
    assert together.max() <= 255


def test_half_of_the_images_are_mirrored_unless_flip_is_none():
    np.testing.assert_allclose(augmented(flip="none"), IMAGES, atol=1e-3)
    either, still = (
        augmented(rotation=0.1, zoom=0.2),
        augmented(flip="none", rotation=0.1, zoom=0.2),
    )
    same = [np.array_equal(one, other) for one, other in zip(either, still, strict=True)]
    assert {True, False} == set(same)  # a flip leaves the other draws alone
    for place, mirrored in enumerate(augmented()):
        expected = IMAGES[place] if same[place] else IMAGES[place, :, ::-1]
        np.testing.assert_allclose(mirrored, expected, atol=1e-2)


@pytest.mark.parametrize(("flip", "learns"), [("none", True), ("horizontal", False)])
def test_left_and_right_can_be_learned_where_nothing_is_mirrored(flip, learns):
    """Arrows, and views of them as a head learns from."""
    left = np.zeros((24, 24, 3), np.uint8)
    for row in range(-8, 9):
        left[12 + row, 4 + abs(row) : 14] = 255
    arrows, labels = np.stack([left, left[:, ::-1]] * 32), np.arange(64) % 2
    how = BOOK.model_copy(update={"flip": flip})
    views = augmentation.augment(arrows, tf.constant([1, 2], tf.int64), how).numpy()
    model = LogisticRegression(C=1e-4).fit(views.reshape(64, -1) / 255, labels)
    correct = model.score(arrows[:2].reshape(2, -1) / 255, labels[:2])
    trained = model.score(views.reshape(64, -1) / 255, labels)
    assert (trained > 0.95 and correct == 1) == learns


def test_another_change_leaves_the_draws_of_the_geometry_alone():
    assert (
        augmented(rotation=0.1, zoom=0.2)
        == augmentation.augment(IMAGES, tf.constant([1, 2], tf.int64), BOOK).numpy()
    ).all()
    turned, brighter = augmented(rotation=0.1), augmented(rotation=0.1, brightness=0.01)
    assert np.abs(turned - brighter).max() <= 0.01 * 255 + 1e-3


@settings(max_examples=20)
@given(count=st.integers(1, 40), batch=st.integers(1, 17), views=st.integers(1, 4))
def test_every_epoch_has_every_example_once_and_k_epochs_have_every_view(count, batch, views):
    rows = np.arange(count * views, dtype="float32")[:, None]
    examples = Examples(rows, np.arange(count), Path("unused"), views)
    stream = list(batches.training(examples, batch, range(views), seed=3).as_numpy_iterator())
    per_epoch = batches.steps(examples, batch)
    assert len(stream) == views * per_epoch
    seen = []
    for epoch in range(views):
        part = stream[epoch * per_epoch : (epoch + 1) * per_epoch]
        inputs = np.concatenate([inputs for inputs, _ in part])[:, 0].astype(int)
        labels = np.concatenate([labels for _, labels in part])
        assert sorted(labels) == list(range(count))
        assert (inputs // views == labels).all()
        seen += list(inputs)
    assert sorted(seen) == list(range(count * views))


def test_augmented_batches_are_the_same_twice_and_differ_by_epoch():
    examples = Examples(IMAGES.astype("uint8"), np.arange(6), Path("unused"))
    change = partial(augmentation.augment, how=BOOK)
    runs = [
        list(batches.training(examples, 6, range(2), 5, change).as_numpy_iterator())
        for _ in range(2)
    ]
    for (one, labels), (two, others) in zip(*runs, strict=True):
        assert (one == two).all()
        assert (labels == others).all()
    first, second = ({label: x for x, label in zip(*epoch, strict=True)} for epoch in runs[0])
    assert not (first[0] == second[0]).all()


@settings(max_examples=30)
@given(
    count=st.integers(2, 300), share=st.floats(0.01, 0.99), seed=st.integers(0, 99), data=st.data()
)
def test_the_digits_held_out_and_the_rest_are_disjoint_and_complete(count, share, seed, data):
    labels = np.array(data.draw(st.lists(st.integers(0, 9), min_size=count, max_size=count)))
    examples = Examples(np.arange(count)[:, None], labels, Path("unused"))
    train, validation = digits.hold_out(examples, share, seed)
    assert len(validation.labels) == max(1, round(share * count))
    rows = np.concatenate([train.inputs, validation.inputs])[:, 0]
    assert sorted(rows) == list(range(count))
    assert (np.concatenate([train.labels, validation.labels]) == labels[rows]).all()
    again = digits.hold_out(examples, share, seed)[1]
    assert (again.inputs == validation.inputs).all()


def test_in_order_is_in_order():
    examples = Examples(np.arange(10.0)[:, None], np.arange(10), Path("unused"))
    stream = batches.in_order(examples, 4)
    assert len(stream) == 3
    assert np.concatenate([labels for _, labels in stream.as_numpy_iterator()]).tolist() == list(
        range(10)
    )


@settings(max_examples=20)
@given(sizes=st.lists(st.integers(0, 1200), max_size=5))
def test_a_streamed_file_is_what_numpy_would_have_saved(tmp_path_factory, sizes):
    folder = tmp_path_factory.mktemp("npy")
    parts = [np.random.default_rng(size).normal(size=(size, 2)).astype("f4") for size in sizes]
    with npy.writer(folder / "streamed.npy", "float32", (2,)) as out:
        for part in parts:
            out.append(part)
    whole = np.concatenate([np.zeros((0, 2), "f4"), *parts])
    assert (np.load(folder / "streamed.npy") == whole).all()
    if len(whole):
        assert isinstance(npy.read(folder / "streamed.npy"), np.memmap)
    assert [path.name for path in folder.iterdir()] == ["streamed.npy"]


def test_a_failed_stream_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(3))
    with pytest.raises(ValueError, match="finite"), npy.writer(path, "float16") as out:
        out.append(np.array([[1e6]]))
    assert (np.load(path) == np.arange(3)).all()
    assert [file.name for file in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks how much of mapped files is in memory")
def test_of_a_mapped_file_only_a_batch_is_held(tmp_path, monkeypatch):
    """Where nothing is given back, all of the file is in memory at the end."""
    monkeypatch.chdir(tmp_path)
    path, size = tmp_path / "x.npy", 2**26
    np.save(path, np.zeros((64, size // 64), "uint8"))
    examples = Examples(npy.read(path), np.zeros(64, int), path)
    mirrored = examples.inputs[:, ::-1]

    def held(stream: Iterable[object]) -> int:
        npy.give_back(mirrored)
        before = psutil.Process().memory_info().shared
        for _ in stream:
            pass
        return psutil.Process().memory_info().shared - before

    def plain() -> Iterator[int]:
        yield int(examples.inputs.sum())

    assert held(plain()) > 0.9 * size
    assert held(batches.in_order(examples, 4)) < 0.2 * size
    assert held(batches.training(examples, 4, range(2), seed=0)) < 0.2 * size

    def extract(items):
        return ([pixels.sum(axis=1, dtype=np.float32)] for (pixels,) in items)

    def written() -> Iterator[None]:
        yield features.write(extract, mirrored, [tmp_path / "f.npy"], "extract", Computed("0"))

    assert held(written()) < 0.6 * size  # two batches


def test_a_pickled_array_is_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"allow_pickle|object arrays|Python objects"):
        npy.read(tmp_path / "x.npy")


def test_views_are_refused_before_they_fill_the_disk(tmp_path):
    out = [tmp_path / "v.npy"]

    def extract(items):
        return ([np.repeat(pixels, 4, 0).reshape(4 * len(pixels), -1)] for pixels, _ in items)

    def write(max_gigabytes: float) -> None:
        views = params.Views(count=4, max_gigabytes=max_gigabytes)
        features.write_views(extract, IMAGES.astype("uint8"), out, views)

    with pytest.raises(InputError, match=r"lower views\.count"):
        write(1e-6)
    write(1)
    assert np.load(tmp_path / "v.npy").shape == (24, 31 * 40 * 3)
