"""What would be used of a folder or an archive, before anything is changed or trained."""

import hashlib
import io
import json
import re
import shlex
import statistics
import tarfile
import tempfile
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from convnets.base import params
from convnets.base.console import printable, progress
from convnets.data import archive, layout
from convnets.data.archive import Pictures
from convnets.data.layout import Layout
from convnets.data.subset import SPLITS, choose, gaps

EXAMPLES = 3


def inspect(path: Path) -> dict[str, Any]:
    """Look at a folder, a zip or a tar archive; return what there is, as JSON would have it.

    Raises:
        InputError: it cannot be used; the message says why.
    """
    with ExitStack() as stack:
        source = "archive"
        if path.is_dir():
            source = "folder"
            pictures, _ = archive.look_into(path)
        else:
            if path.is_file() and tarfile.is_tarfile(path):
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
                archive.repack(path, folder / "repacked.zip")
                pictures = stack.enter_context(archive.open_images(folder / "repacked.zip"))
            else:
                pictures = stack.enter_context(archive.open_images(path))
        found = pictures.layout
        seen = _look(pictures)
    amounts = _amounts(found)
    subset = params.Subset(**amounts, max_rejected=0.01)
    chosen = choose(found.images, subset, seed=0)
    reasons = Counter(found.skipped.values())
    return {
        "path": str(path),
        "layout": found.name,
        "images": len(found.images),
        "classes": _counts(found),
        "missing_numbers": gaps(found.images),
        **seen,
        "skipped": {
            why: {"files": count, "examples": _first(found.skipped, why)}
            for why, count in reasons.items()
        },
        "would_use": {split: len(images) for split, images in chosen.items()},
        "command": command(path, source, amounts),
    }


def _look(pictures: Pictures) -> dict[str, Any]:
    """Read each picture once: its format, its size, and whether another has the same bytes."""
    formats: Counter[str] = Counter()
    sizes: list[tuple[int, int]] = []
    unreadable: dict[str, str] = {}
    alike: dict[bytes, list[layout.Image]] = defaultdict(list)
    images = pictures.layout.images
    for image in progress(images, "look", len(images), beside_output=True):
        content = pictures.read(image.member)
        alike[hashlib.blake2b(content, digest_size=16).digest()].append(image)
        try:
            with Image.open(io.BytesIO(content)) as opened:
                formats[str(opened.format)] += 1
                sizes.append(opened.size)
        except Exception as error:  # whatever Pillow raises for damaged bytes
            unreadable[image.member] = " ".join(str(error).split())[:100]
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
    }


def _counts(found: Layout) -> dict[str, dict[str, int]]:
    """Return how many pictures of each class each given split has; `all` where none is given."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for image in found.images:
        counts[image.label][image.split or "all"] += 1
    return {label: dict(of_class) for label, of_class in counts.items()}


def _amounts(found: Layout) -> dict[str, Any]:
    """Return the subset that uses all images: shares, or all of each split that is given."""
    given = {image.split for image in found.images}
    shares = {split: "rest" if split in given else 0.15 for split in SPLITS}
    return shares | {"train": "rest"}


def _first(skipped: dict[str, str], why: str) -> list[str]:
    return [path for path, reason in skipped.items() if reason == why][:EXAMPLES]


def command(path: Path, source: str, amounts: dict[str, Any]) -> str:
    """Return the command that uses a folder or an archive, for a shell to read.

    DVC reads the value of `-S` as Hydra does: in quotes, any character stands for itself, and
    `2024` is a name.
    """
    # A backslash counts only before a quote, or before `${`, which would ask for another value.
    plain = str(path.absolute())
    name = re.sub(r'(\\*)"', r'\1\1\\"', plain)
    name += "\\" * (len(plain) - len(plain.rstrip("\\")))
    name = name.replace("${", r"\${")
    settings = [f"data.source={source}", f'data.path="{name}"']
    settings += [f"subset.{split}={amount}" for split, amount in amounts.items()]
    settings += ["image_size=180", "backbone.weights=imagenet"]
    return "dvc exp run " + " ".join(f"-S {shlex.quote(setting)}" for setting in settings)


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
    for why, found in seen["skipped"].items():
        lines.append(f"skipped {found['files']:,}: {why}, such as {_names(found['examples'])}")
    used = ", ".join(f"{count:,} {split}" for split, count in seen["would_use"].items())
    return "\n".join([*lines, f"would use {used}:", seen["command"]])


def _names(examples: list[Any]) -> str:
    return ", ".join(
        printable(" = ".join(example[:EXAMPLES]) if isinstance(example, list) else example)
        for example in examples
    )
