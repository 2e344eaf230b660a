"""Which backbone? What a linear head on each would reach with this project's pictures."""

import json
import os
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import keras
import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from convnets.audit import curve, head, pictures
from convnets.backbones import backbone, lite
from convnets.base.console import InputError, printable
from convnets.base.params import Backbone, Params
from convnets.evaluation import chance
from convnets.examples import npy
from convnets.examples.examples import IMAGES
from convnets.features import computed, features
from convnets.features.computed import Computed
from convnets.models import precision

SPLITS = ("train", "validation")  # the test pictures are for the end
MOST = 100  # pictures of each class
SECOND = 1.0  # to measure the speed, in seconds


def compare(given: list[str], p: Params, failed: Callable[[str, str], None]) -> dict[str, Any]:
    """Measure backbones on at most `MOST` pictures of each class. Only the cache is written.

    Args:
        given: names of models, `NAME=WEIGHTS`, and paths of `.keras` and `.h5` files.
        p: the project's params.
        failed: called with each that cannot be used, and the reason.

    Returns:
        What was measured, as JSON would have it.

    Raises:
        InputError: there are no pictures of these params, or no backbone can be used.
    """
    os.environ.pop("RAY_ADDRESS", None)  # it is this machine that is measured
    rows: dict[str, dict[str, Any]] = {}
    right = {}
    with TemporaryDirectory() as temporary, redirect_stdout(sys.stderr):
        folder = Path(temporary)
        table, groups, total = _chosen(p, folder / "pixels.npy")
        labels = table["label"].to_numpy()
        for name in dict.fromkeys(given):
            try:
                how = _named(name, p.backbone)
                known, size, rate = _measured(how, p, folder)
                # As in the audit. All backbones get the same folds.
                with threadpool_limits(1):
                    order = np.arange(len(labels))
                    answers = head.answers(known, labels, groups, p.seed, order)
            except InputError as error:
                failed(name, str(error))
                continue
            right[name] = np.bincount(groups, answers.right[-1])
            rows[name] = {
                **curve.accuracy(answers, groups)._asdict(),
                "megabytes": round(size / 1e6, 1),
                "pictures_per_second": round(rate, 1),
                "minutes": round(2 * total / rate / 60, 2),
                "backbone": how.model_dump(),
            }
        computed.prune()
    if not rows:
        raise InputError("no backbone can be used; correct those above")
    best = max(rows, key=lambda name: (rows[name]["accuracy"], -rows[name]["megabytes"]))
    for name, row in rows.items():
        row["p"] = chance.mcnemar(right[best] > right[name], right[name] > right[best])
    equal = [name for name, row in rows.items() if row["p"] >= chance.LEVEL]
    return {
        "pictures": len(table),
        "classes": int(labels.max()) + 1,
        "all_pictures": total,
        "backbones": rows,
        "best": best,
        "smallest": min(equal, key=lambda name: rows[name]["megabytes"]),
    }


def _chosen(p: Params, out: Path) -> tuple[pd.DataFrame, NDArray[np.int64], int]:
    """Choose pictures by their hashes, so new ones hardly change the choice; write their pixels.

    Returns:
        A row for each, which of them belong together, and the number of all pictures.
    """
    try:
        every = pd.concat([pictures.labelled(split) for split in SPLITS], ignore_index=True)
        pixels = {split: npy.read(IMAGES / f"{split}.npy") for split in SPLITS}
        summary = json.loads(Path("metrics/subset.json").read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: does not exist; run `dvc repro labels`") from error
    side = pixels["train"].shape[1]
    if side != p.image_size:
        raise InputError(
            f"{IMAGES}: has pictures of {side} pixels, and image_size is {p.image_size}; run "
            "`dvc repro labels`"
        )
    table = every.sort_values(["sha256", "file"]).groupby("label").head(MOST)
    table = table.reset_index(drop=True)
    with npy.writer(out, np.uint8) as writer:
        for split, row in zip(table["split"], table["row"], strict=True):
            writer.append(pixels[split][row][None])
    groups = pictures.groups_of(table, pictures.pairs(table, summary["duplicate_files"]))
    return table, groups, sum(sum(summary[split].values()) for split in pictures.SPLITS)


def _named(given: str, own: Backbone) -> Backbone:
    """Return the params of a backbone. What they say of the project's own holds for it here."""
    known, path = backbone.applications(), str(Path(given).expanduser().absolute())
    name, equals, weights = given.partition("=")
    how: dict[str, str | None] = {"name": given, "weights": "imagenet"}
    if equals and name in {*known, lite.NAME}:
        file = str(Path(weights).expanduser().absolute())
        how = {"name": name, "weights": file if weights.endswith(".h5") else weights}
    elif given.endswith(".keras"):
        how = {"name": path, "weights": None}
    elif given.endswith(".h5"):
        plain = "".join(filter(str.isalnum, Path(given).name.lower()))
        like = [model for model in known if plain.startswith(model.lower())]
        if not like:
            raise InputError(f"{given}: weights of which model? Write VGG16={given} if of that")
        how = {"name": max(like, key=len), "weights": path}
    elif given == own.name:
        how["weights"] = own.weights
    kept = ("pooling", "fine_tune_from", *(("preprocessing",) if how["name"] == own.name else ()))
    same = {key: getattr(own, key) for key in kept}
    return Backbone.model_validate({"preprocessing": "auto", **how, **same})


def _measured(how: Backbone, p: Params, folder: Path) -> tuple[head.Floats, int, float]:
    """Return a backbone's (n, d) pooled features, its bytes in float32, and pictures a second."""
    file, out = folder / "backbone.keras", folder / "features.npy"
    keras.utils.clear_session()  # so that its layers have the names that the pipeline gives them
    precision.use("float32")
    pooled = how.model_copy(update={"pooling": "mean"})
    if how.name == lite.NAME:
        lite.write(pooled, p.image_size, file)
    else:
        backbone.write(pooled, p.image_size, p.seed, file)
    dtype_policy = precision.policy(p.precision)
    precision.use(dtype_policy)
    base = backbone.load(file)
    extract = features.extractor(base)

    def compute(pixels: NDArray[np.uint8]) -> features.Features:
        return [part.numpy() for part in extract(pixels)]

    pixels = npy.read(folder / "pixels.npy")
    known = Computed(features.key(dtype_policy, None, file))
    name = Path(how.name).name
    features.write(lambda all_: (compute(*one) for one in all_), pixels, [out], name, known)
    batch = np.resize(pixels[: features.BATCH], (features.BATCH, *pixels.shape[1:]))
    compute(batch)  # compiles
    done, begun = 0, time.perf_counter()
    while not done or time.perf_counter() - begun < SECOND:
        compute(batch)
        done += len(batch)
    rate = done / (time.perf_counter() - begun)
    found = npy.read(out).reshape(len(pixels), -1).astype(np.float32)
    return found, 4 * base.count_params(), rate


def show(found: dict[str, Any], form: str) -> str:
    """Return what `compare` found as text.

    Args:
        found: from `compare`.
        form: table, json or csv.
    """
    rows = found["backbones"]
    if form == "json":
        return json.dumps(found, indent=2, ensure_ascii=False)
    if form == "csv":
        table = pd.DataFrame(rows).T.drop(columns="backbone").rename_axis("name")
        return table.to_csv().rstrip("\n")
    shown = pd.DataFrame(
        {
            "backbone": printable(name),
            "accuracy": f"{row['accuracy']:.1%}",
            "95 % interval": f"{100 * row['low']:.1f} to {100 * row['high']:.1f}",
            "p": "< 0.001" if row["p"] < 0.001 else f"{row['p']:.3f}",
            "MB": f"{row['megabytes']:.1f}",
            "pictures/s": f"{row['pictures_per_second']:.1f}",
            "minutes": f"{row['minutes']:.1f}",
        }
        for name, row in sorted(rows.items(), key=lambda one: -one[1]["accuracy"])
    )
    best, smallest = found["best"], found["smallest"]
    section = yaml.safe_dump(
        {"backbone": rows[smallest]["backbone"]}, sort_keys=False, width=4096, allow_unicode=True
    )
    return (
        f"{shown.to_string(index=False)}\n"
        f"Cross-validated on {found['pictures']:,} pictures of {found['classes']} classes. MB: in "
        "float32. p: that chance\nmakes as large a difference from the best (McNemar's test). "
        f"Minutes: for all {found['all_pictures']:,} pictures,\nwith their mirror images.\n"
        f"best: {printable(best)}\n"
        f"smallest that does not differ from it beyond chance: {printable(smallest)}; in "
        f"params.yaml:\n{section.rstrip()}"
    )
