"""The schema rejects unknown keys and invalid values, and names the key and the fix."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from convnets.base import params
from convnets.base.console import InputError
from convnets.tracking import presets
from tests.commands import ROOT


@pytest.fixture
def write(root: Path, tmp_path: Path):
    def write(changes: dict) -> Path:
        values = yaml.safe_load((root / "params.yaml").read_text())
        for key, value in changes.items():
            section = values
            *parents, last = key.split(".")
            for parent in parents:
                section = section[parent]
            section[last] = value
        path = tmp_path / "params.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def preset(root, tmp_path, monkeypatch) -> Callable[[str], params.Params]:
    monkeypatch.chdir(root)

    def composed(name: str) -> params.Params:
        path = tmp_path / f"{name}.yaml"
        path.write_text(presets.compose(name))
        return params.load(path)

    return composed


def test_microsoft_s_copy_is_for_the_same_experiments(preset):
    book, copy = preset("book"), preset("microsoft")
    assert copy.data.source == "url"
    assert copy.model_copy(update={"data": book.data}) == book


def test_the_preset_is_the_book(root):
    book = params.load(root / "presets/book.yaml")
    assert (book.subset.train, book.subset.validation, book.subset.test) == (1000, 500, 1000)
    stages = ("train_scratch", "train_augmented", "train_feature_head", "train_augmented_head")
    assert [getattr(book, stage).epochs for stage in stages] == [30, 100, 20, 50]
    assert (book.fine_tune.epochs, book.fine_tune.learning_rate) == (30, 1e-5)
    assert (book.train_mnist.epochs, book.train_mnist.batch_size) == (5, 64)


def test_the_full_preset_is_the_book_s_on_all_photographs(preset):
    """12,500 of each class. A third of the epochs or fewer are as many steps, or more."""
    book, full = preset("book"), preset("full")
    subset = full.subset
    assert (subset.train, subset.validation, subset.test) == (10_000, 1_250, 1_250)
    changes = {"subset": subset, "views": full.views}
    text = (ROOT / "presets/full.yaml").read_text()
    for stage in re.findall(r"^(\w+): {epochs: ", text, re.MULTILINE):
        theirs, ours = getattr(book, stage), getattr(full, stage)
        assert theirs.epochs / 10 <= ours.epochs <= theirs.epochs / 3
        changes[stage] = theirs.model_copy(update={"epochs": ours.epochs})
    assert book.model_copy(update=changes) == full


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"epoch": 3}, "epoch: unknown key; did you mean epochs?"),
        ({"train_scratch.epocs": 3}, "train_scratch.epocs: unknown key; did you mean epochs?"),
        ({"epochs": 0}, "epochs: input should be greater than or equal to 1"),
        ({"fine_tune.epochs": -1}, "fine_tune.epochs: input should be greater than or equal to 0"),
        ({"views.count": True}, "views.count: input should be a valid integer"),
        (
            {"mnist.source": "None"},
            "mnist.source: input should be 'digits', 'keras', 'file' or 'none'",
        ),
        ({"train_scratch.weight_decay": 1}, "train_scratch.weight_decay: input should be less"),
        ({"epochs": 2.5}, "epochs: input should be a valid integer"),
        ({"epochs": True}, "epochs: input should be a valid integer"),
        ({"image_size": 32}, "image_size: input should be greater than or equal to 78"),
        ({"data.source": "archiv"}, "data.source: input should be 'sample', 'kaggle', "),
        ({"data.source": "archive"}, "path must name the archive"),
        (
            {"fine_tune.learning_rate": -1},
            "fine_tune.learning_rate: input should be greater than 0",
        ),
        ({"fine_tune.learning_rate": float("nan")}, "fine_tune.learning_rate"),
        ({"train_augmented.dropout": 1}, "train_augmented.dropout: input should be less than 1"),
        ({"mnist": 5}, "mnist:"),
        ({"train_old": {"epochs": 1, "units": 8}}, "train_old.features: field required; add it"),
        ({"train_feature_head.schedul": 1}, "schedul: unknown key; did you mean schedule?"),
        ({"train_feature_head.features": "pixels"}, "input should be 'images' or 'views'"),
        ({"train_feature_head.mirrored": "both"}, "mirrored: input should be a valid boolean"),
        ({"train_probe": {"epochs": 3}}, "train_probe.batch_size: field required; add it"),
        ({"subset.test": 0}, "subset.test"),
        ({"subset.test": 1.5}, "subset.test"),
        ({"subset.test": "all"}, "subset.test: input should be a number of images, a share"),
        ({"subset.test": True}, "subset.test: input should be a number of images"),
        (
            {"train_scratch.augmentation": {"rotatoin": 0.1}},
            "train_scratch.augmentation.rotatoin: unknown key; did you mean rotation?",
        ),
        ({"augmentation.zom": 0}, "augmentation.zom: unknown key; did you mean zoom?"),
        ({"augmentation.flip": "vertical"}, "augmentation.flip: input should be 'horizontal' or"),
        ({"augmentation.flip": "none"}, "train_mirrored_head.mirrored to false"),
        (
            {"augmentation.flip": "none", "train_residual.epochs": 1},
            "train_residual.mirrored to false, train_residual.augm",
        ),
        (
            {"train_residual.augmentation.flip": "none", "train_residual.epochs": 1},
            "set train_residual.mirrored to false",
        ),
        (
            {"augmentation.flip": "none", "train_scratch.mirrored": True},
            "train_scratch.mirrored to false",
        ),
        ({"augmentation.contrast": 1}, "augmentation.contrast: input should be less than 1"),
        ({"data.path": "/photos"}, "add -S data.source=folder"),
        ({"data.path": "/photos.ZIP"}, "add -S data.source=archive"),
        ({"data.path": "https://host/a"}, "add -S data.source=url"),
        ({"data.path": "a", "data.source": "kaggle"}, "source is kaggle"),
        ({"mnist.path": "mnist.npz"}, "set source to file"),
    ],
)
def test_what_is_wrong_is_named(write, changes, expected):
    with pytest.raises(InputError) as caught:
        params.load(write(changes))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_where_left_and_right_differ_nothing_is_mirrored(write):
    none = {
        "augmentation.flip": "none",
        "train_mirrored_head.mirrored": False,
        "train_residual.epochs": 1,
        "train_residual.mirrored": False,
        "train_residual.augmentation.flip": "none",
    }
    changed = params.load(write(none))
    assert changed.augmentation.flip == "none"
    with pytest.raises(InputError, match=r": augmentation\.flip none .* set train_residual\.mirr"):
        params.load(write(none | {"train_residual.mirrored": True}))


def test_a_missing_key_is_named(root, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text((root / "params.yaml").read_text().replace("seed: 1337\n", ""))
    with pytest.raises(InputError, match="seed: field required; add it"):
        params.load(path)


@pytest.mark.parametrize(
    "key",
    [
        *("fine_tune.schedule", "train_mnist.weight_decay", "train_scratch.architecture"),
        *("train_augmented.augmentation", "train_augmented.mirrored", "augmentation.flip"),
    ],
)
def test_no_number_is_hidden(root, tmp_path, key):
    values = yaml.safe_load((root / "params.yaml").read_text())
    section, name = key.split(".")
    del values[section][name]
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=f"{key}: field required; add it"):
        params.load(path)


def test_numbers_as_dvc_writes_them(write):
    # YAML 1.1 reads 1e-05 as text.
    assert params.load(write({"fine_tune.learning_rate": "1e-05"})).fine_tune.learning_rate == 1e-5


@pytest.mark.parametrize(
    "content",
    [
        *("a: [1", "", "- 1", "\udcff", "\0", "seed: 2026-99-99", "seed: !!timestamp x"),
        *("seed: !!binary aaa", f"seed: {'9' * 5000}", f"seed: {'[' * 5000}", "? [a]\n: 1"),
        "seed: !!python/object/apply:os.system [id]",
    ],
    ids=lambda content: content[:12],
)
def test_what_is_no_params_file(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"params\.yaml"):
        params.load(path)


def test_a_message_is_short_whatever_it_quotes(root, tmp_path):
    """A value may be a megabyte of text, or a few lines that stand for gigabytes."""
    text = (root / "params.yaml").read_text()
    levels = "".join(f"train_{n}: &{n} [{f'*{n - 1}, ' * 9 if n else 'x'}]\n" for n in range(9))
    for changed in (
        text.replace("source: sample", f"source: {'x' * 10**6}"),
        f"{levels}{text.replace('seed: 1337', 'seed: *8')}",
        text + "".join(f"train_{number}: 1\n" for number in range(1000)),
    ):
        path = tmp_path / "params.yaml"
        path.write_text(changed)
        with pytest.raises(InputError) as caught:
            params.load(path)
        assert len(str(caught.value)) < 5000


def test_a_stage_gets_its_own_section_with_the_epochs_of_all(write):
    head = params.load(write({})).of("train_mirrored_head", params.HeadTraining)
    assert (head.features, head.mirrored, head.architecture) == ("views", True, "normalised")
    assert head.epochs == 15
    changed = params.load(write({"epochs": 3}))
    for stage, kind in (
        ("train_mirrored_head", params.HeadTraining),
        ("train_scratch", params.ConvnetTraining),
        ("train_mnist", params.MnistTraining),
        ("fine_tune", params.Training),
    ):
        assert changed.of(stage, kind).epochs == 3
    with pytest.raises(InputError, match=r"train_mirored_head: .* mean train_mirrored_head"):
        changed.of("train_mirored_head", params.HeadTraining)
    for stage in ("train_probe", "train_scratch"):
        with pytest.raises(
            InputError, match=rf"{stage}: no(t the| such) section.*; it needs epochs, "
        ):
            changed.of(stage, params.HeadTraining)
