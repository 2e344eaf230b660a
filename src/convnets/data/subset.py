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

SPLITS = ("train", "validation", "test")


def choose(
    found: list[archive.Image], counts: dict[str, int], seed: int
) -> dict[str, list[archive.Image]]:
    """Choose the images of each split, the same number from every class (listing 8.6).

    With Kaggle's numbers, train is [0, n), then validation follows, then test. Without them, the
    order of each class depends only on the seed and the names.

    Args:
        found: the archive's images.
        counts: images per class for each split, in the order of the splits.
        seed: seed of the order in a `<class>/` layout.

    Returns:
        The images of each split, class by class.

    Raises:
        InputError: there are fewer than two classes, or a class has too few images.
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
    """Return at least `needed` images of one class, in the order that the splits take them."""
    label = candidates[0].label
    if candidates[0].number is not None:
        by_number = {image.number: image for image in candidates}
        missing = [number for number in range(needed) if number not in by_number]
        if missing:
            raise InputError(
                f"class {label!r}: no image number {missing[0]} ({len(missing)} of {needed} "
                "missing); lower the counts of subset or use the complete archive"
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
                f"{name!r} ({reason}); fix them or raise subset.max_rejected"
            )
        for split, label in product(chosen, labels):
            if label not in summary[split]:
                raise InputError(
                    f"{source}: no image of class {label!r} for {split} is readable; fix them"
                )
    return {**summary, "rejected": len(rejected), "rejected_files": rejected}
