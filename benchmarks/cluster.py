"""What a Ray cluster of one worker costs: the stages here and there, in turn, from drawn pictures.

`python -m benchmarks.cluster`; the ratio is of whole processes, from the start to the end. Both
ways use the same processors.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import pandas as pd
import yaml
from ray.cluster_utils import Cluster

from benchmarks.measure import run
from convnets.base.console import progress, say

ROOT = Path(__file__).parents[1]
ROUNDS = 3
STAGES = {"subset": "subset", "extract_features": "extract extract_features"}
PICTURES = {"train": 1000, "validation": 500, "test": 1000}  # of each class


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "convnets"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        values = yaml.safe_load((clone / "params.yaml").read_text())
        values["image_size"] = 180
        values["subset"] |= PICTURES
        (clone / "params.yaml").write_text(yaml.safe_dump(values))
        for stage in ("download download", "download download_weights"):
            run([sys.executable, "-m", *f"stages.{stage}".split()], clone)
        # One task at a time. TensorFlow uses all processors in either way.
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        rows = []
        for number in progress(range(ROUNDS), "rounds", ROUNDS):
            ways = [("here", ""), ("cluster", cluster.address)]
            for way, address in ways if number % 2 else ways[::-1]:
                os.environ["RAY_ADDRESS"] = address
                for stage, command in STAGES.items():
                    seen = run([sys.executable, "-m", *f"stages.{command}".split()], clone)
                    rows.append((number, stage, way, seen.wall))
        cluster.shutdown()  # type: ignore[no-untyped-call]  # Ray has no types for it
    found = pd.DataFrame(rows, columns=["round", "stage", "way", "seconds"])
    for stage in STAGES:
        both = found[found["stage"] == stage]
        seconds = both.pivot_table(index="round", columns="way", values="seconds")
        ratio = median(seconds["cluster"] / seconds["here"])
        say(f"{stage}: {ratio:.2f} times the seconds\n{seconds.round(1).to_string()}")


if __name__ == "__main__":
    main()
