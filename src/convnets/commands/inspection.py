"""What would be used of a folder or an archive, before anything is changed or trained."""

import hashlib
import json
import math
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import yaml

from convnets.base import cost, params
from convnets.base.console import InputError, is_address, printable, progress, public
from convnets.listing.kinds import ImageError
from convnets.listing.listing import EXAMPLES, Image, Layout, by_reason
from convnets.listing.subset import SPLITS, choose, doubts, gaps, without_rare
from convnets.pictures import images
from convnets.sources import archive, bucket, sources, web
from convnets.sources.layout import Files
from convnets.tracking import presets

SIZE = 180  # pixels: as which the printed command decodes


def inspect(given: str, seed: int = 0, max_rejected: float = 0.01, **told: str) -> dict[str, Any]:
    """Look at a folder, an archive or the archive at a web address; change nothing.

    Args:
        given: the path or the address. What is downloaded is not kept.
        seed: of the run's choice.
        max_rejected: the share of unreadable pictures that the run accepts.
        told: of the section `data`: layout, labels, columns, pattern and splits, all as text.

    Returns:
        What there is, as JSON would have it.

    Raises:
        InputError: it cannot be used; the message says why.
    """
    if "labels" in told:
        told["labels"] = str(Path(told["labels"]).absolute())
    with ExitStack() as stack:
        path, folder = Path(given).expanduser(), Path(stack.enter_context(TemporaryDirectory()))
        where = {"source": "folder" if path.is_dir() else "archive", "path": str(path.absolute())}
        remote, in_bucket = is_address(given), bucket.serves(given)
        if remote:
            whole = given if in_bucket else given.partition("#")[0]
            place, _, query = whole.partition("?")
            if query and "$" not in query:  # it may be a key
                query = "$QUERY"
            where = {"source": "url", "path": f"{place}?{query}" if query else whole}
        how = params.checked(params.Data, where | told, "inspect")
        if remote and not in_bucket:
            path, where["sha256"] = web.download(given, folder, None, beside_output=True)
        files = stack.enter_context(
            bucket.opened(given, folder, None, beside_output=True)
            if in_bucket
            else archive.opened(path)
        )
        found = sources.recognised(files, how)
        subset = _subset(found)
        kept = without_rare(found, subset.get("minimum"))
        chosen = choose(kept.images, params.Subset(**subset, max_rejected=max_rejected), seed)
        begun = time.perf_counter()
        seen, unreadable = _look(files, kept)
        decoding = time.perf_counter() - begun
        _all_learned(chosen, unreadable)
    share = len(unreadable) / len(kept.images)
    if share > max_rejected:
        subset["max_rejected"] = math.ceil(1000 * share + 0.5) / 1000  # 29 of 100 is more than 0.29
    settings = {f"data.{key}": value for key, value in (where | told).items()}
    settings |= {f"subset.{key}": value for key, value in subset.items()}
    would_use = {split: len(images) for split, images in chosen.items()}
    takes = None
    if presets.FOLDER.is_dir():
        photos = yaml.safe_load(presets.compose("photos"))
        p = params.checked(params.Params, photos, "preset photos")
        takes = round(decoding + cost.seconds(p, would_use))
    return {
        "path": public(given) if is_address(given) else given,
        "layout": found.name,
        "images": len(found.images),
        "classes": _counts(found),
        "missing_numbers": gaps(found.images),
        **seen,
        "reasons": by_reason(unreadable),
        "skipped": by_reason(kept.skipped),
        "doubts": doubts(kept.images, chosen),
        "would_use": would_use,
        "seconds": takes,
        "command": presets.command("photos", settings),
    }


def _look(files: Files, found: Layout) -> tuple[dict[str, Any], dict[str, str]]:
    """Decode each picture once, as the run will.

    Returns:
        The formats, the sizes and which pictures have the same bytes; and why others are not read.
    """
    formats: Counter[str] = Counter()
    sizes: list[tuple[int, int]] = []
    unreadable: dict[str, str] = {}
    alike: dict[bytes, list[Image]] = defaultdict(list)
    for image in progress(found.images, "look", len(found.images), beside_output=True):
        try:
            content = files.read(image.member)
            alike[hashlib.sha256(content).digest()].append(image)
            name, size = images.header(content)
            images.decode(content, SIZE)
            formats[name] += 1
            sizes.append(size)
        except (ImageError, OSError) as error:
            unreadable[image.member] = str(error)
    twice = [group for group in alike.values() if len(group) > 1]
    apart = [group for group in twice if len({image.label for image in group}) > 1]
    areas = [width * height / 1e6 for width, height in sizes]
    return {
        "formats": dict(formats.most_common()),
        "megapixels": {
            name: round(function(areas), 3) if areas else None
            for name, function in (("min", min), ("median", statistics.median), ("max", max))
        },
        "unreadable": {"files": len(unreadable), "examples": list(unreadable)[:EXAMPLES]},
        "duplicates": {
            "pictures": sum(len(group) - 1 for group in twice),
            "examples": [[image.member for image in group] for group in twice[:EXAMPLES]],
        },
        "contradictions": {
            "pictures": len(apart),
            "examples": [[image.member for image in group] for group in apart[:EXAMPLES]],
        },
    }, unreadable


def _all_learned(chosen: dict[str, list[Image]], unreadable: Mapping[str, str]) -> None:
    """Refuse a class of which no picture of a split can be read: the run would stop there."""
    for split, of_split in chosen.items():
        readable = {image.label for image in of_split if image.member not in unreadable}
        for member, label in ((i.member, i.label) for i in of_split if i.label not in readable):
            raise InputError(
                f"class {label!r} has no image for {split} that can be read, such as {member!r}: "
                f"{unreadable[member]}; repair or remove it, or add others"
            )


def _counts(found: Layout) -> dict[str, dict[str, int]]:
    """Return how many pictures of each class each given split has; `all` where none is given."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for image in found.images:
        counts[image.label][image.split or "all"] += 1
    return {label: dict(of_class) for label, of_class in counts.items()}


def _subset(found: Layout) -> dict[str, Any]:
    """Return the subset that uses all images: shares, or all of each split that is given.

    A class with fewer images than there are splits is left out.
    """
    given = {image.split for image in found.images} - {None, "train"}
    amounts: dict[str, Any] = {split: "rest" if split in given else 0.15 for split in SPLITS}
    amounts["train"] = "rest"
    counts, needed = Counter(image.label for image in found.images), len(SPLITS) - len(given)
    enough = [count for count in counts.values() if count >= needed]
    return amounts | ({"minimum": needed} if 2 <= len(enough) < len(counts) else {})


def show(seen: dict[str, Any], form: str) -> str:
    """Return what `inspect` found as text.

    Args:
        seen: from `inspect`.
        form: text or json.
    """
    if form == "json":
        return json.dumps(seen, indent=2, ensure_ascii=False)
    table = pd.DataFrame(seen["classes"]).T.fillna(0).astype(int)
    table.index = [printable(str(label)) for label in table.index]
    with pd.option_context("display.unicode.east_asian_width", True, "display.max_rows", 60):
        counts = table.to_string()
    pixels = seen["megapixels"]
    lines = [
        f"{printable(seen['path'])}: {seen['images']:,} images of {len(table)} classes "
        f"(layout: {seen['layout']})",
        counts,
        "formats: " + ", ".join(f"{count:,} {name}" for name, count in seen["formats"].items()),
        f"megapixels: {pixels['min']} to {pixels['max']}, median {pixels['median']}",
    ]
    for label, count in seen["missing_numbers"].items():
        lines.append(f"class {printable(label)}: {count:,} numbers are missing")
    for kind, text in (
        ("unreadable", "{:,} cannot be read as images"),
        ("duplicates", "{:,} are copies of others"),
        ("contradictions", "{:,} are in more than one class"),
    ):
        found = seen[kind]
        count = found.get("files", found.get("pictures"))
        if count:
            lines.append(f"{text.format(count)}, such as {_names(found['examples'])}")
    for kind in ("reasons", "skipped"):
        for why, found in seen[kind].items():
            what = "unreadable" if kind == "reasons" else kind
            names = _names(found["examples"])
            lines.append(f"{what} {found['files']:,}: {printable(why)}, such as {names}")
    lines += map(printable, seen["doubts"])
    used = ", ".join(f"{count:,} {split}" for split, count in seen["would_use"].items())
    if "?$QUERY" in seen["command"]:
        used += " (set the environment variable QUERY to what follows ? in your address)"
    if seen["seconds"] is not None:
        used += f"; the run takes {cost.told(seen['seconds'])}"
    return "\n".join([*lines, f"would use {used}:", seen["command"]])


def _names(examples: list[Any]) -> str:
    return ", ".join(
        printable(" = ".join(example[:EXAMPLES]) if isinstance(example, list) else example)
        for example in examples
    )
