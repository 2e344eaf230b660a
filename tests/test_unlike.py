"""The champion's second output: how unlike the training pictures a picture is."""

import math

import keras
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convnets.evaluation import explain, unlike
from convnets.evaluation.unlike import Split
from convnets.examples import examples
from convnets.heads import cached
from convnets.models import answers, saved
from convnets.networks import architectures
from tests.commands import record

SIZE = 78


def drawn(rng: np.random.Generator, count: int, width: int, classes: int = 2) -> Split:
    """Activations, 0 or more, around a centre for each class."""
    labels = np.arange(count) % classes
    centres = np.random.default_rng(1).gamma(1, 1, (classes, width))
    return Split((centres[labels] * rng.gamma(4, 0.25, (count, width))).astype("f4"), labels)


def built(train: Split, validation: np.ndarray, false_alarms: float = 0.05) -> keras.Model:
    measure = unlike.build(train, validation, false_alarms, 10**6)
    assert measure is not None
    return measure


@settings(max_examples=15, deadline=None)
@given(
    st.integers(0, 99),
    st.integers(20, 60),
    st.integers(2, 90),
    st.integers(2, 4),
    st.sampled_from([0.01, 0.05, 0.2]),
)
def test_the_limit_is_passed_by_a_share_and_the_order_does_not_matter(
    seed, count, width, classes, share
):
    rng = np.random.default_rng(seed)
    train, validation = (drawn(rng, n, width, classes) for n in (count, 50))
    measure = built(train, validation.features, share)
    found = np.asarray(measure(validation.features))[:, 0]
    allowed = max(0, 50 - math.ceil(51 * (1 - share)))
    assert (found > 1).sum() <= allowed
    order = rng.permutation(50)
    shuffled = np.asarray(measure.predict(validation.features[order], batch_size=7, verbose=0))
    np.testing.assert_allclose(shuffled[:, 0], found[order], rtol=1e-3, atol=1e-3)
    again = rng.permutation(count)
    other = built(Split(train.features[again], train.labels[again]), validation.features, share)
    np.testing.assert_allclose(
        np.asarray(other(validation.features))[:, 0], found, rtol=2e-3, atol=2e-3
    )
    odd = np.zeros((4, width), "f4")
    odd[1:] = np.array([1, -1, 1e6], "f4")[:, None]
    assert np.isfinite(np.asarray(measure(odd))).all()


def test_new_pictures_pass_it_as_often_as_said_and_others_do_not():
    rng = np.random.default_rng(0)
    train, validation, new = (drawn(rng, count, 40, 3) for count in (600, 800, 4000))
    measure = built(train, validation.features)
    assert (np.asarray(measure(new.features)) > 1).mean() == pytest.approx(0.05, abs=0.02)
    others = rng.gamma(1, 1, (500, 40)).astype("f4")
    assert (np.asarray(measure(others)) > 1).mean() > 0.95


@pytest.mark.parametrize("of_each", [2, 5])
@pytest.mark.parametrize("held_out", [1, 3])
def test_few_pictures_are_enough_and_it_is_said(of_each, held_out, capsys):
    rng = np.random.default_rng(0)
    measure = built(drawn(rng, 2 * of_each, 1280), drawn(rng, held_out, 1280).features)
    assert f"too few validation images ({held_out})" in capsys.readouterr().out
    far = rng.gamma(1, 1, (5, 1280)).astype("f4")
    assert (np.asarray(measure(far)) > 1).all()
    assert np.isfinite(np.asarray(measure(np.zeros((1, 1280), "f4")))).all()


def test_features_that_say_nothing_give_no_measure():
    labels = np.arange(10) % 2
    for value in (0.0, 1.0, np.nan):
        alike = np.full((10, 8), value, "f4")
        assert unlike.build(Split(alike, labels), alike[:4], 0.05, 10**6) is None


def test_it_is_small():
    rng = np.random.default_rng(0)
    train = drawn(rng, 40, 300)
    for largest in (10**6, 5_000, 1_000):
        measure = unlike.build(train, train.features, 0.05, largest)
        assert measure.count_params() <= max(largest, 3 * 301)


def pixels(rng: np.random.Generator, count: int) -> np.ndarray:
    """Pictures whose left half is darker: the mirror image is another one."""
    coarse = rng.integers(100, 256, (count, 6, 6, 3))
    coarse[:, :, :3] //= 3
    return coarse.astype(np.uint8).repeat(SIZE // 6, axis=1).repeat(SIZE // 6, axis=2)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with pictures and labels of each split."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for place in (examples.IMAGES, examples.LABELS, examples.FEATURES):
        place.mkdir(parents=True)
    for split, count in {"train": 60, "validation": 40, "test": 30}.items():
        np.save(examples.IMAGES / f"{split}.npy", pixels(rng, count))
        labels = np.arange(count) % 2
        rows = {"file": "x.png", "class": "a", "label": labels, "row": range(count)}
        pd.DataFrame(rows).to_csv(examples.LABELS / f"{split}.csv", index=False)
    return tmp_path


def given_pictures(split: str) -> np.ndarray:
    return np.load(examples.IMAGES / f"{split}.npy").astype("f4")


def on_backbone(mirrored: bool) -> tuple[keras.Model, keras.Model]:
    """A head on a backbone, as `cached.finish` builds it, and the backbone."""
    keras.utils.set_random_seed(0)
    start = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(12, 3, strides=13, activation="relu")(start / 255)
    frozen = keras.Model(start, x, name="backbone")
    features = keras.Input(frozen.output_shape[1:])
    means = keras.layers.GlobalAveragePooling2D()(features)
    top = keras.Model(features, answers.classifier(means, 2), name="head")
    return frozen, cached.end_to_end(frozen, top, "whole", mirrored=mirrored)


def cache(frozen: keras.Model, pooled: bool = False) -> None:
    for split in ("train", "validation", "test"):
        maps = frozen.predict(given_pictures(split), verbose=0)
        kept = maps.mean(axis=(1, 2), keepdims=True) if pooled else maps
        np.save(examples.FEATURES / f"{split}.npy", kept)


def computed(monkeypatch) -> list[int]:
    """Count the pictures that any model is run over."""
    counts: list[int] = []
    predict, call = keras.Model.predict, keras.Model.__call__

    def predicted(self, x, *rest, **how):
        counts.append(len(x))
        return predict(self, x, *rest, **how)

    def called(self, x, *rest, **how):
        if np.ndim(x) == 4 and not keras.backend.is_keras_tensor(x):
            counts.append(len(x))
        return call(self, x, *rest, **how)

    monkeypatch.setattr(keras.Model, "predict", predicted)
    monkeypatch.setattr(keras.Model, "__call__", called)
    return counts


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("mirrored", [False, True])
def test_of_a_head_it_is_by_the_cached_features_of_the_picture_itself(
    project, mirrored, pooled, monkeypatch
):
    frozen, model = on_backbone(mirrored)
    cache(frozen, pooled)
    saved.save(model, project / "trained.keras", record(["a", "b"]))
    loaded = saved.load(project / "trained.keras")
    with monkeypatch.context() as counted:
        counts = computed(counted)
        champion, share = unlike.add(loaded, 0.05)
        assert sum(counts) <= unlike.COMPARED  # no second pass
    for name in ("a", "b"):
        saved.save(champion, project / f"{name}.keras", record(["a", "b"]))
    assert (project / "a.keras").read_bytes() == (project / "b.keras").read_bytes()
    again = saved.load(project / "a.keras")
    test = given_pictures("test")
    before, found = model.predict(test, verbose=0), again.predict(test, verbose=0)
    assert set(found) == {"probabilities", "unlike"}
    np.testing.assert_allclose(found["probabilities"], before, atol=1e-5)
    assert found["unlike"].shape == (30, 1)
    assert found["unlike"].dtype == np.float32
    assert share == pytest.approx((found["unlike"] > 1).mean(), abs=0.04)
    validation = again.predict(given_pictures("validation"), verbose=0)["unlike"]
    assert (validation > 1.001).mean() <= 0.05
    # The mirror image is another picture, here with the light on the wrong side.
    measure = again.get_layer("unlike")
    own = measure.predict(frozen.predict(test, verbose=0).mean(axis=(1, 2)), verbose=0)
    np.testing.assert_allclose(found["unlike"], own, rtol=1e-3, atol=1e-3)
    one = np.concatenate([again.predict_on_batch(test[[row]])["unlike"] for row in range(3)])
    np.testing.assert_allclose(one, found["unlike"][:3], rtol=1e-3, atol=1e-3)


def test_a_champion_is_read_explained_and_calibrated_as_any_model(project):
    frozen, model = on_backbone(mirrored=True)
    cache(frozen)
    saved.save(model, project / "trained.keras", record(["a", "b"]))
    champion, _ = unlike.add(saved.load(project / "trained.keras"), 0.05)
    saved.save(champion, project / "champion.keras", record(["a", "b"]))
    champion = saved.load(project / "champion.keras")
    assert answers.are_for(champion, ["a", "b"])
    assert not answers.are_for(champion, ["a", "b", "c"])
    test = given_pictures("test")
    wide = answers.model_by_class(champion).predict(test, verbose=0)
    read = answers.read(champion.predict(test, verbose=0))
    np.testing.assert_allclose(wide["probabilities"], read.probabilities, atol=1e-6)
    np.testing.assert_allclose(wide["unlike"][:, 0], read.unlike, rtol=1e-5)
    labels = np.zeros(4, int)
    expected = explain.grad_cam(model, test[:4], labels)
    np.testing.assert_allclose(explain.grad_cam(champion, test[:4], labels), expected, atol=1e-4)
    np.testing.assert_allclose(
        explain.feature_maps(champion, test[0]), explain.feature_maps(model, test[0]), atol=1e-6
    )
    batches = [(test, np.zeros(len(test)))]
    np.testing.assert_allclose(
        answers.logits(champion, batches).mean(axis=1),
        answers.logits(model, batches).mean(axis=1),
        atol=1e-5,
    )
    answers.divide(champion, 3.0)
    answers.divide(model, 3.0)
    cooled = answers.read(champion.predict(test, verbose=0))
    np.testing.assert_allclose(
        cooled.probabilities, answers.by_class(model.predict(test, verbose=0)), atol=1e-6
    )
    np.testing.assert_allclose(cooled.unlike, read.unlike, rtol=1e-5)


def test_of_a_model_without_a_backbone_it_is_by_its_own_features(project):
    """The cache is of another model."""
    cache(on_backbone(mirrored=False)[0])
    keras.utils.set_random_seed(0)
    model = architectures.plain(SIZE, 2, 0.5)
    champion, share = unlike.add(model, 0.05)
    found = champion.predict(given_pictures("validation"), verbose=0)["unlike"]
    assert (found > 1).mean() <= 0.05
    assert 0 <= share <= 0.3
    other = np.random.default_rng(0).integers(0, 256, (20, SIZE, SIZE, 3)).astype("f4")
    assert (champion.predict(other, verbose=0)["unlike"] > 1).all()


def test_a_model_without_features_stays_as_it_is_and_it_is_said(project, capsys):
    start = keras.Input((SIZE, SIZE, 3))
    flat = keras.layers.Flatten()(start)
    model = keras.Model(start, answers.classifier(flat, 2))
    assert unlike.add(model, 0.05) == (model, None)
    dead = keras.layers.Conv2D(4, 3, kernel_initializer="zeros")(start)
    model = keras.Model(start, answers.classifier(keras.layers.Flatten()(dead), 2))
    assert unlike.add(model, 0.05) == (model, None)
    assert capsys.readouterr().out.count("cannot tell what is unlike") == 2
