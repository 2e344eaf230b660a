"""How long a run will take: the model of the cost holds for the runs that were measured."""

import pytest
import yaml

from convnets.base import cost, params
from convnets.base.cluster import Node
from tests.commands import ROOT

MEASURED = {  # seconds of whole runs on the machine that the constants are of
    ("photos", 210, 154, 36): 79,
    ("photos", 612, 108, 240): 95,
    ("photos", 2976, 524, 1500): 201,
    ("book", 2000, 1000, 2000): 79 * 60,
    ("efficientnet", 2000, 1000, 2000): 19 * 60,
}


def given(monkeypatch, name: str, **changes: object) -> params.Params:
    from convnets.tracking import presets

    monkeypatch.chdir(ROOT)
    return params.checked(params.Params, yaml.safe_load(presets.compose(name)) | changes, name)


@pytest.mark.parametrize("run", MEASURED)
def test_the_measured_runs(run, monkeypatch):
    monkeypatch.setattr(cost, "slowness", lambda: (1.0, 1.0))  # of that machine
    monkeypatch.setattr(cost, "this_node", lambda: Node({}, "avx512_bf16"))
    name, *counts = run
    p = given(monkeypatch, name)
    found = cost.seconds(p, dict(zip(("train", "validation", "test"), counts, strict=True)))
    assert MEASURED[run] / 1.5 < found < MEASURED[run] * 1.5


def test_what_is_not_trained_costs_nothing_and_more_costs_more(monkeypatch):
    monkeypatch.setattr(cost, "slowness", lambda: (1.0, 1.0))
    counts = {"train": 1000, "validation": 100, "test": 100}

    def seconds(**changes: object) -> float:
        return cost.seconds(given(monkeypatch, "book", **changes), counts)

    whole = seconds()
    assert seconds(epochs=1) < whole < seconds(precision="float32") * 1.01
    assert seconds(image_size=240) > whole
    photos = cost.seconds(given(monkeypatch, "photos"), counts)
    assert photos < whole / 10
    assert cost.seconds(given(monkeypatch, "photos"), counts | {"train": 9000}) > 2 * photos


def test_this_machine_is_measured():
    assert all(0 < times < 1000 for times in cost.slowness())


def test_a_duration_is_said():
    assert [cost.told(each) for each in (3, 88, 100, 780, 9000)] == [
        "about 10 seconds",
        "about 90 seconds",
        "about 2 minutes",
        "about 13 minutes",
        "about 2.5 hours",
    ]
