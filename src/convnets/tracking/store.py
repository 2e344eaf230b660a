"""Where MLflow's runs are stored, and how long a stage waits for MLflow."""

import logging
import os
import sqlite3
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import uuid4

from convnets.base import files
from convnets.base.console import public, without_secrets

MODEL = "convnets"  # the registered model
CHAMPION = "champion"  # the alias of the model to use
VALIDATION = "validation"  # the tag of a version: a hash of the images that its scores are for
DESCRIPTION = (
    "Image classifiers, from raw pixels of 0 to 255 to probabilities. Each run of the stage "
    "`evaluate` adds a version: the best model on the validation images, with calibrated "
    "probabilities. Of the versions with the same validation images, the one with the lowest log "
    "loss there has the alias `champion`."
)

PLACES = (  # where MLflow's database has the places of artifacts
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"),
)
SERVERS = ("postgresql", "mysql", "mssql", "http")  # the first three without MLflow's own server
SETTINGS = {
    # With MLflow's defaults, each call to a server that is down or hangs would take minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "PGCONNECT_TIMEOUT": "10",  # the driver's own: PostgreSQL's would wait for minutes
    # MLflow would print its server's address, including a password in it.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

# In a notebook or a job of MLflow's, these name a run or a model of somebody else's. A stage has
# its own, and would write into that one.
FOREIGN = ("MLFLOW_RUN_ID", "MLFLOW_ACTIVE_MODEL_ID", "MLFLOW_EXPERIMENT_ID")


def quieten() -> None:
    """Silence MLflow's notes, limit how long it waits for a server, and let it begin its own runs.

    Otherwise, the user's own environment variables take precedence.
    """
    import mlflow  # noqa: F401  # sets its own log level on import

    for package in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(package).setLevel(logging.ERROR)
    for name in FOREIGN:
        os.environ.pop(name, None)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if os.environ.get("MLFLOW_TRACKING_URI", "").startswith(SERVERS[:3]):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = 2  # MLflow's own ten take a hundred seconds


@contextmanager
def waiting() -> Iterator[None]:
    """Say what is waited for if a tracking server takes long."""
    given = os.environ.get("MLFLOW_TRACKING_URI", "")
    told = partial(print, f"waiting for MLflow at {public(given)}", file=sys.stderr, flush=True)
    timer = threading.Timer(8, told)
    timer.daemon = True
    if given.startswith(SERVERS):
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def is_a_defect(error: Exception) -> bool:
    """Tell whether an error is a defect of this project, not a failure of the tracking store.

    A store fails with exceptions of MLflow, the network, the disk, the database, a cloud's client,
    or a driver that is not installed. It does not fail with these.
    """
    return isinstance(error, (TypeError, AttributeError, LookupError, NameError, AssertionError))


def reason(error: Exception) -> str:
    """Return an error on one line, without what is secret in addresses."""
    return without_secrets(" ".join(str(error).split()))[:200]


def uri() -> str:
    """Return the tracking store: `MLFLOW_TRACKING_URI`, or else the main checkout's SQLite file.

    A relative path starts at the main checkout, so that runs in DVC's temporary directories land in
    the same store.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if not given:
        return database(files.root())
    path = given.removeprefix("sqlite:///")
    if path != given and not path.startswith("/"):
        return f"{_address(files.root())}/{path}"
    if "://" in given or given == "databricks" or given.startswith("file:"):
        return given
    return str(files.root() / given)


def unrecorded() -> Path:
    """Return the folder of local stores, one for each run that is not fully recorded."""
    return files.root() / ".unrecorded"


def experiment() -> str:
    """Return the experiment's name. Some servers want a path, which MLflow's own variable gives."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "convnets"


def database(folder: Path) -> str:
    """Return the URI of the SQLite store in a folder. Create the store if it does not exist.

    MLflow creates its tables in a hundred steps. Two concurrent processes, or a killed process,
    would corrupt the file for good. So it is created under another name and put in place at once.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file = folder / "mlflow.db"
    if file.exists() and file.stat().st_size:
        _settle(file)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"mlflow.db.{uuid4().hex}"
        try:
            # MLflow's own experiment `Default` gets a place that no path with a quote can break.
            made: Any = SqlAlchemyStore
            place = (folder / "mlruns").as_uri()
            made(_address(part), "mlflow-artifacts:/").create_experiment(experiment(), place)
            _place(part, file)
        finally:
            part.unlink(missing_ok=True)
    return f"{_address(file)}?timeout=60"


def _address(file: Path | str) -> str:
    """Return a SQLite file's URI. Any character may be in its path.

    With the driver's name, MLflow does not make a folder with the quoted name.
    """
    return f"sqlite+pysqlite:///{quote(str(file))}"


def _place(part: Path, file: Path) -> None:
    """Give a file its name, unless another process was first."""
    try:
        os.link(part, file)
    except FileExistsError:
        if not file.stat().st_size:  # a killed process only claimed the name, see below
            part.replace(file)
    except OSError:  # exFAT and some network shares have no links: claim the name, then take it
        with suppress(FileExistsError):
            file.open("x").close()
            part.replace(file)


def _settle(file: Path) -> None:
    """Correct the places of the artifacts if the project was moved, renamed or copied.

    MLflow's database has them as absolute addresses, and no call of MLflow changes them.
    """
    here = (file.parent / "mlruns").as_uri()
    with closing(sqlite3.connect(file, timeout=60)) as store, store:
        # Our experiment is the one whose artifacts are in the folder `mlruns` itself.
        found = store.execute(
            "SELECT artifact_location FROM experiments WHERE artifact_location LIKE 'file:%/mlruns'"
        ).fetchone()
        if found is None or found[0] == here:
            return
        for table, column in PLACES:
            store.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 - constants
                f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                (here, len(found[0]) + 1, found[0], len(found[0]) + 1, f"{found[0]}/"),
            )


def new_version(client: Any, uri: str, why: str, scores: dict[str, str]) -> str:
    """Register a logged model as the newest version of `MODEL`; return the version number.

    Unlike `mlflow.register_model`, it prints nothing and adds a description.

    Args:
        client: of the store.
        uri: of the model.
        why: the description.
        scores: the version's tags, see `champion`.
    """
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # it exists already
        client.create_registered_model(MODEL, description=DESCRIPTION)
    model_id = uri.removeprefix("models:/")
    made = client.create_model_version(MODEL, uri, description=why, model_id=model_id, tags=scores)
    return str(made.version)


def promote(client: Any, number: str) -> str:
    """Give the alias `champion` to the best version on the same validation images; say which.

    On other validation images, no comparison is possible, and the alias moves. Both of two stages
    that register at the same time compare all versions, so the better one is left.

    Args:
        client: of the store.
        number: the newest version.
    """
    from mlflow.exceptions import MlflowException

    newest = client.get_model_version(MODEL, number)
    before = None
    with suppress(MlflowException):  # there is none yet
        before = client.get_model_version_by_alias(MODEL, CHAMPION)
    known = [
        version
        for version in client.search_model_versions(f"name = '{MODEL}'")
        if version.tags.get(VALIDATION) == newest.tags.get(VALIDATION)
    ]
    best = max(known, key=_order, default=newest)
    if before is None or int(before.version) != int(best.version):
        client.set_registered_model_alias(MODEL, CHAMPION, best.version)
    if int(best.version) != int(newest.version):
        return (
            f"{MODEL} version {number} is registered, but version {best.version} stays the "
            "champion: it has a lower log loss on the same validation images; to promote the new "
            "one all the same, give it the alias champion on its page in MLflow"
        )
    if before is not None and before.tags.get(VALIDATION) != newest.tags.get(VALIDATION):
        than = f"on other images than version {before.version}"
        return f"{MODEL} version {number} is the champion, {than}"
    return f"{MODEL} version {number} is the champion"


def _order(version: Any) -> tuple[float, int]:
    """Return a key that is larger for a better version; of two alike, for the newer one.

    The calibrated log loss decides. With few images, the accuracy differs by chance.
    """
    return -float(version.tags["val_loss"]), int(version.version)
