"""Several seeds: which models and settings differ beyond chance."""

import io
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from convnets.commands import compare
from convnets.commands.compare import Experiment
from convnets.evaluation import chance
from tests.commands import ROOT, Clone, noise

IMAGES = 40
RIGHT = st.lists(st.booleans(), min_size=IMAGES, max_size=IMAGES).map(pd.Series)
SEEDS = st.integers(1, 4).flatmap(
    lambda n: st.tuples(*[st.lists(RIGHT, min_size=n, max_size=n)] * 2)
)


def images(name: str = "cat") -> pd.MultiIndex:
    """The test images of a seed."""
    rows = [("images", f"{name}.{number}.jpg", name) for number in range(IMAGES)]
    return pd.MultiIndex.from_tuples(rows, names=["data", "file", "class"])


def experiment(seed: int, wrong: dict[str, int], name: str = "one", **params: object) -> Experiment:
    """An experiment in which each model is wrong on its first images."""
    right = {model: np.arange(IMAGES) >= count for model, count in wrong.items()}
    return Experiment(name, params, seed, pd.DataFrame(right, images(), dtype="boolean"))


def rows(*found: Experiment) -> pd.DataFrame:
    told: list[str] = []
    table = compare.table(compare.settings(list(found), told.append))
    assert not told
    return table


@given(SEEDS)
def test_a_difference_is_antisymmetric(sides):
    first, second = sides
    one, other = chance.difference(first, second), chance.difference(second, first)
    assert one.mean == -other.mean
    assert one.p == pytest.approx(other.p)
    np.testing.assert_allclose([one.low, one.high], [-other.high, -other.low], atol=1e-12)
    assert 0 <= one.p <= 1
    assert np.isnan(one.low) or one.low <= one.mean <= one.high


@given(st.lists(RIGHT, min_size=1, max_size=4))
def test_a_model_does_not_differ_from_itself(right):
    found = chance.difference(right, right)
    assert (found.mean, found.p) == (0, 1)


@given(SEEDS)
def test_one_seed_is_tested_on_its_images_and_several_by_their_spread(sides):
    first, second = sides
    found = chance.difference(first, second)
    before, after = ([right.mean() for right in side] for side in sides)
    gaps = [round((one - other) * IMAGES) for one, other in zip(before, after, strict=True)]
    if len(set(gaps)) == 1:
        each = [chance.mcnemar(a.to_numpy(), b.to_numpy()) for a, b in zip(*sides, strict=True)]
        assert found.p == max(each)
    else:
        assert found.p == pytest.approx(ttest_rel(before, after).pvalue)
        assert (found.p < 0.05) == (found.low > 0 or found.high < 0)


def test_other_images_cannot_be_paired():
    one, other = (pd.Series([True] * IMAGES, index=images(name)) for name in ("cat", "dog"))
    found = chance.difference([one], [other])
    assert found.mean == 0
    assert np.isnan(found.p)


def test_holm_is_the_published_procedure():
    # R's p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    found = chance.holm(pd.Series([0.01, 0.04, 0.03, 0.005, np.nan]))
    np.testing.assert_allclose(found, [0.03, 0.06, 0.06, 0.02, np.nan])


@given(st.lists(st.floats(0, 1), max_size=20).map(lambda values: pd.Series(values, dtype=float)))
def test_holm_lies_between_the_p_value_and_bonferroni_s(values):
    found = chance.holm(values)
    assert (found >= values).all()
    assert (found <= (len(values) * values).clip(upper=1)).all()
    order = values.sort_values().index
    assert found[order].is_monotonic_increasing


def test_several_seeds_are_one_setting_with_a_mean_and_a_spread():
    found = rows(*(experiment(seed, {"good": seed, "bad": 20 + seed % 2}) for seed in (1, 2, 3)))
    good, bad = found[found["kind"] == "accuracy"].to_dict("records")
    assert (good["model"], good["seeds"], bad["model"]) == ("good", 3, "bad")
    assert good["mean"] == pytest.approx(0.95)
    assert good["sd"] == pytest.approx(0.025)
    (pair,) = found[found["kind"] == "models"].to_dict("records")
    assert (pair["model"], pair["against"], pair["seeds"]) == ("good", "bad", 3)
    assert pair["low"] < pair["mean"] < pair["high"]
    assert pair["more_than_chance"] is True
    text = compare.show(found, "table").splitlines()
    assert text[0].split()[:4] == ["model", "seeds", "accuracy", "sd"]
    assert text[1].split() == ["good", "3", "95.00", "2.50"]
    assert text[2].split()[-1] == "yes"


def test_long_settings_get_short_names_and_a_legend():
    many = {"rate": 0.1, "units": 8, "schedule": "cosine"}
    found = rows(
        experiment(1, {"a": 1, "b": 3}, **many),
        experiment(1, {"a": 9, "b": 3}, **many | {"rate": 0.2, "units": 16, "schedule": "none"}),
    )
    legend, *others = compare.show(found, "table").split("\n\n")
    assert legend.splitlines() == [
        "#1  rate=0.1, schedule='cosine', units=8",
        "#2  rate=0.2, schedule='none', units=16",
    ]
    assert others[0].startswith("#1\n")
    assert "rate" not in "".join(others)
    assert "units=16" in compare.show(found, "csv")


def test_changed_pictures_say_which_are_the_older():
    now, before = (experiment(1, {"a": 1}, inputs=name) for name in ("bbbbbbb", "aaaaaaa"))
    told = list(compare.settings([now, before], print))
    assert told == ["inputs=bbbbbbb (newest)", "inputs=aaaaaaa (older)"]


def test_a_setting_is_named_by_the_params_that_differ():
    found = rows(
        *(experiment(seed, {"a": seed, "b": 3}, rate=0.1, units=8) for seed in (1, 2)),
        *(experiment(seed, {"a": 18 + 2 * seed, "b": 3}, rate=0.2, units=8) for seed in (2, 3)),
    )
    assert list(found["setting"].unique()) == ["rate=0.1", "rate=0.2"]
    pairs = found[found["kind"] == "settings"].set_index("model")
    assert (pairs["seeds"] == 1).all()  # the only seed that both have
    assert pairs.loc["a", "against"] == "rate=0.2"
    assert pairs.loc["a", "mean"] == pytest.approx(0.5)
    assert pairs.loc["a", "p"] < 1e-5
    assert pairs.loc["b", "p"] == 1
    text = compare.show(found, "table")
    assert text.index("rate=0.1") < text.index("rate=0.2")
    assert "no difference between settings" not in text
    header, _, other = text.split("\n\n")[2].splitlines()[1:]
    assert header.split()[4:6] == ["shared", "difference"]
    assert other.split()[:6] == ["rate=0.2", "2", "42.50", "3.54", "1", "-50.00"]


def test_a_seed_counts_once_in_a_setting():
    new, same, old = (experiment(1, {"a": wrong}, str(wrong)) for wrong in (2, 2, 9))
    told: list[str] = []
    (found,) = compare.settings([new, same, old], told.append).values()
    assert found == {1: new}
    assert told == ["9: has the params and seed of 2, which is newer; left out"]


def test_json_and_csv_have_all_pairs():
    found = rows(experiment(1, {"a": 1, "b": 2, "c": 30}))
    read = json.loads(compare.show(found, "json"))
    assert [row["kind"] for row in read] == ["accuracy"] * 3 + ["models"] * 3
    assert read[0]["sd"] is None
    assert [row["more_than_chance"] for row in read[3:]] == [False, True, True]
    table = pd.read_csv(io.StringIO(compare.show(found, "csv")))
    assert list(table.columns) == list(read[0])
    assert len(table) == len(read)


STAGE = """
import pathlib, random, yaml
params = yaml.safe_load(open("params.yaml"))
chance = random.Random(params["seed"])
lines = ["data,file,class,good,bad,round,straight"]
for number in range(60):
    label = ["001", "NA"][number % 2]
    bad = "NA" if chance.random() < 0.5 else "001"
    good = label if chance.random() < params["skill"] else bad
    lines.append(f"images,{number}.jpg,{label},{good},{bad},,")
lines += [f"digits,{number},7,,,7,{chance.choice([1, 7])}" for number in range(60)]
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("metrics/predictions.csv").write_text("\\n".join(lines) + "\\n")
"""
FLOW = """
stages:
  inputs:
    cmd: cp outside inputs
    always_changed: true
    outs: [inputs: {cache: false}]
  evaluate:
    cmd: python stage.py
    deps: [stage.py, inputs]
    params: [seed, skill]
    outs: [metrics/predictions.csv]
  other:
    cmd: echo {} > other.json
    params: [other]
    outs: [other.json]
"""


class Tiny(Clone):
    """A repository with a stage that takes no time."""

    def environment(self) -> dict[str, str]:
        identity = {
            f"GIT_{who}_{what}": "a@b"
            for who in ("AUTHOR", "COMMITTER")
            for what in ("NAME", "EMAIL")
        }
        return super().environment() | identity | {"PYTHONPATH": str(ROOT / "src")}

    def compare(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """What the command says on stdout and on stderr."""
        done = subprocess.run(
            [sys.executable, "-m", "convnets", "compare", *arguments],
            cwd=self.folder,
            env=self.environment(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == status, done.stderr
        assert not noise(done.stdout + done.stderr)
        return done.stdout, done.stderr


@pytest.fixture
def tiny(tmp_path):
    tiny = Tiny(tmp_path)
    (tmp_path / "stage.py").write_text(STAGE)
    (tmp_path / "dvc.yaml").write_text(FLOW)
    (tmp_path / "params.yaml").write_text("other: 1\nseed: 1\nskill: 0.9\n")
    (tmp_path / "outside").write_text("old")
    for command in ("git init -q", "dvc init -q", "git add .", "git commit -qm flow"):
        tiny.run(*command.split())
    err = tiny.compare(status=1)[1]
    assert "error: metrics/predictions.csv: found nowhere; run `dvc repro`" in err
    tiny.run("dvc", "repro", "-q")
    tiny.run("git", "add", ".")
    tiny.run("git", "commit", "-qm", "results")
    return tiny


@pytest.mark.slow
def test_experiments_of_dvc_are_gathered(tiny, tmp_path):
    for seed in (1, 2, 3):
        tiny.run("dvc", "exp", "run", "-q", "--temp", "-n", f"seed-{seed}", "-S", f"seed={seed}")

    out, err = tiny.compare()
    lines = [line.split() for line in out.splitlines()]
    assert (lines[0], lines[5]) == (["images"], ["digits"])
    assert [row[:2] for row in lines[2:4]] == [["good", "3"], ["bad", "3"]]
    assert [row[:2] for row in lines[7:9]] == [["round", "3"], ["straight", "3"]]
    assert lines[3][-1] == lines[8][-1] == "yes"
    assert not err
    read = json.loads(tiny.compare("seed-2", "seed-3", "--format", "json")[0])
    assert {row["seeds"] for row in read} == {2}
    predictions = tmp_path / "metrics/predictions.csv"
    expected = pd.read_csv(predictions, dtype=str, keep_default_na=False).query("data == 'images'")
    found = json.loads(tiny.compare("workspace", "--format", "json")[0])
    assert found[0]["mean"] == (expected["good"] == expected["class"]).mean()
    compared = {(row["model"], row["against"]) for row in found if row["against"]}
    assert compared == {("good", "bad"), ("round", "straight")}

    tiny.run("dvc", "exp", "run", "-q", "--temp", "-n", "worse", "-S", "skill=0.3")
    tiny.run("dvc", "exp", "run", "-q", "--temp", "-n", "part", "-S", "seed=9", "other")
    out, err = tiny.compare()
    assert "skill=0.9" in out
    assert " shared " in out
    older = "is older than its params, code or models"
    assert err == f"part: its metrics/predictions.csv {older}; skipped\n"
    alike = "no difference between settings: bad, round, straight"
    assert alike in tiny.compare("HEAD", "worse")[0]
    assert "wrose" in tiny.compare("wrose", status=1)[1]

    tiny.run("dvc", "exp", "run", "-q", "--queue", "-n", "later", "-S", "seed=4")
    tiny.run("git", "commit", "-q", "--allow-empty", "-m", "more")
    err = tiny.compare()[1].splitlines()
    assert err[0].startswith("5 experiments of other commits, such as ")
    assert err[1] == "queued in DVC's queue: 1, skipped; see `dvc queue status`"


@pytest.mark.slow
def test_what_is_not_one_setting_is_told_apart(tiny):
    """Other code, and other files outside; a param that is null is one that is absent."""
    (tiny.folder / "stage.py").write_text(STAGE.replace('["seed"]', '["seed"] + 7'))
    tiny.run("dvc", "exp", "run", "-q", "--temp", "-n", "code", "-S", "seed=2")
    tiny.run("git", "checkout", "-q", "stage.py")
    (tiny.folder / "outside").write_text("new")
    tiny.run("dvc", "exp", "run", "-q", "--temp", "-n", "inputs", "-S", "seed=3")
    tiny.run("git", "checkout", "-q", "outside")
    tiny.run("dvc", "exp", "run", "-q", "--temp", "-n", "null", "-S", "+data.sha256=null")
    found = pd.read_csv(io.StringIO(tiny.compare("HEAD", "code", "inputs", "--format=csv")[0]))
    settings = found["setting"].dropna().unique()
    assert len(settings) == 3
    assert all("code=" in name and "inputs=" in name for name in settings)
    assert tiny.compare("HEAD", "null") == tiny.compare("HEAD")


@pytest.mark.slow
def test_what_is_out_of_step_is_skipped_and_told(tiny):
    for path, content, told in (
        ("metrics/predictions.csv", "", "is not that of dvc.lock; try `dvc checkout`"),
        ("stage.py", STAGE + "\n", "is older than its params, code or models"),
        ("dvc.yaml", "stages: [", "YAML"),
        ("params.yaml", "seed: [", "YAML"),
    ):
        file = tiny.folder / path
        before = file.read_text()
        file.unlink()  # it may be a link to the cache
        file.write_text(content)
        out, err = tiny.compare()
        assert out.startswith("images\n")  # of HEAD
        (line,) = err.splitlines()
        assert line.startswith("workspace: ")
        assert line.endswith("; skipped")
        assert told in line
        file.write_text(before)
