"""The pipeline as its user runs it: DVC's own commands, in a temporary clone, on a tiny sample."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import mlflow
import numpy as np
import pytest
import yaml
from playwright.sync_api import Page, expect

from convnets import files
from tests.commands import TOKEN, Clone, answers, executed, free_port, holding, noise

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

# Python runs this before a stage: it notes each file that the stage opens to read.
WATCH = """
import os, sys
if sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2].startswith("stages."):
    notes = os.open(os.environ["WATCHED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    stage = ",".join(sys.orig_argv[2:])
    def note(event, arguments):
        if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            path, mode, flags = os.path.relpath(arguments[0]), arguments[1], arguments[2]
            unfinished = ".part" in path  # of the stage itself
            if not flags & (os.O_WRONLY | os.O_RDWR) and os.path.isfile(path) and not unfinished:
                os.write(notes, f"{stage} {path}\\n".encode())
    sys.addaudithook(note)
"""

pytestmark = pytest.mark.pipeline


def make_quick(clone: Clone, **sections: dict[str, object]) -> None:
    """Set params that make every stage quick, and those given."""
    path = clone.folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values |= {"image_size": 78, "epochs": 2}
    values["subset"] |= {"train": 8, "validation": 6, "test": 6}
    values["views"] |= {"count": 2}
    for section, given in sections.items():
        values[section] |= given
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def reproduced(clone: Clone, locks: Path) -> Clone:
    """The clone after its first `dvc repro`, with params that make every stage quick.

    What it made is noted among the `locks`.
    """
    make_quick(clone)
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    clone.run("git", *identity, "commit", "-qam", "tiny")
    watch = clone.folder.parent / "watch"
    watch.mkdir()
    (watch / "sitecustomize.py").write_text(WATCH)
    watched = (f"PYTHONPATH={watch}", f"WATCHED={watch / 'notes'}")
    output = clone.run("env", *watched, "dvc", "repro")
    assert set(executed(output)) == set(STAGES)
    assert noise(output) == []  # stdout and stderr of every stage
    with files.whole(locks / f"{uuid4().hex}.lock") as part:
        shutil.copyfile(clone.folder / "dvc.lock", part)
    return clone


@pytest.fixture(scope="module")
def clone(empty_clone: Clone, locks: Path) -> Clone:
    return reproduced(empty_clone, locks)


def test_each_stage_was_one_run(clone):
    runs = clone.runs().set_index("tags.stage")
    assert sorted(runs.index) == sorted(STAGES)
    assert set(runs["status"]) == {"FINISHED"}
    assert runs.loc["train_scratch", "params.train_scratch.learning_rate"] == "0.001"
    assert runs["tags.deps_hash"].nunique() >= len(STAGES) - 1  # both poolings have the same deps
    assert runs["tags.dvc_run"].nunique() == 1
    assert set(runs["tags.mlflow.source.git.commit"]) == {clone.run("git", "rev-parse", "@")[:40]}
    client = mlflow.MlflowClient()
    for stage in TRAINING:
        run = client.get_run(runs.loc[stage, "run_id"])
        assert clone.steps(run.info.run_id) == 2
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


def test_stages_read_no_data_but_their_deps(clone):
    stages = yaml.safe_load((clone.folder / "dvc.yaml").read_text())["stages"]
    notes = (clone.folder.parent / "watch/notes").read_text().splitlines()
    read = {tuple(note.removeprefix("stages.").split(" ", 1)) for note in notes}
    assert {stage.split(",")[0] for stage, _ in read} == set(stages)
    undeclared = set()
    for name, path in read:
        stage, *item = name.split(",")
        declared = json.dumps([stages[stage].get(kind, []) for kind in ("deps", "outs", "metrics")])
        known = declared.replace("${item.pooling}", *item) if item else declared
        if path.startswith(("data/", "models/", "metrics/")) and not any(
            f'"{part}"' in known for part in (path, *map(str, Path(path).parents))
        ):
            undeclared.add((name, path))
    assert not undeclared


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


@pytest.fixture(scope="module")
def ui(clone):
    """The address of the list of runs in the MLflow UI, as `make ui` starts it and tells it."""
    lines = clone.run("make", "-n", "ui").splitlines()
    (command,) = (line for line in lines if line.startswith("mlflow ui "))
    assert "--host 127.0.0.1 --port 5000" in command
    (address,) = re.findall(r"http://127.0.0.1:5000/[^']+", "\n".join(lines))
    port = free_port()
    with subprocess.Popen(
        shlex.split(command.replace("5000", str(port))),
        cwd=clone.folder,
        env=clone.environment() | {"MLFLOW_DISABLE_TELEMETRY": "true"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as server:
        try:
            assert answers(server, port)
            yield address.replace("5000", str(port))
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def chart(page: Page, metric: str):
    """A metric's chart, of all those that a page has."""
    page.get_by_placeholder("Search metric charts").fill(f"^{metric}$")
    cards = page.get_by_test_id("experiment-view-compare-runs-card")
    expect(cards).to_have_count(1)
    return cards


@pytest.mark.browser
def test_the_runs_in_mlflow_s_list(clone, ui, page):
    first = clone.runs()[lambda runs: runs["tags.stage"] == "evaluate"].iloc[-1]
    page.goto(ui)
    for name in ("Duration", "best_val_accuracy", "best_val_loss", "dvc_exp_name", "dvc_run"):
        expect(page.get_by_role("columnheader", name=name).last).to_be_visible()
    search = page.get_by_test_id("search-box")
    search.fill(f'tags.dvc_run = "{first["tags.dvc_run"]}" AND tags.dvc_exp_name = "workspace"')
    search.press("Enter")
    expect(page.get_by_text(f"{len(STAGES)} matching runs")).to_be_visible()
    for stage in STAGES:
        expect(page.get_by_role("link", name=stage, exact=True)).to_be_visible()
    shown = page.get_by_role("gridcell", name=first["tags.dvc_run"], exact=True)
    expect(shown).to_have_count(len(STAGES))
    # A filter can also be a part of the address.
    chosen = quote('tags.stage LIKE "train_mnist%" AND tags.dvc_exp_name = "workspace"')
    page.goto(f"{ui.split('&')[0]}&searchFilter={chosen}")
    expect(page.get_by_text("2 matching runs")).to_be_visible()


@pytest.mark.browser
def test_a_run_s_pages(clone, ui, page):
    runs = clone.runs().drop_duplicates("tags.stage", keep="last").set_index("tags.stage")
    run = runs.loc["fine_tune"]
    address = f"{ui.split('?')[0]}/{run['run_id']}"
    page.goto(f"{address}?workflowType=machine_learning")
    main = page.get_by_role("main")
    for text in (
        "The backbone's last layers and the head together, gently",
        "fine_tune.learning_rate",
        "best_val_accuracy",
        run["tags.dvc_run"],
        run["tags.mlflow.source.git.commit"][:7],
        "data/views/cut (",
    ):
        expect(main).to_contain_text(text)
    page.goto(f"{address}/model-metrics")
    for metric in ("accuracy", "val_accuracy", "loss", "val_loss"):
        expect(chart(page, metric).locator(".scatterlayer .point")).to_have_count(2)  # epochs
    page.goto(f"{address}/system-metrics")
    expect(main).to_contain_text("cpu_utilization_percentage")
    page.goto(f"{address}/artifacts/curves/loss.png")
    picture = page.get_by_role("img", name="curves/loss.png")
    expect(picture).to_be_visible()
    assert picture.evaluate("picture => picture.naturalWidth") > 400
    page.goto(f"{ui.split('?')[0]}/{runs.loc['evaluate', 'run_id']}/artifacts/report.html")
    expect(page.frame_locator("iframe").get_by_text("What the models do")).to_be_visible()


@pytest.mark.browser
def test_the_curves_of_two_runs_lie_on_one_another(clone, ui, page):
    first = clone.runs()[lambda runs: runs["tags.stage"] == "evaluate"].iloc[-1]
    chosen = f'tags.dvc_run = "{first["tags.dvc_run"]}" AND tags.stage LIKE "train_augmented%"'
    page.goto(f"{ui.split('&')[0]}&compareRunsMode=CHART&searchFilter={quote(chosen)}")
    for metric in ("accuracy", "val_accuracy", "loss", "val_loss"):
        card = chart(page, metric)
        expect(card).to_contain_text(f"train_augmented ({metric})")
        expect(card).to_contain_text(f"train_augmented_head ({metric})")
        expect(card.locator(".scatterlayer .point")).to_have_count(2 * 2)  # epochs


@pytest.mark.browser
def test_the_registered_model_s_pages(clone, ui, page):
    clone.runs()
    version = mlflow.MlflowClient().get_model_version_by_alias("convnets", "champion")
    page.goto(f"{ui.split('#')[0]}#/models/convnets")
    main = page.get_by_role("main")
    expect(main).to_contain_text("the one with the best validation accuracy, by lower validation")
    row = page.get_by_role("row").filter(has_text=f"Version {version.version}")
    expect(row).to_contain_text("champion")
    row.get_by_role("link", name=f"Version {version.version}").click()
    expect(main).to_contain_text("of the validation images, the best of 6 models; on ")
    expect(main).to_contain_text(version.description)
    page.get_by_role("row").filter(has_text="Inputs (1)").locator("svg").click()
    expect(main).to_contain_text("Tensor (dtype: float32, shape: [-1,78,78,3])")


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
    assert "replace(datum.label, '.csv', '')" in page  # of our own template, .dvc/plots/curves.json


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
    output = clone.run("dvc", "exp", "run", "--temp", "-n", "longer", "-S", "epochs=3")
    runs = clone.runs()
    new = runs.head(len(runs) - before)
    assert sorted(new["tags.stage"]) == sorted([*TRAINING, "evaluate"]), output
    assert set(new["tags.dvc_exp_name"]) == {"longer"}
    assert new["tags.dvc_run"].nunique() == 1
    assert set(new["tags.mlflow.source.git.commit"]) == {clone.run("git", "rev-parse", "@")[:40]}
    for _, run in new[new["tags.stage"] != "evaluate"].iterrows():
        assert clone.steps(run["run_id"]) == 3


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
    assert new["tags.dvc_run"].nunique() >= 2  # two may have begun in the same second


def test_another_clone_makes_the_same_bytes(clone, locks, tmp_path):
    """Every out of every stage: images, features, weights, models, metrics and figures."""

    def made() -> list[dict[str, dict[str, str]]]:
        return [
            {
                stage: {out["path"]: out["md5"] for out in entry["outs"]}
                for stage, entry in yaml.safe_load(lock.read_text())["stages"].items()
            }
            for lock in locks.glob("[!.]*")
        ]

    if len(made()) == 1:  # test_docs.py has a clone as well, if it runs
        reproduced(Clone.of_commit(tmp_path / "other"), locks)
    first, *others = made()
    assert others
    assert all(other == first for other in others)


def test_no_token_is_written_anywhere(clone):
    assert not holding(TOKEN, clone.folder)
