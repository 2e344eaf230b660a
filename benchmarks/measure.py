"""The cost of a program: time, memory, and the share of the machine's peak."""

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
    """Measurements of a program from outside."""

    wall: float  # seconds
    steps: list[float]  # seconds from the start to each reported step
    peak: float  # most GiB resident, with its children, sampled
    anonymous: float  # the same without the pages of mapped files, which the system can reclaim
    last: str  # the last line of its output


def run(command: list[str], folder: Path, step: str = "$.") -> Process:
    """Run a program to its end. If it fails, exit with its output.

    Args:
        command: looked up in this interpreter's environment first.
        folder: the working directory.
        step: the pattern of a line that reports the end of a step.
    """
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for name in ("MLFLOW_TRACKING_URI", "DVC_ROOT", "DVC_EXP_NAME", "PYTHONPATH"):
        environment.pop(name, None)
    output, steps, most = [""], [], [0, 0]
    began = time.perf_counter()
    process = subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    watch = Thread(target=_watch, args=(process, most))
    watch.start()
    try:
        for line in process.stdout or ():
            output.append(line.rstrip())
            if re.match(step, line):
                steps.append(time.perf_counter() - began)
    finally:  # Ctrl-C reaches the program too, which may have something to clean up
        status = process.wait()
    wall = time.perf_counter() - began
    watch.join()
    if status:
        sys.exit("\n".join([*output[-30:], f"failed: {' '.join(command)}"]))
    return Process(wall, steps, most[0] / 2**30, most[1] / 2**30, output[-1])


def _watch(process: subprocess.Popen[str], most: list[int]) -> None:
    """Track the peak resident bytes of a process and its children, with and without mapped files.

    The system's own record, `ru_maxrss`, starts at the parent's memory at the time of the fork.
    """
    while process.returncode is None:
        with suppress(psutil.Error):
            parent = psutil.Process(process.pid)
            memory = [one.memory_info() for one in (parent, *parent.children(recursive=True))]
            most[0] = max(most[0], sum(m.rss for m in memory))
            most[1] = max(most[1], sum(m.rss - getattr(m, "shared", 0) for m in memory))
        time.sleep(0.05)


def matrix_peak(dtype: str) -> float:
    """Return the operations per second of a large matrix product, the best of several."""
    import tensorflow as tf

    square = tf.cast(tf.random.normal((4096, 4096)), dtype)
    product = tf.function(tf.matmul)
    seconds = []
    for _ in range(6):
        began = time.perf_counter()
        product(square, square).numpy()
        seconds.append(time.perf_counter() - began)
    return float(2 * 4096**3 / min(seconds))
