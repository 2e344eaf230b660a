"""What cached features say of all pictures: their labels, what is unlike, what would help."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from convnets.audit import curve, head
from convnets.audit.curve import Estimate
from convnets.audit.head import Answers, Floats, Ints
from convnets.audit.unlike import LIMIT, unlike
from convnets.examples import examples, npy
from convnets.examples.examples import FEATURES, IMAGES

SPLITS = ("train", "validation", "test")
DOUBTFUL = 0.5  # the probability of a wrong label, from which it is named
NEAR = 3  # neighbours of each class beside a doubtful picture
FEW = 50  # test pictures, below which cross-validation tells more
CLIP = 1e-3  # of probabilities on the map


class Audit(NamedTuple):
    """What was found of all pictures. Each row of `table` is a picture."""

    table: pd.DataFrame  # split, row, file, sha256, class, suggested, sure, own, suspect, unlike
    near: pd.DataFrame  # split, row, class, near_split, near_row: beside doubtful pictures
    place: Floats  # (n, 2) on the map
    answers: Answers
    expected: Estimate  # the cross-validated accuracy
    curve: pd.DataFrame  # from `curve.curve`, with the names of classes
    twins: list[tuple[int, int]]  # places of pictures that look the same, with different labels


def load() -> tuple[pd.DataFrame, Floats]:
    """Return a row for each labelled picture, and its (n, d) pooled features."""
    tables, features = [], []
    for split in SPLITS:
        labels = examples.read_table(split)
        known = examples.read_text(IMAGES / f"{split}.csv").iloc[labels["row"]]
        labels = labels.assign(split=split, **{k: known[k].to_numpy() for k in ("sha256", "group")})
        maps = npy.read(FEATURES / f"{split}.npy")[labels["row"].to_numpy()]
        features.append(maps.reshape(len(maps), -1, maps.shape[-1]).mean(axis=1))
        tables.append(labels)
    return pd.concat(tables, ignore_index=True), np.concatenate(features).astype(np.float32)


def pairs(table: pd.DataFrame, duplicates: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Return the places of pictures that look the same, from `subset`'s `duplicate_files`."""
    places = {file: place for place, file in enumerate(table["file"])}
    both = (tuple(places.get(file, -1) for file in pair["files"]) for pair in duplicates)
    return [(one, other) for one, other in both if one >= 0 <= other]


def examine(
    table: pd.DataFrame, features: Floats, copies: list[tuple[int, int]], seed: int
) -> Audit:
    """Return what the features say.

    Args:
        table: from `load`.
        features: (n, d), 0 or more.
        copies: from `pairs`.
        seed: of the folds.
    """
    labels = table["label"].to_numpy()
    names = table.drop_duplicates("label").set_index("label")["class"]
    alone = [f"{place}." for place in range(len(table))]  # no group has such a name
    named = np.where(table["group"] == "", alone, table["group"])
    groups = head.joined(np.unique(named, return_inverse=True)[1], copies)
    answers = head.answers(features, labels, groups, seed)
    sure = answers.probabilities
    others = np.where(np.arange(sure.shape[1]) == labels[:, None], -1, sure)
    suggested = others.argmax(axis=1)
    far = unlike(features, labels)
    doubtful = np.flatnonzero(answers.wrong >= DOUBTFUL)
    doubtful = doubtful[np.argsort(-answers.wrong[doubtful], kind="stable")]
    suspect = pd.Series(range(1, len(doubtful) + 1), index=doubtful).reindex(range(len(table)))
    found = table[["split", "row", "file", "sha256", "class"]].assign(
        suggested=names.loc[suggested].to_numpy(),
        sure=others.max(axis=1).round(4),
        own=sure[np.arange(len(labels)), labels].round(4),
        suspect=suspect.astype("Int64"),
        unlike=(np.maximum(far.all, far.own) / LIMIT).round(3),
    )
    learned = curve.curve(answers, labels, groups, seed)
    learned["class"] = ["" if label < 0 else names.loc[label] for label in learned["class"]]
    return Audit(
        found,
        _near(found, features, doubtful),
        _places(sure, features),
        answers,
        curve.accuracy(answers, groups),
        learned,
        [(one, other) for one, other in copies if labels[one] != labels[other]],
    )


def _near(table: pd.DataFrame, features: Floats, doubtful: Ints) -> pd.DataFrame:
    """Return the nearest pictures of its own and of the suggested class to each doubtful one."""
    roots = np.sqrt(np.maximum(features, 0))
    roots /= np.linalg.norm(roots, axis=1, keepdims=True) + 1e-12
    by_class = {name: rows.to_numpy() for name, rows in table.groupby("class").groups.items()}
    rows = []
    for place in doubtful.tolist():
        one = table.loc[place]
        for name in (one["class"], one["suggested"]):
            others = by_class[name][by_class[name] != place]
            closest = np.argsort(-(roots[others] @ roots[place]), kind="stable")[:NEAR]
            for other in others[closest]:
                near = table.loc[other, ["split", "row"]]
                rows.append((one["split"], one["row"], name, near["split"], near["row"]))
    return pd.DataFrame(rows, columns=["split", "row", "class", "near_split", "near_row"])


def _places(probabilities: Floats, features: Floats) -> Floats:
    """Return (n, 2) places: what is taken for the same class is near, and then what looks alike."""
    logs = np.log(np.maximum(probabilities, CLIP))
    looks = head.prepared(features)[:, :-1]
    looks -= looks.mean(axis=0)
    _, _, axes = np.linalg.svd(looks[:: max(1, len(looks) // 1000)], full_matrices=False)
    both = np.hstack([logs - logs.mean(axis=0), 0.02 * looks @ axes[:4].T])
    _, _, axes = np.linalg.svd(both, full_matrices=False)
    axes *= np.sign(axes[:, :1])  # else the library may turn them
    return np.asarray(both @ axes[:2].T, np.float32)


def advice(audit: Audit) -> list[str]:
    """Return what would help, a sentence each with the number that says so, the most first."""
    table, found = audit.table, []
    total, expected = len(table), audit.expected
    doubtful = int(table["suspect"].notna().sum())
    if doubtful:
        found.append(
            (
                doubtful / total,
                f"{doubtful:,} of {total:,} labels are doubtful ({doubtful / total:.1%}): "
                "look at them with python -m convnets review.",
            )
        )
    whole = audit.curve[audit.curve["class"] == ""]
    twice = whole[whole["forecast"]].iloc[0]
    gain = twice["accuracy"] - expected.accuracy
    told = f"{twice['low']:.1%} to {twice['high']:.1%}"
    if gain > 0.002:
        more = f"Twice as many pictures would bring {expected.accuracy:.1%} to about "
        found.append((gain, f"{more}{twice['accuracy']:.1%} ({told})."))
    else:
        found.append((0.0, f"More pictures would hardly help: twice as many give {told}."))
    right = (table["own"] >= table["sure"]).groupby(table["class"]).mean().sort_values()
    weak = right.index[0]
    mistaken = table[(table["class"] == weak) & (table["own"] < table["sure"])]
    if len(mistaken):
        most = mistaken["suggested"].mode()[0]
        share = (table["class"] == weak).mean() * (1 - right.iloc[0])
        found.append(
            (
                float(share),
                f"{weak} is recognised least, in {right.iloc[0]:.1%} of its pictures, and most "
                f"often taken for {most}: more pictures of both would help.",
            )
        )
    strange = int((table["unlike"] >= 1).sum())
    if strange:
        found.append(
            (
                strange / total / 2,
                f"{strange:,} pictures are unlike all others: leave out what does not belong.",
            )
        )
    if audit.twins:
        count = len(audit.twins)
        found.append((1.0, f"{count:,} pairs of pictures look the same and have two labels."))
    return [told for _, told in sorted(found, key=lambda each: -each[0])][:3]


def summary(audit: Audit) -> dict[str, Any]:
    """Return what was found in numbers, and in sentences, as JSON would have it."""
    table = audit.table
    return {
        **audit.expected._asdict(),
        "doubtful": int(table["suspect"].notna().sum()),
        "unlike": int((table["unlike"] >= 1).sum()),
        "advice": advice(audit),
        "trusted": trusted(audit.expected, int((table["split"] == "test").sum())),
    }


def trusted(expected: Estimate, tested: int) -> str:
    """Return which number to trust: the cross-validated accuracy, or that of the test pictures."""
    told = f"{expected.accuracy:.1%} ({expected.low:.1%} to {expected.high:.1%})"
    if tested < FEW:
        return f"With {tested} test pictures, trust the cross-validated accuracy: {told}."
    return f"Cross-validated on all pictures, a linear head has {told}."
