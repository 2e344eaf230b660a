"""The book's small subset: choose the images of each split."""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping

from convnets.base import params
from convnets.base.console import InputError
from convnets.listing.listing import Image, Layout

SPLITS = ("train", "validation", "test")
FEW = 10  # test pictures of a class: one more mistake changes its recall by 10 %


def without_rare(found: Layout, minimum: int | None) -> Layout:
    """Leave out the classes that have fewer pictures than `subset.minimum`, and say so."""
    counts = Counter(image.label for image in found.images)
    rare = {
        image.member: f"of a class with fewer than {minimum} images (subset.minimum)"
        for image in found.images
        if counts[image.label] < (minimum or 0)
    }
    kept = [image for image in found.images if image.member not in rare]
    if not kept:
        raise InputError(f"no class has {minimum} images; lower subset.minimum")
    return found._replace(images=kept, skipped=found.skipped | rare)


def doubts(found: list[Image], chosen: Mapping[str, Collection[Image]]) -> list[str]:
    """Return what the numbers of pictures of a class cannot tell, a sentence each.

    Args:
        found: all pictures.
        chosen: those of each split, from `choose`.
    """
    total = Counter(image.label for image in found)
    used = Counter(image.label for images in chosen.values() for image in images)
    tested = Counter(image.label for image in chosen["test"])
    few = {label: tested[label] for label in sorted(total, key=lambda label: tested[label])}
    few = {label: count for label, count in few.items() if count < FEW}
    told = []
    if few:
        listed = ", ".join(f"{label} ({count})" for label, count in list(few.items())[:FEW])
        told.append(
            f"{len(few):,} of {len(total):,} classes have fewer than {FEW} test images, which say "
            f"little: {listed}{', …' if len(few) > FEW else ''}; subset.minimum leaves out classes "
            "with fewer images in all"
        )
    rarest = min(total, key=lambda label: total[label])
    if used[rarest] == total[rarest] and used.total() * 2 < total.total():
        told.append(
            f"{used.total():,} of {total.total():,} images are used, since {rarest} has only "
            f"{total[rarest]:,}; shares, such as subset.test=0.15, use more of the others"
        )
    return told


def choose(found: list[Image], how: params.Subset, seed: int) -> dict[str, list[Image]]:
    """Choose the images of each split: of every class the same number (listing 8.6), or share.

    A split that the folders give is kept, and a missing one is drawn from the training images: from
    those of no split, if there are any.
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
    fixed = {image.member for image in found if image.split == "train"}
    fixed = fixed if any(image.split is None for image in found) else set()
    place = dict.fromkeys(fixed, "train")
    ordered = {label: _ordered(by_class[label], group, seed) for label in sorted(by_class)}
    for label, of_class in ordered.items():
        # What is in no given split is to learn from, and to draw the missing splits from.
        pools = {split: [image for image in of_class if image.split == split] for split in given}
        pools = {split: pool for split, pool in pools.items() if pool}  # it may lack the class
        left = [image for image in of_class if image.split not in given]
        pools["train"] = [image for image in left if image.member not in fixed]
        for split, taken in _taken(pools, given, how, label).items():
            place |= dict.fromkeys((image.member for image in taken), split)
    if grouped(found, how):
        place = _together(found, group, place, given)
    chosen = {
        split: [
            i for of_class in ordered.values() for i in of_class if place.get(i.member) == split
        ]
        for split in SPLITS
    }
    for split, members in chosen.items():
        lacking = {label for label in ordered if split in given - {i.split for i in ordered[label]}}
        for label in ordered.keys() - {image.label for image in members} - lacking:
            raise InputError(
                f"class {label!r} has no group of its own for {split}; correct subset.group or add "
                "images"
            )
    return chosen


def grouped(found: list[Image], how: params.Subset) -> bool:
    """Whether `subset.group` or `{group}` in `data.pattern` says which pictures belong together."""
    return how.group is not None or any(image.group for image in found)


def group_of(image: Image, pattern: str | None) -> str | None:
    """Return what the pattern finds in an image's path, or what its parentheses find there.

    Without a pattern, it is what `data.pattern` found.
    """
    if pattern is None:
        return image.group
    match = re.search(pattern, image.member)
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


def _taken(
    pools: dict[str, list[Image]], given: set[str], how: params.Subset, label: str
) -> dict[str, list[Image]]:
    """Take the images of one class from the pool of each split, or from the training images."""
    taken: dict[str, list[Image]] = {}
    for name, pool in pools.items():
        splits = [split for split in SPLITS if (split if split in given else "train") == name]
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
                "counts, add images, or leave out rare classes with subset.minimum"
            )
        start = 0
        for split in splits:
            taken[split] = pool[start : start + counts[split]]
            start += counts[split]
    return taken


def _count(amount: int | float | str, total: int) -> int:
    """Return how many of a class's images a number or a share of them is: at least one."""
    return amount if isinstance(amount, int) else max(1, round(float(amount) * total))


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
