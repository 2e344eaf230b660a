"""A temporary clone of the project, for running DVC's own commands."""

import io
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from dvc.repo import Repo
from PIL import Image
from playwright.sync_api import Page

from convnets import __main__ as program
from convnets.backbones import backbone
from convnets.base import console, params
from convnets.evaluation import served
from convnets.listing.listing import Layout
from convnets.models import saved
from convnets.models.saved import Record
from convnets.networks import architectures
from convnets.pictures import arrays
from convnets.sources import archive, layout, sources

ROOT = Path(__file__).parents[1]
with Repo(ROOT) as repo:
    COMMANDS = {stage.addressing: stage.cmd for stage in repo.index.stages}
# `inputs` runs each time, and is no run of MLflow's.
STAGES = tuple(stage for stage in COMMANDS if stage != "inputs")
TRAINING = tuple(stage for stage in STAGES if stage.startswith(("train_", "fine_tune")))
TOKEN = "planted-" + "token"  # in parts, since the clone contains this file too


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on loopback."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def recognised(path: Path) -> Layout:
    """The layout of a folder or an archive."""
    with archive.opened(path) as files:
        return layout.recognise(files)


def decoded(path: Path, out: Path, how: params.Subset, size: int = 78) -> dict[str, Any]:
    """Write the arrays of an archive's images; return the summary."""
    with tempfile.TemporaryDirectory() as folder:
        packed, given = Path(folder) / "images.zip", params.Data(source="archive", path=str(path))
        found = sources.write(given, how, 0, packed)
        return arrays.write(packed, found, Path(folder), out, how, size, seed=0)


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
        with tempfile.TemporaryFile("w+") as file:  # a pipe waits for DVC's workers, too
            done = subprocess.run(
                command,
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
            file.seek(0)
            output = file.read()
        assert done.returncode == status, output
        assert TOKEN not in output
        return output

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


def block(text: str, name: str) -> str:
    """What a YAML file has under a key, with an empty line before it."""
    (found,) = re.findall(rf"\n( *{name}:\n(?:.+\n)+)", f"{text}\n")
    return f"\n{found}"


def record(classes: list[str], **given: object) -> Record:
    """The record of a model of the images, with the given changes."""
    known: dict[str, object] = {
        "title": "a model",
        "listing": None,
        "book": None,
        "book_split": "test",
        "classes": classes,
        "kind": "images",
    }
    return Record.model_validate(known | given)


def noise_archive(count: int) -> bytes:
    """An archive of some megabytes, as Kaggle's, with `count` pictures of each class."""
    rng = np.random.default_rng(0)
    inner, outer = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        for label in ("cat", "dog"):
            for number in range(count):
                picture = Image.fromarray(rng.integers(0, 256, (160, 160, 3), "uint8"))
                picture.save(content := io.BytesIO(), "JPEG", quality=95)
                archive.writestr(f"train/{label}.{number}.jpg", content.getvalue())
    with zipfile.ZipFile(outer, "w") as archive:
        archive.writestr("train.zip", inner.getvalue())
    return outer.getvalue()


def backbone_of(
    name: str, size: int, weights: str | None = "random", preprocessing: str = "auto"
) -> keras.Model:
    """A frozen backbone, from pixels to a feature map."""
    how = params.Backbone(name=name, weights=weights, preprocessing=preprocessing, fine_tune_from=1)
    return backbone.build(how, size)


def said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str
) -> tuple[int, str, str]:
    """Run `python -m convnets` in this process: its exit status, stdout and stderr."""
    monkeypatch.setattr(sys, "argv", ["convnets", *arguments])
    monkeypatch.setattr(console, "hush", lambda: None)  # TensorFlow is already imported
    status = 0
    try:
        program.main()
    except SystemExit as stopped:
        status = stopped.code
    return status, *capsys.readouterr()


def with_champion(folder: Path, classes: list[str]) -> Path:
    """A project's folder with a champion, also as ONNX. Unlike is to it what is bright.

    Grey of 100 is at the limit.
    """
    (folder / "models").mkdir(parents=True)
    (folder / "dvc.yaml").touch()
    keras.utils.set_random_seed(0)
    network = architectures.plain(78, len(classes), 0)
    last = network.layers[-1].kernel
    last.assign(40 * last)  # else an untrained one answers alike for all images
    bright = keras.layers.Rescaling(1 / 100)(keras.layers.GlobalAveragePooling2D()(network.input))
    bright = keras.layers.Dense(1, kernel_initializer=keras.initializers.Constant(1 / 3))(bright)
    both = keras.Model(network.input, {"probabilities": network.output, "unlike": bright})
    path, pictures = folder / "models/champion.keras", np.zeros((3, 78, 78, 3), np.uint8)
    saved.save(both, path, record(classes))
    assert served.write(both, path, classes, pictures, folder / served.FOLDER) is None
    return folder


def free_port() -> int:
    """A free loopback port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def some_slow(names: Iterable[str], slow: Collection[str]) -> list[Any]:
    """The params of a test; those in `slow` have the marker."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


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


@contextmanager
def opener(
    page: Page, address: str, places: tuple[str, ...], noted: str
) -> Iterator[Callable[..., Page]]:
    """Open a server's page in given ways. It asks these places alone, and has no complaints.

    Chromium itself notes some status of an answer.
    """
    requested: list[str] = []
    complaints: list[str] = []

    def opened(**how: Any) -> Page:
        seen = page.context.browser.new_page(**how)
        seen.on("request", lambda request: requested.append(request.url))
        seen.on("console", lambda message: complaints.append(message.text))
        seen.on("pageerror", lambda error: complaints.append(str(error)))
        seen.goto(address)
        return seen

    yield opened
    assert all(url.startswith(places) for url in requested)
    assert [text for text in complaints if noted not in text] == []


def noise(output: str) -> list[str]:
    """The lines of a stage's output that come from known libraries, not from us."""
    marks = (
        r"absl|oneDNN|cuda|TensorFlow|tensorflow|mlflow|Warning|WARNING|INFO|retracing|version '"
    )
    return [line for line in output.splitlines() if re.search(marks, line)]


def executed(output: str) -> list[str]:
    """The stages that ran, except `inputs`, which runs each time."""
    return [name for name in re.findall(r"Running stage '([^']+)'", output) if name != "inputs"]


def holding(secret: str, *folders: Path) -> list[Path]:
    """The files that contain a secret, including databases and archives."""
    return [
        file
        for folder in folders
        for file in folder.rglob("*")
        if file.is_file() and secret.encode() in file.read_bytes()
    ]


@contextmanager
def postgresql() -> Iterator[dict[str, str]]:
    """The address of a separate PostgreSQL, behind a socket in a temporary folder."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not found:
        pytest.skip("no PostgreSQL (Debian's package postgresql)")
    folder = Path(tempfile.mkdtemp())
    owner: list[str] = []
    if os.getuid() == 0:  # it refuses to run as root
        shutil.chown(folder, "postgres")
        owner = ["runuser", "-u", "postgres", "--"]
    data = ["-D", str(folder / "data")]

    def run(program: str, *arguments: str) -> None:
        command = [*owner, str(found[-1] / program), *data, *arguments]
        subprocess.run(command, check=True, cwd=folder, stdout=subprocess.DEVNULL)

    run("initdb", "--username", "postgres", "--auth", "trust", "--no-sync")
    log, options = str(folder / "log"), f"-c listen_addresses= -k {folder}"
    run("pg_ctl", "--wait", "--log", log, "--options", options, "start")
    try:
        path = f"{found[-1]}{os.pathsep}{Clone(folder).environment()['PATH']}"
        yield {"PGHOST": str(folder), "PATH": path}
    finally:
        run("pg_ctl", "--mode", "immediate", "stop")
        shutil.rmtree(folder)
