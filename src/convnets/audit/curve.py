"""How accuracy grows with the number of pictures, and how sure that is."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from convnets.audit.head import Answers, Ints

FORECAST = (1, 2, 4)  # times as many pictures as there are
DRAWS = 1000
STEEPEST = 1.5  # exponent of the power law
# The error of repeated folds has 1.1 to 1.8 times the variance of as many independent pictures:
# 2 and 12 classes, 5 to 30 of each. See benchmarks/results.md.
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
    curve's upper half corrects it. The interval is Wilson's (1927), with fewer pictures than there
    are: `INFLATION` times, and by the design effect of the groups (Kish, 1965).

    Args:
        answers: from `head.answers`.
        groups: (n,) what pictures belong together.
    """
    right = answers.right.astype(np.float64)
    errors = (1 - right).sum(1, keepdims=True)
    slope = _slopes(errors, answers.sizes)[0]
    count = right.shape[1]
    error = errors[-1, 0] / count * (answers.sizes[-1] / count) ** slope
    apart = right[-1] - right[-1].mean()
    sums = np.bincount(np.unique(groups, return_inverse=True)[1], apart)
    design = max(1.0, float((sums**2).sum() / ((apart**2).sum() or 1)))
    return _wilson(1 - error, count / INFLATION / design)


def curve(answers: Answers, labels: Ints, groups: Ints, seed: int) -> pd.DataFrame:
    """Return the learning curve of all classes together (class -1) and of each class.

    The columns are `class`, `pictures` (that the head learns from, of all classes), `accuracy`,
    `low`, `high` and `forecast` (whether it is one). Forecasts follow a power law of the error
    (Hestness et al., 2017, arXiv:1712.00409). The intervals are those of a Bayesian bootstrap of
    the groups (Rubin, 1981); since a curve may flatten, each draw keeps a share of its slope, from
    none to all of it.

    Args:
        answers: from `head.answers`.
        labels: (n,) classes, from 0.
        groups: (n,) what pictures belong together.
        seed: for the bootstrap.
    """
    rng = np.random.default_rng(seed)
    rows = []
    for label in (-1, *np.unique(labels).tolist()):
        chosen = np.flatnonzero(labels == label) if label >= 0 else np.arange(len(labels))
        _, ids = np.unique(groups[chosen], return_inverse=True)
        units = ids.max() + 1
        wrong = np.stack([np.bincount(ids, 1 - r) for r in answers.right[:, chosen]])
        weights = rng.dirichlet(np.ones(units), DRAWS).T * units  # (units, DRAWS)
        # Half an error more or less is not known: with none at all, the bootstrap would be sure.
        half = rng.exponential(0.5, DRAWS)
        errors = wrong @ weights + half
        slopes = _slopes(errors, answers.sizes) * rng.uniform(0, 1, DRAWS)
        total = len(chosen)
        for size, measured, drawn in zip(answers.sizes, wrong.sum(1), errors, strict=True):
            low, high = _middle(1 - drawn / total)
            rows.append((label, round(float(size)), 1 - measured / total, low, high, False))
        for times in FORECAST:
            size = times * len(labels)
            drawn = 1 - errors[-1] / total * (answers.sizes[-1] / size) ** slopes
            low, high = _middle(drawn)
            rows.append((label, size, float(np.median(drawn)), low, high, True))
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
    slopes = -(x @ np.log(errors[-3:] + 0.5)) / (x @ x)
    return np.asarray(np.clip(slopes, 0, STEEPEST))


def _wilson(p: float, count: float) -> Estimate:
    z = float(norm.ppf((1 + LEVEL) / 2))
    middle = (p + z * z / 2 / count) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(p * (1 - p) / count + z * z / 4 / count**2)
    return Estimate(p, float(max(0, middle - half)), float(min(1, middle + half)))


def _middle(drawn: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(max(0, low)), float(min(1, high))
