"""The book's small subset: choose the images of each split."""

import hashlib
import math
import re
from collections import Counter, defaultdict

from convnets.base import params
from convnets.base.console import InputError
from convnets.data.layout import Image

SPLITS = ("train", "validation", "test")


def choose(found: list[Image], how: params.Subset, seed: int) -> dict[str, list[Image]]:
    """Choose the images of each split: of every class the same number (listing 8.6), or share.

    A split that the folders give is kept, and a missing one is drawn from the training images.
    Numbers in the names give the order: train is [0, n), validation follows, then test. Elsewhere
    each class is put in an order that depends on the seed and the names alone. So a new image moves
    at most one other of its class across each boundary.

    The images of a group stand together in the order. Then the whole group goes where most of its
    images would go, so each number is met up to half a group at each boundary.

    Args:
        found: the archive's images.
        how: images per class of each split, in the order in which they are taken, and the groups.
        seed: of the order, where there are no numbers.

    Returns:
        For each split its images, class by class.

    Raises:
        InputError: fewer than two classes, too few images of one, or a group in two given splits.
    """
    by_class: dict[str, list[Image]] = {}
    for image in found:
        by_class.setdefault(image.label, []).append(image)
    if len(by_class) < 2:
        raise InputError(f"only one class of images, {next(iter(by_class))!r}; at least 2 needed")
    group = {image.member: group_of(image, how.group) or image.member for image in found}
    given = {image.split for image in found if image.split} - {"train"}
    place: dict[str, str] = {}
    ordered = {label: _ordered(by_class[label], group, seed) for label in sorted(by_class)}
    for label, of_class in ordered.items():
        # What is in no given split is to learn from, and to draw the missing splits from.
        pools = {split: [image for image in of_class if image.split == split] for split in given}
        pools["train"] = [image for image in of_class if image.split not in given]
        for split, taken in _taken(pools, how, label).items():
            place |= dict.fromkeys((image.member for image in taken), split)
    if how.group is not None:
        place = _together(found, group, place, given)
    chosen = {
        split: [
            i for of_class in ordered.values() for i in of_class if place.get(i.member) == split
        ]
        for split in SPLITS
    }
    for split, members in chosen.items():
        for label in ordered.keys() - {image.label for image in members}:
            raise InputError(
                f"class {label!r} has no group of its own for {split}; correct subset.group or add "
                "images"
            )
    return chosen


def group_of(image: Image, pattern: str | None) -> str | None:
    """Return what the pattern finds in an image's path, or what its parentheses find there."""
    match = re.search(pattern, image.member) if pattern is not None else None
    return match and ("/".join(part or "" for part in match.groups()) or match[0])


def _together(
    found: list[Image], group: dict[str, str], place: dict[str, str], given: set[str]
) -> dict[str, str]:
    """Return the place of each image: the one that most of its group have, or none."""
    votes: dict[str, Counter[str]] = defaultdict(Counter)
    kept: dict[str, Image] = {}
    for image in found:
        name = group[image.member]
        first = kept.setdefault(name, image)
        if (first.split in given or image.split in given) and first.split != image.split:
            raise InputError(
                f"the group {name!r} is in two given splits, {first.member!r} and "
                f"{image.member!r}; move one or correct subset.group"
            )
        votes[name][place.get(image.member, "")] += 1
    if max(votes.values(), key=Counter.total).total() == 1:
        raise InputError(
            "no two images are in one group; correct subset.group, a pattern that finds the "
            f"group's name in a path such as {found[0].member!r}"
        )
    preferred = [*SPLITS, ""]
    won = {
        name: min(of_group, key=lambda split: (-of_group[split], preferred.index(split)))
        for name, of_group in votes.items()
    }
    return {member: won[name] for member, name in group.items()}


def _taken(pools: dict[str, list[Image]], how: params.Subset, label: str) -> dict[str, list[Image]]:
    """Take the images of one class from the pool of each split, or from the training images."""
    taken: dict[str, list[Image]] = {}
    for name, pool in pools.items():
        splits = [split for split in SPLITS if (split if split in pools else "train") == name]
        wanted = {split: getattr(how, split) for split in splits}
        if name != "train":  # a share is of what is drawn: of a given split, it takes all
            wanted = {s: "rest" if isinstance(w, float) else w for s, w in wanted.items()}
        shares = [wanted[s] for s in splits if isinstance(wanted[s], float)]
        if len(shares) == len(splits) and math.isclose(sum(shares), 1):
            wanted |= {splits[-1]: "rest"}  # each would be rounded
        counts = {s: _count(wanted[s], len(pool)) for s in splits if wanted[s] != "rest"}
        if len(splits) - len(counts) > 1:
            raise InputError(f"subset: only one of {', '.join(splits)} can be rest here")
        left = len(pool) - sum(counts.values())
        for split in splits:
            if split not in counts:
                counts[split] = left
        if left < 0 or min(counts.values()) < 1:
            where = "" if len(pools) == 1 else f" for {name}"
            asked = ", ".join(f"subset.{split} {wanted[split]}" for split in splits)
            raise InputError(
                f"class {label!r} has {len(pool)} images{where}, too few for {asked}; lower the "
                "counts or add images"
            )
        start = 0
        for split in splits:
            taken[split] = pool[start : start + counts[split]]
            start += counts[split]
    return taken


def _count(amount: int | float | str, total: int) -> int:
    """Return how many of a class's images a number or a share of them is."""
    return amount if isinstance(amount, int) else round(float(amount) * total)


def gaps(found: list[Image]) -> dict[str, int]:
    """Return how many numbers are missing of each class whose pictures are numbered, if any."""
    numbers: dict[str, list[int | None]] = {}
    for image in found:
        numbers.setdefault(image.label, []).append(image.number)
    missing = {}
    for label, of_class in numbers.items():
        known = {number for number in of_class if number is not None}
        if len(known) == len(of_class):
            missing[label] = max(known) + 1 - min(known) - len(known)
    return {label: count for label, count in missing.items() if count}


def _ordered(candidates: list[Image], group: dict[str, str], seed: int) -> list[Image]:
    """Return the images of one class in the order in which splits take them, group by group."""
    numbers = {image.number for image in candidates}
    if None not in numbers and len(numbers) == len(candidates):
        first: dict[str, int] = {}
        for image in candidates:
            name, number = group[image.member], image.number or 0
            first[name] = min(number, first.get(name, number))
        return sorted(candidates, key=lambda i: (first[group[i.member]], i.number or 0))

    def drawn(text: str) -> bytes:
        return hashlib.sha256(f"{seed}/{text}".encode()).digest()

    return sorted(candidates, key=lambda i: (drawn(group[i.member]), drawn(i.member)))
