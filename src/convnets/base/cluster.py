"""Apply a function to many items, here or on a Ray cluster."""

import logging
import os
import platform
import signal
import socket
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from convnets.base import console
from convnets.base.console import InputError, printable

R = TypeVar("R")
Map = Callable[[Iterable[tuple[Any, ...]]], Iterator[R]]

PACKAGE = Path(__file__).parents[1]
# What computes the bytes, and runs and records the stages, with Python itself.
LIBRARIES = (
    *("dvc", "imagehash", "keras", "mlflow", "numpy", "pillow", "pillow-heif", "ray", "scipy"),
    "tensorflow",
)
AHEAD = 2  # tasks for each that runs: the next is there when one ends
PATIENCE = 2  # seconds without a result until it is asked whether the cluster is still there
CONNECT = 10  # seconds for a connection
RETRIES = 3  # of a task whose worker or node has died


Asked = tuple[str, Callable[[], Any], Any]  # a node's name, a call of a task, and its reference
_joining: list[Asked] = []  # what the nodes compute with, until `connect` looks at it
_kinds: set[str] = set()  # their kinds of processor


class Node(NamedTuple):
    """What a machine computes with."""

    versions: dict[str, str]
    processor: str


def mapper(
    prepare: Callable[[], Callable[..., R]], whole: bool = False, files: Iterable[Path] = ()
) -> Map[R]:
    """Return a function that applies what `prepare` returns to each of many tuples, in order.

    Without Ray's own variable RAY_ADDRESS, it is applied here. With it, each tuple is a task of the
    cluster. A task whose worker or node is lost is run again. Only a few tuples and results for
    each worker are held at a time, whatever their number. But an array of a result that is kept
    keeps all of the result in the cluster's object store.

    Args:
        prepare: called once in each process that works. It can be pickled, as can all that it
            returns is applied to.
        whole: a task uses all processors of a machine, or a GPU where each machine has one;
            otherwise, one processor.
        files: what `prepare` reads. On the cluster it finds them at the same relative paths.

    Raises:
        InputError: the cluster cannot be reached, or its machines lack what this one has. The
            returned function raises it where the cluster fails.
    """
    if not os.environ.get("RAY_ADDRESS"):
        work = prepare()
        return lambda items: (work(*item) for item in items)
    ray = connect()
    nodes = [node["Resources"] for node in alive(ray)]
    share = {"num_cpus": 1.0, "num_gpus": 0.0}
    if whole:
        gpus = min(node.get("GPU", 0) for node in nodes)
        cpus = min(node["CPU"] for node in nodes) // max(1, gpus)
        share = {"num_cpus": max(1, cpus), "num_gpus": min(1, gpus)}
    at_once = sum(int(node["CPU"] // share["num_cpus"]) for node in nodes)
    # Ray's own retries never end while memory is short. Those below do.
    task = ray.remote(_work).options(max_retries=0, **share)
    # In a list, as a task would be given a copy of what a reference alone stands for.
    prepared = [ray.put((prepare, {str(file): file.read_bytes() for file in files}))]

    def apply(items: Iterable[tuple[Any, ...]]) -> Iterator[R]:
        waiting: deque[Any] = deque()
        given = iter(items)
        while True:
            for item in islice(given, AHEAD * at_once - len(waiting)):
                submit = partial(task.remote, prepared, *item)
                waiting.append((submit, submit()))
            if not waiting:
                return
            yield _result(ray, *waiting.popleft())

    return apply


def join() -> Any:
    """Begin to join the cluster of RAY_ADDRESS, if that is set; return the module `ray`.

    Workers take seconds to start. A stage that will need them calls this first, and does other
    things meanwhile. `mapper` waits for them.

    Raises:
        InputError: see `mapper`.
    """
    if not os.environ.get("RAY_ADDRESS"):
        return None
    try:
        import ray as module
    except ImportError as error:
        raise InputError(
            "RAY_ADDRESS: is set, but Ray is not installed; run `pip install -e '.[ray]'`, or "
            "unset it to compute on this machine alone"
        ) from error
    ray: Any = module  # not all of it is typed
    if ray.is_initialized():
        return ray
    address = os.environ["RAY_ADDRESS"]
    stop = signal.getsignal(signal.SIGTERM)
    try:
        _reach(address)  # Ray itself tries for minutes
        ray.init(
            runtime_env={
                "py_modules": [str(PACKAGE)],  # so that each works with this code
                # `mallopt` would be late: a worker has threads with memory of their own by then.
                "env_vars": {name: str(value) for name, (_, value) in console.KEEP_MEMORY.items()},
            },
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    except Exception as error:  # each of Ray's parts has its own
        raise InputError(
            f"RAY_ADDRESS: cannot join the cluster at {address}: {_reason(error)}; start it "
            f"there, and run `ray start --address={address}` here"
        ) from error
    signal.signal(signal.SIGTERM, stop)  # Ray has taken it
    _joining[:] = _ask(ray, this_node)
    return ray


def connect() -> Any:
    """Join the cluster of RAY_ADDRESS, once; return the module `ray`.

    Raises:
        InputError: see `mapper`.
    """
    ray = join()
    if not _joining:
        return ray
    here, there = this_node(), _answers(ray, _joining)
    for name, node in there:
        for library, version in node.versions.items():
            if version != here.versions[library]:
                raise InputError(
                    f"{name}: has {library} {version}, and this machine {here.versions[library]}; "
                    "install the same requirements.lock on both"
                )
    cpus = sum(int(node["Resources"]["CPU"]) for node in alive(ray))
    console.say(f"Ray: {len(there)} nodes, {cpus} CPUs")
    _kinds.clear()
    _kinds.update(node.processor for _, node in there)
    kinds = {here.processor, *_kinds}
    if len(kinds) > 1:
        console.say(
            "Ray: there are several kinds of processor; the last bits of what they compute may "
            f"differ: {'; '.join(sorted(kinds))}"
        )
    _joining.clear()
    return ray


def processors() -> list[str]:
    """Return the kinds of processor that `mapper` computes on, with the GPUs of a cluster."""
    if not os.environ.get("RAY_ADDRESS"):
        return [this_node().processor]
    named = {name for node in alive(connect()) for name in node["Resources"]}
    return sorted({*_kinds, *(name for name in named if name.startswith("accelerator_type:"))})


def everywhere(ray: Any, look: Callable[..., R], *given: Any) -> list[tuple[str, R]]:
    """Call a function on each node of the cluster; return the nodes' names and its results.

    Raises:
        InputError: there is no node, or one cannot run the function.
    """
    return _answers(ray, _ask(ray, look, *given))


def _ask(ray: Any, look: Callable[..., R], *given: Any) -> list[Asked]:
    """Call a function on each node, without waiting for the results."""
    place = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
    asked = []
    for node in alive(ray):
        there = place(node["NodeID"], soft=False)
        call = ray.remote(look).options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        asked.append((node["NodeName"], partial(call.remote, *given)))
    if not asked:
        raise InputError("RAY_ADDRESS: no node of the cluster has a CPU; run `ray start` on one")
    return [(name, call, call()) for name, call in asked]


def _answers(ray: Any, asked: list[Asked]) -> list[tuple[str, Any]]:
    found = []
    for name, call, reference in asked:
        try:
            found.append((name, _result(ray, call, reference)))
        except ImportError as error:
            raise InputError(
                f"{name}: cannot run the project ({error}); install requirements.lock there"
            ) from error
    return found


def alive(ray: Any) -> list[dict[str, Any]]:
    """Return the nodes that compute."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def installed(packages: Iterable[str]) -> dict[str, str]:
    """Return the version of each package, or that it is not installed."""
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def this_node() -> Node:
    """Return what this machine computes with."""
    versions = {"Python": platform.python_version(), **installed(LIBRARIES)}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return Node(versions, platform.processor() or platform.machine())
    told = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    known = {key.strip(): value.strip() for key, value in told.items()}
    parts = [known.get(key, "") for key in ("model name", "cpu family", "model")]
    flags = {"avx2", "avx512f", "avx512_bf16", "amx_bf16"} & set(known.get("flags", "").split())
    return Node(versions, " ".join([*filter(None, parts), *sorted(flags)]) or platform.machine())


_works: dict[Any, tuple[Any, Callable[..., Any]]] = {}  # what this worker has prepared


def _work(prepared: list[Any], *item: Any) -> Any:
    (reference,) = prepared
    if reference not in _works:
        console.shorten_import()  # as each stage does: it may need Keras
        try:
            _works[reference] = _prepared(reference)
        finally:
            console.unhush()
    return _works[reference][1](*item)


def _prepared(reference: Any) -> tuple[Any, Callable[..., Any]]:
    """Return the folder with the files, which is there as long as it is kept, and the work."""
    import ray

    prepare, files = ray.get(reference)
    folder = tempfile.TemporaryDirectory()
    for name, content in files.items():
        path = Path(folder.name, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    os.chdir(folder.name)
    return folder, prepare()


def _result(ray: Any, submit: Callable[[], Any], reference: Any, left: int = RETRIES) -> Any:
    """Wait for a task's result. Submit it again a few times if its worker or node is lost."""
    try:
        return _waited(ray, reference)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    except OSError as error:
        raise _gone(error) from error
    except ray.exceptions.RayError as error:
        if left:
            return _result(ray, submit, submit(), left - 1)
        if isinstance(error, ray.exceptions.OutOfMemoryError):
            raise InputError(
                "a worker of the Ray cluster has too little memory; start its node with fewer CPUs "
                "(`ray start --num-cpus`), so that fewer tasks share the memory, and run it again "
                "to resume"
            ) from error
        raise _gone(error) from error


def _waited(ray: Any, reference: Any) -> Any:
    # `get` with a timeout would begin the transfer of a result anew each time.
    while not ray.wait([reference], timeout=PATIENCE)[0]:
        _check(ray)
    try:
        return ray.get(reference)
    except ray.exceptions.RayError:
        _check(ray)
        raise


def _check(ray: Any) -> None:
    """Raise an OSError if the cluster is gone, or Ray's process on this machine, the raylet.

    Ray waits for them, up to a minute, and then ends this process without a word.
    """
    context = ray.get_runtime_context()
    _reach(context.gcs_address)
    (own,) = [node for node in ray.nodes() if node["NodeID"] == context.get_node_id()]
    _reach(f"{own['NodeManagerAddress']}:{own['NodeManagerPort']}")


def _reach(address: str) -> None:
    """Raise an OSError if nothing listens at an address, unless it has no port, such as auto."""
    host = urlsplit(address if "//" in address else f"//{address}")
    if host.port:
        socket.create_connection((host.hostname, host.port), timeout=CONNECT).close()


def _gone(error: Exception) -> InputError:
    return InputError(
        f"RAY_ADDRESS={os.environ['RAY_ADDRESS']}: the cluster, or Ray on this machine, fails "
        f"({_reason(error)}); see `ray status`, and run it again to resume, or unset RAY_ADDRESS "
        "to compute on this machine alone"
    )


def _reason(error: Exception) -> str:
    """Return the first line of what an error says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return printable(lines[0][:200] if lines else type(error).__name__)
