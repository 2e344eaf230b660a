"""MLflow's store may fail at any time and in any way. No training suffers, nothing is lost."""

import os
import re
import shutil
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from convnets.base import params
from convnets.base.console import InputError
from convnets.base.params import Training
from convnets.examples.examples import Examples
from convnets.models import saved
from convnets.models.answers import classifier
from convnets.networks import architectures
from convnets.tracking import declared, store, sync
from convnets.tracking.run import Run, recorded
from convnets.training.fit import Task, fit
from tests.commands import ROOT, Clone, answers, free_port, holding, record, serving

DIGITS = Examples(
    np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1)).astype("uint8"),
    np.arange(40) % 10,
    Path("dvc-outs/mnist.npz"),
)
OTHERS = DIGITS._replace(labels=DIGITS.labels[::-1].copy())
RATES = {"optimizer": "rmsprop", "schedule": "constant", "weight_decay": 0}
HOW = Training(epochs=3, batch_size=20, learning_rate=1e-3, **RATES)
COMMON = params.load(ROOT / "params.yaml").model_copy(update={"seed": 0, "precision": "float32"})
CLASSES = [str(digit) for digit in range(10)]
SECRET = "planted-" + "secret"
SCORES = {"val_accuracy": "0.5", "val_loss": "0.7", "validation": "abc"}


@pytest.fixture
def project(tmp_path, monkeypatch, request) -> Path:
    """A clone that can run the digits' stages."""
    folder = Clone.of_commit(tmp_path / "project").folder
    (folder / "dvc-outs").mkdir(exist_ok=True)
    (folder / "dvc-outs/mnist.npz").write_bytes(b"digits")
    monkeypatch.chdir(folder)
    for name in (*store.SETTINGS, "MLFLOW_TRACKING_URI", "DVC_ROOT", "MLFLOW_EXPERIMENT_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("DVC_EXP_NAME", request.node.name)
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY", "MLFLOW_TRACKING_TOKEN"):
        monkeypatch.setenv(name, SECRET)
    return folder


def address(number: int) -> str:
    return f"http://user:{SECRET}@127.0.0.1:{number}"


class Server:
    """A real MLflow server on this machine, which can be stopped and restarted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = address(self.port)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
        command += ["--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self.folder}/server.db"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            stdout=(self.folder / "log").open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        if not answers(self.process, self.port):
            pytest.fail((self.folder / "log").read_text())

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def nothing_listens() -> str:
    return address(free_port())


@pytest.fixture
def answers_500():
    """The address of a server that answers everything with an internal error."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.send_error(500)

        do_GET = do_POST = do_PUT = do_PATCH = answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as found:
        yield address(int(found.rpartition(":")[2]))


def train(between=lambda: None) -> keras.Model:
    """What a training stage does; something happens between its training and its publication."""
    with recorded("train_mnist@max_pooling") as run:
        model, history = fitted(run, lambda: architectures.mnist_convnet(True), DIGITS)
        history.to_csv("digits.csv")
        between()
        run.text("late", "late.txt")
        run.artifact(Path("digits.csv"))
        run.metrics({"late": 1.0})
        saved.save(model, Path("models/digits.keras"), record(CLASSES))
        run.register(Path("models/digits.keras"), CLASSES, "train_mnist", "the only one", SCORES)
    return model


def fitted(run: Run, build, train: Examples):
    return fit(Task(build, train, DIGITS, HOW), COMMON, run)


def run_sync(project: Path, uri: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "convnets", "sync"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(project / "src"), "MLFLOW_TRACKING_URI": uri},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert SECRET not in done.stdout
    return done.stdout


def is_whole(uri: str, experiment: str, model: keras.Model) -> str:
    """Assert that a store has one run of a test, with all that is recorded; return its id."""
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    (run,) = mlflow.search_runs(
        experiment_names=["convnets"],
        filter_string=f"tags.dvc_exp_name = '{experiment}'",
        output_format="list",
    )
    run = client.get_run(run.info.run_id)
    run_id = run.info.run_id
    assert (run.info.status, run.info.run_name) == ("FINISHED", "train_mnist@max_pooling")
    assert run.info.end_time > run.info.start_time
    assert run.data.params["train_mnist.batch_size"] == "64"
    assert run.data.tags["stage"] == "train_mnist@max_pooling"
    rows = Path("digits.csv").read_text().splitlines()[1:]
    for key in ("loss", "val_loss", "accuracy", "val_accuracy"):
        assert [m.step for m in client.get_metric_history(run_id, key)] == [1, 2, 3]
    losses = [metric.value for metric in client.get_metric_history(run_id, "val_loss")]
    assert losses == pytest.approx([float(row.split(",")[4]) for row in rows])
    for key in ("late", "best_val_loss"):
        assert len(client.get_metric_history(run_id, key)) == 1
    paths = {item.path for item in client.list_artifacts(run_id)}
    assert {"late.txt", "digits.csv"} <= paths
    (dataset,) = run.inputs.dataset_inputs
    assert dataset.dataset.name == "dvc-outs/mnist"
    (output,) = run.outputs.model_outputs
    assert client.get_logged_model(output.model_id).name == "train_mnist"
    version = client.get_model_version_by_alias("convnets", "champion")
    assert version.description == "train_mnist: the only one"
    assert version.run_id == run_id
    described = mlflow.models.get_model_info("models:/convnets@champion")
    assert described.metadata["classes"] == [str(digit) for digit in range(10)]
    assert described.run_id == run_id
    inputs = DIGITS.inputs[:4].astype("float32")
    answers = mlflow.pyfunc.load_model("models:/convnets@champion").predict(inputs)
    predicted = [list(answer["probabilities"].values()) for answer in answers]
    np.testing.assert_allclose(predicted, model.predict(inputs, verbose=0), atol=1e-6)
    return run_id


@pytest.mark.parametrize("down", [(), ("training", "evaluate")])
def test_a_model_and_its_training_get_the_scores_of_evaluate(
    project, monkeypatch, nothing_listens, down
):
    """Also if the server was down meanwhile, after `sync`."""

    def server(for_: str) -> None:
        uri = nothing_listens if for_ in down else "sqlite:///scores.db"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)

    server("training")
    train()
    server("evaluate")
    with recorded("train_mnist@no_pooling") as run:  # another run, as evaluate's
        run.score_models({Path("models/digits.keras"): {"test_accuracy": 0.75, "val_loss": 9.0}})
    server("sync")
    sync.sync()
    client = mlflow.MlflowClient()
    (model,) = mlflow.search_logged_models(output_format="list")
    assert {metric.key: metric.value for metric in model.metrics}["test_accuracy"] == 0.75
    assert client.get_run(model.source_run_id).data.metrics["test_accuracy"] == 0.75
    curve = client.get_metric_history(model.source_run_id, "val_loss")
    assert [metric.step for metric in curve] == [1, 2, 3]
    (other,) = mlflow.search_runs(
        filter_string="tags.stage = 'train_mnist@no_pooling'", output_format="list"
    )
    assert "test_accuracy" not in other.data.metrics


@pytest.mark.slow
def test_a_server_that_dies_amid_a_run(project, server, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)

    def between() -> None:
        # The run is under way: what is unfinished, the metrics and the server's own files.
        assert list(project.glob(".unfinished/*/*/state.npz"))
        assert not holding(SECRET, project, server.folder)
        server.kill()

    model = train(between)
    output = capsys.readouterr().out
    assert not holding(SECRET, project)
    assert "warning: MLflow fails (" in output
    assert "train_mnist@max_pooling continues without it" in output
    assert "run `python -m convnets sync`" in output
    assert SECRET not in output

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    with pytest.raises(InputError, match="train_mnist@max_pooling: MLflow fails") as caught:
        sync.sync()
    assert SECRET not in str(caught.value)
    assert len(list((project / ".unrecorded").iterdir())) == 1
    server.start()
    (begun,) = mlflow.MlflowClient(server.uri).search_runs(["1"])
    assert begun.info.status == "RUNNING"
    assert run_sync(project, server.uri).endswith("train_mnist@max_pooling: recorded\n")
    assert not list((project / ".unrecorded").iterdir())
    assert is_whole(server.uri, "test_a_server_that_dies_amid_a_run", model) == begun.info.run_id
    assert not holding(SECRET, project, server.folder)


def test_a_loss_that_is_no_number_ends_the_training(project):
    endless = DIGITS._replace(inputs=np.full((40, 28, 28, 1), np.inf, "float32"))
    with (
        pytest.raises(InputError, match="the loss is not a number in epoch 1; lower the learning"),
        recorded("train_mnist@max_pooling") as run,
    ):
        fitted(
            run,
            lambda: keras.Sequential(
                [
                    keras.Input((28, 28, 1)),
                    keras.layers.Flatten(),
                    keras.layers.Dense(10, "softmax"),
                ]
            ),
            endless,
        )
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    (run,) = mlflow.search_runs(experiment_names=["convnets"], output_format="list")
    assert run.info.status == "FAILED"


def test_batches_of_one_image_are_no_batches_to_normalise(project):
    one = DIGITS._replace(inputs=DIGITS.inputs[:1], labels=DIGITS.labels[:1])
    normalising = [
        keras.Input((28, 28, 1)),
        keras.layers.Flatten(),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(10, "softmax"),
    ]
    with (
        pytest.raises(InputError, match="learns nothing from batches of one image; set batch_size"),
        recorded("train_mnist@max_pooling") as run,
    ):
        fitted(run, lambda: keras.Sequential(normalising), one)


@pytest.mark.slow
@pytest.mark.parametrize("failing", ["nothing_listens", "answers_500"])
def test_a_server_that_fails_from_the_start(project, server, request, failing, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue(failing))
    model = train()
    captured = capsys.readouterr()
    assert captured.out.count("warning: MLflow fails (") == 1
    assert "run `python -m convnets sync`" in captured.out
    assert SECRET not in captured.out + captured.err
    kept = project / "kept"
    shutil.copytree(".unrecorded", kept)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    sync.sync()
    run_id = is_whole(server.uri, request.node.name, model)
    assert not list(Path(".unrecorded").iterdir())
    # If sync is interrupted after the copy but before the removal, the next sync adds nothing.
    shutil.copytree(kept, ".unrecorded", dirs_exist_ok=True)
    sync.sync()
    assert is_whole(server.uri, request.node.name, model) == run_id
    sync.sync()
    captured = capsys.readouterr()
    assert "nothing to record" in captured.out
    assert SECRET not in captured.out + captured.err


@pytest.fixture
def hangs():
    """The address of a server that accepts every request and answers none."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield address(listener.getsockname()[1])


def test_a_run_that_moved_goes_on_where_it_is(project, hangs, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    target = store.database(project / "target")
    rows = [{"val_loss": 3.0}, {"val_loss": 2.0}, {"val_loss": 1.0}]

    def stage(interrupted_after: int | None) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", hangs)
        with recorded("download_mnist") as run:
            run.epochs(rows[:interrupted_after])
            if interrupted_after:
                raise KeyboardInterrupt

    def kept() -> list[tuple[str, float]]:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", target)
        sync.sync()
        runs = mlflow.search_runs(experiment_names=["convnets"], output_format="list")
        return [(run.info.status, run.data.metrics["val_loss"]) for run in runs]

    with pytest.raises(KeyboardInterrupt):
        stage(interrupted_after=2)
    assert kept() == [("KILLED", 2.0)]
    assert "is kept until the stage has finished" in capsys.readouterr().out
    stage(interrupted_after=None)
    assert kept() == [("FINISHED", 1.0)]
    assert not list(Path(".unrecorded").iterdir())


def test_patience_ends_a_training_and_resumes_to_the_same_bytes(project, monkeypatch):
    """Labels by chance cannot be learned: soon no epoch is better."""
    how = HOW.model_copy(update={"epochs": 60, "patience": 2, "learning_rate": 0.1})

    def build() -> keras.Model:
        pixels = keras.Input((28, 28, 1))
        return keras.Model(pixels, classifier(keras.layers.Flatten()(pixels / 255), 10))

    def train() -> tuple[list[np.ndarray], pd.DataFrame]:
        with recorded("train_mnist@max_pooling") as run:
            model, history = fit(Task(build, DIGITS, OTHERS, how), COMMON, run)
        return model.get_weights(), history

    whole, history = train()
    best = int(history["val_loss"].argmin()) + 1
    assert len(history) == best + 2 < 60
    log = Run.epochs
    for last in (1, len(history)):  # the second decides that it ends

        def interrupted(run: Run, rows: list[dict[str, float]], last: int = last) -> None:
            log(run, rows)
            if len(rows) == last:
                raise KeyboardInterrupt

        monkeypatch.setattr(Run, "epochs", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train()
        monkeypatch.setattr(Run, "epochs", log)
        weights, again = train()
        pd.testing.assert_frame_equal(again, history)
        assert all(map(np.array_equal, weights, whole))


def test_where_nothing_can_be_recorded_the_stage_goes_on(project, hangs, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", hangs)
    Path(".unrecorded").write_text("a file where the folder should be")
    with recorded("download_mnist") as run:
        run.metrics({"loss": 1.0})
    output = capsys.readouterr().out
    assert output.count("warning: MLflow fails (") == 1
    assert "download_mnist is no longer recorded" in output
    assert "convnets sync" not in output


@pytest.mark.slow
def test_stages_that_start_at_once_share_a_fresh_store(project):
    """No process corrupts the new database, and none waits until it gives up."""
    code = (
        "import sys\n"
        "from convnets.tracking.run import recorded\n"
        "with recorded(sys.argv[1]) as run:\n"
        "    for step in range(50):\n"
        "        run.metrics({'a': step, 'b': step}, step)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(project / "src")}
    environment.pop("MLFLOW_TRACKING_URI", None)
    stages = ("download", "download_weights", "download_mnist")
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, stage],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for stage in stages
    ]
    for stage, process in zip(stages, started, strict=True):
        output, _ = process.communicate()
        assert process.returncode == 0
        assert re.fullmatch(rf"{stage}: [^\n]+\n", output)
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    runs = mlflow.search_runs(experiment_names=["convnets"], output_format="list")
    found = [(run.info.status, run.data.metrics.get("a")) for run in runs]
    assert found == [("FINISHED", 49.0)] * 3
    assert [path.name for path in project.glob("mlflow.db*")] == ["mlflow.db"]


def test_the_stages_of_one_dvc_command_have_its_start_in_common(tmp_path):
    stage = [sys.executable, "-c", "from convnets.tracking.run import dvc_run; print(dvc_run())"]
    command = tmp_path / "dvc"
    command.write_text(
        "import subprocess, time\n"
        "for _ in range(2):\n"
        f"    subprocess.run({stage!r}, check=True)\n"
        "    time.sleep(1.1)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}

    def starts(*words: str) -> list[str]:
        return subprocess.check_output(words, env=environment, text=True).split()

    first, second = starts(sys.executable, str(command))
    assert first == second
    (another, _), (alone,) = starts(sys.executable, str(command)), starts(*stage)
    assert first < another < alone  # the order as texts is the same


DEFECTS = {
    "a wrong dataset": (
        lambda run: run.dataset(Path("dvc-outs/images/train.npy"), "train"),
        InputError,
    ),
    "a dataset that is not there": (
        lambda run: run.dataset(Path("src/convnets/data/none.npy"), "train"),
        InputError,
    ),
    "an artifact that is not there": (lambda run: run.artifact(Path("none.json")), InputError),
    "a metric's name": (lambda run: run.metrics({"macro F1 (%)!": 1.0}), MlflowException),
    "a wrong call": (lambda run: run.attempt(lambda: mlflow.log_metrics(1)), AttributeError),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_defect_of_ours_is_no_failure_of_the_store(project, capsys, defect):
    """It ends the stage, and the run has failed."""
    call, kind = DEFECTS[defect]
    with pytest.raises(kind), recorded("train_mnist@max_pooling") as run:
        call(run)
    if kind is InputError:
        assert "MLflow fails" not in capsys.readouterr().out


@pytest.mark.parametrize("uri", ["postgresql://127.0.0.1:9/none", "http://[::1", "unknown://x"])
def test_a_store_that_cannot_even_be_asked_costs_no_stage(project, capsys, monkeypatch, uri):
    """Its driver is not installed, or its address is none."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with recorded("download_mnist") as run:
        run.metrics({"loss": 1.0})
    output = capsys.readouterr().out
    assert output.count("warning: MLflow fails (") == 1
    assert "run `python -m convnets sync`" in output
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)  # MLflow changes it
    with pytest.raises(InputError, match="download_mnist: MLflow fails"):
        sync.sync()


def test_another_command_does_not_resume(project):
    """What a stage does may depend on the arguments in dvc.yaml."""
    keys = []
    for flag in ("--pooling ", ""):
        text = Path("dvc.yaml").read_text()
        Path("dvc.yaml").write_text(text.replace("--pooling ", flag))
        keys.append(declared.of("train_mnist@max_pooling").key())
    assert keys[0] != keys[1]


def test_a_missing_dep_is_one_line(project):
    Path("dvc-outs/mnist.npz").unlink()
    with pytest.raises(InputError, match=r"mnist\.npz: does not exist; run `dvc repro train_mn"):
        declared.of("train_mnist@max_pooling")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sqlite:///mlflow.db", "sqlite+pysqlite:///{root}/mlflow.db"),
        (
            "sqlite:///runs/mlflow.db?timeout=9",
            "sqlite+pysqlite:///{root}/runs/mlflow.db?timeout=9",
        ),
        ("sqlite:////elsewhere/mlflow.db", "sqlite:////elsewhere/mlflow.db"),
        ("mlruns", "{root}/mlruns"),
        ("/elsewhere/mlruns", "/elsewhere/mlruns"),
        *((same, same) for same in ("http://127.0.0.1:5000", "file:///runs", "databricks")),
    ],
)
def test_a_relative_store_is_the_main_checkout_s(tmp_path, monkeypatch, given, expected):
    """Also where DVC runs a stage in a temporary directory."""
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", given)
    assert store.uri() == expected.format(root=tmp_path)


def test_help_is_quick():
    """It loads neither TensorFlow nor MLflow."""
    code = (
        "import sys, runpy; sys.argv = ['convnets', '--help']\n"
        "try: runpy.run_module('convnets', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "assert not {'tensorflow', 'keras', 'mlflow'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    assert "sync" in output


@pytest.mark.parametrize(("class_weight", "share"), [("none", 0.1), ("balanced", 0.5)])
def test_images_of_a_rare_class_count_for_more_if_balanced(project, class_weight, share):
    """Where inputs say nothing, the best probability of a class is its weight in the loss."""
    labels = np.repeat([0, 1], [90, 10])
    examples = Examples(np.ones((100, 1), "float32"), labels, DIGITS.source)
    how = Training(epochs=12, batch_size=10, learning_rate=0.05, **RATES)

    def build() -> keras.Model:
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, activation="sigmoid")])

    with recorded("train_mnist@max_pooling") as run:
        model, _ = fit(Task(build, examples, examples, how, class_weight), COMMON, run)
        last = run.unfinished / "state.npz"
        with np.load(last) as state:
            now = [state[f"now_{place}"] for place in range(2)]
    model.set_weights(now)
    assert float(model.predict(np.ones((1, 1)), verbose=0)[0, 0]) == pytest.approx(share, abs=0.06)
