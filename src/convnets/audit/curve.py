"""How accuracy grows with the number of pictures, and how sure that is."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import beta, norm

from convnets.audit.head import Answers, Ints

FORECAST = (1, 2, 4)  # times as many pictures as there are
DRAWS = 1000
STEEPEST = 1.5  # exponent of the power law
BEND = 1.5
USUAL = 0.5  # exponents that Hestness et al. found, and theory expects, are mostly below
# The error of repeated folds has 1.1 to 1.8 times the variance of as many independent pictures:
# 2 and 12 classes, 5 to 30 of each. See benchmarks/README.md.
INFLATION = 1.3
LEVEL = 0.95


class Estimate(NamedTuple):
    """An accuracy and its 95 % interval."""

    accuracy: float
    low: float
    high: float


def accuracy(answers: Answers, groups: Ints) -> Estimate:
    """Return the accuracy of a head that learns from all of the pictures, on others of their kind.

    Folds learn from four fifths, so the measured one is too low; the power law through the learning
    curve's upper half corrects it. The interval is Wilson's (1927), for `_independent` pictures.

    Args:
        answers: from `head.answers`.
        groups: (n,) what pictures belong together.
    """
    right = answers.right.astype(np.float64)
    count = right.shape[1]
    slope = _slopes((1 - right).sum(1, keepdims=True), answers.sizes)[0]
    p = 1 - (1 - right[-1].mean()) * (answers.sizes[-1] / count) ** slope
    known = _independent(right[-1], groups)
    z = float(norm.ppf((1 + LEVEL) / 2))
    middle = (p + z * z / 2 / known) / (1 + z * z / known)
    half = z / (1 + z * z / known) * np.sqrt(p * (1 - p) / known + z * z / 4 / known**2)
    return Estimate(float(p), float(max(0, middle - half)), float(min(1, middle + half)))


def curve(
    answers: Answers, labels: Ints, groups: Ints, seed: int, forecast: tuple[int, ...] = FORECAST
) -> pd.DataFrame:
    """Return the learning curve of all classes together (class -1) and of each class.

    The columns are `class`, `pictures` (that the head learns from, of all classes), `accuracy`,
    `low`, `high` and `forecast` (whether it is one). The intervals are of Jeffreys' prior, for
    `_independent` pictures. Forecasts follow a power law of the error (Hestness et al., 2017,
    arXiv:1712.00409). A Bayesian bootstrap (Rubin, 1981) of all groups draws its exponent, bent by
    a factor from 0 to `BEND`, since a curve may flatten or fall. A few errors say little of it: so
    half of the draws take a usual one instead.

    Args:
        answers: from `head.answers`.
        labels: (n,) classes, from 0.
        groups: (n,) what pictures belong together.
        seed: for the draws.
        forecast: how many times as many pictures.
    """
    rng = np.random.default_rng(seed)
    _, ids = np.unique(groups, return_inverse=True)
    wrong = np.stack([np.bincount(ids, 1 - right) for right in answers.right])
    weights = rng.dirichlet(np.ones(wrong.shape[1]), DRAWS).T * wrong.shape[1]
    slopes = _slopes(wrong @ weights, answers.sizes) * rng.uniform(0, BEND, DRAWS)
    slopes[::2] = rng.uniform(0, USUAL, len(slopes[::2]))
    levels = rng.uniform(0, 1, DRAWS)
    rows = []
    for label in (-1, *np.unique(labels).tolist()):
        chosen = labels == label if label >= 0 else np.full(len(labels), True)
        for size, right in zip(answers.sizes, answers.right[:, chosen], strict=True):
            known, share = _independent(right, groups[chosen]), 1 - float(right.mean())
            errors = beta.ppf(levels, share * known + 0.5, (1 - share) * known + 0.5)
            rows.append((label, round(float(size)), 1 - share, *_middle(errors, share), False))
        for times in forecast:
            falls = (size / (times * len(labels))) ** slopes
            middle = 1 - share * float(np.median(falls))
            rows.append((label, times * len(labels), middle, *_middle(errors * falls, share), True))
    columns = ["class", "pictures", "accuracy", "low", "high", "forecast"]
    return pd.DataFrame(rows, columns=columns)


def _slopes(errors: NDArray[np.float64], sizes: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the exponents of the power law, (draws,), from the upper three sizes.

    Args:
        errors: (sizes, draws) how many are wrong.
        sizes: (sizes,) how many pictures the head has learned from.
    """
    x = np.log(sizes[-3:].astype(np.float64))
    x -= x.mean()
    slopes = -(x @ np.log(errors[-3:] + 0.5)) / (x @ x + 1e-9)  # few pictures: all sizes may be one
    return np.asarray(np.clip(slopes, 0, STEEPEST))


def _independent(right: NDArray[np.floating], groups: Ints) -> float:
    """Return how many independent pictures would tell as much as these.

    Fewer by INFLATION, and by the design effect of the groups (Kish, 1965).
    """
    apart = right - right.mean()
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], apart)
    design = max(1.0, float((sums**2).sum() / ((apart**2).sum() or 1)))
    return len(right) / INFLATION / design


def _middle(errors: NDArray[np.float64], share: float) -> tuple[float, float]:
    low, high = np.quantile(1 - errors, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high) if share else 1.0  # modified as in Brown et al. (2001)
