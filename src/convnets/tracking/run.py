"""One MLflow run for each executed stage. A failing tracking store never costs a training."""

import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from filelock import FileLock, Timeout

from convnets.base import files, untrained
from convnets.base.console import InputError, is_address, public, say
from convnets.tracking import declared, store
from convnets.tracking.declared import Declared

UNFINISHED = Path(".unfinished")
VIEW = {  # the columns of MLflow's list of runs, under ?viewStateShareKey=runs
    "selectedColumns": [
        "attributes.`Duration`",
        "metrics.`best_val_accuracy`",
        "metrics.`best_val_loss`",
        "tags.`dvc_exp_name`",
        "tags.`dvc_run`",
    ],
}
PACKAGE = Path(__file__).parents[1]
MADE_WITH = (  # what a logged model needs to be loaded
    *("keras", "mlflow", "numpy", "pandas", "pillow", "pydantic", "pyyaml", "rich", "tensorflow"),
)
DIGEST = "sha256"  # the tag of a logged model: of its `.keras` file
SCORES = "scores.json"  # in a local store's folder: what `Run.score_models` got
BEGUN_AS = "begun_as"  # the tag of a run in a local store: its id in the tracking store


class Run:
    """An MLflow run that survives its store: when a call fails, the run moves to a local store.

    The local store is a folder of `store.unrecorded()`. `tracking.sync` later copies the run from
    there to the tracking store. If the local store fails too, all further calls do nothing.
    """

    def __init__(
        self,
        stage: str,
        unfinished: Path,
        tags: dict[str, str],
        known: Declared,
    ) -> None:
        self.stage = stage
        self.unfinished = unfinished  # a folder that is kept until the stage is done
        self.tags = tags
        self.declared = known
        self.live = True
        self.run_id = ""  # the run's id in its current store
        self.folder: Path | None = None  # the local store, if the run has moved
        moved = unfinished / "unrecorded"
        if moved.exists() and (store.unrecorded() / moved.read_text()).exists():
            self.folder = store.unrecorded() / moved.read_text()

    def finish(self, out: Path) -> None:
        """Move the finished NumPy files into the stage's out, which DVC empties at each start."""
        out.mkdir(parents=True, exist_ok=True)
        for file in self.unfinished.glob("*.npy"):
            files.move(file, out / file.name)

    def attempt(self, call: Callable[[], Any]) -> Any:
        """Make an MLflow call in the run, and begin the run first if necessary.

        A failing store is reported but never raised. The run moves to a local store and repeats the
        call there. A defect of this project is raised: see `store.is_a_defect`. So is what MLflow
        calls invalid there too, such as a metric's name.
        """
        import mlflow

        while self.live:
            try:
                with store.waiting():
                    if mlflow.active_run() is None:
                        self._begin()
                    return call()
            except Exception as error:
                invalid = getattr(error, "error_code", "") == "INVALID_PARAMETER_VALUE"
                if store.is_a_defect(error) or (invalid and self.folder is not None):
                    raise
                self.live = self.folder is None and self._move()
                rest = "continues without it" if self.live else "is no longer recorded"
                say(f"warning: MLflow fails ({store.reason(error)}); {self.stage} {rest}")
        return None

    def end(self, status: str) -> None:
        """End the run, and say how to record it if it has moved."""
        import mlflow

        self.attempt(lambda: mlflow.end_run(status))
        with suppress(Exception):  # a run that is no longer recorded
            mlflow.end_run(status)
        if self.live and self.folder is not None:
            say(f"{self.stage}: to record it in MLflow later, run `python -m convnets sync`")

    def _begin(self) -> None:
        """Begin the run, or resume the run that an interrupted process began."""
        import mlflow

        known, tags = self.unfinished / "mlflow_run", self.tags
        if self.folder is None:
            folder, uri = files.root(), store.uri()
        else:
            folder, uri = self.folder, store.database(self.folder)
            if known.exists():
                tags = tags | {BEGUN_AS: known.read_text()}
            known = folder / "mlflow_run"
        mlflow.set_tracking_uri(uri)
        name = store.experiment()
        if uri.startswith("sqlite") and mlflow.get_experiment_by_name(name) is None:
            mlflow.create_experiment(name, (folder / "mlruns").as_uri())
        mlflow.set_experiment(name)
        mlflow.set_experiment_tag("mlflow.sharedViewState.runs", json.dumps(VIEW))
        if known.exists():
            self.run_id = known.read_text()
            _rename(self.run_id, tags)
            mlflow.start_run(self.run_id, tags=tags, log_system_metrics=True)
        else:
            begun = mlflow.start_run(run_name=self.stage, tags=tags, log_system_metrics=True)
            self.run_id = begun.info.run_id
            known.write_text(self.run_id)
        mlflow.log_params(
            {
                name: public(value) if is_address(str(value)) else value
                for name, value in self.declared.params.items()
            }
        )

    def _move(self) -> bool:
        """Leave the failed store without another call to it; return whether that worked."""
        import mlflow

        folder = store.unrecorded() / uuid4().hex
        try:
            mlflow.set_tracking_uri(store.database(folder))
            (self.unfinished / "unrecorded").write_text(folder.name)
        except Exception:
            return False
        with suppress(Exception):  # the run is not in this store, but must not stay active
            mlflow.end_run()
        self.folder = folder
        return True

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Log numbers, for an epoch if `step` is given."""
        import mlflow

        self.attempt(lambda: mlflow.log_metrics(values, step=step))

    def epochs(self, rows: list[dict[str, float]]) -> None:
        """Log each epoch so far as a step, except the epochs that the run already has."""
        import mlflow

        def log() -> None:
            history = mlflow.MlflowClient().get_metric_history(self.run_id, "val_loss")
            for step in range(len(history) + 1, len(rows) + 1):
                mlflow.log_metrics(rows[step - 1], step=step)

        self.attempt(log)

    def durations(self) -> dict[str, float]:
        """Return the duration in seconds of each stage's newest finished run, oldest first.

        A stage that is not trained has none.
        The duration of a resumed run includes the interruption.
        """
        import mlflow

        def search() -> dict[str, float]:
            runs = mlflow.search_runs(
                experiment_names=[store.experiment()],
                filter_string="attributes.status = 'FINISHED'",
                order_by=["attributes.start_time DESC"],
                max_results=1000,
                output_format="list",
            )
            newest = {run.info.run_name: run.info for run in reversed(runs)}
            for out, stage in self.declared.outs.items():
                if not untrained.made(Path(out)):
                    newest.pop(stage, None)
            return {name: (info.end_time - info.start_time) / 1000 for name, info in newest.items()}

        return self.attempt(search) or {}

    def text(self, text: str, name: str) -> None:
        """Log a text as the artifact `name`."""
        import mlflow

        self.attempt(lambda: mlflow.log_text(text, name))

    def artifact(self, path: Path) -> None:
        """Log a file or a folder.

        Raises:
            InputError: it does not exist.
        """
        import mlflow

        if not path.exists():
            raise InputError(f"{self.stage}: {path} does not exist, so it cannot be logged")
        log = mlflow.log_artifacts if path.is_dir() else mlflow.log_artifact
        self.attempt(lambda: log(str(path), path.name if path.is_dir() else None))

    def dataset(self, path: Path, context: str) -> None:
        """Log a file of the stage's deps as a dataset that it reads, with the hash of the dep.

        Raises:
            InputError: the stage does not declare the file, or the file does not exist.
        """
        import mlflow
        from mlflow.data.dataset_source_registry import get_dataset_source_from_json
        from mlflow.data.meta_dataset import MetaDataset

        digest = self.declared.digest(path)
        if digest is None or not path.exists():
            raise InputError(
                f"{self.stage}: reads {path}, which is not among its deps; add it in dvc.yaml"
            )

        def log() -> None:
            # Resolving the path would warn that two classes match, although they are the same.
            source = get_dataset_source_from_json(json.dumps({"uri": path.as_posix()}), "local")
            name = path.with_suffix("").as_posix()
            # `profile` is abstract in MLflow's type annotations only.
            dataset = MetaDataset(source, name, digest)  # type: ignore[abstract]
            mlflow.log_input(dataset, context=context)

        self.attempt(log)

    def model(self, path: Path, classes: list[str]) -> None:
        """Log a `.keras` file as `serving.pictures` takes it.

        Args:
            path: the model, which takes pixels.
            classes: the class names.
        """
        self.attempt(lambda: _log_model(path, self.stage, classes))

    def score_models(self, scores: dict[Path, dict[str, float]]) -> None:
        """Give the logged models of files, and the runs that trained them, their metrics.

        A model that is in another store, as after `dvc pull`, is left out. A run that has moved
        leaves the scores beside its local store, for `tracking.sync`.

        Args:
            scores: the metrics of each `.keras` file.
        """
        by_digest = {files.sha256(path): metrics for path, metrics in scores.items()}

        def log() -> None:
            if self.folder is None:
                score_models(by_digest)
            else:
                files.write_json(self.folder / SCORES, by_digest)

        self.attempt(log)

    def register(
        self, path: Path, classes: list[str], chosen: str, why: str, scores: dict[str, str]
    ) -> None:
        """Log the best model and register it; it gets the alias `champion` if no other is better.

        Args:
            path: a `.keras` file that takes pixels.
            classes: the class names.
            chosen: the stage that trained the model.
            why: the reason for the choice.
            scores: `val_accuracy`, `val_loss`, and `validation`, a hash of the validation images.
        """
        import mlflow

        def register() -> None:
            client = mlflow.MlflowClient()
            uri = _log_model(path, chosen, classes)
            version = store.new_version(client, uri, f"{chosen}: {why}", scores)
            say(store.promote(client, version))

        self.attempt(register)


def _rename(run_id: str, tags: dict[str, str]) -> None:
    """Give all runs of an interrupted experiment the name under which it goes on."""
    import mlflow

    client, tag = mlflow.MlflowClient(), "dvc_exp_name"
    before, now = client.get_run(run_id).data.tags.get(tag, ""), tags.get(tag, "")
    if {before, now}.isdisjoint(("", "workspace")) and before != now:
        for run in mlflow.search_runs(
            filter_string=f"tags.{tag} = '{before}'", output_format="list"
        ):
            client.set_tag(run.info.run_id, tag, now)


def score_models(scores: dict[str, dict[str, float]]) -> None:
    """Give the tracking store's models, and the runs that trained them, their metrics.

    Args:
        scores: the metrics by the digest of a model's `.keras` file.
    """
    import mlflow

    for digest, metrics in scores.items():
        known = mlflow.search_logged_models(
            filter_string=f"tags.{DIGEST} = '{digest}'", output_format="list"
        )
        # The training's curves have the validation metrics already, by epoch.
        added = {name: metrics[name] for name in metrics if not name.startswith("val_")}
        for model in known:
            mlflow.log_metrics(added, run_id=model.source_run_id, model_id=model.model_id)


def _log_model(path: Path, name: str, classes: list[str]) -> str:
    """Log a model to the active run under the name of its training stage; return its URI."""
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec
    from mlflow.types.schema import Map

    # An array of any kind of pictures: of numbers as pixels, or of objects as contents of files.
    pictures = Schema([TensorSpec(np.dtype("O"), (-1,))])
    answer = Schema(
        [
            ColSpec(DataType.string, "class"),
            ColSpec(Map(DataType.double), "probabilities"),
            ColSpec(DataType.double, "unlike", required=False),  # the champion's alone
        ]
    )
    # MLflow warns that there are no type hints and no example, whatever filter is set.
    with warnings.catch_warnings(record=True):
        info = mlflow.pyfunc.log_model(
            name=name,
            python_model=str(PACKAGE / "serving/pictures.py"),
            artifacts={"model": str(path)},
            code_paths=[str(PACKAGE)],
            model_config={"classes": classes},
            signature=ModelSignature(pictures, answer),
            metadata={"classes": classes},
            pip_requirements=[f"{package}=={metadata.version(package)}" for package in MADE_WITH],
            tags={DIGEST: files.sha256(path)},
        )
    return str(info.model_uri)


@contextmanager
def _alone(stage: str) -> Iterator[None]:
    """Keep the folder of an unfinished stage for this process alone, until it ends.

    A stage lives on after `kill -9` of the `dvc` that began it.

    Raises:
        InputError: another process works there.
    """
    UNFINISHED.mkdir(exist_ok=True)
    lock, owner = FileLock(UNFINISHED / f"{stage}.lock"), UNFINISHED / f"{stage}.pid"
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        pid = owner.read_text() if owner.exists() else "another"
        raise InputError(
            f"{stage}: process {pid} is still at work on it, since only the dvc that began it was "
            f"stopped; let it end, or stop it with `kill {pid}`, then run this again to go on"
        ) from error
    with lock:
        owner.write_text(str(os.getpid()))
        yield


@contextmanager
def recorded(stage: str) -> Iterator[Run]:
    """Record a stage as an MLflow run, with the params and deps that `dvc.yaml` declares for it.

    An interrupted stage, even after `kill -9`, finds its `unfinished` folder again and resumes the
    same MLflow run if its code, data and params are unchanged. Otherwise the folder is removed.

    Args:
        stage: its name in `dvc.yaml`, also of one of several: `train_mnist@max_pooling`.
    """
    store.quieten()
    known = declared.of(stage)
    say(f"{stage}: {known.description}")
    key = known.key()
    unfinished = UNFINISHED / stage / key
    with _alone(stage):
        for other in unfinished.parent.glob("*/"):
            if other != unfinished:
                shutil.rmtree(other)
        unfinished.mkdir(parents=True, exist_ok=True)
        tags = {
            "stage": stage,
            "dvc_exp_name": os.environ.get("DVC_EXP_NAME") or "workspace",
            "dvc_run": dvc_run(),
            "deps_hash": key,
            "mlflow.note.content": known.description,
        }
        recorder = Run(stage, unfinished, tags, known)
        recorder.attempt(lambda: None)
        try:
            yield recorder
        except BaseException as error:
            recorder.end("KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
            raise
        recorder.end("FINISHED")
        shutil.rmtree(unfinished.parent)


def dvc_run() -> str:
    """Return the start time, in UTC, of the `dvc` command above this process, or of this process.

    All stages of one `dvc repro` or one experiment share it.
    """
    return f"{datetime.fromtimestamp(declared.command().create_time(), UTC):%Y-%m-%dT%H:%M:%SZ}"
