"""What would be used of a folder or an archive, before anything is changed or trained."""

import hashlib
import json
import re
import shlex
import statistics
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from convnets.base import params
from convnets.base.console import is_address, printable, progress, public
from convnets.data import archive, bucket, images, layout, web
from convnets.data.layout import Files, Layout
from convnets.data.overview import EXAMPLES, by_reason
from convnets.data.subset import SPLITS, choose, gaps


def inspect(given: str, wanted: str = "auto", labels: Path | None = None) -> dict[str, Any]:
    """Look at a folder, an archive or the archive at a web address; change nothing.

    Args:
        given: the path or the address. What is downloaded is not kept.
        wanted: a layout, or `auto`; see `layout.recognise`.
        labels: a table, or None.

    Returns:
        What there is, as JSON would have it.

    Raises:
        InputError: it cannot be used; the message says why.
    """
    with ExitStack() as stack:
        path, settings = Path(given).expanduser(), {}
        if is_address(given):
            folder = Path(stack.enter_context(TemporaryDirectory()))
            whole = given if bucket.serves(given) else given.partition("#")[0]
            place, _, query = whole.partition("?")
            if query and "$" not in query:  # it may be a key
                query = "$QUERY"
            settings = {"data.source": "url", "data.path": f"{place}?{query}" if query else whole}
            if not bucket.serves(given):
                path, settings["data.sha256"] = web.download(given, folder, None, True)
        else:
            source = "folder" if path.is_dir() else "archive"
            settings = {"data.source": source, "data.path": str(path.absolute())}
        if wanted != "auto":
            settings["data.layout"] = wanted
        if labels is not None:
            settings["data.labels"] = str(labels.absolute())
        files = stack.enter_context(
            bucket.opened(given, folder, None, beside_output=True)
            if bucket.serves(given)
            else archive.opened(path)
        )
        found = layout.recognise(files, wanted, labels)
        seen = _look(files, found)
        amounts = _amounts(found)
        subset = params.Subset(**amounts, max_rejected=0.01)
        chosen = choose(found.images, subset, seed=0)
    settings |= {f"subset.{split}": amount for split, amount in amounts.items()}
    settings |= {"image_size": "180", "backbone.weights": "imagenet"}
    return {
        "path": public(given) if is_address(given) else given,
        "layout": found.name,
        "images": len(found.images),
        "classes": _counts(found),
        "missing_numbers": gaps(found.images),
        **seen,
        "skipped": by_reason(found.skipped),
        "would_use": {split: len(images) for split, images in chosen.items()},
        "command": command(settings),
    }


def _look(files: Files, found: Layout) -> dict[str, Any]:
    """Read each picture once: its format, its size, and whether another has the same bytes."""
    formats: Counter[str] = Counter()
    sizes: list[tuple[int, int]] = []
    unreadable: dict[str, str] = {}
    alike: dict[bytes, list[layout.Image]] = defaultdict(list)
    for image in progress(found.images, "look", len(found.images), beside_output=True):
        try:
            content = files.read(image.member)
            alike[hashlib.sha256(content).digest()].append(image)
            name, size = images.header(content)
            formats[name] += 1
            sizes.append(size)
        except (images.ImageError, OSError) as error:
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
    fewest = min(Counter(image.label for image in found.images).values())
    drawn = 0.15 if fewest >= 4 else 1  # of three, a share would be none
    shares = {split: "rest" if split in given else drawn for split in SPLITS}
    return shares | {"train": "rest"}


def command(settings: dict[str, Any]) -> str:
    """Return the command that runs with these settings, for a shell to read.

    DVC reads the value of `-S` as Hydra does: in quotes, any character stands for itself, and
    `2024` is a name.
    """
    quoted = [
        f"{key}={_quoted(str(value)) if key.startswith('data.') else value}"
        for key, value in settings.items()
    ]
    return "dvc exp run " + " ".join(f"-S {shlex.quote(setting)}" for setting in quoted)


def _quoted(value: str) -> str:
    """Return a value in Hydra's quotes, if it is not a plain word."""
    if value.isidentifier():
        return value
    # A backslash counts only before a quote, or before `${`, which would ask for another value.
    name = re.sub(r'(\\*)"', r'\1\1\\"', value)
    name += "\\" * (len(value) - len(value.rstrip("\\")))
    return '"' + re.sub(r"(\\*)\$\{", r"\1\1\\${", name) + '"'


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
    if "?$QUERY" in seen["command"]:
        used += " (set the environment variable QUERY to what follows ? in your address)"
    return "\n".join([*lines, f"would use {used}:", seen["command"]])


def _names(examples: list[Any]) -> str:
    return ", ".join(
        printable(" = ".join(example[:EXAMPLES]) if isinstance(example, list) else example)
        for example in examples
    )
