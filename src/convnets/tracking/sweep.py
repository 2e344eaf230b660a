"""A sweep over the machines of a Ray cluster: each experiment of DVC is one task on one node."""

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

from convnets.base import cluster
from convnets.base.console import InputError, printable, progress, say, without_secrets
from convnets.tracking import store

PARAMS = "params.yaml"
ORIGIN = "origin"  # the git remote
SERVER = "MLFLOW_TRACKING_URI"
# It outlives the process that starts it, even after `kill -9`. Then it ends the group of processes
# that it began, and removes their folder. A stage has the time to end its MLflow run.
GUARD = """
exec 3<&0
(trap "" TERM; cat <&3; kill -TERM 0; sleep 5; rm -rf "$1"; kill -KILL 0) >/dev/null 2>&1 &
"""
# A program's arguments are for all to see, so git gets a login in this way. Only its host does.
ASKPASS = """#!/bin/sh
case $1 in
Username*[/@]"$CONVNETS_GIT_HOST'"*) printf '%s\\n' "$CONVNETS_GIT_USER" ;;
Password*[/@]"$CONVNETS_GIT_HOST'"*) printf '%s\\n' "$CONVNETS_GIT_PASSWORD" ;;
esac
"""


class Origin(NamedTuple):
    """What each node needs to know of this clone. It may have passwords, so it is never shown."""

    url: str  # of the git remote
    commit: str
    storage: str  # the DVC remote
    config: dict[str, str]  # of the DVC remote, wherever it is configured
    variables: dict[str, str]  # MLflow's

    def pushed(self, name: str) -> str:
        """Return the git ref of an experiment that is based on the commit."""
        from dvc.repo.experiments.refs import ExpRefInfo

        return str(ExpRefInfo(self.commit, name))


class Outcome(NamedTuple):
    """How an attempt at an experiment ended."""

    node: str  # its id
    problem: str | None


def sweep(settings: list[str]) -> None:
    """Run each combination of settings as an experiment on a node, and fetch their results.

    An experiment's name is the same whenever the same settings are asked for at the same commit. So
    what the git remote has already is not run again, and a stopped sweep goes on where it was.

    Args:
        settings: as for `dvc exp run -S`; values separated by commas make several experiments.

    Raises:
        InputError: something is missing that the nodes need, a setting is unusable, or an
            experiment has failed twice.
    """
    if not os.environ.get("RAY_ADDRESS"):
        raise InputError(
            "RAY_ADDRESS: is not set; set it to the address of a Ray cluster, such as HEAD:6379; "
            "on one machine use `dvc exp run --queue`"
        )
    origin = _origin()
    grid = _grid(settings, origin.commit)
    done = _pushed(origin, grid)
    for name, overrides in grid.items():
        shown = printable(without_secrets(" ".join(overrides)))
        say(f"{name}: {shown}{', done already' if name in done else ''}")
    left = {name: overrides for name, overrides in grid.items() if name not in done}
    failed = []
    if left:
        with _cluster(origin) as attempt:
            for name, problem in progress(_run(attempt, left), "sweep", len(left)):
                if problem is not None:
                    failed.append(name)
    _fetch(origin, [name for name in grid if name not in failed])
    if failed:
        again = shlex.join(word for setting in settings for word in ("-S", setting))
        raise InputError(
            f"{', '.join(failed)}: failed twice; to try again what is missing, "
            f"run `python -m convnets sweep {again}`"
        )
    say("to see them, run `dvc exp show` and `python -m convnets compare`")


def _git(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(["git", *arguments], capture_output=True, text=True)


def _origin() -> Origin:
    """Collect what the nodes need, or say what is missing."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    uri = os.environ.get(SERVER, "")
    if not uri.startswith(("http://", "https://")):
        raise InputError(
            f"{SERVER}: is not the address of a server, and the runs in a file on a node "
            "would be lost; start `mlflow server`, and set the variable to its http address"
        )
    changed = _git("status", "--porcelain", "--untracked-files=no")
    if changed.returncode:
        raise InputError(f"{Path.cwd()}: is no git clone of the project; run it in one")
    if changed.stdout:
        path = printable(changed.stdout.splitlines()[0][3:])
        raise InputError(f"{path}: has changes that no node would have; commit and push them first")
    url = _git("remote", "get-url", ORIGIN)
    if url.returncode:
        raise InputError(
            f"there is no git remote {ORIGIN} from which the nodes can clone; run "
            f"`git remote add {ORIGIN} URL` and `git push -u {ORIGIN} HEAD`"
        )
    fetched = _git("fetch", "--quiet", ORIGIN)
    if fetched.returncode:
        raise InputError(f"{ORIGIN}: git cannot fetch from it: {_last(fetched.stderr)}")
    if not _git("for-each-ref", "--contains", "HEAD", f"refs/remotes/{ORIGIN}").stdout:
        raise InputError(f"HEAD: is not on the git remote {ORIGIN}; run `git push`")
    try:
        with Repo() as repo:
            storage = repo.config["core"].get("remote")
            config = repo.config["remote"].get(storage)
    except DvcException as error:
        raise InputError(f"DVC: {' '.join(str(error).split())}") from error
    if config is None:
        raise InputError(
            "there is no default DVC remote for data and models; run "
            "`dvc remote add -d storage ADDRESS` and `dvc push`"
        )
    return Origin(
        url.stdout.strip(),
        _git("rev-parse", "HEAD").stdout.strip(),
        storage,
        # DVC makes paths absolute, in types of its own. Those in the home stay there on each node.
        {
            key: str(getattr(value, "def_path", value)) if isinstance(value, str) else value
            for key, value in config.items()
        },
        {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")},
    )


def _grid(settings: list[str], commit: str) -> dict[str, list[str]]:
    """Return the settings of each experiment, by its name.

    Raises:
        InputError: a setting is no valid override, or `params.yaml` does not allow it.
    """
    from dvc.exceptions import DvcException
    from dvc.utils.cli_parse import to_path_overrides
    from dvc.utils.hydra import get_hydra_sweeps
    from hydra.errors import HydraException

    grid = {}
    try:
        for overrides in get_hydra_sweeps(to_path_overrides(settings)):
            _check(overrides)
            given = sorted(
                each if path == PARAMS else f"{path}:{each}"
                for path in overrides
                for each in overrides[path]
            )
            digest = hashlib.sha256(repr((commit, given)).encode()).hexdigest()
            grid[f"sweep-{digest[:8]}"] = given
    except (DvcException, HydraException) as error:
        reason = str(error.__cause__ or error).partition("\nSee ")[0]
        raise InputError(f"-S {' '.join(settings)}: {' '.join(reason.split())}") from error
    return grid


def _check(overrides: dict[str, list[str]]) -> None:
    """Apply overrides to a copy of their files, as DVC will do on the node."""
    from dvc.utils.hydra import apply_overrides

    # No value is used here: this only finds out what the stages would refuse.
    from convnets.base.params import load

    with tempfile.TemporaryDirectory() as folder:
        for path, given in overrides.items():
            if not Path(path).is_file():
                raise InputError(f"{path}: does not exist; run from the project's root")
            copy = Path(folder) / Path(path).name
            shutil.copyfile(path, copy)
            apply_overrides(str(copy), given)
            if path == PARAMS:
                try:
                    load(copy)
                except InputError as error:
                    raise InputError(str(error).replace(str(copy), PARAMS)) from error


def _pushed(origin: Origin, names: dict[str, list[str]]) -> set[str]:
    """Return which of the experiments the git remote has."""
    refs = _git("ls-remote", ORIGIN, *(origin.pushed(name) for name in names))
    if refs.returncode:
        raise InputError(f"{ORIGIN}: git cannot list its experiments: {_last(refs.stderr)}")
    return {line.rpartition("/")[2] for line in refs.stdout.splitlines()}


def _fetch(origin: Origin, names: list[str]) -> None:
    """Fetch experiments from the git remote. Their data stays on the DVC remote."""
    if not names:
        return
    refs = (f"+{origin.pushed(name)}:{origin.pushed(name)}" for name in names)
    fetched = _git("fetch", "--quiet", ORIGIN, *refs)
    if fetched.returncode:
        raise InputError(
            f"{ORIGIN}: git cannot fetch the experiments: {_last(fetched.stderr)}; "
            f"run `dvc exp pull {ORIGIN} {' '.join(names)}`"
        )


@contextmanager
def _cluster(origin: Origin) -> Iterator[Callable[[str, list[str]], Any]]:
    """Join the cluster, and yield a function that starts an attempt at an experiment.

    Each attempt takes all processors of the smallest node, as a training uses all that it finds. On
    leaving, Ray ends the attempts that still run.

    Raises:
        InputError: Ray or the cluster is missing, or a node differs from this machine.
    """
    ray = cluster.connect()
    try:
        for name, problem in cluster.everywhere(ray, _unreachable, origin.variables[SERVER]):
            if problem:
                raise InputError(
                    f"{name}: does not reach {SERVER}: {problem}; open the way to it there"
                )
        nodes = [node["Resources"] for node in cluster.alive(ray)]
        cpus, gpus = (min(node.get(kind, 0) for node in nodes) for kind in ("CPU", "GPU"))
        attempt = ray.remote(_attempt).options(num_cpus=cpus, num_gpus=gpus, max_retries=0)
        yield lambda name, overrides: attempt.remote(origin, name, overrides)
    finally:
        ray.shutdown()


def _unreachable(uri: str) -> str:
    """Return why this machine does not reach a server, if so."""
    import requests

    try:
        requests.get(uri, timeout=10)
    except (OSError, ValueError) as error:  # of requests, or of what it needs
        return store.reason(error)
    return ""


def _run(
    attempt: Callable[[str, list[str]], Any], grid: dict[str, list[str]]
) -> Iterator[tuple[str, str | None]]:
    """Run experiments, each at most twice; yield each when it has ended, with its last problem."""
    import ray

    def start(name: str) -> Any:
        _kill_runs(name)
        return attempt(name, grid[name])

    running = {start(name): name for name in grid}
    tried = set()
    while running:
        (ended,), _ = ray.wait(list(running))
        name = running.pop(ended)
        try:
            outcome = ray.get(ended)
        except ray.exceptions.RayError as error:
            outcome = Outcome("", _why(error))
        nodes = {node["NodeID"]: node["NodeName"] for node in ray.nodes()}  # type: ignore[no-untyped-call]
        node = nodes.get(outcome.node, "a node")
        if outcome.problem is None:
            say(f"{name}: done on {node}")
            yield name, None
        elif name in tried:
            say(f"{name}: failed again on {node}: {outcome.problem}")
            yield name, outcome.problem
        else:
            say(f"{name}: failed on {node}: {outcome.problem}; it is tried once more")
            tried.add(name)
            running[start(name)] = name


def _kill_runs(name: str) -> None:
    """Give the runs of an experiment that an earlier attempt has left the status KILLED.

    The git remote does not have the experiment, so their models are lost. What is FINISHED in
    MLflow is then from the one attempt that was pushed.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    store.quieten()
    try:
        client = mlflow.MlflowClient(store.uri())
        experiment = client.get_experiment_by_name(store.experiment())
        if experiment is None:
            return
        for run in client.search_runs([experiment.experiment_id], f"tags.dvc_exp_name = '{name}'"):
            if run.info.status in ("RUNNING", "FINISHED"):
                client.set_terminated(run.info.run_id, "KILLED", run.info.end_time)
    except MlflowException as error:
        say(f"warning: MLflow fails ({store.reason(error)}); old runs of {name} keep their status")


def _attempt(origin: Origin, name: str, overrides: list[str]) -> Outcome:
    """Run an experiment on this node, in a new clone that is removed afterwards.

    The data is pushed before the experiment's ref: what the git remote has is complete. What other
    experiments can reuse, DVC's run cache, is pushed last, so that it is from such experiments.
    """
    import ray
    from dvc.repo import Repo

    node = ray.get_runtime_context().get_node_id()
    folder = Path(tempfile.mkdtemp(prefix="convnets-"))
    guard = subprocess.Popen(
        ["sh", "-c", GUARD, "sh", str(folder)], stdin=subprocess.PIPE, process_group=0
    )
    guard.wait()
    clone = folder / "convnets"
    url, login = without_login(origin.url, folder / "askpass")
    environment = os.environ | origin.variables | login
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment["PYTHONPATH"] = str(clone / "src")  # of the commit, not what is installed
    environment["GIT_TERMINAL_PROMPT"] = "0"  # nobody is there
    environment.pop("RAY_ADDRESS", None)  # a stage keeps to its node, all of which it has

    def run(*command: str) -> str:
        done = subprocess.run(
            command,
            cwd=clone if clone.exists() else folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            process_group=guard.pid,
        )
        if done.returncode:
            raise InputError(_last(done.stdout))
        return done.stdout

    try:
        run("git", "clone", "--quiet", "--no-checkout", url, str(clone))
        run("git", "checkout", "--quiet", "--detach", origin.commit)
        if run("git", "ls-remote", ORIGIN, origin.pushed(name)):
            return Outcome(node, None)  # an earlier attempt has pushed it, and died then
        with Repo(clone) as repo, repo.config.edit("local") as config:
            config["core"]["remote"] = origin.storage
            config["remote"][origin.storage] = origin.config
        # What the remote does not have is computed. All else must be there: `evaluate` takes the
        # models that it finds.
        run("dvc", "pull", "--allow-missing")
        settings = [word for override in overrides for word in ("-S", override)]
        run("dvc", "exp", "run", "--pull", "--name", name, *settings)
        run("dvc", "push")
        run("dvc", "exp", "push", "--no-cache", ORIGIN, name)
        run("dvc", "push", "--run-cache")
        if (clone / ".unrecorded").exists():  # MLflow's server did not answer during a stage
            run("python", "-m", "convnets", "sync")
    except InputError as error:
        return Outcome(node, str(error))
    finally:
        guard.stdin.close()  # type: ignore[union-attr]
    return Outcome(node, None)


def without_login(url: str, askpass: Path) -> tuple[str, dict[str, str]]:
    """Return a git address without a login, and the variables by which git and DVC get that.

    Args:
        url: of a git remote. Other addresses than http's have no password.
        askpass: the program that is written for them, if there is a login.
    """
    scheme, _, rest = url.partition("://")
    login, _, host = rest.partition("/")[0].rpartition("@")
    if scheme.lower() not in ("http", "https") or not login:
        return url, {}
    askpass.write_text(ASKPASS)
    askpass.chmod(0o700)
    user, _, password = login.partition(":")
    return f"{scheme}://{rest[len(login) + 1 :]}", {
        "GIT_ASKPASS": str(askpass),
        "CONVNETS_GIT_HOST": host,
        "CONVNETS_GIT_USER": unquote(user),
        "CONVNETS_GIT_PASSWORD": unquote(password),
    }


def _last(output: str) -> str:
    """Return the line of a failed program's output that says why, without a password.

    DVC's own last line only says which stage has failed, and git's are hints.
    """
    lines = [line.strip() for line in output.splitlines()]
    said = [line for line in lines if line and not line.startswith("ERROR: failed to reproduce")]
    fatal = [line for line in said if line.startswith("fatal:")]
    line = (fatal or said or lines or ["it said nothing"])[-1]
    return printable(store.reason(RuntimeError(line.removeprefix("error: "))))


def _why(error: Exception) -> str:
    """Return the line of an error of Ray's that says why: of a task's own traceback, the last."""
    import ray

    text = str(error).strip()
    own = isinstance(error, ray.exceptions.RayTaskError)
    return _last(text if own else text.partition("\n")[0])
