"""Differences of accuracy, and whether they are more than chance. Without Keras: it starts fast."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binomtest, ttest_rel

LEVEL = 0.05  # a difference is more than chance if chance alone would make it more rarely


class Difference(NamedTuple):
    """A difference of accuracy between models or settings that are paired by seed."""

    mean: float  # over the seeds
    low: float  # its 95 % interval, nan without a spread
    high: float
    p: float  # nan where nothing can be tested


def mcnemar(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> float:
    """Return the exact p value of McNemar's test (1947): are two models equally often right?

    Args:
        first: whether a model is right, for each of (n,) images.
        second: the same of another model, for the same images.
    """
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if not only_first + only_second:
        return 1.0
    return float(binomtest(only_first, only_first + only_second).pvalue)


def difference(first: Sequence["pd.Series[Any]"], second: Sequence["pd.Series[Any]"]) -> Difference:
    """Return the difference of the accuracies, first minus second.

    Over several seeds, a paired t test compares the accuracies. Where all seeds give the same
    difference, as one seed does, they say nothing of chance: McNemar's test of the images does.
    Nothing is tested where a seed's images are not the same: they differ in difficulty, too.

    Args:
        first: for each seed, whether a model is right, (n,), by image.
        second: the same of another model or setting, for the same seeds.
    """
    # Rounded, so that equal differences are equal.
    before, after = (np.round([right.mean() for right in side], 12) for side in (first, second))
    gaps = np.round(before - after, 10)
    mean = float(gaps.mean())
    pairs = list(zip(first, second, strict=True))
    if not all(one.index.equals(other.index) for one, other in pairs):
        return Difference(mean, np.nan, np.nan, np.nan)
    if np.ptp(gaps):
        found = ttest_rel(before, after)
        low, high = found.confidence_interval(0.95)
        return Difference(mean, float(low), float(high), float(found.pvalue))
    p = max(mcnemar(one.to_numpy(), other.to_numpy()) for one, other in pairs)
    return Difference(mean, np.nan, np.nan, p)


def holm(values: "pd.Series[float]") -> "pd.Series[float]":
    """Return p values, corrected for their number: by chance alone, one is rarely below `LEVEL`.

    Holm (1979), Scandinavian Journal of Statistics 6, 65-70. No locked library has it.

    Args:
        values: p values, with a unique index. nan stays nan.
    """
    known = values.dropna().sort_values()
    corrected = (known * range(len(known), 0, -1)).cummax().clip(upper=1)
    return corrected.reindex(values.index)


def pairs(given: dict[str, dict[int, "pd.Series[Any]"]]) -> pd.DataFrame:
    """Return a row for each pair that shares a seed.

    The columns are `first`, `second`, the number of shared `seeds`, and those of `Difference`.

    Args:
        given: by name and seed: whether a model is right, (n,), by image.
    """
    rows = []
    for one, other in combinations(given, 2):
        seeds = sorted(given[one].keys() & given[other].keys())
        if seeds:
            sides = ([given[name][seed] for seed in seeds] for name in (one, other))
            rows.append((one, other, len(seeds), *difference(*sides)))
    return pd.DataFrame(rows, columns=["first", "second", "seeds", *Difference._fields])
