"""One MLflow run for each executed stage; a tracking server that fails never costs a training."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from convnets.console import say

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENT = "convnets"
DESCRIPTION = (
    "Models of images, from raw pixels of 0 to 255 to probabilities. Each execution of the stage "
    "`evaluate` adds as a version the one with the best validation accuracy, by lower validation "
    "loss where two are equal; the newest has the alias `champion`."
)
UNFINISHED = Path(".unfinished")


class Run:
    """An MLflow run that may turn deaf: after a failed call the rest are skipped, and said so."""

    def __init__(self, stage: str, unfinished: Path) -> None:
        self.stage = stage
        self.unfinished = unfinished  # a folder that outlives the process until the stage is done
        self.live = True

    def finish(self, out: Path) -> None:
        """Move the finished NumPy files into the stage's out; DVC empties that at each start."""
        out.mkdir(parents=True, exist_ok=True)
        for file in self.unfinished.glob("*.npy"):
            file.replace(out / file.name)

    def attempt(self, call: Callable[[], Any]) -> Any:
        """Do something with MLflow; a failure is told once and never raised."""
        if not self.live:
            return None
        try:
            return call()
        except Exception as error:  # whatever the store or the network throws
            self.live = False
            reason = " ".join(str(error).split())[:200]
            say(f"warning: MLflow is left out of the rest of {self.stage} ({reason})")
            return None

    def metrics(self, values: dict[str, float], step: int | None = None) -> None:
        """Log numbers, of an epoch if `step` is given."""
        import mlflow

        self.attempt(lambda: mlflow.log_metrics(values, step=step))

    def epochs(self, rows: list[dict[str, float]]) -> None:
        """Log the epochs so far, a step each, but for those that the run has from before."""
        import mlflow

        def log() -> None:
            known = (self.unfinished / "mlflow_run").read_text()
            history = mlflow.MlflowClient().get_metric_history(known, "val_loss")
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
        """Name a file as a dataset that the run reads, with the hash that DVC knows it by."""
        import mlflow
        from mlflow.data.dataset_source_registry import get_dataset_source_from_json
        from mlflow.data.meta_dataset import MetaDataset

        def log() -> None:
            # To resolve the path instead would warn that two classes can, which are the same.
            source = get_dataset_source_from_json(json.dumps({"uri": path.as_posix()}), "local")
            name = path.with_suffix("").as_posix()
            # MLflow's own class leaves `profile` abstract by its types alone.
            dataset = MetaDataset(source, name, _md5(path)[:32])  # type: ignore[abstract]
            mlflow.log_input(dataset, context=context)

        self.attempt(log)

    def model(self, model: Any, example: Any, classes: list[str]) -> str | None:
        """Log a Keras model with its signature and an input example.

        Args:
            model: takes pixels.
            example: (n, h, w, c) pixels, uint8.
            classes: their names, kept as the model's metadata.

        Returns:
            The model's URI, or None if it could not be logged.
        """
        import mlflow

        def log() -> str:
            inputs = example.astype("float32")
            signature = mlflow.models.infer_signature(inputs, model.predict(inputs, verbose=0))
            info = mlflow.keras.log_model(
                model,
                name="model",
                signature=signature,
                metadata={"classes": classes},
                # Inferring them would start a process that loads the model once more.
                pip_requirements=[*mlflow.keras.get_default_pip_requirements(), "tensorflow"],
            )
            return str(info.model_uri)

        uri: str | None = self.attempt(log)
        return uri

    def register(self, model: Any, example: Any, classes: list[str], chosen: str) -> None:
        """Log the champion and register it under the alias `champion`.

        Args:
            model: takes pixels.
            example: (n, h, w, c) pixels, uint8.
            classes: their names.
            chosen: the stage that trained it.
        """
        import mlflow

        uri = self.model(model, example, classes)

        def register() -> None:
            client = mlflow.MlflowClient()
            if not client.search_registered_models(f"name = '{EXPERIMENT}'"):
                client.create_registered_model(EXPERIMENT, description=DESCRIPTION)
            why = f"{chosen}: the best validation accuracy of the pipeline's models"
            # What `mlflow.register_model` does, which also prints.
            version = client.create_model_version(
                EXPERIMENT, str(uri), description=why, model_id=str(uri).removeprefix("models:/")
            )
            client.set_registered_model_alias(EXPERIMENT, "champion", version.version)

        self.attempt(register)


@contextmanager
def run(stage: str, item: str | None = None) -> Iterator[Run]:
    """Record a stage as an MLflow run, with the params and deps that `dvc.yaml` declares for it.

    The store is `MLFLOW_TRACKING_URI`, or else the SQLite file of the main checkout, also when
    DVC runs the stage in a temporary directory: it names the checkout in `DVC_ROOT`.

    A stage that was interrupted, even by `kill -9`, finds its `unfinished` folder again and goes on
    as the same MLflow run, if its code, data and params are the same; else the folder is swept.

    Args:
        stage: its name in `dvc.yaml`.
        item: of a matrix stage.
    """
    import mlflow

    quieten()
    name = f"{stage}@{item}" if item else stage
    say(f"{name}: {_stage(stage)['desc']}")
    key = deps_hash(stage)
    unfinished = UNFINISHED / name / key
    for other in unfinished.parent.glob("*"):
        if other != unfinished:
            shutil.rmtree(other)
    unfinished.mkdir(parents=True, exist_ok=True)
    recorder = Run(name, unfinished)

    def start() -> None:
        mlflow.set_tracking_uri(store())
        if mlflow.get_experiment_by_name(EXPERIMENT) is None:
            local = mlflow.get_tracking_uri().startswith("sqlite:")
            mlflow.create_experiment(EXPERIMENT, (root() / "mlruns").as_uri() if local else None)
        mlflow.set_experiment(EXPERIMENT)
        experiment = os.environ.get("DVC_EXP_NAME") or "workspace"
        tags = {"stage": name, "dvc_exp_name": experiment, "deps_hash": key}
        known = unfinished / "mlflow_run"
        if known.exists():
            mlflow.start_run(known.read_text(), tags=tags, log_system_metrics=True)
        else:
            run = mlflow.start_run(run_name=name, tags=tags, log_system_metrics=True)
            known.write_text(run.info.run_id)
        mlflow.log_params(declared_params(stage))

    recorder.attempt(start)
    status = "FAILED"
    try:
        yield recorder
        shutil.rmtree(unfinished.parent)
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if mlflow.active_run() is not None:
            recorder.live = True
            recorder.attempt(lambda: mlflow.end_run(status))


def quieten() -> None:
    """Keep MLflow and its database's migrations from telling what goes well."""
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def root() -> Path:
    """Return the main checkout, also in one of DVC's temporary directories."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def store() -> str:
    """Return the URI of the runs' store."""
    local = f"sqlite:///{root() / 'mlflow.db'}?timeout=60"
    return os.environ.get("MLFLOW_TRACKING_URI") or local


def declared_params(stage: str) -> dict[str, Any]:
    """Return the values of `params.yaml` that `dvc.yaml` declares for a stage, by dotted key."""
    values = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    found: dict[str, Any] = {}
    for key in _stage(stage).get("params", []):
        value = values
        for part in key.split("."):
            value = value[part]
        if isinstance(value, dict):
            found |= {f"{key}.{name}": inner for name, inner in value.items()}
        else:
            found[key] = value
    return found


def deps_hash(stage: str) -> str:
    """Return a hash over what a stage's result depends on: its code, data, params and libraries."""
    versions = [metadata.version(package) for package in ("keras", "numpy", "pillow", "tensorflow")]
    given = [*sorted(declared_params(stage).items()), *versions]
    digest = hashlib.sha256(repr(given).encode())
    for dep in _stage(stage).get("deps", []):
        digest.update(f"{dep} {_md5(Path(dep))}\n".encode())
    return digest.hexdigest()[:16]


def _stage(stage: str) -> dict[str, Any]:
    stages = yaml.safe_load(Path("dvc.yaml").read_text(encoding="utf-8"))["stages"]
    found: dict[str, Any] = stages[stage]
    return found


def _md5(path: Path) -> str:
    """Return DVC's hash of a stage's out, from `dvc.lock`, or else the file's own."""
    lock = Path("dvc.lock")
    if lock.exists():
        stages = yaml.safe_load(lock.read_text(encoding="utf-8")).get("stages", {})
        for stage in stages.values():
            for out in stage.get("outs", []):
                if out["path"] == path.as_posix() and "md5" in out:
                    return str(out["md5"])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
