"""The book's small subset: choose the images of each split, and decode them once into arrays."""

import hashlib
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from convnets.base import files, params
from convnets.base.console import InputError, progress
from convnets.data import archive, images, npy
from convnets.data.layout import Image

SPLITS = ("train", "validation", "test")


def choose(found: list[Image], how: params.Subset, seed: int) -> dict[str, list[Image]]:
    """Choose the images of each split: of every class the same number (listing 8.6), or share.

    A split that the folders give is kept, and a missing one is drawn from the training images.
    Numbers in the names give the order: train is [0, n), validation follows, then test. Elsewhere
    each class is put in an order that depends on the seed and the names alone.

    Args:
        found: the archive's images.
        how: images per class of each split, in the order in which they are taken.
        seed: of the order, where there are no numbers.

    Returns:
        For each split its images, class by class.

    Raises:
        InputError: fewer than two classes, or too few images of one.
    """
    by_class: dict[str, list[Image]] = {}
    for image in found:
        by_class.setdefault(image.label, []).append(image)
    if len(by_class) < 2:
        raise InputError(f"only one class of images, {next(iter(by_class))!r}; at least 2 needed")
    given = {image.split for image in found if image.split} - {"train"}
    chosen: dict[str, list[Image]] = {split: [] for split in SPLITS}
    for label in sorted(by_class):
        ordered = _ordered(by_class[label], seed)
        # What is in no given split is to learn from, and to draw the missing splits from.
        pools = {split: [image for image in ordered if image.split == split] for split in given}
        pools["train"] = [image for image in ordered if image.split not in given]
        for split, taken in _taken(pools, how, label).items():
            chosen[split] += taken
    return chosen


def _taken(pools: dict[str, list[Image]], how: params.Subset, label: str) -> dict[str, list[Image]]:
    """Take the images of one class from the pool of each split, or from the training images."""
    wanted = {split: getattr(how, split) for split in SPLITS}
    taken: dict[str, list[Image]] = {}
    for name, pool in pools.items():
        splits = [split for split in SPLITS if (split if split in pools else "train") == name]
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


def _ordered(candidates: list[Image], seed: int) -> list[Image]:
    """Return the images of one class in the order in which splits take them."""
    numbers = {image.number for image in candidates}
    if None not in numbers and len(numbers) == len(candidates):
        return sorted(candidates, key=lambda image: image.number or 0)
    return sorted(
        candidates, key=lambda image: hashlib.sha256(f"{seed}/{image.member}".encode()).digest()
    )


def write(source: Path, folder: Path, how: params.Subset, size: int, seed: int) -> dict[str, Any]:
    """Decode the chosen images into `<split>.npy`, with one row per image in `<split>.csv`.

    The arrays are (n, size, size, 3) uint8, streamed to disk. The tables' columns are `file`,
    `class` and `label`, which is the index of the class in alphabetical order.

    Args:
        source: an archive of images.
        folder: the folder to write, atomically.
        how: images per class for each split, and the accepted share of unreadable images.
        size: side of the decoded images, in pixels.
        seed: seed of the splits in a `<class>/` layout.

    Returns:
        The number of images by split and class, and the unreadable images with their reasons.

    Raises:
        InputError: the archive is unusable, too many images are unreadable, or a class has no
            readable image.
    """
    rejected: dict[str, str] = {}
    summary: dict[str, Any] = {}
    with archive.open_images(source) as pictures, files.atomic(folder) as part:
        found = pictures.layout.images
        try:
            chosen = choose(found, how, seed)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        labels = {name: label for label, name in enumerate(sorted({i.label for i in found}))}
        for split, members in chosen.items():
            rows = []
            with npy.writer(part / f"{split}.npy", (size, size, 3), "uint8") as out:
                for image in progress(members, f"decode {split}", len(members)):
                    try:
                        pixels = images.decode(pictures.read(image.member), size)
                    except (images.ImageError, *archive.DAMAGE) as error:
                        rejected[image.member] = str(error)
                        continue
                    out.append(pixels[None])
                    rows.append((image.member, image.label, labels[image.label]))
            table = pd.DataFrame(rows, columns=["file", "class", "label"])
            table.to_csv(part / f"{split}.csv", index=False)
            summary[split] = dict(Counter(table["class"]))
        total = sum(map(len, chosen.values()))
        if len(rejected) > how.max_rejected * total:
            name, reason = next(iter(rejected.items()))
            raise InputError(
                f"{source}: {len(rejected)} of {total} images are unreadable, the first is "
                f"{name!r} ({reason}); fix them or raise subset.max_rejected"
            )
        for split, label in product(chosen, labels):
            if label not in summary[split]:
                raise InputError(
                    f"{source}: no image of class {label!r} for {split} is readable; fix them"
                )
    return {
        **summary,
        "missing_numbers": gaps(found),
        "rejected": len(rejected),
        "rejected_files": rejected,
    }
