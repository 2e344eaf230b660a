"""What a program takes: seconds, memory, and the share of what the machine can compute."""

import os
import re
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import psutil


class Process(NamedTuple):
    """What was seen of a program from outside."""

    wall: float  # seconds
    steps: list[float]  # seconds after the start at which it told of each step
    peak: float  # GiB that one process had resident at most, pages of mapped files among them
    anonymous: float  # GiB at most that are no file's, of all its processes, sampled
    last: str  # line of its output


def run(command: list[str], folder: Path, step: str = "$.") -> Process:
    """Run a program to its end; exit with what it said if it fails.

    Args:
        command: found in this interpreter's environment first.
        folder: to run it in.
        step: the pattern of a line that tells of a step's end.
    """
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME", "PYTHONPATH"):
        environment.pop(name, None)
    output, steps, most = [""], [], [0]
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    Thread(target=_watch, args=(process.pid, most), daemon=True).start()
    for line in process.stdout or ():
        output.append(line.rstrip())
        if re.match(step, line):
            steps.append(time.perf_counter() - began)
    _, status, usage = os.wait4(process.pid, 0)  # with its children's
    wall = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit("\n".join([*output[-30:], f"failed: {' '.join(command)}"]))
    kib = usage.ru_maxrss / (1 if sys.platform == "linux" else 1024)
    return Process(wall, steps, kib / 2**20, most[0] / 2**30, output[-1])


def _watch(pid: int, most: list[int]) -> None:
    """Keep the most bytes of memory that a process and its children had beside mapped files."""
    while psutil.pid_exists(pid):
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            memory = [one.memory_info() for one in (process, *process.children(recursive=True))]
            most[0] = max(most[0], sum(m.rss - getattr(m, "shared", 0) for m in memory))
        time.sleep(0.05)


def matrix_peak(dtype: str) -> float:
    """Return the operations a second of a large matrix product, the best of some."""
    import tensorflow as tf

    square = tf.cast(tf.random.normal((4096, 4096)), dtype)
    product = tf.function(tf.matmul)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        product(square, square).numpy()
        seconds.append(time.perf_counter() - began)
    return float(2 * 4096**3 / min(seconds))
