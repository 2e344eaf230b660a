"""A temporary clone of the project, for running DVC's own commands."""

import os
import re
import shlex
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import mlflow
import pandas as pd
from dvc.repo import Repo

from convnets.models.saved import Record

ROOT = Path(__file__).parents[1]
with Repo(ROOT) as repo:
    COMMANDS = {stage.addressing: stage.cmd for stage in repo.index.stages}
STAGES = tuple(COMMANDS)
TRAINING = tuple(stage for stage in STAGES if stage.startswith(("train_", "fine_tune")))
TOKEN = "planted-" + "token"  # in parts, since the clone contains this file too


class Clone:
    """A clone of the project that can run commands."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def of_commit(cls, folder: Path) -> "Clone":
        """Clone the last commit into a folder."""
        subprocess.run(["git", "clone", "-q", str(ROOT), str(folder)], check=True)
        return cls(folder)

    def environment(self) -> dict[str, str]:
        """The variables of an activated environment, without the project's own variables."""
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "DVC_NO_ANALYTICS": "1",
            "KAGGLE_API_TOKEN": TOKEN,
            "KAGGLE_KEY": TOKEN,
            "MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL": "1",  # a quick stage takes a few seconds
        }
        for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME", "PYTHONPATH"):
            environment.pop(name, None)
        return environment

    def run(self, *command: str, status: int = 0) -> str:
        """Run a command as in an activated environment; return its output."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == status, done.stdout
        assert TOKEN not in done.stdout
        return done.stdout

    def runs(self) -> pd.DataFrame:
        """The MLflow runs so far, newest first."""
        mlflow.set_tracking_uri(f"sqlite:///{self.folder / 'mlflow.db'}")
        return mlflow.search_runs(experiment_names=["convnets"])

    def steps(self, run_id: str) -> int:
        """How many epochs a run has recorded."""
        history = mlflow.MlflowClient().get_metric_history(run_id, "val_loss")
        assert [metric.step for metric in history] == list(range(1, len(history) + 1))
        return len(history)


def command(stage: str) -> list[str]:
    """The command that `dvc.yaml` runs for a stage, with this interpreter."""
    program, *arguments = shlex.split(COMMANDS[stage])
    assert program == "python"
    return [sys.executable, *arguments]


def record(classes: list[str], **given: object) -> Record:
    """The record of a convnet on the images, with the given changes."""
    known: dict[str, object] = {
        "title": "a model",
        "listing": None,
        "book": None,
        "book_split": "test",
        "classes": classes,
        "part": None,
        "inputs": ["data/images/test.npy"],
        "labels": "data/images/test.csv",
        "history": [{"accuracy": 0.5, "loss": 0.7, "val_accuracy": 0.5, "val_loss": 0.7}],
    }
    return Record.model_validate(known | given)


def free_port() -> int:
    """A free loopback port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def answers(server: "subprocess.Popen[bytes]", port: int) -> bool:
    """Wait until a loopback server is healthy; return whether it ever was."""
    for _ in range(240):
        if server.poll() is not None:
            return False
        try:
            with urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return True
        except OSError:
            time.sleep(0.5)
    return False


def noise(output: str) -> list[str]:
    """The lines of a stage's output that come from known libraries, not from us."""
    marks = (
        r"absl|oneDNN|cuda|TensorFlow|tensorflow|mlflow|Warning|WARNING|INFO|retracing|version '"
    )
    return [line for line in output.splitlines() if re.search(marks, line)]


def executed(output: str) -> list[str]:
    return re.findall(r"Running stage '([^']+)'", output)


def holding(secret: str, *folders: Path) -> list[Path]:
    """The files that contain a secret, including databases and archives."""
    return [
        file
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and secret.encode() in file.read_bytes()
    ]
