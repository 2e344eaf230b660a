"""`convnets serve` while others misuse it: `python -m benchmarks.faults [CHECKOUT]`.

In each case, honest clients send a drawn picture 200 times, and then the server gets SIGTERM. A
checkout is of another commit, whose `src` is measured instead.
"""

import io
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import requests
from PIL import Image

from convnets.models import saved
from convnets.models.saved import Kind, Record
from convnets.networks import architectures
from convnets.sources import sample

REQUESTS, CLIENTS = 200, 4
ROOT = Path(__file__).parents[1]
Address = tuple[str, int]


def scans(count: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan."""
    file = io.BytesIO()
    Image.new("RGB", (4000, 3000)).save(file, "JPEG", progressive=True)
    content = file.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * count + content[-2:]


@contextmanager
def costly(at: Address) -> Iterator[None]:
    """A picture that takes minutes."""
    post = partial(requests.post, f"http://{at[0]}:{at[1]}/predict", timeout=600)

    def ask() -> None:
        with suppress(requests.RequestException):
            post(files={"files": scans(1200)})

    threading.Thread(target=ask, daemon=True).start()
    time.sleep(1)
    yield


@contextmanager
def connections(at: Address, count: int, request: bytes, again: bool = False) -> Iterator[None]:
    """Clients that send something, once or again and again, and read nothing."""
    ended = threading.Event()

    def insist(client: socket.socket) -> None:
        while not ended.is_set():
            with suppress(TimeoutError):
                try:
                    client.sendall(request)
                except OSError:
                    return

    with ExitStack() as stack:
        stack.callback(ended.set)
        for _ in range(count):
            client = stack.enter_context(socket.create_connection(at))
            client.settimeout(1)
            client.sendall(request)
            if again:
                threading.Thread(target=insist, args=(client,), daemon=True).start()
        time.sleep(1)
        yield


BODY = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
BODY += b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n"
GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CASES: dict[str, tuple[int, dict[int, int], Callable[..., object]]] = {
    "nothing": (CLIENTS, {}, lambda _: ExitStack()),
    "64 clients": (64, {}, lambda _: ExitStack()),
    "a JPEG of 1,200 scans": (CLIENTS, {}, costly),
    "8 pipeline and never read": (
        CLIENTS,
        {},
        partial(connections, count=8, request=GET * 50, again=True),
    ),
    "16 slow bodies": (CLIENTS, {}, partial(connections, count=16, request=BODY)),
    "100 idle, 64 descriptors": (
        CLIENTS,
        {resource.RLIMIT_NOFILE: 64},
        partial(connections, count=100, request=b""),
    ),
    "no room for files": (CLIENTS, {resource.RLIMIT_FSIZE: 2**19}, lambda _: ExitStack()),
}


def measure(root: Path, model: Path, case: str) -> dict[str, object]:
    """Return what a server's honest clients saw, its memory, and how it ended."""
    clients, limits, misuse = CASES[case]
    with socket.create_server(("127.0.0.1", 0)) as free:
        at = free.getsockname()
    picture = io.BytesIO()
    if resource.RLIMIT_FSIZE in limits:
        noise = np.random.default_rng(0).integers(0, 256, (900, 900, 3), np.uint8)
        Image.fromarray(noise).save(picture, "PNG")  # of more than 1 MB: it goes to the disk
    else:
        sample.draw("cat", 0, 0).save(picture, "JPEG")

    def limited() -> None:
        for limit, value in limits.items():
            resource.setrlimit(limit, (value, value))

    with tempfile.TemporaryFile() as errors, ExitStack() as stack:
        server = psutil.Popen(
            [
                sys.executable,
                "-m",
                "convnets",
                "serve",
                "--model",
                str(model),
                "--port",
                str(at[1]),
            ],
            env=os.environ | {"PYTHONPATH": str(root / "src")},
            preexec_fn=limited,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )
        stack.enter_context(suppress(psutil.NoSuchProcess))
        stack.callback(server.kill)
        while server.poll() is None:
            with suppress(OSError):
                requests.get(f"http://{at[0]}:{at[1]}/health", timeout=60)
                break
            time.sleep(0.5)
        took: list[float] = []
        status, memory = [], [0]

        def ask(_: int) -> None:
            began = time.perf_counter()
            try:
                answer = requests.post(
                    f"http://{at[0]}:{at[1]}/predict",
                    files={"files": picture.getvalue()},
                    timeout=60,
                )
                status.append(str(answer.status_code))
                if answer.status_code == 200 and answer.text != right:
                    status.append("wrong")
            except requests.RequestException:
                status.append("none")
            took.append(time.perf_counter() - began)

        def watch() -> None:
            with suppress(psutil.Error):
                while True:
                    tree = [server, *server.children(recursive=True)]
                    memory.append(max(memory[-1], sum(each.memory_info().rss for each in tree)))
                    time.sleep(0.2)

        address = f"http://{at[0]}:{at[1]}/predict"
        right = requests.post(address, files={"files": picture.getvalue()}, timeout=60).text
        threading.Thread(target=watch, daemon=True).start()
        with misuse(at), ThreadPoolExecutor(clients) as pool:  # type: ignore[attr-defined]
            list(pool.map(ask, range(REQUESTS)))
            tree = [server, *server.children(recursive=True)]
            began = time.perf_counter()
            server.send_signal(signal.SIGTERM)
            _, left = psutil.wait_procs(tree, 60)
            ended = time.perf_counter() - began
        for each in left:
            each.kill()
        errors.seek(0)
        lines = len(errors.read().splitlines())
    answers = ", ".join(f"{status.count(each)} × {each}" for each in sorted(set(status)))
    return {
        "meanwhile": case,
        "clients": clients,
        "answers": answers,
        "median, ms": round(1000 * float(np.quantile(took, 0.5))),
        "99 %, ms": round(1000 * float(np.quantile(took, 0.99))),
        "MB": memory[-1] // 10**6,
        "lines on stderr": lines,
        "SIGTERM, s": f"> {ended:.0f}" if left else f"{ended:.1f}",
    }


def main() -> None:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT
    cases = sys.argv[2:] or list(CASES)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.keras"
        record = Record(
            title="a convnet",
            listing=None,
            book=None,
            book_split="test",
            classes=["cat", "dog", "none"],
            kind=Kind.IMAGES,
        )
        saved.save(architectures.plain(180, 3, 0), model, record)
        rows = []
        for case in cases:
            rows.append(measure(root, model, case))
            print(rows[-1], flush=True)
    print(pd.DataFrame(rows).to_markdown(index=False))


if __name__ == "__main__":
    main()
