"""What can be decided without a person: pictures of which the champion is sure enough.

Selective classification (Geifman & El-Yaniv, 2017, arXiv:1705.08500). The limits are from the
validation images.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import beta

from convnets.evaluation.limits import RISK, needed
from convnets.evaluation.metrics import Predictions
from convnets.models.saved import Limit

ACCURACIES = [*(step / 100 for step in range(50, 99)), *(step / 1000 for step in range(990, 1000))]
SHOWN = (0.9, 0.95, 0.98, 0.99, 0.995)
STEP = 2.0**-17  # of a probability; runtimes differ by less, and it is exact


def limits(validation: Predictions) -> list[Limit]:
    """Return the limits with the highest accuracy that each promises, the loosest first.

    At each limit, the lower end of Clopper and Pearson's interval (1934) must reach the accuracy.
    The limits are tried from strict to loose until one fails (fixed-sequence testing: Angelopoulos
    et al., 2021, arXiv:2110.01052), so their number costs nothing. One mistake among the first
    would end that, so several sequences begin at twice as many pictures each, and share the risk.
    """
    table = curve(validation)
    count, wrong = table["decided"].to_numpy(), table["wrong"].to_numpy()
    total = len(validation.labels)
    found: dict[int, float] = {}
    for accuracy in ACCURACIES:
        sequences = 1 + int(math.log2(max(1.0, total / needed(accuracy))))
        risk = RISK / sequences
        # Of no picture right there is no interval: nan, which is not enough.
        holds = beta.ppf(risk, count - wrong, wrong + 1) >= accuracy
        ends = []
        for sequence in range(sequences):
            begin = np.searchsorted(count, needed(accuracy, risk) * 2**sequence)
            kept = np.append(holds[begin:], False)
            ends += [begin + int(kept.argmin()) - 1] * bool(kept[0])
        if ends:
            found[max(ends)] = accuracy
    rows = table[["limit", "share"]].to_numpy()
    return [
        Limit(accuracy=found[place], limit=float(rows[place, 0]), share=float(rows[place, 1]))
        for place in sorted(found, reverse=True)
    ]


def curve(tested: Predictions) -> pd.DataFrame:
    """Return a row for each limit on the highest probability, the strictest first.

    The columns are `limit`, how many pictures are `decided`, how many of them `wrong`, the `share`
    decided and its `accuracy`.
    """
    sure = certainty(tested)
    by_limit = pd.DataFrame({"limit": sure, "decided": 1, "wrong": ~tested.right})
    found = by_limit.groupby("limit").sum().sort_index(ascending=False).cumsum().reset_index()
    found["share"] = found["decided"] / len(sure)
    return found.assign(accuracy=1 - found["wrong"] / found["decided"])


def certainty(tested: Predictions) -> NDArray[np.float64]:
    """Return the (n,) highest probabilities, rounded down: a limit itself is always reached."""
    return np.asarray(np.floor(tested.probabilities.max(axis=1) / STEP) * STEP)


def checked(known: list[Limit], tested: Predictions) -> list[dict[str, Any]]:
    """Return for each accuracy of `SHOWN` what its limit does to the test pictures.

    Args:
        known: from `limits`.
        tested: the champion's predictions for the test images.
    """
    rows: list[dict[str, Any]] = []
    for accuracy in SHOWN:
        able = [each for each in known if each.accuracy >= accuracy]
        if not able:
            rows.append({"accuracy": accuracy, "needed": needed(accuracy)})
            continue
        loosest = min(able, key=lambda each: each.limit)
        decided = tested.probabilities.max(axis=1) >= loosest.limit
        right = int(tested.right[decided].sum())
        reached = right / decided.sum() if decided.any() else math.nan
        row = {"accuracy": accuracy, "limit": loosest.limit, "share": loosest.share}
        tested_too = {"decided": int(decided.sum()), "right": right, "reached": reached}
        rows.append(row | tested_too)
    return rows
