"""The audit: what follows from features and labels. All arrays are drawn."""

import numpy as np
import pandas as pd
import pytest

from convnets.audit import curve, head, labels, pictures, plane, quality, unlike
from convnets.base.console import InputError

PER = 40


def drawn(classes=3, per=PER, width=24, apart=2.5, seed=0):
    """Features, 0 or more, that lie around a centre of their class; and labels."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(np.arange(classes), per)
    centres = rng.normal(0, apart, (classes, width))
    found = (centres[truth] + rng.normal(0, 1, (len(truth), width))).clip(0) ** 2
    return found.astype(np.float32), truth


def spoiled(truth, places):
    wrong = truth.copy()
    wrong[places] = (wrong[places] + 1) % (truth.max() + 1)
    return wrong


def alone(truth):
    return np.arange(len(truth))


def test_planted_labels_are_found_with_their_class():
    features, truth = drawn()
    places = [3, 50, 51, 100]
    given = spoiled(truth, places)
    answers = head.answers(features, given, alone(truth), 1)
    table = labels.doubtful(answers, given)
    assert set(table["picture"]) == set(places)
    assert (table["suggested"] == truth[table["picture"]]).all()
    assert (table["sure"] > 0.9).all() and table["wrong"].is_monotonic_decreasing
    assert answers.wrong_share == pytest.approx(4 / len(truth), abs=0.01)
    assert answers.probabilities.sum(1) == pytest.approx(1, abs=1e-5)


def test_without_wrong_labels_hardly_any_is_named():
    features, truth = drawn()
    answers = head.answers(features, truth, alone(truth), 1)
    assert len(labels.doubtful(answers, truth)) <= 1
    assert answers.right[-1].mean() > 0.98


def test_the_order_of_the_pictures_does_not_matter():
    features, truth = drawn(apart=1)
    groups, shuffle = alone(truth) // 2, np.random.default_rng(5).permutation(len(truth))
    one = head.answers(features, truth, groups, 1)
    # The groups' numbers do not matter either.
    other = head.answers(features[shuffle], truth[shuffle], 100 - groups[shuffle], 1)
    for field in ("probabilities", "wrong", "folds"):
        np.testing.assert_array_equal(getattr(one, field)[shuffle], getattr(other, field))
    np.testing.assert_array_equal(one.right[:, shuffle], other.right)
    for first, second in zip(
        unlike.unlike(features, truth),
        unlike.unlike(features[shuffle], truth[shuffle]),
        strict=True,
    ):
        np.testing.assert_allclose(first[shuffle], second, rtol=1e-3, atol=1e-3)
    places = plane.plane(features, 1)
    np.testing.assert_array_equal(places[shuffle], plane.plane(features[shuffle], 1))


def test_groups_and_copies_stay_in_one_fold_and_folds_have_all_classes():
    features, truth = drawn()
    groups = head.joined(alone(truth) // 3, [(0, 119), (4, 5), (7, 60)])
    assert groups[0] == groups[1] == groups[119] == groups[118]
    assert groups[7] == groups[60] != groups[0]
    folds = head.answers(features, truth, groups, 1).folds
    for group in np.unique(groups):
        assert len(np.unique(folds[groups == group])) == 1
    for fold in range(head.FOLDS):
        assert (np.bincount(truth[folds == fold], minlength=3) >= 4).all()


def test_a_copy_in_the_same_group_gives_no_answer_away():
    rng = np.random.default_rng(0)
    half = rng.random((60, 30)).astype(np.float32)  # nothing can be learned
    features, truth = np.concatenate([half, half]), np.tile(rng.integers(0, 2, 60), 2)
    copies = [(place, place + 60) for place in range(60)]
    together = head.answers(features, truth, head.joined(alone(truth), copies), 0)
    apart = head.answers(features, truth, alone(truth), 0)
    assert apart.right[-1].mean() > 0.75
    assert together.right[-1].mean() < 0.65


@pytest.mark.parametrize("per", [1, 2, 3])
def test_few_of_a_class(per):
    features, truth = drawn(apart=4)
    kept = np.r_[: 2 * PER, 2 * PER : 2 * PER + per]
    answers = head.answers(features[kept], truth[kept], alone(kept), 0)
    assert np.isfinite(answers.probabilities).all()
    assert len(labels.doubtful(answers, truth[kept])) <= 1
    if per == 1:  # nothing else is known of its class
        assert answers.wrong[-1] == 0


def test_one_group_cannot_be_held_out():
    features, truth = drawn()
    with pytest.raises(InputError, match=r"subset\.group"):
        head.answers(features, truth, np.zeros(len(truth), int), 0)


def test_foreign_pictures_are_named_though_they_are_alike():
    features, truth = drawn(2, 100, 200, apart=1)
    rng = np.random.default_rng(9)
    other = (rng.normal(0, 2, 200) + rng.normal(0, 0.3, (2, 200))).clip(0) ** 2
    found = unlike.unlike(np.concatenate([features, other.astype(np.float32)]), np.r_[truth, 0, 1])
    assert (found.all[-2:] > unlike.LIMIT).all() and (found.own[-2:] > unlike.LIMIT).all()
    assert (found.all[:-2] > unlike.LIMIT).mean() < 0.03
    assert not unlike.unlike(features[:3], truth[:3]).own.any()


def test_copies_with_different_labels():
    assert labels.apart([(0, 1), (1, 2)], np.array([0, 0, 1])) == [(1, 2)]


def test_weak_classes_and_confused_pairs():
    features, truth = drawn(apart=4)
    truth[truth == 2] = np.random.default_rng(0).integers(1, 3, PER)  # 1 and 2 look alike
    answers = head.answers(features, truth, alone(truth), 0)
    recalls, pairs = labels.recalls(answers, truth), labels.confused(answers, truth)
    assert recalls["class"].iloc[-1] == 0 and recalls["recall"].iloc[-1] > 0.97
    assert ((recalls["low"] <= recalls["recall"]) & (recalls["recall"] <= recalls["high"])).all()
    assert {pairs["class"][0], pairs["taken_for"][0]} == {1, 2}
    said = answers.probabilities.argmax(1)
    assert pairs["pictures"].sum() == (said != truth).sum()


def test_the_curve_rises_and_its_forecast_is_not_sure():
    features, truth = drawn(4, 50, apart=0.35)
    groups = alone(truth)
    answers = head.answers(features, truth, groups, 0)
    table = curve.curve(answers, truth, groups, 0)
    assert set(table["class"]) == {-1, 0, 1, 2, 3}
    whole = table[table["class"] == -1]
    assert whole["pictures"].tolist() == [*answers.sizes.round(), 200, 400, 800]
    assert whole["accuracy"].iloc[-1] >= whole["accuracy"].iloc[4] > whole["accuracy"].iloc[0]
    assert (table["low"] < table["accuracy"]).all() and (table["accuracy"] <= table["high"]).all()
    width = (whole["high"] - whole["low"]).to_numpy()
    assert width[-1] > width[4]
    got = curve.accuracy(answers, groups)
    assert got.low < answers.right[-1].mean() <= got.accuracy < got.high
    clustered = curve.accuracy(answers, np.arange(200) // 10)
    assert clustered.high - clustered.low >= got.high - got.low


def test_all_right_is_not_sure():
    features, truth = drawn(2, 10, apart=6)
    got = curve.accuracy(head.answers(features, truth, alone(truth), 0), alone(truth))
    assert got.accuracy == got.high == 1 and 0.6 < got.low < 0.9


def test_blurred_dark_bright_and_flat_pictures():
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (150, 150, 3), dtype=np.uint8)
    smooth = np.tile(np.linspace(0, 255, 150), (150, 1))[..., None].repeat(3, 2).astype(np.uint8)
    odd = quality.quality([noise, noise // 8, 255 - noise // 8, noise // 99 + 120, smooth])["odd"]
    assert odd.tolist() == ["", "dark", "bright", "flat", "blurred"]


def test_the_map_has_a_place_for_each_picture_near_those_of_its_class(monkeypatch):
    monkeypatch.setattr(plane, "LANDMARKS", 60)
    features, truth = drawn(apart=4)
    places = plane.plane(features, 0)
    assert places.shape == (len(truth), 2) and places.min() == 0 and places.max() <= 1
    far = np.linalg.norm(places[:, None] - places, axis=2)
    near = np.argsort(far, axis=1)[:, 1:4]
    assert (truth[near] == truth[:, None]).mean() > 0.95
    assert np.isfinite(plane.plane(np.ones((5, 8), np.float32), 0)).all()


def test_the_advice_is_of_the_pictures_and_of_twice_as_many():
    features, truth = drawn(apart=0.6)
    places = [3, 50]
    given = spoiled(truth, places)
    count = len(truth)
    names = np.array(["ant", "bee", "cat"])
    table = pd.DataFrame({"label": given, "class": names[given], "row": range(count)})
    table = table.assign(split="train", group="", file=table["row"].map("{}.jpg".format))
    table["sha256"] = table["file"]
    pixels = np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)
    found = pictures.examine(table, features, {"train": pixels}, [(3, 50)], 1)
    assert found.table["class"].tolist() == names[given].tolist()
    whole = found.curve[(found.curve["class"] == "") & (found.curve["pictures"] == 2 * count)]
    (twice,) = whole.to_dict("records")
    told = pictures.advice(found._replace(twins=[]))
    assert any(f"{twice['low']:.1%} to {twice['high']:.1%}" in one for one in told)
    known = pictures.summary(found)
    assert known["doubtful"] == found.table["suspect"].notna().sum()
    for row in found.near.to_dict("records"):
        assert found.table["class"][row["near_row"]] == row["class"]
        assert row["near_row"] != row["row"]
