"""What can be decided without a person: the promise is kept, on drawn and on real answers."""

import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import RidgeClassifier

from convnets.base.console import InputError
from convnets.base.params import Backbone
from convnets.evaluation import decided, limits
from convnets.evaluation.calibration import Outputs, calibrate
from convnets.evaluation.metrics import Predictions
from convnets.features import features
from convnets.models import saved
from convnets.models.saved import Limit
from convnets.networks import architectures
from convnets.pictures import images
from convnets.sources import archive, layout, sample
from tests.commands import record, said

ASKED = (0.8, 0.9, 0.95, 0.98, 0.99)
SPLITS = 20


def drawn(rng, count, classes, unsure, noise):
    """A model's predictions: as often right as it says, but for wrong labels."""
    sure = 1 - (1 - 1 / classes) * rng.random(count) ** unsure
    probabilities = np.repeat(((1 - sure) / (classes - 1))[:, None], classes, 1)
    probabilities[:, 0] = sure
    right = rng.random(count) < np.minimum(sure, 1 - noise)
    return Predictions(np.where(right, 0, 1), probabilities)


def kept(known: list[Limit], tested: Predictions) -> dict[float, bool]:
    """By asked accuracy: whether the pictures that are decided have it, if any are."""
    found = {}
    for accuracy in ASKED:
        if able := [each.limit for each in known if each.accuracy >= accuracy]:
            chosen = tested.probabilities.max(axis=1) >= min(able)
            found[accuracy] = not chosen.any() or tested.right[chosen].mean() >= accuracy
    return found


@pytest.mark.parametrize("classes", [2, 12])
@pytest.mark.parametrize("count", [36, 100, 144, 750])
@pytest.mark.parametrize(("unsure", "noise"), [(4, 0), (12, 0.01), (30, 0)])
def test_the_promise_is_kept_in_eighteen_of_twenty(classes, count, unsure, noise):
    rng = np.random.default_rng([classes, count, unsure])
    broken = dict.fromkeys(ASKED, 0)
    for _ in range(SPLITS):
        validation, test = (drawn(rng, count, classes, unsure, noise) for _ in range(2))
        for accuracy, holds in kept(decided.limits(validation), test).items():
            broken[accuracy] += not holds
    assert max(broken.values()) <= SPLITS - 18, broken


def test_a_true_accuracy_below_the_promised_is_as_rare_as_said():
    """Of all pictures, not of a few: the accuracy above a limit is the mean of what is drawn."""
    rng, missed, times = np.random.default_rng(0), dict.fromkeys(ASKED, 0), 300
    every = drawn(rng, 200_000, 2, 6, 0.01)
    sure, right = every.probabilities.max(axis=1), every.right
    order = np.argsort(-sure)
    above = np.cumsum(right[order]) / np.arange(1, len(order) + 1)
    for _ in range(times):
        known = decided.limits(drawn(rng, 400, 2, 6, 0.01))
        for accuracy in ASKED:
            if able := [each.limit for each in known if each.accuracy >= accuracy]:
                place = np.searchsorted(-sure[order], -min(able), side="right") - 1
                missed[accuracy] += bool(above[place] < accuracy)
    assert max(missed.values()) <= limits.RISK * times + 3 * math.sqrt(limits.RISK * times), missed


@pytest.mark.parametrize("accuracy", [0.9, 0.99])
def test_without_a_mistake_so_many_pictures_are_needed_and_enough(accuracy):
    rng = np.random.default_rng(0)
    count = limits.needed(accuracy)
    for number, enough in ((count - 1, False), (count, True)):
        sure = rng.uniform(0.6, 1, number)
        found = decided.limits(Predictions(np.zeros(number, int), np.stack([sure, 1 - sure], 1)))
        assert (found[-1].accuracy >= accuracy) == enough
        assert found[-1].share == 1


@given(st.lists(st.tuples(st.sampled_from([0.5, 0.9, 0.99999, 1.0]), st.booleans()), min_size=1))
def test_pictures_of_one_probability_are_decided_together(pairs):
    sure, right = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    tested = Predictions(np.where(right, 0, 1), np.stack([sure, 1 - sure], 1))
    for each in decided.limits(tested):
        chosen = sure >= each.limit
        assert chosen.mean() == each.share
        assert right[chosen].mean() >= each.accuracy
    curve = decided.curve(tested)
    assert len(curve) <= len(set(sure)) and curve["share"].iloc[-1] == 1
    assert curve["accuracy"].iloc[-1] == pytest.approx(right.mean())


def test_what_is_kept_is_bounded_and_the_test_pictures_are_counted():
    rng = np.random.default_rng(0)
    known = decided.limits(drawn(rng, 20_000, 2, 4, 0))
    assert 5 < len(known) <= len(decided.ACCURACIES) < 100
    rows = decided.checked(known, drawn(rng, 500, 2, 4, 0))
    assert [row["accuracy"] for row in rows] == list(decided.SHOWN)
    for row in rows:
        assert 0 < row["right"] <= row["decided"] <= 500
    assert decided.checked([], drawn(rng, 50, 2, 4, 0))[3]["needed"] == limits.needed(0.99)


def test_predict_marks_what_a_person_must_decide(tmp_path, capsys, monkeypatch):
    keras.utils.set_random_seed(0)
    model, champion, plain = (
        architectures.plain(78, 3, 0),
        tmp_path / "c.keras",
        tmp_path / "p.keras",
    )
    known = [(0.9, 0.0, 1.0), (0.97, 0.9999, 0.2), (0.95, 0.99999, 0.1)]
    rows = [Limit(accuracy=a, limit=limit, share=share) for a, limit, share in known]
    saved.save(model, champion, record(["a", "b", "c"], limits=rows))
    saved.save(model, plain, record(["a", "b", "c"]))
    assert saved.record(champion).limits == rows
    picture = tmp_path / "1.png"
    sample.draw("cat", 0, 0).save(picture)

    def asked(path, accuracy):
        given = ("predict", str(picture), "--model", str(path), "--accuracy", accuracy)
        return said(capsys, monkeypatch, *given, "--format", "csv")

    for accuracy, unsure, told in (
        ("0.5", False, ""),
        ("0.92", True, ""),
        ("0.98", True, "97.0 %"),
    ):
        status, out, error = asked(champion, accuracy)
        assert status == 0 and (",unsure," in out.splitlines()[1]) == unsure
        assert (f"{limits.needed(0.98)} validation pictures" in error) == bool(told)
    assert limits.limit(champion, 0.92) == 0.9999  # the loosest that promises it
    assert limits.limit(champion, 1) == limits.limit(champion, 0.999) == math.inf
    capsys.readouterr()
    status, out, error = asked(plain, "0.9")
    assert status == 1 and out == "" and len(error.splitlines()) == 1
    assert "promises no accuracy" in error and "--unsure" in error
    saved.save(model, champion, record(["a", "b", "c"], limits=[]))
    assert limits.limit(champion, 0) == math.inf
    with pytest.raises(InputError, match="no record"):
        limits.limit(picture, 0.9)


@pytest.mark.real_data
@pytest.mark.slow("real data")
def test_the_promise_is_kept_on_real_flowers(shared, tmp_path):
    """Pooled features with a head that learned from few pictures, so that it makes mistakes."""
    from convnets.backbones import backbone, lite

    how = Backbone(
        name=lite.NAME,
        weights="imagenet",
        preprocessing="auto",
        pooling="mean",
        fine_tune_from=None,
    )
    lite.write(how, 128, tmp_path / "backbone.keras")
    extract = features.extractor(backbone.load(tmp_path / "backbone.keras"))
    with archive.opened(shared / "flowers12.zip") as files:
        found = layout.recognise(files).images
        pixels = np.stack([images.decode(files.read(image.member), 128) for image in found])
    parts = [extract(pixels[start : start + 32])[0].numpy() for start in range(0, len(pixels), 32)]
    inputs = np.sqrt(np.concatenate(parts).reshape(len(pixels), -1).clip(0))
    inputs = (inputs - inputs.mean(0)) / (inputs.std(0) + 0.01)
    labels = np.unique([image.label for image in found], return_inverse=True)[1]
    for few, count in ((6, 36), (6, 144), (20, 144), (20, 300)):
        broken = dict.fromkeys(ASKED, 0)
        for seed in range(SPLITS):
            order = np.random.default_rng(seed).permutation(len(labels))
            learned = np.concatenate([order[labels[order] == c][:few] for c in range(12)])
            rest = order[~np.isin(order, learned)]
            head = RidgeClassifier(3000).fit(inputs[learned], labels[learned])
            outputs = [
                Outputs(labels[rows], head.decision_function(inputs[rows]).astype("f4")[:, None])
                for rows in (rest[:count], rest[count : 2 * count])
            ]
            answers = calibrate(*outputs)
            for accuracy, holds in kept(decided.limits(answers.validation), answers.test).items():
                broken[accuracy] += not holds
        assert max(broken.values()) <= SPLITS - 18, (few, count, broken)
