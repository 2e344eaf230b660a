"""`convnets serve` beside `mlflow models serve`: `python -m benchmarks.serve`, after `dvc repro`.

Both serve the champion. Each answers the same 500 requests of one drawn picture, 16 at a time.
"""

import base64
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import requests

from convnets.sources import sample

REQUESTS, AT_ONCE, ROUNDS = 500, 16, 3
OURS = ["-m", "convnets", "serve", "--model", "champion"]
MLFLOW = ["-m", "mlflow", "models", "serve", "-m", "models:/convnets@champion"]
MLFLOW += ["--env-manager", "local", "-h", "127.0.0.1"]


@contextmanager
def started(command: list[str]) -> Iterator[str]:
    """Start a server, and yield its address once it is healthy."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    address = f"http://127.0.0.1:{port}"
    environment = os.environ | {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    quiet = subprocess.DEVNULL
    server = subprocess.Popen(
        [sys.executable, *command, "--port", port],
        env=environment,
        stdout=quiet,
        stderr=quiet,
        start_new_session=True,  # MLflow's server is its child
    )
    try:
        while server.poll() is None:
            with suppress(OSError):
                requests.get(f"{address}/health", timeout=60)
                break
            time.sleep(0.5)
        else:
            sys.exit(f"failed: {' '.join(command)}; run `dvc repro` first")
        yield address
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def measure(address: str, content: dict[str, Any]) -> dict[str, float]:
    """Return the requests a second, and the 95th percentile of a request's time in ms.

    Args:
        address: to post to.
        content: what to post, as `requests` takes it.
    """

    def timed(_: int) -> float:
        began = time.perf_counter()
        requests.post(address, timeout=60, **content).raise_for_status()
        return time.perf_counter() - began

    with ThreadPoolExecutor(AT_ONCE) as clients:
        list(clients.map(timed, range(2 * AT_ONCE)))  # what a server does only once
        began = time.perf_counter()
        took = list(clients.map(timed, range(REQUESTS)))
        wall = time.perf_counter() - began
    return {"requests / s": REQUESTS / wall, "p95 in ms": 1000 * float(np.quantile(took, 0.95))}


def main() -> None:
    file = io.BytesIO()
    sample.draw("cat", 0, 0).save(file, "JPEG")
    picture = file.getvalue()
    sides: dict[str, tuple[list[str], str, dict[str, Any]]] = {
        "ours": (OURS, "predict", {"files": {"files": picture}}),
        "ours, with evidence": (OURS, "predict?evidence=true", {"files": {"files": picture}}),
        "MLflow": (
            MLFLOW,
            "invocations",
            {"json": {"inputs": [base64.b64encode(picture).decode()]}},
        ),
    }
    rows = []
    for _ in range(ROUNDS):
        for side, (command, path, content) in sides.items():
            with started(command) as address:
                rows.append({"side": side} | measure(f"{address}/{path}", content))
                print(rows[-1], flush=True)
    table = pd.DataFrame(rows).groupby("side", sort=False).median()
    theirs = table.loc["MLflow"]
    table["times as many"] = table["requests / s"] / theirs["requests / s"]
    table["times the p95"] = table["p95 in ms"] / theirs["p95 in ms"]
    print(table.to_markdown(floatfmt=".3g"))


if __name__ == "__main__":
    main()
