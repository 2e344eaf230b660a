"""Not trained is not trained: the stage leaves empty outs, and all that follows passes over it."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from convnets.base import params, untrained
from convnets.tracking import presets
from tests.commands import COMMANDS, ROOT, TRAINING

VIEWS = Path("dvc-outs/views")


def outs(stage: str) -> list[Path]:
    return [Path(out) for out in untrained._declared(stage)["outs"]]


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """The pipeline, where each dep exists and nothing runs."""
    monkeypatch.chdir(ROOT)
    text = presets.compose("book")
    monkeypatch.chdir(tmp_path)
    for name in ("dvc.yaml", "presets", "stages", "src"):
        (tmp_path / name).symlink_to(ROOT / name)
    Path("params.yaml").write_text(text)
    for stage in COMMANDS:
        for dep in untrained._declared(stage)["deps"]:
            if dep.startswith("dvc-outs/"):
                Path(dep).mkdir(parents=True, exist_ok=True)
                (Path(dep) / "something").touch()
    return tmp_path


def change(**sections: dict[str, object]) -> params.Params:
    path = Path("params.yaml")
    found = yaml.safe_load(path.read_text())
    for section, given in sections.items():
        found[section] |= given
    path.write_text(yaml.safe_dump(found))
    return params.load()


def left_out(p: params.Params) -> set[str]:
    return {stage for stage in COMMANDS if untrained.reason(stage, p)}


@pytest.mark.parametrize("name", sorted({stage.partition("@")[0] for stage in TRAINING}))
def test_each_section_alone(project, name):
    of_it = {stage for stage in TRAINING if stage.partition("@")[0] == name}
    assert left_out(change(**{name: {"epochs": 0}})) == of_it
    assert left_out(change(**{name: {"epochs": 1}})) == set()


def test_views_and_digits(project):
    assert left_out(change(views={"count": 0})) == {"extract_views"}
    assert left_out(change(views={"count": 1}, mnist={"source": "none"})) == {"download_mnist"}


def test_what_learns_from_nothing_is_not_trained(project):
    """A stage's empty out is its successors' reason, but for a head that does not read it."""
    (VIEWS / "something").unlink()
    readers = {"train_augmented_head", "train_mirrored_head", "fine_tune"}
    assert left_out(params.load()) == readers
    head = change(train_mirrored_head={"features": "images"})
    assert left_out(head) == readers - {"train_mirrored_head"}
    (Path("dvc-outs/mnist.npz") / "something").unlink()
    digits = {stage for stage in TRAINING if stage.startswith("train_mnist")}
    assert left_out(head) == {"train_augmented_head", "fine_tune"} | digits


def test_the_top_level_epochs_leave_zeros_alone(project):
    p = change(train_scratch={"epochs": 0}).model_copy(update={"epochs": 7})
    assert p.of("train_scratch", params.ConvnetTraining).epochs == 0
    assert p.of("train_augmented", params.ConvnetTraining).epochs == 7
    assert untrained.reason("train_scratch", p)


@pytest.mark.parametrize("stage", [*TRAINING, "extract_views", "download_mnist"])
def test_the_stage_ends_without_keras_dvc_and_mlflow(project, stage):
    sections = {name: {"epochs": 0} for name in {stage.partition("@")[0] for stage in TRAINING}}
    change(**sections, views={"count": 0}, mnist={"source": "none"})
    code = (
        "import runpy, sys, atexit\n"
        "heavy = {'keras', 'tensorflow', 'mlflow', 'dvc', 'numpy', 'pandas'}\n"
        "atexit.register(lambda: print(sorted(heavy & set(sys.modules))))\n"
        "module, *sys.argv[1:] = sys.argv[1:]\n"
        "sys.argv[0] = '-m'\n"  # as Python has it on its way to the module
        "runpy.run_module(module, run_name='__main__', alter_sys=True)\n"
    )
    _, _, *given = shlex.split(COMMANDS[stage])
    ran = subprocess.run(
        [sys.executable, "-c", code, *given], capture_output=True, text=True, check=True
    )
    told, heavy = ran.stdout.splitlines()
    assert told.startswith(f"{stage}: not trained, as ")
    assert (heavy, ran.stderr) == ("[]", "")
    for out in outs(stage):
        assert out.is_dir()
        assert not untrained.made(out)


def test_without_a_cut_nothing_is_fine_tuned(project):
    p = change(backbone={"fine_tune_from": None})
    assert left_out(p) == {"fine_tune"}
    assert untrained.reason("fine_tune", p) == "backbone.fine_tune_from is null"


def test_own_photographs_train_one_head(project):
    text = presets.compose("photos")
    Path("params.yaml").write_text(text)
    VIEWS.joinpath("something").unlink()  # views.count is 0
    trained = {stage for stage in TRAINING if "mnist" not in stage} - left_out(params.load())
    assert trained == {"train_feature_head"}
