"""What the champion's second output refuses: foreign pictures, its own, and a class left out.

`python -m benchmarks.unlike FEATURES … FOREIGN`: .npz files as `benchmarks.audit --extract` makes
them; the others' pictures and FOREIGN's kinds are foreign to each. With more than two classes, each
is also left out in turn, beside what was tried else.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.audit import Set, mean
from convnets.audit import head
from convnets.base.console import say
from convnets.evaluation import unlike

Score = Callable[[head.Floats], NDArray[np.floating]]
SHARES = (0.0, 0.5, unlike.SHARE, 0.9, 1.0)  # of the distance to the mean of all


def measure(train: Set, validation: head.Floats) -> Score:
    """Return the champion's measure."""
    built = unlike.build(unlike.Split(*train), validation, 0.05, 10**9)
    return lambda features: np.asarray(built and built(features))[:, 0]


def neighbours(train: Set, _: head.Floats) -> Score:
    """Return the cosine distance to the fifth neighbour."""
    known = _unit(train[0])
    return lambda features: np.partition(1 - _unit(features) @ known.T, 4, axis=1)[:, 4]


def certainty(train: Set, _: head.Floats) -> Score:
    """Return one minus the highest output of the audit's head."""
    roots = head.roots(train[0]).astype(np.float64)
    spread = roots.std(0)
    scale = (spread + 0.01 * spread.mean()) * roots.shape[1] ** 0.5
    given = (roots - roots.mean(0)) / scale
    targets = np.eye(train[1].max() + 1)[train[1]]
    square = given @ given.T + head.INTERCEPT**2
    weights = np.linalg.solve(square + head.RIDGE * np.eye(len(given)), targets)

    def score(features: head.Floats) -> NDArray[np.floating]:
        new = (head.roots(features) - roots.mean(0)) / scale
        outputs = (new @ given.T + head.INTERCEPT**2) @ weights
        return np.asarray(1 - outputs.max(axis=1))

    return score


def _unit(features: head.Floats) -> head.Floats:
    roots = head.roots(features)
    return np.asarray(roots / (np.linalg.norm(roots, axis=1, keepdims=True) + 1e-12))


def refused(given: Set, foreign: dict[str, head.Floats], seed: int) -> dict[str, float]:
    """Return the share of the own test pictures, and of each kind of foreign ones."""
    features, labels = given
    order = np.random.default_rng(seed).permutation(len(labels))
    train, validation, test = np.split(order, [int(0.7 * len(order)), int(0.85 * len(order))])
    score = measure((features[train], labels[train]), features[validation])
    kinds = {"own": features[test]} | foreign
    return {kind: float(np.mean(score(of_kind) > 1)) for kind, of_kind in kinds.items()}


def left_out(given: Set, build: Callable[[Set, head.Floats], Score]) -> dict[str, float]:
    """Leave each class out in turn; return the mean and the lowest AUROC of its pictures."""
    features, labels = given
    found = []
    for other in np.unique(labels):
        rows = np.random.default_rng(0).permutation(np.flatnonzero(labels != other))
        train, validation, test = np.split(rows, [int(0.65 * len(rows)), int(0.8 * len(rows))])
        of_known = np.unique(labels[train], return_inverse=True)[1]
        score = build((features[train], of_known), features[validation])
        known, new = score(features[test]), score(features[labels == other])
        above = new[:, None] > known[None]
        found.append(np.mean(above + 0.5 * (new[:, None] == known[None])))
    return {"AUROC": float(np.mean(found)), "lowest": float(min(found))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="FEATURES … FOREIGN")
    parser.add_argument("--draws", type=int, default=5)
    given = parser.parse_args()
    loaded = {path.stem: np.load(path) for path in given.files}
    sets = {name: (data["f"], data["y"].astype(np.int64)) for name, data in loaded.items()}
    features, kinds = sets.pop(given.files[-1].stem)
    names = loaded[given.files[-1].stem]["names"]
    by_kind = {str(names[kinds == kind][0]): features[kinds == kind] for kind in np.unique(kinds)}
    rows: list[dict[Any, Any]] = []
    near: list[dict[Any, Any]] = []
    for name, one in sets.items():
        others = {other: pair[0] for other, pair in sets.items() if other != name}
        draws = [refused(one, by_kind | others, seed) for seed in range(given.draws)]
        rows.append({"": name} | mean(draws))
        if one[1].max() > 1:
            tried = {"a ridge head's highest output": certainty, "5 nearest neighbours": neighbours}
            near += [{"": name, "by": by} | left_out(one, build) for by, build in tried.items()]
            chosen = unlike.SHARE
            for share in SHARES:
                unlike.SHARE = share
                near.append({"": name, "by": f"share {share:g}"} | left_out(one, measure))
            unlike.SHARE = chosen
    for table in (rows, near):
        say(pd.DataFrame(table).to_markdown(index=False, floatfmt=".3f") + "\n")


if __name__ == "__main__":
    main()
