"""What a Ray cluster of one worker costs: a stage here and there, in turn.

`python -m benchmarks.cluster STAGE PICTURES [--archive FILE]`. Without an archive, it draws the
pictures. The ratio is of whole processes, from the start to the end. Both ways use the same
processors.
"""

import argparse
import os
import sys
from pathlib import Path
from statistics import median

import pandas as pd
import yaml
from ray.cluster_utils import Cluster

from benchmarks.measure import run
from benchmarks.memory import ROOT, cloned
from convnets.base.console import progress, say

ROUNDS = 3
# For each stage: the commands that must run first, and its own.
STAGES = {
    "subset": ["download download", "subset"],
    "extract_features": [
        "download download",
        "subset",
        "download download_weights",
        "extract extract_features",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("pictures", type=int, help="their number, split 40, 20, 40 %%")
    parser.add_argument("--archive", type=Path, help="pictures of two classes (default: drawn)")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["image_size"] = 180
    fifth = given.pictures // 10  # of a class
    values["subset"] |= {"train": 2 * fifth, "validation": fifth, "test": 2 * fifth}
    if given.archive:
        values["data"] |= {"source": "archive", "path": str(given.archive.resolve())}
    *before, command = (
        [sys.executable, "-m", *f"stages.{name}".split()] for name in STAGES[given.stage]
    )
    with cloned(values) as clone:
        for earlier in before:
            run(earlier, clone)
        # One task at a time. TensorFlow uses all processors in either way.
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        rows = []
        for number in progress(range(given.rounds), "rounds", given.rounds):
            ways = [("here", ""), ("cluster", cluster.address)]
            for way, address in ways if number % 2 else ways[::-1]:
                os.environ["RAY_ADDRESS"] = address
                rows.append((number, way, run(command, clone).wall))
        cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray has no types for it
    seconds = pd.DataFrame(rows, columns=["round", "way", "seconds"]).pivot_table(
        index="round", columns="way", values="seconds"
    )
    ratio = median(seconds["cluster"] / seconds["here"])
    say(f"{given.stage}: {ratio:.2f} times the seconds\n{seconds.round(1).to_string()}")


if __name__ == "__main__":
    main()
