"""Decode the chosen images once into arrays, and tell what was left out."""

import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ConfigDict, TypeAdapter

from convnets.base import cluster, files, params
from convnets.base.console import InputError, progress, say
from convnets.examples import npy
from convnets.listing.kinds import ImageError
from convnets.listing.listing import Image, Layout
from convnets.listing.subset import SPLITS, choose, doubts, gaps, group_of, grouped
from convnets.pictures import duplicates, images
from convnets.pictures.duplicates import Print

BATCH, BATCH_BYTES = 128, 2**23  # images, and bytes of files or pixels, decoded at a time at most
Picture = tuple[NDArray[np.uint8], Print]  # the pixels, and what is compared
SHOWN = 24  # pairs of duplicates whose pixels are kept for the page
Found = Print | str  # an image's fingerprint, or why it is left out
_LINE = TypeAdapter[Found](
    Found, config=ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
)


class Decoded(NamedTuple):
    """An image in the arrays."""

    image: Image
    split: str
    row: int
    print: Print


class Pair(NamedTuple):
    """A copy and its original."""

    copy: Decoded
    original: Decoded
    exact: bool  # the same bytes

    @property
    def contradicts(self) -> bool:
        """Whether they are in two classes."""
        return self.copy.image.label != self.original.image.label

    def told(self) -> dict[str, Any]:
        """Return the pair as JSON would have it."""
        both = (self.copy, self.original)
        return {
            "files": [each.image.member for each in both],
            "classes": [each.image.label for each in both],
            "splits": [each.split for each in both],
            "exact": self.exact,
        }


def write(
    source: Path,
    found: Layout,
    unfinished: Path,
    folder: Path,
    how: params.Subset,
    size: int,
    seed: int,
) -> dict[str, Any]:
    """Decode the chosen images into `<split>.npy`, with one row per image in `<split>.csv`.

    The arrays are (n, size, size, 3) uint8, streamed to disk. The tables' columns are `file`,
    `class`, `sha256` of the file, and `group`. `duplicates.npy` has the first pairs of duplicates,
    contradictions first: (k, 2, size, size, 3).

    Args:
        source: a zip of the images.
        found: how they are laid out.
        unfinished: an existing folder for what is decoded. It stays there. If an interrupted
            process has left it, with the same other arguments, the work is resumed.
        folder: the folder to write, atomically.
        how: images per class for each split, what becomes of duplicates, and the accepted share of
            unreadable images.
        size: side of the decoded images, in pixels.
        seed: seed of the choice.

    Returns:
        What is in the arrays and what is not, as JSON would have it.

    Raises:
        InputError: the archive is unusable, too many images are unreadable, or a class has no image
            left.
    """
    with _opened(source) as opened:
        chosen = choose(found.images, how, seed)
        members = [(split, image) for split in SPLITS for image in chosen[split]]
        told = _decode(opened, members, unfinished, size)
        decoded: list[Decoded] = []
        rejected: dict[str, str] = {}
        rows: Counter[str] = Counter()
        for (split, image), each in zip(members, told, strict=True):
            if isinstance(each, str):
                rejected[image.member] = each
            else:
                decoded.append(Decoded(image, split, rows[split], each))
                rows[split] += 1
        if len(rejected) > how.max_rejected * len(members):
            name, reason = next(iter(rejected.items()))
            raise InputError(
                f"{len(rejected)} of {len(members)} images are unreadable, the first is {name!r} "
                f"({reason}); fix them or raise subset.max_rejected"
            )
        pairs, dropped = _duplicates(decoded)
        shown = [_pixels(unfinished, pair) for pair in pairs[:SHOWN]]
        if how.duplicates == "report":
            dropped = []
        labels = sorted({image.label for image in found.images})
        with files.atomic(folder) as part:
            part.mkdir()
            counts = {
                split: _table(unfinished, part, split, decoded, dropped, labels, how.group)
                for split in SPLITS
            }
            np.save(part / "duplicates.npy", np.array(shown, np.uint8), allow_pickle=False)
            reasons = {i.label: rejected[i.member] for _, i in members if i.member in rejected}
            for split, image in members:
                if not counts[split][image.label]:
                    raise InputError(
                        f"no image of class {image.label!r} is left for {split}: all are "
                        f"unreadable ({reasons.get(image.label, 'none')}) or duplicates; add others"
                    )
    alone = sum(group_of(image, how.group) is None for _, image in members)
    return {
        **counts,
        "missing_numbers": gaps(found.images),
        "without_group": alone if grouped(found.images, how) else None,
        "rejected": len(rejected),
        "rejected_reasons": Counter(reason.partition(":")[0] for reason in rejected.values()),
        "rejected_files": rejected,
        "duplicates": len(pairs),
        "duplicates_across_splits": sum(p.copy.split != p.original.split for p in pairs),
        "duplicates_across_classes": sum(pair.contradicts for pair in pairs),
        "duplicates_dropped": len(dropped),
        "duplicate_files": [pair.told() for pair in pairs],
        "doubts": doubts(found.images, chosen),
    }


@contextmanager
def _opened(source: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(source) as opened:
            yield opened
    except zipfile.BadZipFile as error:
        raise InputError(f"{source}: damaged; remove it, and run `dvc repro` again") from error


def _decode(
    opened: zipfile.ZipFile, members: list[tuple[str, Image]], folder: Path, size: int
) -> list[Found]:
    """Write the arrays of images in splits, and a line of what is found of each, to resume from."""
    journal = folder / "found.jsonl"
    journal.touch()
    with ExitStack() as stack:
        arrays = {
            split: stack.enter_context(
                npy.writer(folder / f"{split}.npy", "uint8", (size, size, 3), resume=True)
            )
            for split in SPLITS
        }
        lines = stack.enter_context(journal.open("r+b"))
        found = _known(lines, members, arrays)
        if found:
            say(f"decode: resuming after {len(found)} of {len(members)} images")
        left = members[len(found) :]
        decode = cluster.mapper(lambda: partial(_pictures, size))
        most = max(1, min(BATCH, BATCH_BYTES // (3 * size * size)))
        batches = _batches(opened, [image for _, image in left], most)
        pictures = chain.from_iterable(decode(batches))
        both = zip(left, pictures, strict=True)
        for (split, _), picture in progress(both, "decode", len(left)):
            if isinstance(picture, ImageError):
                found.append(str(picture))
            else:
                arrays[split].append(picture[0][None])
                found.append(picture[1])
            lines.write(_LINE.dump_json(found[-1]) + b"\n")
    return found


def _known(
    lines: BinaryIO, members: list[tuple[str, Image]], arrays: dict[str, npy.Writer]
) -> list[Found]:
    """Return what an interrupted process found and has written the pixels of; drop the rest.

    Each of its files may end anywhere. After a power cut some file systems fill it up with zeros.
    """
    found: list[Found] = []
    rows: Counter[str] = Counter()
    end = 0
    for (split, _), line in zip(members, lines, strict=False):
        try:
            each = _LINE.validate_json(line)
        except ValueError:
            break
        if not line.endswith(b"\n"):
            break
        if isinstance(each, Print):
            if rows[split] == arrays[split].rows:
                break
            if duplicates.reduced(arrays[split].row(rows[split])) != each.reduced:
                break
            rows[split] += 1
        found.append(each)
        end += len(line)
    lines.seek(end)
    lines.truncate()
    for split, array in arrays.items():
        array.keep(rows[split])
    return found


def _batches(
    opened: zipfile.ZipFile, wanted: list[Image], most: int
) -> Iterator[tuple[list[bytes | ImageError]]]:
    """Read the files of images, at most so many at a time."""
    batch: list[bytes | ImageError] = []
    size = 0
    for image in wanted:
        try:
            content = opened.read(image.member)
            batch.append(content)
            size += len(content)
        except KeyError:
            batch.append(ImageError("missing: it could not be read before"))
        except (zipfile.BadZipFile, OSError) as error:
            batch.append(ImageError(f"damaged in the archive: {error}"))
        if len(batch) == most or size >= BATCH_BYTES:
            yield (batch,)
            batch, size = [], 0
    if batch:
        yield (batch,)


def _pictures(size: int, contents: list[bytes | ImageError]) -> list[Picture | ImageError]:
    """Decode the files of images, each or why not."""
    made: list[Picture | ImageError] = []
    for content in contents:
        try:
            if isinstance(content, ImageError):
                raise content
            pixels = images.decode(content, size)
            made.append((pixels, duplicates.of(content, pixels)))
        except ImageError as error:
            made.append(ImageError(*error.args))  # without its traceback, which holds the pixels
    return made


def _duplicates(decoded: list[Decoded]) -> tuple[list[Pair], list[Decoded]]:
    """Return the duplicates, contradictions first, and what must go for none to be left.

    Test images count as the originals: what is left out is to learn from.
    """
    order = sorted(decoded, key=lambda each: -SPLITS.index(each.split))
    copies = duplicates.find([each.print for each in order])
    pairs = [Pair(order[copy.place], order[copy.original], copy.exact) for copy in copies]
    dropped = duplicates.to_drop(copies, [each.image.label for each in order])
    pairs.sort(key=lambda pair: not pair.contradicts)
    return pairs, [order[place] for place in sorted(dropped)]


def _pixels(folder: Path, pair: Pair) -> NDArray[np.uint8]:
    both = (pair.copy, pair.original)
    return np.stack([npy.read(folder / f"{each.split}.npy")[each.row] for each in both])


def _table(
    unfinished: Path,
    folder: Path,
    split: str,
    decoded: list[Decoded],
    dropped: list[Decoded],
    labels: list[str],
    group: str | None,
) -> dict[str, int]:
    """Write a split without what is dropped; return its number of images of each class."""
    rows = {each.row for each in dropped if each.split == split}
    kept = [each for each in decoded if each.split == split and each.row not in rows]
    table = pd.DataFrame(
        [
            (image.member, image.label, found.content.hex(), group_of(image, group) or "")
            for image, _, _, found in kept
        ],
        columns=["file", "class", "sha256", "group"],
    )
    counts = Counter(table["class"])
    table.to_csv(folder / f"{split}.csv", index=False)
    source, target = (place / f"{split}.npy" for place in (unfinished, folder))
    if rows:
        npy.leave_out(source, target, rows)
    else:
        files.link(source, target)
    return {label: counts[label] for label in labels}
