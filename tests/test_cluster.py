"""Functions applied on a Ray cluster: real nodes on loopback, which die."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import ray

from convnets.base import cluster
from convnets.base.console import InputError
from convnets.listing.kinds import ImageError
from tests.clusters import nodes
from tests.commands import ROOT, free_port

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def three():
    """A cluster of three nodes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")  # a user's own
        with nodes(patch, 3) as started:
            yield started


def squares() -> Callable[[int], int]:
    return lambda number: number * number


def test_results_come_in_order_and_only_a_few_items_are_held(three):
    taken = 0

    def numbers() -> Iterator[tuple[int]]:
        nonlocal taken
        for number in range(60):
            taken += 1
            yield (number,)

    ahead = []
    for place, result in enumerate(cluster.mapper(squares)(numbers())):
        assert result == place**2
        ahead.append(taken - place)
    assert len(ahead) == 60
    assert max(ahead) <= cluster.AHEAD * 3


def test_the_work_finds_its_files_and_its_own_code(three, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    Path("data/number").write_text("41")

    def prepare() -> Callable[[int], tuple[int, str]]:
        found = int(Path("data/number").read_text())
        return lambda more: (found + more, cluster.__file__)

    ((result, code),) = cluster.mapper(prepare, files=[Path("data/number")])([(1,)])
    assert result == 42
    assert code != cluster.__file__  # shipped, so that all nodes have this commit's
    assert Path(code).parts[-3:] == Path(cluster.__file__).parts[-3:]


@pytest.mark.parametrize("kind", [InputError, ImageError, OSError])
def test_an_error_of_the_work_arrives_as_it_was_raised(three, kind):
    def prepare() -> Callable[[int], int]:
        def work(number: int) -> int:
            raise kind("photo.jpg: is no picture")

        return work

    with pytest.raises(kind, match=r"^photo\.jpg: is no picture$"):
        list(cluster.mapper(prepare)([(1,)]))


def test_a_cluster_of_this_machine_is_of_the_same_kind(three, monkeypatch):
    """So the features of one are those of the other."""
    there = cluster.processors()
    monkeypatch.delenv("RAY_ADDRESS")
    assert cluster.processors() == there == [cluster.this_node().processor]


def test_a_task_has_a_whole_node_if_it_asks_for_one(three):
    def prepare() -> Callable[[int], dict[str, float]]:
        return lambda _: ray.get_runtime_context().get_assigned_resources()

    assert list(cluster.mapper(prepare, whole=True)([(1,)])) == [{"CPU": 1}]


def test_keras_takes_tensorflow_on_each_node(three):
    def prepare() -> Callable[[int], str]:
        import keras

        return lambda _: keras.config.backend()

    assert set(cluster.mapper(prepare)((number,) for number in range(6))) == {"tensorflow"}


def test_a_worker_keeps_freed_memory_for_the_next_batch(three):
    def prepare() -> Callable[[int], int]:
        def work(_: int) -> int:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            with ThreadPoolExecutor(1) as threads:  # as TensorFlow's
                threads.submit(lambda: len([bytearray(2**24) for _ in range(8)])).result()
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before  # of 32,768 pages

        return work

    assert min(cluster.mapper(prepare)((number,) for number in range(12))) < 2**10


def test_a_large_result_arrives_over_a_slow_network(three, monkeypatch):
    """Its transfer takes longer than the wait until the cluster is looked at."""
    looks = 0

    def look(_: object) -> None:
        nonlocal looks
        looks += 1
        if looks > 2000:  # 20 seconds
            raise ConnectionError("it never arrives")

    monkeypatch.setattr(cluster, "PATIENCE", 0.01)
    monkeypatch.setattr(cluster, "_check", look)

    def prepare() -> Callable[[int], tuple[str, np.ndarray]]:
        def work(_: int) -> tuple[str, np.ndarray]:
            time.sleep(0.5)  # so that other tasks are on other nodes
            return ray.get_runtime_context().get_node_id(), np.ones(2**26, np.uint8)

        return work

    arrived = cluster.mapper(prepare)((number,) for number in range(60))
    here = ray.get_runtime_context().get_node_id()
    large = next(large for node, large in arrived if node != here)
    assert large.all()


def test_other_versions_are_told_before_the_work(three, tmp_path, monkeypatch):
    ray.shutdown()
    other = tmp_path / "keras-0.0.1.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: keras\nVersion: 0.0.1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match=r": has keras 3\..*, and this machine 0\.0"):
        cluster.mapper(squares)


def test_an_address_without_a_cluster_is_one_line(monkeypatch):
    ray.shutdown()
    for address in (f"127.0.0.1:{free_port()}", "nonsense"):
        monkeypatch.setenv("RAY_ADDRESS", address)
        with pytest.raises(
            InputError, match=f"^RAY_ADDRESS: cannot join the cluster at {address}: .*; start"
        ):
            cluster.mapper(squares)


SLOW = """
import sys, time
from convnets.base import cluster, console

def prepare():
    def work(number):
        time.sleep(0.2)
        return number
    return work

def main():
    for result in cluster.mapper(prepare)((number,) for number in range(40)):
        console.say(str(result))

console.run(main)
"""


@pytest.mark.parametrize("lost", ["a node", "this node", "the cluster"])
def test_what_dies_in_the_middle(monkeypatch, tmp_path, lost):
    (tmp_path / "slow.py").write_text(SLOW)
    with nodes(monkeypatch, 1) as started:
        other = started.add_node(num_cpus=1)
        with subprocess.Popen(
            [sys.executable, tmp_path / "slow.py"],
            env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as driver:
            told = []
            for line in driver.stdout:
                told.append(line.strip())
                if line == "5\n" and lost == "this node":
                    started.head_node.kill_raylet(check_alive=False)
                elif line == "5\n":
                    started.remove_node(other, allow_graceful=False)
                    if lost == "the cluster":
                        started.head_node.kill_all_processes(
                            check_alive=False, allow_graceful=False
                        )
            errors = driver.stderr.read()
    results = [line for line in told if line.isdecimal()]
    if lost == "a node":
        assert driver.returncode == 0, errors
        assert results == [str(number) for number in range(40)]
    else:
        assert driver.returncode == 1
        assert results == [str(number) for number in range(len(results))]
        (line,) = [line for line in errors.splitlines() if line.startswith("error: ")]
        assert "run it again to resume" in line
        assert "Traceback" not in errors


def test_a_node_without_memory_is_one_line(monkeypatch):
    monkeypatch.setenv("RAY_memory_usage_threshold", "0.001")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")

    def prepare() -> Callable[[int], int]:
        kept = np.ones(2**26)

        def work(_: int) -> int:
            time.sleep(60)  # no task is done before the memory is looked at
            return len(kept)

        return work

    with nodes(monkeypatch, 1), pytest.raises(InputError, match="too little memory; start its"):
        list(cluster.mapper(prepare)((number,) for number in range(1000)))
