"""What cached features say of all pictures: their labels, what is unlike, what would help."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from convnets.audit import curve, head, labels
from convnets.audit.curve import Estimate
from convnets.audit.head import Answers, Floats, Ints
from convnets.audit.plane import plane
from convnets.audit.quality import quality
from convnets.audit.unlike import LIMIT, unit_length, unlike
from convnets.examples import examples, npy
from convnets.examples.examples import FEATURES, IMAGES

SPLITS = ("train", "validation", "test")
NEAR = 3  # neighbours of each class beside a doubtful picture
FEW = 50  # test pictures, below which cross-validation tells more
GAIN = 0.002  # of accuracy, below which more pictures hardly help


class Audit(NamedTuple):
    """What was found of all pictures. A place is that of a row of `table`."""

    table: (
        pd.DataFrame
    )  # split, row, file, sha256, class, suggested, sure, own, suspect, unlike, odd
    near: pd.DataFrame  # split, row, class, near_split, near_row: beside doubtful pictures
    map: Floats  # (n, 2), from 0 to 1
    answers: Answers
    expected: Estimate  # the cross-validated accuracy
    curve: pd.DataFrame  # as `curve.curve`, with the classes' names; "" for all
    recalls: pd.DataFrame  # as `labels.recalls`, with the classes' names
    confused: pd.DataFrame  # as `labels.confused`, with the classes' names
    twins: list[tuple[int, int]]  # places of pictures that look the same, with different labels


def labelled(split: str) -> pd.DataFrame:
    """Return a row for each labelled picture of a split."""
    table = examples.read_table(split)
    known = examples.read_text(IMAGES / f"{split}.csv").iloc[table["row"]]
    return table.assign(split=split, **{k: known[k].to_numpy() for k in ("sha256", "group")})


def load() -> tuple[pd.DataFrame, Floats]:
    """Return a row for each labelled picture, and its (n, d) pooled features."""
    tables, features = [labelled(split) for split in SPLITS], []
    for split, table in zip(SPLITS, tables, strict=True):
        maps = npy.read(FEATURES / f"{split}.npy")[table["row"].to_numpy()]
        features.append(maps.reshape(len(maps), -1, maps.shape[-1]).mean(axis=1))
    return pd.concat(tables, ignore_index=True), np.concatenate(features).astype(np.float32)


def pairs(table: pd.DataFrame, duplicates: Sequence[dict[str, Any]]) -> list[tuple[int, int]]:
    """Return the places of pictures that look the same, from `subset`'s `duplicate_files`."""
    places = {file: place for place, file in enumerate(table["file"])}
    both = (tuple(places.get(file, -1) for file in pair["files"]) for pair in duplicates)
    return [(one, other) for one, other in both if one >= 0 <= other]


def groups_of(table: pd.DataFrame, copies: Sequence[tuple[int, int]]) -> Ints:
    """Return (n,) which pictures belong together: those of a group, and copies, from `pairs`."""
    alone = [f"{place}/" for place in range(len(table))]  # the name of no group
    named = np.where(table["group"] == "", alone, table["group"])
    return head.joined(np.unique(named, return_inverse=True)[1], copies)


def examine(
    table: pd.DataFrame,
    features: Floats,
    pixels: dict[str, Any],
    copies: list[tuple[int, int]],
    seed: int,
) -> Audit:
    """Return what the features say.

    Args:
        table: from `load`.
        features: (n, d), 0 or more.
        pixels: of each split, (n, h, w, 3).
        copies: from `pairs`.
        seed: of the folds.
    """
    given = table["label"].to_numpy()
    names = table.drop_duplicates("label").set_index("label")["class"]
    groups = groups_of(table, copies)
    answers = head.answers(features, given, groups, seed)
    every = labels.doubtful(answers, given, least=0).sort_index()
    doubted = labels.doubtful(answers, given)
    rank = pd.Series(range(1, len(doubted) + 1), index=doubted["picture"].to_numpy())
    far = unlike(features, given)
    places = zip(table["split"], table["row"], strict=True)
    found = table[["split", "row", "file", "sha256", "class"]].assign(
        suggested=names.loc[every["suggested"]].to_numpy(),
        sure=every["sure"].round(4),
        own=answers.probabilities[np.arange(len(given)), given].round(4),
        suspect=rank.reindex(range(len(table))).astype("Int64"),
        unlike=(np.maximum(far.all, far.own) / LIMIT).round(3),
        odd=quality(pixels[split][row] for split, row in places)["odd"],
    )
    learned, confused = curve.curve(answers, given, groups, seed), labels.confused(answers, given)
    recalls = labels.recalls(answers, given)
    everybody = {**names.to_dict(), -1: ""}
    for one in (learned, recalls, confused):
        one["class"] = one["class"].map(everybody)
    confused["taken_for"] = confused["taken_for"].map(everybody)
    return Audit(
        found,
        _near(found, features, doubted["picture"].to_numpy()),
        plane(features, seed),
        answers,
        curve.accuracy(answers, groups),
        learned,
        recalls,
        confused,
        labels.apart(copies, given),
    )


def _near(table: pd.DataFrame, features: Floats, doubtful: Ints) -> pd.DataFrame:
    """Return the nearest pictures of its own and of the suggested class to each doubtful one."""
    roots = unit_length(head.roots(features))
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


def summary(audit: Audit) -> dict[str, Any]:
    """Return what was found in numbers, and in sentences, as JSON would have it."""
    table = audit.table
    tested = int((table["split"] == "test").sum())
    return {
        **audit.expected._asdict(),
        "doubtful": int(table["suspect"].notna().sum()),
        "unlike": int((table["unlike"] >= 1).sum()),
        "odd": int((table["odd"] != "").sum()),
        "advice": advice(audit),
        "trusted": trusted(audit.expected, tested),
        "few": tested < FEW,
    }


def advice(audit: Audit) -> list[str]:
    """Return the three things that would help most, a sentence each with the number that says so.

    They are ordered by the share of pictures, or of accuracy, that each concerns.
    """
    table, expected = audit.table, audit.expected
    total, found = len(table), []
    if doubtful := int(table["suspect"].notna().sum()):
        told = (
            f"{doubtful:,} of {total:,} labels are doubtful ({doubtful / total:.1%}): look at them"
        )
        found.append((doubtful / total, f"{told} with `python -m convnets review`."))
    whole = audit.curve[(audit.curve["class"] == "") & audit.curve["forecast"]]
    twice = whole[whole["pictures"] == 2 * total].iloc[0]
    span, gain = f"{twice['low']:.1%} to {twice['high']:.1%}", twice["accuracy"] - expected.accuracy
    more = f"Twice as many pictures would bring {expected.accuracy:.1%} to about"
    if gain < GAIN:
        found.append((0.0, f"More pictures would hardly help: twice as many give {span}."))
    else:
        found.append((gain, f"{more} {twice['accuracy']:.1%} ({span})."))
    weak = audit.recalls.iloc[0]
    mistaken = audit.confused[audit.confused["class"] == weak["class"]]
    wrong = (1 - weak["recall"]) * weak["pictures"]
    if len(mistaken) and wrong > 1:  # one mistake is luck
        share = wrong / total
        told = f"{weak['class']} is recognised least, in {weak['recall']:.1%} of its pictures, and"
        most = f"most often taken for {mistaken['taken_for'].iloc[0]}: add pictures of both."
        found.append((share, f"{told} {most}"))
    if strange := int((table["unlike"] >= 1).sum()):
        told = f"{strange:,} pictures are unlike all others: leave out those that do not belong."
        found.append((strange / total, told))
    if count := len(audit.twins):
        found.append((1.0, f"{count:,} pairs of pictures look the same and have two labels."))
    return [told for _, told in sorted(found, key=lambda each: -each[0])][:3]


def trusted(expected: Estimate, tested: int) -> str:
    """Return which number to trust: the cross-validated accuracy, or that of the test pictures."""
    told = f"{expected.accuracy:.1%} ({expected.low:.1%} to {expected.high:.1%})"
    if tested < FEW:
        return f"With {tested} test pictures, trust the cross-validated accuracy: {told}."
    return f"Cross-validated on all pictures, a linear head has {told}."
