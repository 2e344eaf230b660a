"""The pipeline as a user runs it: DVC's own commands in a temporary clone, on a tiny sample."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir
from pathlib import PurePosixPath
from urllib.parse import quote

import mlflow
import numpy as np
import pandas as pd
import pytest
import yaml
from dvc.repo import Repo
from dvc.stage import Stage
from playwright.sync_api import Page, expect

from convnets.models import saved
from convnets.models.answers import by_class, probabilities
from tests.clusters import nodes
from tests.commands import (
    ROOT,
    STAGES,
    TOKEN,
    TRAINING,
    Clone,
    answers,
    block,
    command,
    executed,
    free_port,
    holding,
    noise,
)

# Python runs this before a stage. It records each file that the stage reads, each param that it
# uses, and at the end the project's modules that it has imported.
WATCH = """
import atexit, os, sys
if sys.orig_argv[1:2] == ["-m"] and sys.orig_argv[2].startswith("stages."):
    notes = os.open(os.environ["WATCHED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    def note(kind, what):
        os.write(notes, f"{os.environ['DVC_STAGE']} {kind} {what}\\n".encode())
    def opened(event, arguments):
        if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            path, mode, flags = os.path.relpath(arguments[0]), arguments[1], arguments[2]
            unfinished = ".part" in path  # of the stage itself
            if not flags & (os.O_WRONLY | os.O_RDWR) and os.path.isfile(path) and not unfinished:
                note("file", path)
    sys.addaudithook(opened)
    sys.path.insert(0, os.path.abspath("src"))
    from convnets.base import params
    taken, kept = {}, []
    load, of, get = params.load, params.Params.of, params.Section.__getattribute__
    def known(section, name):
        taken[id(section)] = name
        kept.append(section)
        return section
    def loaded():
        p = load()
        for key in [*type(p).model_fields, *p.model_extra]:
            known(getattr(p, key), key + ".")
        return known(p, "")
    def section(p, stage, kind):
        return known(of(p, stage, kind), stage + ".")
    def watched(self, name):
        value = get(self, name)
        where = taken.get(id(self))
        if where is not None and name in type(self).model_fields:
            if not isinstance(value, params.Section):
                note("param", where + name)
        return value
    params.load, params.Params.of, params.Section.__getattribute__ = loaded, section, watched
    def imported():
        for name in list(sys.modules):
            if name.startswith("convnets."):
                note("module", name)
    atexit.register(imported)
"""

OF_IMAGES = [stage for stage in TRAINING if "--digits" not in command(stage)]
FEW = ("train_scratch", "train_augmented", "train_feature_head")  # enough to be compared
NOT_FEW = {"extract_views", *TRAINING} - set(FEW)
ON_CACHE = [stage for stage in OF_IMAGES if command(stage)[2] != "stages.train_convnet"]


def make_quick(clone: Clone, **sections: dict[str, object]) -> None:
    """Set params that make every stage quick, and the given params."""
    path = clone.folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values |= {"image_size": 78, "epochs": 2}
    values["subset"] |= {"train": 8, "validation": 6, "test": 6}
    values["views"] |= {"count": 2}
    values["train_residual"] |= {"epochs": 2}  # the sample does without it
    for section, given in sections.items():
        values[section] |= given
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def few(*trained: str) -> dict[str, dict[str, object]]:
    """Params with which only the named stages are trained, and no features of views are made."""
    others = {stage.partition("@")[0] for stage in set(TRAINING) - set(trained)}
    return {name: {"epochs": 0} for name in others} | {"views": {"count": 0}}


def reproduced(clone: Clone, **sections: dict[str, object]) -> Clone:
    """The clone after its first `dvc repro`, with params that make every stage quick."""
    make_quick(clone, **sections)
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    clone.run("git", *identity, "commit", "-qam", "tiny")
    watch = clone.folder.parent / "watch"
    watch.mkdir()
    (watch / "sitecustomize.py").write_text(WATCH)
    watched = (f"PYTHONPATH={watch}", f"WATCHED={watch / 'notes'}")
    output = clone.run("env", *watched, "dvc", "repro")
    assert set(executed(output)) == set(STAGES)
    assert noise(output) == []  # stdout and stderr of every stage
    return clone


@pytest.fixture(scope="module")
def clone(empty_clone: Clone) -> Clone:
    """All is trained."""
    return reproduced(empty_clone)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Iterator[Clone]:
    """What is in FEW is trained."""
    folder = tmp_path_factory.mktemp("small")
    yield reproduced(Clone.of_commit(folder / "convnets"), **few(*FEW))
    shutil.rmtree(folder)


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
        contexts = {item.tags[0].value for item in run.inputs.dataset_inputs}
        # Both read the digits from one file, which MLflow stores once.
        assert contexts == ({"train"} if "mnist" in stage else {"train", "validation"})
        (output,) = run.outputs.model_outputs
        signature = mlflow.models.get_model_info(f"models:/{output.model_id}").signature
        assert signature is not None
        assert signature.inputs.to_dict()[0]["tensor-spec"]["shape"][0] == -1
    drawn = {item.path for item in client.list_artifacts(runs.loc["evaluate", "run_id"])}
    assert {"comparison.png", "confusion", "report.html"} <= drawn
    copy = mlflow.artifacts.load_text(f"runs:/{runs.loc['evaluate', 'run_id']}/report.html")
    assert all(f"<td>{stage}</td>" in copy for stage in STAGES if stage != "evaluate")


@pytest.fixture(scope="module")
def watched(clone) -> pd.DataFrame:
    """What each stage read, used and imported in the first `dvc repro`."""
    notes = (clone.folder.parent / "watch/notes").read_text().splitlines()
    seen = pd.DataFrame([note.split(" ", 2) for note in notes], columns=["stage", "kind", "what"])
    seen = seen[seen["stage"] != "inputs"]  # runs each time, and records nothing
    assert set(seen["stage"]) == set(STAGES)
    return seen.drop_duplicates()


@pytest.fixture(scope="module")
def declared() -> dict[str, Stage]:
    """The stages as DVC knows them."""
    with Repo(ROOT) as repo:
        return {stage.addressing: stage for stage in repo.index.stages}


def parts(path: str) -> list[str]:
    """A path and its parent folders."""
    return [path, *map(str, PurePosixPath(path).parents)]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_reads_no_data_but_its_deps(watched, declared, stage):
    known = {item.def_path for item in [*declared[stage].deps, *declared[stage].outs]}
    files = watched.query("stage == @stage and kind == 'file'")["what"]
    data = [path for path in files if path.startswith(("dvc-outs/", "models/", "metrics/"))]
    if stage == "labels":  # it removes the report of other images
        known.add("metrics/report.html")
    assert [path for path in data if not known & set(parts(path))] == []


@pytest.mark.parametrize("stage", STAGES)
def test_the_rooms_declared_are_those_imported(watched, declared, stage):
    modules = watched.query("stage == @stage and kind == 'module'")["what"]
    rooms = {"/".join(["src", *module.split(".")[:2]]) for module in modules}
    free = {f"src/convnets/{room}" for room in ("base", "tracking", "serving", "commands")}
    known = {dep.def_path for dep in declared[stage].deps if dep.def_path.startswith("src/")}
    assert known == rooms - free


@pytest.mark.parametrize("stage", STAGES)
def test_the_params_declared_are_those_taken(watched, declared, stage):
    taken = set(watched.query("stage == @stage and kind == 'param'")["what"])
    known = {key for dep in declared[stage].params for key in dep.params}
    # A stage may declare a section and use only some of its values.
    assert {key for key in taken if not {key, key.split(".")[0]} & known} == set()
    assert {key for key in known if not any(f"{t}.".startswith(f"{key}.") for t in taken)} == set()


def test_the_models_in_mlflow_have_their_test_metrics(clone):
    """So its page of models compares the rows of one `dvc repro`."""
    runs = clone.runs().set_index("run_id")
    table = pd.read_csv(clone.folder / "metrics/comparison.csv", index_col="model")
    known = mlflow.search_logged_models([runs["experiment_id"].iloc[0]], output_format="list")
    models = {
        model.name.replace("@", "_"): {metric.key: metric.value for metric in model.metrics or ()}
        for model in known
        if runs.loc[model.source_run_id, "tags.stage"] != "evaluate"
    }
    assert set(models) == set(table.index)
    for name, metrics in models.items():
        assert metrics["test_accuracy"] == pytest.approx(table.loc[name, "test_accuracy"])
        assert ("calibrated_log_loss" in metrics) == ("mnist" not in name)


def test_the_champion_is_registered_and_predicts(clone):
    clone.runs()
    chosen = json.loads((clone.folder / "metrics/evaluate.json").read_text())["champion"]
    version = mlflow.MlflowClient().get_model_version_by_alias("convnets", "champion")
    assert chosen in version.description
    model = mlflow.pyfunc.load_model("models:/convnets@champion")
    pixels = np.load(clone.folder / "dvc-outs/images/test.npy")
    answers = model.predict(pixels)
    assert len(answers) == 12
    assert {tuple(answer["probabilities"]) for answer in answers} == {("cat", "dog")}


def test_the_cache_agrees_with_the_models(clone):
    runs = clone.runs().set_index("tags.stage")
    for stage in ON_CACHE:
        assert runs.loc[stage, "metrics.cache_disagreement"] < 0.02


def test_the_answers_are_those_of_the_models(clone):
    """For each test image, a row: what the model makes of its pixels."""
    pixels = np.load(clone.folder / "dvc-outs/images/test.npy")
    for stage in OF_IMAGES:
        folder = clone.folder / "dvc-outs/trained" / stage
        names = {"history.csv", "model.keras", "test.npy", "validation.npy"}
        assert {path.name for path in folder.iterdir()} == names
        logits = np.load(folder / "test.npy")
        assert (logits.dtype, len(logits)) == (np.float32, len(pixels))
        made = by_class(saved.load(folder / "model.keras").predict(pixels, verbose=0))
        assert probabilities(logits) == pytest.approx(made, abs=0.02), stage  # the cache's rounding


def test_a_second_repro_does_nothing(clone):
    assert executed(clone.run("dvc", "repro")) == []


CONVNETS = {stage for stage in TRAINING if command(stage)[2] == "stages.train_convnet"}
HEADS, EXTRACT = set(TRAINING) - CONVNETS, {"extract_features", "extract_views"}
DUE = {  # by an edit in each room: the house is drawn by bytes
    "base": set(),
    "tracking": set(),
    "serving": set(),
    "commands": set(),
    "sources": {"download"},
    "listing": {"download", "subset", "labels"},
    "pictures": {"subset"},
    "pages": {"labels", "audit", "evaluate"},
    "audit": {"audit"},
    "evaluation": {"evaluate"},
    "networks": CONVNETS,
    "heads": HEADS,
    "training": set(TRAINING),
    "features": EXTRACT,
    "augmentation": {"extract_views", "evaluate"} | CONVNETS,
    "backbones": {"download_weights"} | EXTRACT | HEADS,
    "models": {"download_weights", "evaluate"} | EXTRACT | set(TRAINING),
    "examples": set(STAGES) - {"download", "download_weights"},
}


def due(clone: Clone) -> set[str]:
    """The stages that `dvc status` names, but `inputs`, which it always does."""
    with chdir(clone.folder), Repo() as repo:
        return set(repo.status()) & set(STAGES)


@pytest.mark.parametrize("room", DUE)
def test_what_an_edit_makes_due(clone, room):
    """In a module of a room, in a new one, and never by what Python keeps there."""
    folder = clone.folder / "src/convnets" / room
    for path in (next(folder.glob("[!_]*.py")), folder / "new.py"):
        before = path.read_text() if path.exists() else None
        path.write_text(f"{before or ''}# changed\n")
        try:
            found = due(clone)
        finally:
            path.unlink() if before is None else path.write_text(before)
        assert found == DUE[room], path
    (folder / "__pycache__").mkdir(exist_ok=True)
    (folder / "__pycache__/stale.cpython-311.pyc").write_bytes(b"stale")
    assert due(clone) == set()


@pytest.mark.parametrize("script", sorted({command(stage)[2] for stage in STAGES}))
def test_an_edit_of_a_script_makes_its_stages_due(clone, script):
    path = clone.folder / f"{script.replace('.', '/')}.py"
    before = path.read_text()
    path.write_text(f"{before}# changed\n")
    try:
        found = due(clone)
    finally:
        path.write_text(before)
    assert found == {stage for stage in STAGES if command(stage)[2] == script}


def test_wrong_params_stop_with_one_line(clone):
    path = clone.folder / "params.yaml"
    before = path.read_text()
    path.write_text(before.replace("train: 8", "train: zero"))
    try:
        output = clone.run(*command("subset"), status=1)
        assert "error: params.yaml: subset.train: input should be a number of images" in output
        assert "Traceback" not in output
    finally:
        path.write_text(before)


def test_the_metrics_and_plots_have_something_to_show(clone):
    (shown,) = json.loads(clone.run("dvc", "metrics", "show", "--json"))[""]["data"].values()
    models = {stage.replace("@", "_") for stage in TRAINING}
    assert next(iter(shown["data"])) == "champion"  # in a narrow terminal, only the first are seen
    assert set(shown["data"]) == {"champion", *models}
    names = {"test_accuracy", "test_loss", "val_accuracy", "val_loss"}
    assert all(set(scores) == names for scores in shown["data"].values())
    clone.run("dvc", "plots", "show")
    page = (clone.folder / "dvc_plots/index.html").read_text()
    assert "Validation accuracy" in page
    assert "The champion on the test images" in page
    assert '"field": "model"' in page  # from our own template, .dvc/plots/curves.json
    assert all(stage.replace("@", "_") in page for stage in TRAINING)


def test_no_token_is_written_anywhere(clone):
    assert not holding(TOKEN, clone.folder)


# What follows is slow, and has clones of its own.


@pytest.fixture(scope="module")
def ui(small):
    """The address of the list of runs in the MLflow UI, as `make ui` prints it."""
    lines = small.run("make", "-n", "ui").splitlines()
    (command,) = (line for line in lines if line.startswith("mlflow ui "))
    assert "--host 127.0.0.1 --port 5000" in command
    (address,) = re.findall(r"http://127.0.0.1:5000/[^']+", "\n".join(lines))
    port = free_port()
    with subprocess.Popen(
        shlex.split(command.replace("5000", str(port))),
        cwd=small.folder,
        env=small.environment() | {"MLFLOW_DISABLE_TELEMETRY": "true"},
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
    """A metric's chart, among all charts of a page."""
    page.get_by_placeholder("Search metric charts").fill(f"^{metric}$")
    cards = page.get_by_test_id("experiment-view-compare-runs-card")
    expect(cards).to_have_count(1)
    return cards


@pytest.mark.slow("pages")
@pytest.mark.browser
def test_the_runs_in_mlflow_s_list(small, ui, page):
    first = small.runs()[lambda runs: runs["tags.stage"] == "evaluate"].iloc[-1]
    page.goto(ui)
    for name in ("Duration", "best_val_accuracy", "best_val_loss", "dvc_exp_name", "dvc_run"):
        expect(page.get_by_role("columnheader", name=name).last).to_be_visible()
    search = page.get_by_test_id("search-box")
    run = set(STAGES) - NOT_FEW
    search.fill(f'tags.dvc_run = "{first["tags.dvc_run"]}" AND tags.dvc_exp_name = "workspace"')
    search.press("Enter")
    expect(page.get_by_text(f"{len(run)} matching runs")).to_be_visible()
    for stage in run:
        expect(page.get_by_role("link", name=stage, exact=True)).to_be_visible()
    shown = page.get_by_role("gridcell", name=first["tags.dvc_run"], exact=True)
    expect(shown).to_have_count(len(run))
    # A filter can also be a part of the address. The page is loaded anew: in one that is open, only
    # the part after # changes, and MLflow's late answer to the search above may replace the list.
    page.goto("about:blank")
    chosen = quote('tags.stage LIKE "train_%" AND tags.dvc_exp_name = "workspace"')
    page.goto(f"{ui.split('&')[0]}&searchFilter={chosen}")
    expect(page.get_by_text(f"{len(FEW)} matching runs")).to_be_visible()


@pytest.mark.slow("pages")
@pytest.mark.browser
def test_a_run_s_pages(small, ui, page):
    runs = small.runs().drop_duplicates("tags.stage", keep="last").set_index("tags.stage")
    run = runs.loc["train_feature_head"]
    address = f"{ui.split('?')[0]}/{run['run_id']}"
    page.goto(f"{address}?workflowType=machine_learning")
    main = page.get_by_role("main")
    for text in (
        "A head on the frozen backbone's features",
        "train_feature_head.learning_rate",
        "best_val_accuracy",
        run["tags.dvc_run"],
        run["tags.mlflow.source.git.commit"][:7],
        "dvc-outs/features",
    ):
        expect(main).to_contain_text(text)
    page.goto(f"{address}/model-metrics")
    for metric in ("accuracy", "val_accuracy", "loss", "val_loss"):
        expect(chart(page, metric).locator(".scatterlayer .point")).to_have_count(2)  # epochs
    page.goto(f"{address}/system-metrics")
    expect(main).to_contain_text("cpu_utilization_percentage")
    page.goto(f"{ui.split('?')[0]}/{runs.loc['evaluate', 'run_id']}/artifacts/report.html")
    expect(page.frame_locator("iframe").get_by_text("What the models do")).to_be_visible()


@pytest.mark.slow("pages")
@pytest.mark.browser
def test_the_curves_of_two_runs_lie_on_one_another(small, ui, page):
    first = small.runs()[lambda runs: runs["tags.stage"] == "evaluate"].iloc[-1]
    chosen = f'tags.dvc_run = "{first["tags.dvc_run"]}" AND tags.stage LIKE "train_%"'
    page.goto(f"{ui.split('&')[0]}&compareRunsMode=CHART&searchFilter={quote(chosen)}")
    for metric in ("accuracy", "val_accuracy", "loss", "val_loss"):
        card = chart(page, metric)
        for stage in FEW:
            expect(card).to_contain_text(f"{stage} ({metric})")
        expect(card.locator(".scatterlayer .point")).to_have_count(len(FEW) * 2)  # epochs


@pytest.mark.slow("pages")
@pytest.mark.browser
def test_the_registered_model_s_pages(small, ui, page):
    small.runs()
    version = mlflow.MlflowClient().get_model_version_by_alias("convnets", "champion")
    page.goto(f"{ui.split('#')[0]}#/models/convnets")
    main = page.get_by_role("main")
    expect(main).to_contain_text("the best model on the validation images, with calibrated")
    row = page.get_by_role("row").filter(has_text=f"Version {version.version}")
    expect(row).to_contain_text("champion")
    row.get_by_role("link", name=f"Version {version.version}").click()
    expect(main).to_contain_text(f"of the validation images; of {len(FEW)} models, ")
    expect(main).to_contain_text(version.description)
    page.get_by_role("row").filter(has_text="Inputs (1)").locator("svg").click()
    expect(main).to_contain_text("Tensor (dtype: object, shape: [-1])")  # pictures of any kind


@pytest.mark.slow("experiments")
def test_a_learning_rate_concerns_its_stage_and_evaluate(small):
    output = small.run(
        "dvc", "exp", "run", "-n", "faster", "-S", "train_scratch.learning_rate=2e-5"
    )
    assert executed(output) == ["train_scratch", "evaluate"]
    newest = small.runs().head(2)
    assert set(newest["tags.stage"]) == {"train_scratch", "evaluate"}
    assert set(newest["tags.dvc_exp_name"]) == {"faster"}
    assert "train_scratch.learning_rate" in small.run("dvc", "params", "diff")
    assert "faster" in small.run("dvc", "exp", "show", "--md")


@pytest.mark.slow("experiments")
def test_epochs_counts_in_a_temporary_directory_too(small):
    before = len(small.runs())
    small.run("dvc", "exp", "run", "--temp", "-n", "longer", "-S", "epochs=3", "train_scratch")
    runs = small.runs()
    (new,) = runs.head(len(runs) - before).itertuples()
    assert small.steps(new.run_id) == 3  # make_quick has 2
    run = mlflow.get_run(new.run_id)
    assert run.data.tags["stage"] == "train_scratch"
    assert run.data.tags["dvc_exp_name"] == "longer"
    assert run.data.tags["mlflow.source.git.commit"] == small.run("git", "rev-parse", "@")[:40]


@pytest.mark.slow("queue")
def test_a_dead_tracking_server_costs_no_stage(tmp_path):
    empty = Clone.of_commit(tmp_path / "convnets")
    output = empty.run(
        *("env", "MLFLOW_TRACKING_URI=http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES=0"),
        *command("download_mnist"),
    )
    assert "download_mnist continues without it" in output
    assert "Traceback" not in output
    sync = ("env", "PYTHONPATH=src", sys.executable, "-m", "convnets", "sync")
    assert "download_mnist: recorded" in empty.run(*sync)


@pytest.mark.slow("queue")
def test_four_queued_experiments_two_at_a_time_are_all_recorded(tmp_path):
    empty = Clone.of_commit(tmp_path / "convnets")
    # Only download_mnist, which is quick, each time with another seed.
    empty.run("dvc", "exp", "run", "--queue", "-S", "seed=1,2,3,4", "download_mnist")
    empty.run("dvc", "exp", "run", "--run-all", "-j", "2")
    # The worker that ends first clears the queue's messages: now and then, the other one waits on.
    empty.run("dvc", "queue", "stop")
    new = empty.runs()
    assert list(new["tags.stage"]) == ["download_mnist"] * 4
    assert set(new["status"]) == {"FINISHED"}
    assert set(new["params.seed"]) == {"1", "2", "3", "4"}
    shown = json.loads(empty.run("dvc", "exp", "show", "--json"))
    names = {item["name"] for item in shown[-1]["experiments"] or [] if item.get("name")}
    assert set(new["tags.dvc_exp_name"]) <= names
    assert new["tags.dvc_run"].nunique() >= 2  # two may have begun in the same second


@pytest.mark.slow("again")
def test_another_clone_makes_the_same_bytes(tmp_path):
    """Every out: images, features, weights, models, metrics and figures. Each script trains."""
    made = []
    trained = few("train_residual", "train_augmented_head", "fine_tune") | {"views": {"count": 2}}
    for name in ("one", "another"):
        clone = reproduced(Clone.of_commit(tmp_path / name / "convnets"), **trained)
        lock = yaml.safe_load((clone.folder / "dvc.lock").read_text())
        made.append(
            {
                (stage, out["path"]): out["md5"]
                for stage, entry in lock["stages"].items()
                for out in entry["outs"]
            }
        )
    assert made[0] == made[1]


@pytest.mark.slow("cluster")
def test_a_cluster_makes_the_same_bytes(tmp_path, monkeypatch):
    clone = Clone.of_commit(tmp_path / "convnets")
    make_quick(clone)
    clone.run("dvc", "repro", "extract_features", "extract_views")
    before = (clone.folder / "dvc.lock").read_text()
    with nodes(monkeypatch, 3):
        for stage in ("subset", "extract_features", "extract_views"):
            shutil.rmtree(clone.folder / ".features", ignore_errors=True)
            output = clone.run("dvc", "repro", "--single-item", "--force", stage)
            assert "Ray: 3 nodes, 3 CPUs" in output
    assert (clone.folder / "dvc.lock").read_text() == before


PROBE = block((ROOT / "dvc.yaml").read_text(), "train_feature_head").replace(
    "train_feature_head", "train_linear_probe"
)
PROBE = re.sub("--title .*", '--title "linear probe"', PROBE)
PROBE_PARAMS = """
train_linear_probe:
  features: images
  mirrored: true
  architecture: dense
  epochs: 3
  batch_size: 32
  optimizer: adam
  learning_rate: 0.001
  schedule: cosine
  weight_decay: 0
  units: null
  dropout: 0
"""


@pytest.mark.slow("corrections")
def test_a_correction_costs_no_extraction(small):
    """A label is changed and a picture dropped: what learns from labels runs, and nothing else."""
    small.run("dvc", "repro")
    table = pd.read_csv(small.folder / "dvc-outs/images/train.csv", dtype=str)
    path = small.folder / "corrections.csv"
    before = path.read_text()
    after = {0: "dog", 1: "drop"}
    for row, label in after.items():
        assert table["class"][row] == "cat"
        with path.open("a") as file:
            file.write(f"{table['sha256'][row]},{table['file'][row]},cat,{label},\n")
    try:
        ran = executed(small.run("dvc", "repro"))
        of_images = {stage for stage in TRAINING if "mnist" not in stage}
        assert set(ran) == {"labels", "audit", "evaluate"} | of_images
        labels = pd.read_csv(small.folder / "dvc-outs/labels/train.csv").set_index("row")
        assert labels.loc[0, "class"] == "dog"
        assert len(labels) == len(table) - 1
        run = small.runs()[lambda runs: runs["tags.stage"] == "labels"].iloc[0]
        assert (run["metrics.corrected"], run["metrics.dropped"]) == (1, 1)
        assert "1 have another class" in (small.folder / "metrics/data.html").read_text()
    finally:
        path.write_text(before)


@pytest.mark.slow("head")
def test_a_new_head_is_a_block_and_a_section(small):
    """It is trained, compared, plotted and in the report; without its block it is left over."""
    pipeline = small.folder / "dvc.yaml"
    changed = [pipeline, small.folder / "params.yaml", small.folder / "presets/book.yaml"]
    before = {path: path.read_text() for path in changed}
    small.run("dvc", "repro")  # back to the last commit, after other tests' changes
    pipeline.write_text(before[pipeline].replace("\n  fine_tune:", f"{PROBE}\n  fine_tune:", 1))
    for path in changed[1:]:
        path.write_text(before[path] + PROBE_PARAMS)
    try:
        output = small.run("dvc", "repro")
        assert executed(output) == ["train_linear_probe", "evaluate"]
        metrics = small.folder / "metrics"
        table = pd.read_csv(metrics / "comparison.csv", index_col="model")
        assert sorted(table.index) == sorted(["train_linear_probe", *FEW])
        assert "train_linear_probe.test_accuracy" in small.run("dvc", "metrics", "show", "--md")
        curves = pd.read_csv(metrics / "curves.csv").query("model == 'train_linear_probe'")
        assert list(curves["epoch"]) == [1, 2]  # the top-level `epochs` takes precedence
        small.run("dvc", "plots", "show")
        assert "train_linear_probe" in (small.folder / "dvc_plots/index.html").read_text()
        page = (metrics / "report.html").read_text()
        # Its row, its curves and its confusion.
        assert page.count("linear probe") >= 1
        assert page.count(">train_linear_probe<") >= 3
        runs = small.runs().drop_duplicates("tags.stage").set_index("tags.stage")
        assert runs.loc["train_linear_probe", "params.train_linear_probe.schedule"] == "cosine"
        assert runs.loc["train_linear_probe", "metrics.cache_disagreement"] < 0.02
        for name in ("test_accuracy", "balanced_accuracy", "macro_f1", "test_loss"):
            scored = runs.loc["evaluate", f"metrics.train_linear_probe.{name}"]
            assert scored == pytest.approx(table.loc["train_linear_probe", name])
    finally:
        for path, text in before.items():
            path.write_text(text)
    # DVC does not see that its stage is gone: its file must go too, as CONTRIBUTING.md says.
    left = small.run("dvc", "repro", "--single-item", "--force", "evaluate", status=255)
    assert "rm -r dvc-outs/trained/train_linear_probe" in left
    shutil.rmtree(small.folder / "dvc-outs/trained/train_linear_probe")
    assert executed(small.run("dvc", "repro")) == ["evaluate"]  # never from DVC's run cache
    table = pd.read_csv(metrics / "comparison.csv", index_col="model")
    assert "train_linear_probe" not in table.index
    assert "train_linear_probe" not in small.run("dvc", "metrics", "show")
