"""What the audit finds in real pictures: planted wrong labels and foreign pictures, few pictures.

`python -m benchmarks.audit FEATURES OTHERS FOREIGN …`: .npz files with pooled features `f`, (n, d),
and labels `y`, (n,), such as of cats and dogs, and of flowers; then such of pictures that belong to
neither, `y` says which kind. `--extract BACKBONE.keras ARCHIVE.zip` makes such a file of a zip
with the classes' folders, or of Kaggle's.
"""

import argparse
import io
import re
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from convnets.audit import curve, head, labels, plane, unlike
from convnets.base.console import progress, say

SIDE = 260
Set = tuple[head.Floats, head.Ints]


def extract(backbone: Path, archive: Path, out: Path) -> None:
    """Keep the pooled features of an archive's pictures."""
    import keras

    model = keras.models.load_model(backbone)
    pooled = keras.Sequential([model, keras.layers.GlobalAveragePooling2D()])
    opened = zipfile.ZipFile(archive)
    while "train.zip" in opened.namelist():
        opened = zipfile.ZipFile(io.BytesIO(opened.read("train.zip")))
    names = [name for name in opened.namelist() if name.endswith(".jpg")]
    classes = [re.sub(r"(.*/)?([a-z]+)(\.\d+\.jpg|/[^/]*)$", r"\2", name) for name in names]
    rows = []
    for start in progress(range(0, len(names), 32), "extract", -(-len(names) // 32)):
        files = (io.BytesIO(opened.read(name)) for name in names[start : start + 32])
        read = [np.asarray(Image.open(f).convert("RGB").resize((SIDE, SIDE), 2)) for f in files]
        rows.append(pooled.predict_on_batch(np.stack(read).astype(np.float32)))
    known = np.unique(classes, return_inverse=True)[1]
    np.savez(out, f=np.concatenate(rows), y=known, names=names)


def planted_labels(given: Set, share: float, seed: int) -> dict[str, float]:
    """Make a share of the labels wrong, and return how many of them are found."""
    features, truth = given
    count, classes, rng = len(truth), truth.max() + 1, np.random.default_rng(seed)
    wrong = rng.choice(count, round(share * count), replace=False)
    planted = truth.copy()
    planted[wrong] = (planted[wrong] + rng.integers(1, classes, len(wrong))) % classes
    begun = time.process_time()
    found = head.answers(features, planted, np.arange(count), seed)
    seconds = time.process_time() - begun
    order = labels.doubtful(found, planted, least=0).set_index("picture")
    named = labels.doubtful(found, planted)["picture"]
    result = {"named": len(named), "wrong, estimated": found.wrong_share, "CPU s": seconds}
    if share:
        first = order.index.to_numpy()
        result |= {
            "among twice as many": np.isin(wrong, first[: 2 * len(wrong)]).mean(),
            "of as many": np.isin(first[: len(wrong)], wrong).mean(),
            "named of planted": np.isin(wrong, named).mean(),
            "suggestion right": (order["suggested"][wrong] == truth[wrong]).mean(),
        }
    return result


def planted_pictures(given: Set, others: head.Floats, seed: int) -> dict[str, float]:
    """Add 1 % of other pictures with labels by chance, and return how many are named."""
    features, truth = given
    count, rng = len(truth), np.random.default_rng(seed)
    new = others[rng.choice(len(others), min(len(others), count // 100), replace=False)]
    chance = rng.integers(0, truth.max() + 1, len(new))
    found = unlike.unlike(np.concatenate([features, new]), np.concatenate([truth, chance]))
    named = (found.all > unlike.LIMIT) | (found.own > unlike.LIMIT)
    result = {"of its own named": float(named[:count].mean())}
    return result | ({"planted named": float(named[count:].mean())} if len(new) else {})


def held(given: Set, few: int, times: int, seed: int) -> tuple[dict[str, float], bool]:
    """Draw few of each class; return the true accuracy and whether the interval holds it.

    Args:
        times: 1: of the accuracy with these pictures; more: of the forecast with so many times.
    """
    features, truth = given
    rng = np.random.default_rng(seed)
    each = [rng.permutation(np.flatnonzero(truth == c)) for c in range(truth.max() + 1)]
    learned = np.concatenate([rows[: few * times] for rows in each])
    drawn, groups = np.concatenate([rows[:few] for rows in each]), np.arange(few * len(each))
    rest = np.setdiff1d(np.arange(len(truth)), learned)
    right = fitted(features[learned], truth[learned], features[rest]) == truth[rest]
    found = head.answers(features[drawn], truth[drawn], groups, seed)
    if times == 1:
        said, low, high = curve.accuracy(found, groups)
    else:
        table = curve.curve(found, truth[drawn], groups, seed, (times,))
        said, low, high = table.query("forecast").iloc[0][["accuracy", "low", "high"]]
    result = {"true": right.mean(), "said": said, "width": high - low}
    return result, bool(low <= right.mean() <= high)


def fitted(inputs: head.Floats, truth: head.Ints, others: head.Floats) -> NDArray[np.int64]:
    """Return the classes of other pictures, by the same head in its dual form."""
    roots, new = (np.sqrt(np.maximum(x, 0)).astype(np.float64) for x in (inputs, others))
    spread = roots.std(0)
    scale = (spread + 0.01 * spread.mean()) * roots.shape[1] ** 0.5
    new, roots = (new - roots.mean(0)) / scale, (roots - roots.mean(0)) / scale
    square = roots @ roots.T + head.INTERCEPT**2
    weights = np.linalg.solve(
        square + head.RIDGE * np.eye(len(truth)), np.eye(truth.max() + 1)[truth]
    )
    return np.asarray(((new @ roots.T + head.INTERCEPT**2) @ weights).argmax(1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", type=Path, nargs="+", help="FEATURES OTHERS FOREIGN, or OUT.npz")
    parser.add_argument("--extract", type=Path, nargs=2, metavar=("BACKBONE", "ARCHIVE"))
    parser.add_argument("--draws", type=int, default=200, help="of few pictures")
    given = parser.parse_args()
    if given.extract:
        backbone, archive = given.extract
        extract(backbone, archive, given.files[0])
        return
    loaded = {path.stem: np.load(path) for path in given.files}
    sets = {name: (data["f"], data["y"].astype(np.int64)) for name, data in loaded.items()}
    foreign = sets.pop(given.files[-1].stem)
    tables: dict[str, list[dict[object, object]]] = {"labels": [], "pictures": [], "few": []}
    for name, one in sets.items():
        for share in (0, 0.01, 0.05, 0.1):
            draws = [planted_labels(one, share, seed) for seed in range(5 if share else 1)]
            tables["labels"].append({"": name, "planted": share} | mean(draws))
        kinds = {kind: foreign[0][foreign[1] == kind] for kind in np.unique(foreign[1])}
        kinds |= {other: pair[0] for other, pair in sets.items() if other != name}
        for kind, features in ({"none": foreign[0][:0]} | kinds).items():
            found = [planted_pictures(one, features, seed) for seed in range(5)]
            tables["pictures"].append({"": name, "planted": kind} | mean(found))
        for few, times, number in SETTINGS[int(one[1].max()) + 1]:
            drawn = [held(one, few, times, seed) for seed in range(number or given.draws)]
            holds = np.mean([inside for _, inside in drawn])
            row = {"": name, "of each": few, "times": times, "draws": len(drawn), "holds": holds}
            tables["few"].append(row | mean([values for values, _ in drawn]))
        begun = time.process_time()
        plane.plane(one[0], 0)
        say(f"{name}: the map takes {time.process_time() - begun:.1f} s of one core")
    for rows in tables.values():
        say(pd.DataFrame(rows).to_markdown(index=False, floatfmt=".3f", missingval="–") + "\n")


# By the number of classes: of each class, times as many, draws (0: as asked for).
SETTINGS = {
    2: ((5, 1, 0), (30, 1, 0), (200, 5, 40)),
    12: ((5, 1, 0), (10, 1, 0), (15, 4, 40)),
}


def mean(rows: list[dict[str, float]]) -> dict[object, float]:
    return {name: float(value) for name, value in pd.DataFrame(rows).mean().items()}


if __name__ == "__main__":
    main()
