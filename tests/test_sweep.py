"""A sweep over a Ray cluster on loopback: git, DVC, MLflow on PostgreSQL, three nodes, all real."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
import psutil
import pytest
import yaml
from ray.cluster_utils import Cluster

from tests.commands import TOKEN, Clone, answers, free_port, holding, postgresql
from tests.test_pipeline import make_quick

pytestmark = pytest.mark.slow

STAGES = ("inputs", "download", "subset", "labels", "train_scratch")  # enough for an experiment
NODES = ("one", "two", "three")
IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@localhost")


class Place:
    """A pushed clone with its remotes, the variables of a sweep, and the nodes."""

    def __init__(self, folder: Path, variables: dict[str, str], cluster: Cluster) -> None:
        self.folder = folder
        self.clone = Clone.of_commit(folder / "clone")
        self.variables = variables
        self.cluster = cluster

    def git(self, *arguments: str) -> str:
        return self.clone.run("git", *IDENTITY, *arguments)

    def start(self, *settings: str) -> "subprocess.Popen[str]":
        """Start a sweep."""
        words = [word for setting in settings for word in ("-S", setting)]
        return subprocess.Popen(
            [sys.executable, "-m", "convnets", "sweep", *words],
            cwd=self.clone.folder,
            env=self.clone.environment() | self.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ended(self, sweep: "subprocess.Popen[str]", status: int = 0) -> str:
        """Wait for the end of a sweep; return its output."""
        output, _ = sweep.communicate()
        assert sweep.returncode == status, output
        assert TOKEN not in output
        assert "Traceback" not in output
        return output

    def sweep(self, *settings: str, status: int = 0) -> str:
        return self.ended(self.start(*settings), status)

    def experiments(self) -> dict[str, str]:
        """The experiments of the git remote, with their commits."""
        listed = self.git("ls-remote", "origin", "refs/exps/*").splitlines()
        names = [line.rpartition("/")[2] for line in listed]
        assert len(set(names)) == len(names)
        return {name: line.split()[0] for name, line in zip(names, listed, strict=True)}

    def runs(self, status: str) -> list[str]:
        """The experiments of the runs with a status."""
        mlflow.set_tracking_uri(self.variables["MLFLOW_TRACKING_URI"])
        found = mlflow.search_runs(
            experiment_names=["convnets"],
            filter_string=f"attributes.status = '{status}'",
            output_format="list",
        )
        assert TOKEN not in str([run.to_dictionary() for run in found])
        return sorted(run.data.tags["dvc_exp_name"] for run in found)

    def clones(self) -> list[Path]:
        """The folders of the attempts on the nodes."""
        return list((self.folder / "tmp").glob("convnets-*"))

    def training(self, nodes: list[object]) -> list[psutil.Process]:
        """All processes below nodes, once one of these is a training with a run in MLflow."""
        raylets = [psutil.Process(node.all_processes["raylet"][0].process.pid) for node in nodes]
        found = [process for raylet in raylets for process in raylet.children(recursive=True)]
        for process in filter(is_training, found):
            with suppress(psutil.Error):
                if list(Path(process.cwd()).glob(".unfinished/train_scratch/*/mlflow_run")):
                    return found
        return []


def is_training(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "stages.train_convnet" in process.cmdline()
    return False


def until(true: Callable[[], object], sweep: "subprocess.Popen[str] | None" = None) -> object:
    """Wait until something is true, and return it. A sweep must not end before."""
    for _ in range(6000):  # a busy machine needs minutes before the first training
        if value := true():
            return value
        assert sweep is None or sweep.poll() is None, sweep.communicate()[0]
        time.sleep(0.1)
    raise AssertionError("it never was")


@contextmanager
def mlflow_server(folder: Path) -> Iterator[str]:
    """The address of an MLflow server on PostgreSQL."""
    port = free_port()
    with postgresql() as variables:
        environment = os.environ | variables | {"PGUSER": "postgres"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # seven processes less
        subprocess.run(["createdb", "mlflow"], env=environment, check=True)
        command = [
            *(sys.executable, "-m", "mlflow", "server", "--workers", "1"),
            *("--backend-store-uri", "postgresql+psycopg2:///mlflow"),
            *("--artifacts-destination", str(folder / "artifacts")),
            *("--host", "127.0.0.1", "--port", str(port)),
        ]
        with (
            (folder / "mlflow.log").open("wb") as log,
            subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            ) as server,
        ):
            try:
                assert answers(server, port), (folder / "mlflow.log").read_text()
                yield f"http://127.0.0.1:{port}"
            finally:
                os.killpg(server.pid, signal.SIGTERM)


@contextmanager
def nodes(folder: Path, *names: str) -> Iterator[Cluster]:
    """A cluster on this machine, with temporary files in a folder."""
    short = tempfile.mkdtemp()  # Ray's sockets have paths of at most 107 bytes
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setenv("RAY_TMPDIR", short)
        patch.setenv("GIT_CONFIG_GLOBAL", os.devnull)  # a node need not know who asks
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster()
        try:
            for name in names:
                cluster.add_node(
                    node_name=name,
                    num_cpus=2,
                    include_dashboard=False,
                )
            yield cluster
            assert not holding(TOKEN, Path(short))  # logs of Ray
        finally:
            cluster.shutdown()
            shutil.rmtree(short, ignore_errors=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("sweep")
    (folder / "tmp").mkdir()
    with mlflow_server(folder) as uri, nodes(folder / "tmp", *NODES) as cluster:
        variables = {
            "MLFLOW_TRACKING_PASSWORD": TOKEN,
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_TRACKING_USERNAME": "user",
            "RAY_ADDRESS": cluster.address,
        }
        place = Place(folder, variables, cluster)
        clone = place.clone
        make_quick(clone)
        pipeline = yaml.safe_load((clone.folder / "dvc.yaml").read_text())
        pipeline = {"stages": {stage: pipeline["stages"][stage] for stage in STAGES}}
        (clone.folder / "dvc.yaml").write_text(yaml.safe_dump(pipeline))
        (clone.folder / "dvc.lock").unlink()
        clone.run("git", "init", "--quiet", "--bare", str(folder / "origin.git"))
        clone.run("dvc", "repro")
        place.git("commit", "--quiet", "--all", "-m", "tiny")
        place.git("remote", "set-url", "origin", str(folder / "origin.git"))
        place.git("push", "--quiet", "origin", "HEAD")
        # Each node gets it, although it is in no commit.
        clone.run("dvc", "remote", "add", "--local", "-d", "storage", str(folder / "storage"))
        clone.run("dvc", "push")
        yield place
        assert not holding(TOKEN, folder / "origin.git", folder / "storage", folder / "artifacts")


def test_a_node_dies_and_no_experiment_is_lost_or_doubled(place):
    rates = "train_scratch.learning_rate=0.001,0.002,0.003,0.004"  # the first is the commit's
    sweep = place.start(rates)

    def busy() -> tuple[object, list[psutil.Process]] | None:
        for node in place.cluster.worker_nodes:
            if below := place.training([node]):
                return node, below
        return None

    victim, below = until(busy, sweep)
    place.cluster.remove_node(victim, allow_graceful=False)
    for process in below:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    output = place.ended(sweep)
    assert output.count("it is tried once more") == 1, output
    assert "failed again" not in output
    experiments = place.experiments()
    assert len(experiments) == 4
    assert all(f"{name}: done on " in output for name in experiments)
    # The run of the killed training says so. Each experiment has one that is finished, apart from
    # the first, which has nothing to train.
    assert place.runs("RUNNING") == []
    assert len(place.runs("KILLED")) == 1
    finished = place.runs("FINISHED")
    assert len(finished) == len(set(finished)) == 3
    assert set(finished) < set(experiments)
    until(lambda: not place.clones())
    shown = place.clone.run("dvc", "exp", "show", "--csv")
    assert all(name in shown for name in experiments)
    local = place.git("for-each-ref", "refs/exps", "--format=%(objectname)").split()
    assert sorted(experiments.values()) == sorted(local)
    assert place.sweep(rates).count("done already") == 4
    assert place.experiments() == experiments


@pytest.mark.slow("stopped")
def test_a_stopped_sweep_leaves_nothing_behind_and_goes_on(place):
    settings = "train_scratch.batch_size=16"
    before = place.experiments()
    for how, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        sweep = place.start(settings)
        below = until(lambda: place.training(place.cluster.list_all_nodes()), sweep)
        training = list(filter(is_training, below))
        assert place.clones()
        sweep.send_signal(how)
        output = place.ended(sweep, status)
        assert how == signal.SIGKILL or output.endswith("stopped; run it again to resume\n")
        psutil.wait_procs(training)
        until(lambda: not place.clones())
        assert place.experiments() == before
    place.sweep(settings)
    assert len(place.experiments()) == len(before) + 1
    assert place.runs("RUNNING") == []


@pytest.mark.slow("fails")
def test_an_experiment_that_fails_is_tried_twice_and_the_others_go_on(place):
    before = place.experiments()
    settings = ("train_scratch.dropout=0.3", "subset.minimum=null,100000")
    output = place.sweep(*settings, status=1)
    assert output.count("it is tried once more") == output.count("failed again") == 1
    assert output.count("no class has 100000 images; ") == 2, output
    assert output.count(": done on ") == 1
    (name,) = place.experiments().keys() - before
    assert f"{name}: done on " in output
    last = output.splitlines()[-1]
    assert last.startswith("error: sweep-")
    assert last.endswith(f"run `python -m convnets sweep -S {settings[0]} -S {settings[1]}`")


@pytest.mark.slow("fails")
def test_without_data_on_the_remote_it_is_made_anew(place):
    empty = place.folder / "empty"
    place.clone.run("dvc", "remote", "modify", "--local", "storage", "url", str(empty))
    try:
        place.sweep("train_scratch.dropout=0.1")
    finally:
        place.clone.run(
            *("dvc", "remote", "modify", "--local", "storage", "url", str(place.folder / "storage"))
        )
    assert len(list(empty.rglob("*"))) > len(STAGES)


def test_a_node_is_looked_at_before_the_first_experiment(place, tmp_path):
    before = place.experiments()
    kept, settings = place.variables, "train_scratch.dropout=0.2"
    (tmp_path / "keras-1.0.dist-info").mkdir()
    (tmp_path / "keras-1.0.dist-info/METADATA").write_text("Name: keras\nVersion: 1.0\n")
    try:
        place.variables = kept | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}"}
        output = place.sweep(settings, status=1)
        assert re.search(r"\nerror: (one|two|three): does not reach MLFLOW_TRACKING_URI: ", output)
        place.variables = kept | {"PYTHONPATH": str(tmp_path)}
        output = place.sweep(settings, status=1)
        assert re.search(
            r"\nerror: (one|two|three): has keras 3\S+, and this machine 1.0; ", output
        )
    finally:
        place.variables = kept
    assert place.experiments() == before


def test_without_ray_the_extra_is_named(place):
    blocked = "import sys; sys.modules['ray'] = None; from convnets.__main__ import main; main()"
    words = [f"{name}={value}" for name, value in place.variables.items()]
    command = (sys.executable, "-c", blocked, "sweep", "-S", "train_scratch.dropout=0.2")
    output = place.clone.run("env", *words, *command, status=1)
    assert output.endswith(
        "error: RAY_ADDRESS: is set, but Ray is not installed; run `pip install -e '.[ray]'`, or "
        "unset it to compute on this machine alone\n"
    )


def no_remote(clone: Clone) -> None:
    clone.run("git", "remote", "remove", "origin")


def not_pushed(clone: Clone) -> None:
    clone.run("git", *IDENTITY, "commit", "--quiet", "--allow-empty", "-m", "not pushed")


def changed(clone: Clone) -> None:
    (clone.folder / "params.yaml").write_text("seed: 1\n")


def no_storage(clone: Clone) -> None:
    clone.run("dvc", "remote", "remove", "--local", "storage")


def as_it_is(clone: Clone) -> None:
    pass


@pytest.mark.parametrize(
    ("do", "variables", "settings", "line"),
    [
        (as_it_is, {"RAY_ADDRESS": ""}, "seed=1", "RAY_ADDRESS: is not set; "),
        (as_it_is, {"MLFLOW_TRACKING_URI": ""}, "seed=1", "MLFLOW_TRACKING_URI: is not the addr"),
        (changed, {}, "seed=1", "params.yaml: has changes that no node would have; "),
        (no_remote, {}, "seed=1", "there is no git remote origin "),
        (not_pushed, {}, "seed=1", "HEAD: is not on the git remote origin; run `git push`"),
        (no_storage, {}, "seed=1", "there is no default DVC remote "),
        (as_it_is, {}, "seed=[", "-S seed=[: "),
        (as_it_is, {}, "seed=1,x", "params.yaml: seed: "),
        (as_it_is, {}, "sed=1,2", "-S sed=1,2: Could not override 'sed'."),
        (as_it_is, {}, "seed=1", "RAY_ADDRESS: cannot join the cluster at "),
    ],
)
def test_what_is_missing_is_said_in_one_line(tmp_path, do, variables, settings, line):
    clone = Clone.of_commit(tmp_path / "clone")
    clone.run("dvc", "remote", "add", "--local", "-d", "storage", str(tmp_path / "storage"))
    do(clone)
    given = {"RAY_ADDRESS": f"127.0.0.1:{free_port()}", "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    words = [f"{name}={value}" for name, value in (given | variables).items()]
    command = (sys.executable, "-m", "convnets", "sweep", "-S", settings)
    *before, last = clone.run("env", *words, *command, status=1).splitlines()
    assert last.startswith(f"error: {line}")
    assert all(": seed=1" in listed for listed in before)
    assert not clone.run("git", "for-each-ref", "refs/exps")
