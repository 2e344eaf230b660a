"""What the answers say of the labels: doubtful ones, weak classes, classes that are confused."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from convnets.audit.head import Answers, Ints

# The least probability of being wrong of a label that is named. With 1 to 10 % planted, 96 % of the
# wrong ones or more are, and a quarter as many others at most; with none planted, 1 in 700.
NAMED = 0.05


def doubtful(answers: Answers, labels: Ints, least: float = NAMED) -> pd.DataFrame:
    """Return a row for each doubtful label, the most doubtful first.

    The columns are `picture` (its place), `label`, `suggested` (the likeliest other class), `sure`
    (its probability) and `wrong` (the probability that the label is wrong).

    cleanlab's `find_label_issues` on the same probabilities ranks alike, and names up to a tenth
    fewer of the wrong ones: so this needs no other library.

    Args:
        answers: from `head.answers`.
        labels: (n,) classes, from 0.
        least: the least probability of being wrong.
    """
    rows = np.arange(len(labels))
    others = answers.probabilities.copy()
    others[rows, labels] = -1
    table = pd.DataFrame(
        {
            "picture": rows,
            "label": labels,
            "suggested": others.argmax(1),
            "sure": others.max(1),
            "wrong": answers.wrong,
        }
    )
    table = table[table["wrong"] >= least]
    return table.sort_values("wrong", ascending=False, kind="stable", ignore_index=True)


def apart(copies: Sequence[tuple[int, int]], labels: Ints) -> list[tuple[int, int]]:
    """Return the pairs of pictures that look the same and have different labels."""
    return [(one, other) for one, other in copies if labels[one] != labels[other]]


def recalls(answers: Answers, labels: Ints) -> pd.DataFrame:
    """Return a row for each class, the weakest first.

    The columns are `class`, `pictures`, `recall` (the share that the head gives the class, out of
    fold) and its Wilson interval, `low` and `high`.
    """
    rows = []
    for label, count in zip(*np.unique(labels, return_counts=True), strict=True):
        right = float(answers.right[-1, labels == label].sum())
        span = binomtest(round(right), int(count)).proportion_ci(0.95, "wilson")
        rows.append((int(label), int(count), right / count, span.low, span.high))
    columns = ["class", "pictures", "recall", "low", "high"]
    return pd.DataFrame(rows, columns=columns).sort_values(["recall", "class"], ignore_index=True)


def confused(answers: Answers, labels: Ints) -> pd.DataFrame:
    """Return how many pictures of a class the head takes for another, the most frequent first.

    The columns are `class`, `taken_for` and `pictures`.
    """
    said = answers.probabilities.argmax(1)
    pairs, counts = np.unique(
        np.stack([labels, said])[:, said != labels], axis=1, return_counts=True
    )
    table = pd.DataFrame({"class": pairs[0], "taken_for": pairs[1], "pictures": counts})
    return table.sort_values("pictures", ascending=False, kind="stable", ignore_index=True)
