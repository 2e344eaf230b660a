"""One MLflow run for each executed stage; a tracking store that fails never costs a training."""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psutil
import yaml

from convnets.console import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENT = "convnets"
CHAMPION = "champion"  # the alias of the model to use
DESCRIPTION = (
    "Models of images, from raw pixels of 0 to 255 to probabilities. Each execution of the stage "
    "`evaluate` adds as a version the one with the best validation accuracy, by lower validation "
    "loss where two are equal; the newest has the alias `champion`."
)
UNFINISHED = Path(".unfinished")
VIEW = {  # of MLflow's list of runs, under ?viewStateShareKey=runs: what to see of each run
    "selectedColumns": [
        "attributes.`Duration`",
        "metrics.`best_val_accuracy`",
        "metrics.`best_val_loss`",
        "tags.`dvc_exp_name`",
        "tags.`dvc_run`",
    ],
}
BEGUN_AS = "begun_as"  # the tag of a run in a store of its own: what the tracking store calls it

SETTINGS = {
    # MLflow's defaults let a stage wait for minutes at each call of a server that is down or hangs.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    # It would print its server's address, with a password that is in it.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


class Run:
    """An MLflow run that survives its store: when a call fails, the run moves to a local one.

    That store is a folder of `unrecorded()`, from where `convnets.sync` passes the run on. Should
    even that fail, the run turns deaf: its calls do nothing.
    """

    def __init__(
        self,
        stage: str,
        unfinished: Path,
        tags: dict[str, str],
        params: dict[str, Any],
        hashes: dict[str, str],
    ) -> None:
        self.stage = stage
        self.unfinished = unfinished  # a folder that outlives the process until the stage is done
        self.tags = tags
        self.params = params
        self.hashes = hashes  # of the stage's deps
        self.live = True
        self.run_id = ""  # of the run in the store that it is in now
        self.folder: Path | None = None  # of the local store that the run has moved to
        moved = unfinished / "unrecorded"
        if moved.exists() and (unrecorded() / moved.read_text()).exists():
            self.folder = unrecorded() / moved.read_text()

    def finish(self, out: Path) -> None:
        """Move the finished NumPy files into the stage's out; DVC empties that at each start."""
        out.mkdir(parents=True, exist_ok=True)
        for file in self.unfinished.glob("*.npy"):
            file.replace(out / file.name)

    def attempt(self, call: Callable[[], Any]) -> Any:
        """Do something with MLflow in the run, begun before if need be; a failure is never raised.

        It is told, and the run moves to a local store, where the call is made once more.
        """
        import mlflow

        while self.live:
            try:
                if mlflow.active_run() is None:
                    self._begin()
                return call()
            except Exception as error:  # whatever the store or the network throws
                self.live = self.folder is None and self._move()
                rest = "goes on without it" if self.live else "leaves it out from here on"
                say(f"warning: MLflow fails ({reason(error)}); {self.stage} {rest}")
        return None

    def end(self, status: str) -> None:
        """End the run, and say what remains to be done."""
        import mlflow

        self.attempt(lambda: mlflow.end_run(status))
        with suppress(Exception):  # the run of one who has turned deaf
            mlflow.end_run(status)
        if self.live and self.folder is not None:
            say(f"{self.stage}: to record it in MLflow later, run `python -m convnets sync`")

    def _begin(self) -> None:
        """Begin the run, or go on with the one that an interrupted process began."""
        import mlflow

        known, tags = self.unfinished / "mlflow_run", self.tags
        if self.folder is None:
            folder, uri = root(), store()
        else:
            folder, uri = self.folder, database(self.folder)
            if known.exists():
                tags = tags | {BEGUN_AS: known.read_text()}
            known = folder / "mlflow_run"
        mlflow.set_tracking_uri(uri)
        if uri.startswith("sqlite:") and mlflow.get_experiment_by_name(EXPERIMENT) is None:
            mlflow.create_experiment(EXPERIMENT, (folder / "mlruns").as_uri())
        mlflow.set_experiment(EXPERIMENT)
        mlflow.set_experiment_tag("mlflow.sharedViewState.runs", json.dumps(VIEW))
        if known.exists():
            self.run_id = known.read_text()
            mlflow.start_run(self.run_id, tags=tags, log_system_metrics=True)
        else:
            begun = mlflow.start_run(run_name=self.stage, tags=tags, log_system_metrics=True)
            self.run_id = begun.info.run_id
            known.write_text(self.run_id)
        mlflow.log_params(self.params)

    def _move(self) -> bool:
        """Leave the store that failed, without another call to it; tell whether that was done."""
        import mlflow

        folder = unrecorded() / uuid4().hex
        try:
            mlflow.set_tracking_uri(database(folder))
            (self.unfinished / "unrecorded").write_text(folder.name)
        except Exception:  # of the same kinds
            return False
        with suppress(Exception):  # the run is not in this store, but no longer the active one
            mlflow.end_run()
        self.folder = folder
        return True

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Log numbers, of an epoch if `step` is given."""
        import mlflow

        self.attempt(lambda: mlflow.log_metrics(values, step=step))

    def epochs(self, rows: list[dict[str, float]]) -> None:
        """Log the epochs so far, a step each, but for those that the run has from before."""
        import mlflow

        def log() -> None:
            history = mlflow.MlflowClient().get_metric_history(self.run_id, "val_loss")
            for step in range(len(history) + 1, len(rows) + 1):
                mlflow.log_metrics(rows[step - 1], step=step)

        self.attempt(log)

    def durations(self) -> dict[str, float]:
        """Return the seconds from start to end of the newest whole run of each stage, oldest first.

        Those of a stage that was interrupted count until it had gone on to its end.
        """
        import mlflow

        def search() -> dict[str, float]:
            runs = mlflow.search_runs(
                experiment_names=[EXPERIMENT],
                filter_string="attributes.status = 'FINISHED'",
                order_by=["attributes.start_time DESC"],
                max_results=1000,
                output_format="list",
            )
            newest = {run.info.run_name: run.info for run in reversed(runs)}
            return {name: (info.end_time - info.start_time) / 1000 for name, info in newest.items()}

        return self.attempt(search) or {}

    def text(self, text: str, name: str) -> None:
        """Log a text as the artifact `name`."""
        import mlflow

        self.attempt(lambda: mlflow.log_text(text, name))

    def figure(self, figure: "Figure", name: str) -> None:
        """Log a figure as the artifact `name`, and close it."""
        import mlflow
        from matplotlib import pyplot as plt

        self.attempt(lambda: mlflow.log_figure(figure, name))
        plt.close(figure)

    def artifact(self, path: Path) -> None:
        """Log a file or a folder."""
        import mlflow

        log = mlflow.log_artifacts if path.is_dir() else mlflow.log_artifact
        self.attempt(lambda: log(str(path), path.name if path.is_dir() else None))

    def dataset(self, path: Path, context: str) -> None:
        """Name a dep of the stage as a dataset that it reads, with its hash."""
        import mlflow
        from mlflow.data.dataset_source_registry import get_dataset_source_from_json
        from mlflow.data.meta_dataset import MetaDataset

        def log() -> None:
            # To resolve the path instead would warn that two classes can, which are the same.
            source = get_dataset_source_from_json(json.dumps({"uri": path.as_posix()}), "local")
            name = path.with_suffix("").as_posix()
            digest = self.hashes[path.as_posix()]
            # MLflow's own class leaves `profile` abstract by its types alone.
            dataset = MetaDataset(source, name, digest)  # type: ignore[abstract]
            mlflow.log_input(dataset, context=context)

        self.attempt(log)

    def model(self, model: Any, example: Any, classes: list[str]) -> None:
        """Log a Keras model with its signature.

        Args:
            model: takes pixels.
            example: (n, h, w, c) pixels, uint8.
            classes: their names, kept as the model's metadata.
        """
        self.attempt(lambda: _log_model(model, self.stage, example, classes))

    def register(self, model: Any, example: Any, classes: list[str], chosen: str, why: str) -> None:
        """Log the champion and register it under the alias `champion`.

        Args:
            model: takes pixels.
            example: (n, h, w, c) pixels, uint8.
            classes: their names.
            chosen: the stage that trained it.
            why: it was chosen.
        """
        import mlflow

        def register() -> None:
            client = mlflow.MlflowClient()
            uri = _log_model(model, chosen, example, classes)
            version = new_version(client, uri, f"{chosen}: {why}")
            client.set_registered_model_alias(EXPERIMENT, CHAMPION, version)

        self.attempt(register)


def _log_model(model: Any, name: str, example: Any, classes: list[str]) -> str:
    """Log a model to the active run, by the name of the stage that trained it; return its URI."""
    import mlflow

    inputs = example.astype("float32")
    info = mlflow.keras.log_model(
        model,
        name=name,
        signature=mlflow.models.infer_signature(inputs, model.predict(inputs, verbose=0)),
        metadata={"classes": classes},
        # Inferring them would start a process that loads the model once more.
        pip_requirements=[*mlflow.keras.get_default_pip_requirements(), "tensorflow"],
    )
    return str(info.model_uri)


def new_version(client: Any, uri: str, why: str) -> str:
    """Register a logged model as the newest version of `EXPERIMENT`; return the version's number.

    It is what `mlflow.register_model` does, which also prints, and describes nothing.
    """
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # it exists, perhaps since a moment ago
        client.create_registered_model(EXPERIMENT, description=DESCRIPTION)
    model_id = uri.removeprefix("models:/")
    made = client.create_model_version(EXPERIMENT, uri, description=why, model_id=model_id)
    return str(made.version)


@contextmanager
def run(stage: str, item: str | None = None) -> Iterator[Run]:
    """Record a stage as an MLflow run, with the params and deps that `dvc.yaml` declares for it.

    A stage that was interrupted, even by `kill -9`, finds its `unfinished` folder again and goes on
    as the same MLflow run, if its code, data and params are the same; else the folder is swept.

    Args:
        stage: its name in `dvc.yaml`.
        item: of a matrix stage.
    """
    quieten()
    name = f"{stage}@{item}" if item else stage
    declared = _yaml(Path("dvc.yaml"))["stages"][stage]
    description = declared["desc"]
    say(f"{name}: {description}")
    params, hashes = values_of(declared.get("params", [])), hashes_of(declared.get("deps", []))
    key = state_hash(params, hashes)
    unfinished = UNFINISHED / name / key
    for other in unfinished.parent.glob("*"):
        if other != unfinished:
            shutil.rmtree(other)
    unfinished.mkdir(parents=True, exist_ok=True)
    tags = {
        "stage": name,
        "dvc_exp_name": os.environ.get("DVC_EXP_NAME") or "workspace",
        "dvc_run": dvc_run(),
        "deps_hash": key,
        "mlflow.note.content": description,
    }
    recorder = Run(name, unfinished, tags, params, hashes)
    recorder.attempt(lambda: None)
    try:
        yield recorder
    except BaseException as error:
        recorder.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    recorder.end("FINISHED")
    shutil.rmtree(unfinished.parent)


def dvc_run() -> str:
    """Return when the `dvc` command above this process began, in UTC; without one, the process.

    The stages of one `dvc repro`, and those of one experiment, have it in common.
    """
    process = psutil.Process()
    for above in process.parents():
        words = above.as_dict(["cmdline"], ad_value=[])["cmdline"]
        if any(Path(word).stem == "dvc" for word in words[:3]):  # the script, or python -m dvc
            process = above
            break
    return f"{datetime.fromtimestamp(process.create_time(), UTC):%Y-%m-%dT%H:%M:%SZ}"


def quieten() -> None:
    """Keep MLflow's notes off the screen, and its patience with a server within bounds.

    The user's own environment variables have the last word.
    """
    import mlflow  # noqa: F401  # which sets its own level as it is imported

    for package in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(package).setLevel(logging.ERROR)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def root() -> Path:
    """Return the main checkout, also when DVC runs a stage in a temporary directory."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def store() -> str:
    """Return the tracking store: `MLFLOW_TRACKING_URI`, or else the main checkout's SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or database(root())


def unrecorded() -> Path:
    """Return the folder with a store for each run that the tracking store has not, or not whole."""
    return root() / ".unrecorded"


def database(folder: Path) -> str:
    """Return the URI of the SQLite store in a folder; where there is none yet it is made.

    MLflow makes its tables in a hundred steps. Two processes at it, or one that is killed, would
    spoil the file for good: it is made under another name, and linked in place as a whole.
    """
    from mlflow import MlflowClient

    file = folder / "mlflow.db"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"mlflow.db.{uuid4().hex}"
        try:
            MlflowClient(f"sqlite:///{part}").create_experiment(
                EXPERIMENT, (folder / "mlruns").as_uri()
            )
            os.link(part, file)
        except FileExistsError:  # another stage was first
            pass
        finally:
            part.unlink(missing_ok=True)
    return f"sqlite:///{folder / 'mlflow.db'}?timeout=60"


def reason(error: Exception) -> str:
    """Return an error in one line, without the password of a tracking server's address."""
    return re.sub(r"//[^/@\s]*@", "//", " ".join(str(error).split()))[:200]


def values_of(keys: list[str]) -> dict[str, Any]:
    """Return the values of `params.yaml` under some dotted keys, those of a section one by one."""
    values = _yaml(Path("params.yaml"))
    found: dict[str, Any] = {}
    for key in keys:
        value = values
        for part in key.split("."):
            value = value[part]
        if isinstance(value, dict):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            found[key] = value
    return found


def hashes_of(deps: list[str]) -> dict[str, str]:
    """Return the MD5 of each file: that of the out that it is or is in, as `dvc.lock` has it.

    To read gigabytes again for their own would take longer than all else before the first step.
    What is no stage's out, such as code, is read.
    """
    lock = Path("dvc.lock")
    stages = _yaml(lock)["stages"].values() if lock.exists() else []
    outs = {out["path"]: str(out["md5"]) for stage in stages for out in stage.get("outs", [])}
    found = {}
    for dep in deps:
        places = (dep, *map(str, PurePosixPath(dep).parents))
        of_out = next((outs[place] for place in places if place in outs), None)
        found[dep] = of_out.removesuffix(".dir") if of_out else _md5(Path(dep))
    return found


def state_hash(params: dict[str, Any], hashes: dict[str, str]) -> str:
    """Return a hash over what a stage's result depends on: its code, data, params and libraries."""
    versions = [metadata.version(package) for package in ("keras", "numpy", "pillow", "tensorflow")]
    given = [*sorted(params.items()), *versions, *hashes.items()]
    return hashlib.sha256(repr(given).encode()).hexdigest()[:16]


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
