"""How sure a model must be of a picture, so that it is right as often as was asked for."""

import math
import sys
from pathlib import Path

from convnets.base.console import InputError, printable
from convnets.models import saved

RISK = 0.025  # that a promised accuracy is not kept


def needed(accuracy: float, risk: float = RISK) -> int:
    """Return how many pictures without a mistake show an accuracy, at that risk."""
    return math.ceil(math.log(risk) / math.log(accuracy))


def limit(path: Path, accuracy: float) -> float:
    """Return the highest probability that a picture must reach: below it, a person decides.

    Args:
        path: of a `.keras` file.
        accuracy: what the pictures that are decided are to have, from 0 to 1.

    Returns:
        The limit; infinite, which is told on stderr, if no limit can promise that.

    Raises:
        InputError: the file is no model of `evaluate`.
    """
    known = saved.record(path).limits
    if known is None:
        raise InputError(
            f"{path}: promises no accuracy, which a champion of `dvc repro` does; give a limit of "
            "your own with --unsure"
        )
    if able := [each for each in known if each.accuracy >= accuracy]:
        return min(each.limit for each in able)
    most = max((each.accuracy for each in known), default=0.0)
    takes = "no number of validation pictures shows 100 %"
    if accuracy < 1:
        count = needed(max(accuracy, 0.5))
        takes = f"{accuracy:.1%} takes at least {count:,} validation pictures without a mistake"
    can = f"can promise {most:.1%} at most" if most else "can promise nothing"
    told = f"{path}: {can}, so every picture is unsure: {takes}"
    print(printable(told), file=sys.stderr)
    return math.inf
