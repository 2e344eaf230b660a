"""Where MLflow's runs are stored, and how long a stage waits for MLflow."""

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

EXPERIMENT = "convnets"
CHAMPION = "champion"  # the alias of the model to use
DESCRIPTION = (
    "Image classifiers, from raw pixels of 0 to 255 to probabilities. Each run of the stage "
    "`evaluate` adds a version: the model with the best validation accuracy. The lower validation "
    "loss breaks ties. The newest version has the alias `champion`."
)

SETTINGS = {
    # With MLflow's defaults, each call to a server that is down or hangs would take minutes.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    # MLflow would print its server's address, including a password in it.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}


def quieten() -> None:
    """Silence MLflow's notes, and limit how long it waits for a server.

    The user's own environment variables take precedence.
    """
    import mlflow  # noqa: F401  # sets its own log level on import

    for package in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(package).setLevel(logging.ERROR)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def is_a_defect(error: Exception) -> bool:
    """Tell whether an error is a defect of this project, not a failure of the tracking store.

    A store fails with exceptions of MLflow, the network, the disk, the database, a cloud's client,
    or a driver that is not installed. It does not fail with these.
    """
    return isinstance(error, (TypeError, AttributeError, LookupError, NameError, AssertionError))


def reason(error: Exception) -> str:
    """Return an error on one line, without the password in a tracking server's address."""
    return re.sub(r"//[^/@\s]*@", "//", " ".join(str(error).split()))[:200]


def root() -> Path:
    """Return the main checkout, even when DVC runs a stage in a temporary directory."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def uri() -> str:
    """Return the tracking store: `MLFLOW_TRACKING_URI`, or else the main checkout's SQLite file.

    A relative path starts at the main checkout, so that runs in DVC's temporary directories land in
    the same store.
    """
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if not given:
        return database(root())
    sqlite, path = given.startswith("sqlite:///"), given.removeprefix("sqlite:///")
    if not sqlite and ("://" in given or given == "databricks" or given.startswith("file:")):
        return given
    return f"sqlite:///{root() / path}" if sqlite else str(root() / path)


def unrecorded() -> Path:
    """Return the folder of local stores, one for each run that is not fully recorded."""
    return root() / ".unrecorded"


def database(folder: Path) -> str:
    """Return the URI of the SQLite store in a folder. Create the store if it does not exist.

    MLflow creates its tables in a hundred steps. Two concurrent processes, or a killed process,
    would corrupt the file for good. So it is created under another name and linked in place.
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


def new_version(client: Any, uri: str, why: str) -> str:
    """Register a logged model as the newest version of `EXPERIMENT`; return the version number.

    Unlike `mlflow.register_model`, it prints nothing and adds a description.
    """
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # it exists already
        client.create_registered_model(EXPERIMENT, description=DESCRIPTION)
    model_id = uri.removeprefix("models:/")
    made = client.create_model_version(EXPERIMENT, uri, description=why, model_id=model_id)
    return str(made.version)
