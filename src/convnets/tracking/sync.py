"""Record in MLflow's tracking store what it missed of a stage.

A run that moved to a local store (see `tracking.run.Run`) is copied as one complete run. If the
tracking store has part of the run, the copy completes it. Nothing is copied twice, so the copy can
be interrupted at any time. A local store is removed once all of it has been copied.
"""

import json
import shutil
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import (
    LoggedModel,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    Run,
    RunTag,
)
from mlflow.exceptions import MlflowException
from mlflow.models.model import Model

from convnets.base import files
from convnets.base.console import InputError, say
from convnets.tracking import run as runs
from convnets.tracking import store

COPY_OF = "copy_of"  # the tag of a copied run: its id in the local store


def sync() -> None:
    """Record the contents of all local stores in the tracking store.

    Raises:
        InputError: this is no folder of the project, or the tracking store fails. Runs that are not
            fully copied are kept.
    """
    if not (files.root() / "dvc.yaml").exists():
        raise InputError(f"{Path.cwd()}: not in the project; run it in the project's folder")
    store.quieten()
    local = []
    for folder in store.unrecorded().glob("*"):
        if (folder / "mlflow_run").exists():
            source = MlflowClient(store.database(folder))
            local.append((source.get_run((folder / "mlflow_run").read_text()), source, folder))
    if not local:
        say("nothing to record: MLflow has everything")
        return
    unfinished = files.root() / runs.UNFINISHED
    resumable = {file.read_text() for file in unfinished.glob("*/*/unrecorded")}
    for run, source, folder in sorted(local, key=lambda found: found[0].info.start_time):
        stage = run.info.run_name
        try:
            with store.waiting():
                mlflow.set_tracking_uri(store.uri())
                _copy(run, source, MlflowClient())
            if (folder / runs.SCORES).exists():  # of models that are there by now: the oldest first
                runs.score_models(json.loads((folder / runs.SCORES).read_text()))
        except Exception as error:
            if store.is_a_defect(error):
                raise
            raise InputError(
                f"{stage}: MLflow fails ({store.reason(error)}); fix it and run this again"
            ) from error
        if run.info.status == "RUNNING" or folder.name in resumable:
            say(f"{stage}: recorded so far; {folder} is kept until the stage has finished")
        else:
            shutil.rmtree(folder)
            say(f"{stage}: recorded")


def _copy(run: Run, source: MlflowClient, target: MlflowClient) -> None:
    """Copy a run with everything that belongs to it."""
    copy = _counterpart(run, target)
    known = copy.info.run_id
    target.log_batch(
        known,
        params=[
            Param(key, value)
            for key, value in run.data.params.items()
            if key not in copy.data.params
        ],
        tags=[RunTag(key, value) for key, value in run.data.tags.items() if key != runs.BEGUN_AS],
    )
    for key in run.data.metrics:
        done = target.get_metric_history(known, key) if key in copy.data.metrics else []
        marks = {_mark(metric) for metric in done}
        history = source.get_metric_history(run.info.run_id, key)
        target.log_batch(
            known,
            metrics=[
                Metric(key, metric.value, metric.timestamp, metric.step)
                for metric in history
                if _mark(metric) not in marks
            ],
        )
    if run.inputs:
        target.log_inputs(known, datasets=run.inputs.dataset_inputs)
    if source.list_artifacts(run.info.run_id):
        target.log_artifacts(known, source.download_artifacts(run.info.run_id, ""))
    for output in run.outputs.model_outputs if run.outputs else []:
        model = source.get_logged_model(output.model_id)
        if model.status == LoggedModelStatus.READY:
            model_id = _copy_model(model, output.step, copy, target)
            for version in source.search_model_versions():
                _copy_version(version, model_id, known, target)
    if run.info.status != "RUNNING":
        target.set_terminated(known, run.info.status, run.info.end_time)


def _counterpart(run: Run, target: MlflowClient) -> Run:
    """Find the tracking store's copy of a run, or create it."""
    experiment = mlflow.set_experiment(store.experiment()).experiment_id
    if runs.BEGUN_AS in run.data.tags:
        with suppress(MlflowException):  # in another store, or deleted since
            begun = target.get_run(run.data.tags[runs.BEGUN_AS])
            if begun.info.lifecycle_stage == "active":
                return begun
    found = target.search_runs([experiment], f"tags.{COPY_OF} = '{run.info.run_id}'")
    if found:
        return found[0]
    return target.create_run(
        experiment, run.info.start_time, {COPY_OF: run.info.run_id}, run.info.run_name
    )


def _mark(metric: Metric) -> tuple[int, int]:
    """Return a key for a metric's value: its step, or the time for MLflow's system metrics."""
    return (0, metric.timestamp) if metric.key.startswith("system/") else (metric.step, 0)


def _copy_model(model: LoggedModel, step: int, run: Run, target: MlflowClient) -> str:
    """Copy a model to a run, unless the run already has it complete; return its id there."""
    known = run.outputs.model_outputs if run.outputs else []
    models = [target.get_logged_model(output.model_id) for output in known]
    copy = next((other for other in models if other.name == model.name), None)
    if copy is None:
        copy = target.create_logged_model(
            run.info.experiment_id,
            model.name,
            run.info.run_id,
            model.tags,
            model.params,
            model.model_type,
        )
        target.log_outputs(run.info.run_id, [LoggedModelOutput(copy.model_id, step)])
    if copy.status != LoggedModelStatus.READY:
        with TemporaryDirectory() as folder:
            files = mlflow.artifacts.download_artifacts(model.artifact_location)
            shutil.copytree(files, folder, dirs_exist_ok=True)
            # The model's description contains its own id.
            description = Model.load(folder)
            description.model_id = description.model_uuid = copy.model_id
            description.run_id = run.info.run_id
            description.artifact_path = copy.artifact_location
            description.save(str(Path(folder) / "MLmodel"))
            target.log_model_artifacts(copy.model_id, folder)
        target.finalize_logged_model(copy.model_id, LoggedModelStatus.READY)
    return str(copy.model_id)


def _copy_version(version: Any, model_id: str, run_id: str, target: MlflowClient) -> None:
    """Register a run's model as its local store did. The better one is the champion."""
    if target.search_model_versions(f"run_id = '{run_id}'"):
        return
    uri = f"models:/{model_id}"
    number = store.new_version(target, uri, version.description, version.tags)
    say(store.promote(target, number))
