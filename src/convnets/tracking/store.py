"""Where MLflow's runs are kept, and how long a stage waits for it."""

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
    "Models of images, from raw pixels of 0 to 255 to probabilities. Each execution of the stage "
    "`evaluate` adds as a version the one with the best validation accuracy, by lower validation "
    "loss where two are equal; the newest has the alias `champion`."
)

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


def quieten() -> None:
    """Keep MLflow's notes off the screen, and its patience with a server within bounds.

    The user's own environment variables have the last word.
    """
    import mlflow  # noqa: F401  # which sets its own level as it is imported

    for package in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(package).setLevel(logging.ERROR)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)


def failures() -> tuple[type[Exception], ...]:
    """Return the exceptions of a tracking store that fails; any other is a defect of ours.

    MLflow wraps most of them in its own. Others come through from the network and the disk
    (`OSError`, which requests' exceptions are), the database, and an answer that is no JSON, or
    not MLflow's.
    """
    from google.protobuf.json_format import ParseError
    from mlflow.exceptions import MlflowException
    from requests.exceptions import JSONDecodeError
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, OSError, SQLAlchemyError, JSONDecodeError, ParseError


def reason(error: Exception) -> str:
    """Return an error in one line, without the password of a tracking server's address."""
    return re.sub(r"//[^/@\s]*@", "//", " ".join(str(error).split()))[:200]


def root() -> Path:
    """Return the main checkout, also when DVC runs a stage in a temporary directory."""
    return Path(os.environ.get("DVC_ROOT", ".")).resolve()


def uri() -> str:
    """Return the tracking store: `MLFLOW_TRACKING_URI`, or else the main checkout's SQLite file."""
    return os.environ.get("MLFLOW_TRACKING_URI") or database(root())


def unrecorded() -> Path:
    """Return the folder with a store for each run that the tracking store does not have whole."""
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


def new_version(client: Any, uri: str, why: str) -> str:
    """Register a logged model as the newest version of `EXPERIMENT`; return the version's number.

    This is what `mlflow.register_model` does, which also prints, and describes nothing.
    """
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # it exists, perhaps since a moment ago
        client.create_registered_model(EXPERIMENT, description=DESCRIPTION)
    model_id = uri.removeprefix("models:/")
    made = client.create_model_version(EXPERIMENT, uri, description=why, model_id=model_id)
    return str(made.version)
