"""The pipeline as its user runs it: DVC's own commands, in a temporary clone, on a tiny sample."""

import json
import sys

import mlflow
import numpy as np
import pytest
import yaml

from tests.commands import TOKEN, Clone, executed, holding, noise

STAGES = (
    *("download", "subset", "download_weights", "extract_features", "extract_views"),
    *("train_scratch", "train_augmented", "train_feature_head", "train_augmented_head"),
    *(
        "train_mirrored_head",
        "fine_tune",
        "download_mnist",
        "train_mnist@max_pooling",
        "train_mnist@no_pooling",
    ),
    "evaluate",
)
TRAINING = (*(stage for stage in STAGES if stage.startswith("train_")), "fine_tune")

pytestmark = pytest.mark.pipeline


def make_quick(clone: Clone, **sections: dict[str, object]) -> None:
    """Set params that make every stage quick, and those given."""
    path = clone.folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values |= {"image_size": 78, "epochs": 1}
    values["subset"] |= {"train": 8, "validation": 6, "test": 6}
    values["views"] |= {"count": 2}
    for section, given in sections.items():
        values[section] |= given
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def reproduced(clone: Clone) -> Clone:
    """The clone after its first `dvc repro`, with params that make every stage quick."""
    make_quick(clone)
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    clone.run("git", *identity, "commit", "-qam", "tiny")
    output = clone.run("dvc", "repro")
    assert set(executed(output)) == set(STAGES)
    assert noise(output) == []  # stdout and stderr of every stage
    clone.first_lock = (clone.folder / "dvc.lock").read_text()
    return clone


@pytest.fixture(scope="module")
def clone(empty_clone: Clone) -> Clone:
    return reproduced(empty_clone)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> Clone:
    return reproduced(Clone.of_commit(tmp_path_factory.mktemp("elsewhere") / "other"))


def test_each_stage_was_one_run(clone):
    runs = clone.runs().set_index("tags.stage")
    assert sorted(runs.index) == sorted(STAGES)
    assert set(runs["status"]) == {"FINISHED"}
    assert runs.loc["train_scratch", "params.train_scratch.learning_rate"] == "0.001"
    assert runs["tags.deps_hash"].nunique() >= len(STAGES) - 1  # both poolings have the same deps
    client = mlflow.MlflowClient()
    for stage in TRAINING:
        run = client.get_run(runs.loc[stage, "run_id"])
        assert clone.steps(run.info.run_id) == 1
        curves = [item.path for item in client.list_artifacts(run.info.run_id, "curves")]
        assert curves == ["curves/accuracy.png", "curves/loss.png"]
        contexts = {item.tags[0].value for item in run.inputs.dataset_inputs}
        # The digits of both come from one file, which MLflow keeps once.
        assert contexts == ({"train"} if "mnist" in stage else {"train", "validation"})
        (output,) = run.outputs.model_outputs
        signature = mlflow.models.get_model_info(f"models:/{output.model_id}").signature
        assert signature is not None
        assert signature.inputs.to_dict()[0]["tensor-spec"]["shape"][0] == -1
    drawn = {item.path for item in client.list_artifacts(runs.loc["evaluate", "run_id"])}
    assert {"augmentation.png", "comparison.png", "confusion", "report.html"} <= drawn
    copy = mlflow.artifacts.load_text(f"runs:/{runs.loc['evaluate', 'run_id']}/report.html")
    assert all(f"<td>{stage}</td>" in copy for stage in STAGES if stage != "evaluate")


def test_the_champion_is_registered_and_predicts(clone):
    clone.runs()
    chosen = json.loads((clone.folder / "metrics/evaluate.json").read_text())["champion"]
    version = mlflow.MlflowClient().get_model_version_by_alias("convnets", "champion")
    assert chosen in version.description
    model = mlflow.pyfunc.load_model("models:/convnets@champion")
    pixels = np.load(clone.folder / "data/images/test.npy").astype("float32")
    assert model.predict(pixels).shape == (12, 1)


def test_the_cache_agrees_with_the_models(clone):
    runs = clone.runs().set_index("tags.stage")
    for stage in ("train_feature_head", "train_augmented_head", "train_mirrored_head", "fine_tune"):
        assert runs.loc[stage, "metrics.cache_disagreement"] < 0.02


def test_a_second_repro_does_nothing(clone):
    assert executed(clone.run("dvc", "repro")) == []


def test_the_figures_concern_evaluate_alone(clone):
    path = clone.folder / "src/convnets/figures.py"
    before = path.read_text()
    path.write_text(before + "# changed\n")
    try:
        assert set(json.loads(clone.run("dvc", "status", "--json"))) == {"evaluate"}
    finally:
        path.write_text(before)


def test_wrong_params_stop_with_one_line(clone):
    path = clone.folder / "params.yaml"
    before = path.read_text()
    path.write_text(before.replace("train: 8", "train: zero"))
    try:
        output = clone.run(sys.executable, "-m", "stages.subset", status=1)
        assert "error: params.yaml: subset.train: input should be a valid integer" in output
        assert "Traceback" not in output
    finally:
        path.write_text(before)


def test_a_dead_tracking_server_costs_no_stage(clone):
    output = clone.run(
        *("env", "MLFLOW_TRACKING_URI=http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES=0"),
        *(sys.executable, "-m", "stages.download_mnist"),
    )
    assert "download_mnist goes on without it" in output
    assert "Traceback" not in output
    command = ("env", "PYTHONPATH=src", sys.executable, "-m", "convnets", "sync")
    assert "download_mnist: recorded" in clone.run(*command)


def test_the_metrics_and_plots_have_something_to_show(clone):
    shown = clone.run("dvc", "metrics", "show")
    assert "metrics/evaluate.json" in shown
    assert "metrics/fine_tune.json" in shown
    clone.run("dvc", "plots", "show")
    page = (clone.folder / "dvc_plots/index.html").read_text()
    assert "Validation accuracy" in page
    assert "The champion on the test images" in page


def test_a_learning_rate_concerns_its_stage_and_evaluate(clone):
    output = clone.run(
        "dvc", "exp", "run", "-n", "faster", "-S", "train_scratch.learning_rate=2e-5"
    )
    assert executed(output) == ["train_scratch", "evaluate"]
    newest = clone.runs().head(2)
    assert set(newest["tags.stage"]) == {"train_scratch", "evaluate"}
    assert set(newest["tags.dvc_exp_name"]) == {"faster"}
    assert "train_scratch.learning_rate" in clone.run("dvc", "params", "diff")
    assert "faster" in clone.run("dvc", "exp", "show", "--md")


def test_epochs_sets_every_training_stage_also_in_a_temporary_directory(clone):
    before = len(clone.runs())
    output = clone.run("dvc", "exp", "run", "--temp", "-n", "longer", "-S", "epochs=2")
    runs = clone.runs()
    new = runs.head(len(runs) - before)
    assert sorted(new["tags.stage"]) == sorted([*TRAINING, "evaluate"]), output
    assert set(new["tags.dvc_exp_name"]) == {"longer"}
    for _, run in new[new["tags.stage"] != "evaluate"].iterrows():
        assert clone.steps(run["run_id"]) == 2


def test_four_queued_experiments_two_at_a_time_are_all_recorded(clone):
    before = len(clone.runs())
    # download_mnist alone: quick, and each with another seed.
    clone.run("dvc", "exp", "run", "--queue", "-S", "seed=1,2,3,4", "download_mnist")
    clone.run("dvc", "exp", "run", "--run-all", "-j", "2")
    runs = clone.runs()
    new = runs.head(len(runs) - before)
    assert list(new["tags.stage"]) == ["download_mnist"] * 4
    assert set(new["status"]) == {"FINISHED"}
    assert set(new["params.seed"]) == {"1", "2", "3", "4"}
    shown = json.loads(clone.run("dvc", "exp", "show", "--json"))
    names = {item["name"] for item in shown[-1]["experiments"] or [] if item.get("name")}
    assert set(new["tags.dvc_exp_name"]) <= names


def test_another_clone_makes_the_same_bytes(clone, other):
    """Every out of every stage: images, features, weights, models, metrics and figures."""

    def outs(lock: str) -> dict[str, dict[str, str]]:
        return {
            stage: {out["path"]: out["md5"] for out in entry["outs"]}
            for stage, entry in yaml.safe_load(lock)["stages"].items()
        }

    assert outs(other.first_lock) == outs(clone.first_lock)


def test_no_token_is_written_anywhere(clone):
    assert not holding(TOKEN, clone.folder)
