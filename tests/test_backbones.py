"""`python -m convnets backbones`: what each would reach with this project's pictures."""

import io
import json
import os
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
import yaml

from convnets.audit import head
from convnets.base import params
from convnets.base.console import InputError
from convnets.commands import backbones
from convnets.models import precision
from tests.commands import ROOT, Clone, executed
from tests.test_pipeline import due

SIZE, PER = 78, 12
TINY = "tiny.keras"


def saved_backbone(path: str, filters: int, side: int = SIZE, knows: bool = True) -> str:
    """A model that knows red from blue pictures, or one that knows nothing."""
    inputs = keras.Input((side, side, 3))
    x = keras.layers.Conv2D(filters, 8, strides=8, use_bias=False)(inputs)
    model = keras.Model(inputs, keras.layers.ReLU()(x))
    if not knows:
        model.layers[1].set_weights([np.zeros_like(model.layers[1].get_weights()[0])])
    model.save(path)
    return path


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """Pictures of two colours, as `labels` leaves them. Reading a test picture would fail."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split in ("train", "validation"):
        labels = np.repeat([0, 1], PER)
        pixels = rng.integers(0, 150, (2 * PER, SIZE, SIZE, 3), np.uint8)
        pixels[np.arange(2 * PER), ..., 2 * labels] += 80
        Path("dvc-outs/images").mkdir(parents=True, exist_ok=True)
        Path("dvc-outs/labels").mkdir(parents=True, exist_ok=True)
        np.save(f"dvc-outs/images/{split}.npy", pixels)
        files = [f"{split}/{place}.png" for place in range(len(labels))]
        known = pd.DataFrame({"file": files, "class": np.where(labels, "blue", "red")})
        known.assign(label=labels, row=range(len(labels))).to_csv(
            f"dvc-outs/labels/{split}.csv", index=False
        )
        known.assign(sha256=[os.urandom(8).hex() for _ in files], group="").to_csv(
            f"dvc-outs/images/{split}.csv", index=False
        )
    counts = {split: {"red": PER, "blue": PER} for split in ("train", "validation", "test")}
    Path("metrics").mkdir()
    Path("metrics/subset.json").write_text(json.dumps(counts | {"duplicate_files": []}))
    yield tmp_path
    precision.use("float32")


def given(**backbone: object) -> params.Params:
    values = yaml.safe_load((ROOT / "presets/book.yaml").read_text())
    values |= {"image_size": SIZE, "precision": "float32", "seed": 3}
    values["backbone"] |= backbone
    return params.checked(params.Params, values, "test")


def compared(*names: str, **backbone: object) -> tuple[dict, dict[str, str]]:
    failures: dict[str, str] = {}
    found = backbones.compare(list(names), given(**backbone), failures.__setitem__)
    return found, failures


def test_the_best_and_the_smallest_that_is_as_good(project, capsys):
    names = [
        saved_backbone("blind.keras", 4, knows=False),
        saved_backbone("small.keras", 8),
        saved_backbone("large.keras", 64),
    ]
    before = {path for path in project.rglob("*") if path.is_file()}
    found, failures = compared(*names)
    rows = found["backbones"]
    assert not failures and list(rows) == names
    assert (found["pictures"], found["classes"], found["all_pictures"]) == (4 * PER, 2, 6 * PER)
    assert rows["small.keras"]["accuracy"] > 0.95 > 0.7 > rows["blind.keras"]["accuracy"]
    assert rows["blind.keras"]["p"] < 0.001 and rows["small.keras"]["p"] == 1
    assert found["smallest"] == "small.keras"
    assert rows["large.keras"]["megabytes"] == pytest.approx(64 * 192 * 4 / 1e6, abs=0.05)
    for row in rows.values():
        assert row["low"] <= row["accuracy"] <= row["high"]
        rate = row["pictures_per_second"]
        assert row["minutes"] == pytest.approx(2 * 6 * PER / rate / 60, abs=0.01)
    after = {path for path in project.rglob("*") if path.is_file()}
    assert {path.relative_to(project).parts[0] for path in after - before} == {".features"}
    assert capsys.readouterr().out == ""

    shown = backbones.show(found, "table")
    section = yaml.safe_load(shown[shown.index("\nbackbone:\n") :])["backbone"]
    assert params.Backbone.model_validate(section).name == str(project / "small.keras")
    assert json.loads(backbones.show(found, "json")) == found
    table = pd.read_csv(io.StringIO(backbones.show(found, "csv")), index_col="name")
    assert list(table.index) == names and table.loc["blind.keras", "p"] < 0.001


def test_a_second_time_nothing_is_extracted(project, capsys):
    name = saved_backbone(TINY, 4)
    first = compared(name)[0]["backbones"][name]
    assert "are computed already" not in capsys.readouterr().err
    second = compared(name)[0]["backbones"][name]
    assert f"{4 * PER} of {4 * PER} images are computed already" in capsys.readouterr().err
    assert second["accuracy"] == first["accuracy"]


def test_one_that_cannot_be_used_does_not_stop_the_others(project):
    saved_backbone(TINY, 4)
    saved_backbone("other.keras", 4, side=96)
    keras.Sequential([keras.Input((SIZE, SIZE, 3)), keras.layers.Flatten()]).save("flat.keras")
    Path("vgg16.weights.h5").write_bytes(b"no weights")
    Path("mine.weights.h5").write_bytes(b"no weights")
    Path("part.keras").write_bytes(b"PK")
    bad = {
        "EfficentNetB0": "did you mean EfficientNetB0",
        "EfficientNetLite2=random": "imagenet",
        "absent.keras": "no such file",
        "part.keras": "not a .keras file",
        "flat.keras": "not a feature map",
        "other.keras": "96 × 96",
        "vgg16.weights.h5": "not the weights of VGG16",
        "VGG16=vgg16.weights.h5": "not the weights of VGG16",
        "mine.weights.h5": "of which model",
    }
    found, failures = compared(TINY, *bad)
    assert list(found["backbones"]) == [TINY] and found["best"] == found["smallest"] == TINY
    assert failures.keys() == bad.keys()
    for name, words in bad.items():
        assert words in failures[name] and "\n" not in failures[name]
    with pytest.raises(InputError, match="no backbone can be used"):
        compared("absent.keras")


def test_what_the_params_say_of_the_own_backbone_holds_for_it(project):
    own = {"name": "MobileNetV2", "weights": "random", "preprocessing": "none"}
    found, failures = compared("MobileNetV2", "MobileNetV2=random", **own)
    assert not failures
    by_name, with_weights = (row["backbone"] for row in found["backbones"].values())
    assert by_name == with_weights
    assert {key: by_name[key] for key in own} == own


def test_pictures_of_other_params_are_refused(project):
    saved_backbone(TINY, 4)
    np.save("dvc-outs/images/train.npy", np.zeros((2 * PER, 96, 96, 3), np.uint8))
    with pytest.raises(InputError, match=r"96 pixels.*`dvc repro labels`"):
        compared(TINY)
    Path("dvc-outs/images/train.npy").unlink()
    with pytest.raises(InputError, match=r"train.npy: does not exist; run `dvc repro labels`"):
        compared(TINY)


def test_at_most_so_many_of_each_class_and_all_get_the_same(project, monkeypatch):
    monkeypatch.setattr(backbones, "MOST", 10)
    chosen, groups, total = backbones._chosen(given(), Path("pixels.npy"))
    assert list(chosen["label"].value_counts()) == [10, 10] and total == 6 * PER
    pixels = np.load("pixels.npy")
    for place, row in enumerate(chosen.itertuples()):
        np.testing.assert_array_equal(
            pixels[place], np.load(f"dvc-outs/images/{row.split}.npy")[row.row]
        )
    answers = [
        head.answers(drawn, chosen["label"].to_numpy(), groups, 3, np.arange(len(chosen)))
        for drawn in np.random.default_rng(0).random((2, len(chosen), 9), np.float32)
    ]
    np.testing.assert_array_equal(answers[0].folds, answers[1].folds)


@pytest.mark.real_data
@pytest.mark.slow("real data")
def test_three_real_backbones(shared, empty_clone: Clone):
    """As a user would, in a clone: nothing is changed, and a pipeline's features are used."""
    run = empty_clone.run
    data = f"data.path={shared / 'flowers12.zip'}"
    changes = [data, "data.source=archive", "subset.train=6", "image_size=96"]
    changes += ["subset.validation=4", "subset.test=4"]
    run("python", "-m", "convnets", "preset", "photos", *(f"-S{each}" for each in changes))
    names = ["EfficientNetLite2", str(shared / "efficientnet-lite0-notop.keras")]
    names.append(str(shared / "vgg16-imagenet-notop.weights.h5"))
    told = run("python", "-m", "convnets", "backbones", *names, status=1)
    assert "run `dvc repro labels`" in told and len(told.splitlines()) == 1
    executed(run("dvc", "repro", "labels", "extract_features"))
    before = run("git", "status", "--short"), due(empty_clone)
    told = run("python", "-m", "convnets", "backbones", *names, "nothing.keras")
    assert "nothing.keras: no such file" in told and "best: EfficientNetLite2" in told
    assert "EfficientNetLite2: 120 of 120 images are computed already" in told
    assert (run("git", "status", "--short"), due(empty_clone)) == before
