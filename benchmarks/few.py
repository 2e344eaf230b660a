"""What few pictures reach, and whether the intervals are honest: on drawn subsets of real sets.

`python -m benchmarks.few FEATURES …`: .npz files of `python -m benchmarks.audit --extract`. The
head of `photos` learns from the pictures that its splits leave, without mirror images; the linear
head of the audit from all of them.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from benchmarks.audit import fitted
from convnets.audit import curve, head
from convnets.base import params
from convnets.base.console import say
from convnets.evaluation.metrics import interval
from convnets.examples.examples import Examples
from convnets.heads import architectures
from convnets.models import answers
from convnets.tracking import presets
from convnets.training import batches
from convnets.training.fit import Task, fit

FEW, DRAWS, SHARE = (5, 10, 25, 100), 5, 0.15
Ints = NDArray[np.int64]


def photos(features: Any, labels: Ints, rows: dict[str, Ints], seed: int) -> NDArray[np.bool_]:
    """Return whether the head of `photos` is right, for the test pictures and then all others."""
    p = params.checked(params.Params, yaml.safe_load(presets.compose("photos")), "photos")
    how, classes = p.of("train_feature_head", params.HeadTraining), int(labels.max()) + 1

    def examples(split: str) -> Examples:
        return Examples(features[rows[split]][:, None, None], labels[rows[split]], Path(split))

    def build() -> Any:
        return architectures.build_head((1, 1, features.shape[1]), classes, how)

    def nothing(*_: Any) -> None: ...

    with TemporaryDirectory() as folder:
        run: Any = SimpleNamespace(stage="few", unfinished=Path(folder))
        run.dataset = run.epochs = run.metrics = nothing
        task = Task(build, examples("train"), examples("validation"), how)
        model, _ = fit(task, p.model_copy(update={"seed": seed}), run)
    tested = examples("rest")
    logits = answers.logits(model, batches.in_order(tested, 512))
    return np.asarray(answers.probabilities(logits).argmax(axis=1) == tested.labels)


def draw(features: Any, labels: Ints, few: int, seed: int) -> dict[str, float]:
    """Draw so many of each class; return what they reach on all others."""
    rng, kinds = np.random.default_rng(seed), range(int(labels.max()) + 1)
    each = [rng.permutation(np.flatnonzero(labels == kind))[:few] for kind in kinds]
    out, drawn = max(1, round(SHARE * few)), np.concatenate(each)
    rest = np.setdiff1d(np.arange(len(labels)), drawn)
    rows = {
        "train": np.concatenate([of_class[2 * out :] for of_class in each]),
        "validation": np.concatenate([of_class[:out] for of_class in each]),
    }
    tests = np.concatenate([of_class[out : 2 * out] for of_class in each])
    right = photos(features, labels, rows | {"rest": np.append(tests, rest)}, seed)
    low, high = interval(int(right[: len(tests)].sum()), len(tests))
    true = right[len(tests) :].mean()
    linear = (fitted(features[drawn], labels[drawn], features[rest]) == labels[rest]).mean()
    groups = np.arange(len(drawn))
    found = curve.accuracy(head.answers(features[drawn], labels[drawn], groups, seed), groups)
    return {
        "`photos`": true,
        "its test interval holds": low <= true <= high,
        "linear, on all": linear,
        "cross-validated": found.accuracy,
        "width": found.high - found.low,
        "holds": found.low <= linear <= found.high,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", metavar="FEATURES")
    rows: list[dict[str, Any]] = []
    for path in parser.parse_args().files:
        data = np.load(path)
        features, labels = data["f"].astype(np.float32), data["y"].astype(np.int64)
        for few in FEW:
            if few < np.bincount(labels).min():
                found = pd.DataFrame([draw(features, labels, few, seed) for seed in range(DRAWS)])
                rows.append({"": path.stem, "of each class": few} | dict(found.mean()))
    say(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f"))


if __name__ == "__main__":
    main()
