"""The book's small subset: which images go to which split, decoded once into arrays."""

import hashlib
from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd

from convnets.base import files, params
from convnets.base.console import InputError, progress
from convnets.data import archive, images, npy

SPLITS = ("train", "validation", "test")


def choose(
    found: list[archive.Image], counts: dict[str, int], seed: int
) -> dict[str, list[archive.Image]]:
    """Choose the images of each split, the same number of every class (listing 8.6).

    Kaggle's numbering decides where there is one: train is [0, n), validation follows, then test.
    Elsewhere each class is put in an order that depends on the seed and the names alone.

    Args:
        found: the archive's images.
        counts: images per class of each split, in the order in which they are taken.
        seed: of the order, in a `<class>/` layout.

    Returns:
        For each split its images, class by class.

    Raises:
        InputError: fewer than two classes, or too few images of one.
    """
    by_class: dict[str, list[archive.Image]] = {}
    for image in found:
        by_class.setdefault(image.label, []).append(image)
    if len(by_class) < 2:
        raise InputError(f"only one class of images, {next(iter(by_class))!r}; at least 2 needed")
    chosen: dict[str, list[archive.Image]] = {split: [] for split in counts}
    for label in sorted(by_class):
        candidates = _ordered(by_class[label], seed, sum(counts.values()))
        for split, count in counts.items():
            chosen[split] += candidates[:count]
            candidates = candidates[count:]
    return chosen


def _ordered(candidates: list[archive.Image], seed: int, needed: int) -> list[archive.Image]:
    """Return at least `needed` images of one class in the order in which splits take them."""
    label = candidates[0].label
    if candidates[0].number is not None:
        by_number = {image.number: image for image in candidates}
        missing = [number for number in range(needed) if number not in by_number]
        if missing:
            raise InputError(
                f"class {label!r}: no image number {missing[0]} ({len(missing)} of {needed} "
                "missing); lower the counts of subset or use the whole archive"
            )
        return [by_number[number] for number in range(needed)]
    if len(candidates) < needed:
        raise InputError(
            f"class {label!r} has {len(candidates)} images, subset asks for {needed} "
            "(train + validation + test); lower the counts or add images"
        )
    return sorted(
        candidates, key=lambda image: hashlib.sha256(f"{seed}/{image.member}".encode()).digest()
    )


def write(source: Path, folder: Path, how: params.Subset, size: int, seed: int) -> dict[str, Any]:
    """Decode the chosen images into `<split>.npy`, with a row each in `<split>.csv`.

    The arrays are (n, size, size, 3) uint8, written in a stream. The tables' columns are `file`,
    `class` and `label`, the class's place in alphabetical order.

    Args:
        source: an archive of images.
        folder: where to write; what was there is replaced once all is written.
        how: images per class of each split, and the share of unreadable ones that is acceptable.
        size: of the decoded images, in pixels.
        seed: of the splits, in a `<class>/` layout.

    Returns:
        The numbers of images by split and class, and the unreadable ones with their reasons.

    Raises:
        InputError: the archive cannot be used, too many images are unreadable, or all of a class.
    """
    counts = {split: getattr(how, split) for split in SPLITS}
    rejected: dict[str, str] = {}
    summary: dict[str, Any] = {}
    with archive.open_images(source) as (container, found), files.atomic(folder) as part:
        try:
            chosen = choose(found, counts, seed)
        except InputError as error:
            raise InputError(f"{source}: {error}") from error
        labels = {name: label for label, name in enumerate(sorted({i.label for i in found}))}
        for split, members in chosen.items():
            rows = []
            with npy.writer(part / f"{split}.npy", (size, size, 3), "uint8") as out:
                for image in progress(members, f"decode {split}", len(members)):
                    try:
                        pixels = images.decode(container.read(image.member), size)
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
                f"{name!r} ({reason}); mend them or raise subset.max_rejected"
            )
        for split, label in product(chosen, labels):
            if label not in summary[split]:
                raise InputError(
                    f"{source}: no image of class {label!r} for {split} is readable; mend them"
                )
    return {**summary, "rejected": len(rejected), "rejected_files": rejected}
