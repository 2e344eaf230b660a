"""Real Ray nodes on loopback."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray
from ray.cluster_utils import Cluster


@contextmanager
def nodes(monkeypatch: pytest.MonkeyPatch, count: int) -> Iterator[Cluster]:
    """A cluster of nodes with a CPU each."""
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    monkeypatch.setenv("RAY_ADDRESS", started.address)
    try:
        for _ in range(count - 1):
            started.add_node(num_cpus=1)
        yield started
    finally:
        ray.shutdown()
        started.shutdown()
