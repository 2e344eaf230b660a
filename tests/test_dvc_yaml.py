"""`dvc.yaml` is the data flow, which people read as DVC shows it."""

import pytest
import yaml

from tests.commands import COMMANDS, ROOT, STAGES, TRAINING

TEXT = (ROOT / "dvc.yaml").read_text()
DECLARED = yaml.safe_load(TEXT)["stages"]
FREE = {f"src/convnets/{room}" for room in ("base", "tracking", "serving")}


def code(stage: str) -> list[str]:
    """The code that a stage declares as deps."""
    known = DECLARED[stage.partition("@")[0]]
    deps = known.get("do", known)["deps"]
    return [dep for dep in deps if dep.startswith(("src/", "stages/"))]


@pytest.mark.parametrize("stage", STAGES)
def test_code_is_declared_as_the_stage_s_script_and_rooms(stage):
    script, *rooms = code(stage)
    module = COMMANDS[stage].split()[2]
    assert script == f"{module.replace('.', '/')}.py"
    assert rooms
    for room in rooms:
        assert (ROOT / room / "__init__.py").exists()
        assert room not in FREE


def test_every_script_has_a_stage():
    scripts = {f"stages/{path.name}" for path in (ROOT / "stages").glob("*.py")}
    assert scripts - {"stages/__init__.py"} == {code(stage)[0] for stage in COMMANDS}


def test_the_stages_that_users_know_are_there():
    """The names of stages are an interface: `dvc repro train_feature_head`."""
    known = "download subset download_weights extract_features extract_views train_scratch "
    known += "train_augmented train_residual train_feature_head train_augmented_head "
    known += "train_mirrored_head fine_tune download_mnist train_mnist@max_pooling "
    known += "train_mnist@no_pooling evaluate"
    assert set(known.split()) <= set(STAGES)


@pytest.mark.parametrize("stage", TRAINING)
def test_a_training_leaves_one_folder_where_evaluate_finds_it(stage):
    known = DECLARED[stage.partition("@")[0]]
    (out,) = known.get("do", known)["outs"]
    name = stage.replace("@", "_")
    assert out.replace("${key}", stage.partition("@")[2]) == f"dvc-outs/trained/{name}"
    assert "dvc-outs/trained" in DECLARED["evaluate"]["deps"]


def test_the_champion_is_an_artifact():
    path = yaml.safe_load(TEXT)["artifacts"]["champion"]["path"]
    assert path in [path for out in DECLARED["evaluate"]["outs"] for path in out]


def test_the_host_runs_the_readme_s_two_commands():
    (workflow,) = (ROOT / ".github/workflows").glob("*.yaml")
    (job,) = yaml.safe_load(workflow.read_text())["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == ["make repro", "make test"]


def test_evaluation_concerns_evaluate_alone():
    assert {stage for stage in STAGES if "src/convnets/evaluation" in code(stage)} == {"evaluate"}


def test_a_fresh_clone_registers_a_champion():
    # All other outs of evaluate are in git. If no byte changed, DVC would skip the stage. An out
    # that persists is never taken from an earlier run, of which MLflow would not hear.
    assert {"models/champion.keras": {"persist": True}} in DECLARED["evaluate"]["outs"]
