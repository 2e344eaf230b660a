"""Copies of pictures in a folder for each class, and a table of their probabilities."""

import csv
import errno
import filecmp
import io
import json
import os
import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Iterator
from io import FileIO
from pathlib import Path

from convnets.base import files
from convnets.base.console import REMEDIES, InputError, progress
from convnets.serving import predict
from convnets.serving.predict import Failed, Prediction
from convnets.serving.runtime import Classifier
from convnets.sources.layout import JUNK
from convnets.sources.splits import split_of

UNSURE, UNLIKE = "unsure", "unlike"
LABELS, SETTINGS, PART = "labels.csv", ".sort.json", ".part"


def folders(classes: list[str]) -> list[str]:
    """Return a folder's name for each class: its own, if any disk has it and it is no other's."""
    used, found = {UNSURE, UNLIKE, LABELS}, []
    for number, label in enumerate(classes):
        name = re.sub(r"[^\w &'()+,.-]", "_", label).encode()[:100].decode(errors="ignore")
        name = name.strip(" .")
        odd = not name or name != label or label.lower() in JUNK or split_of(label)
        if odd or _same(name) in used:
            name = f"class {number} {name}".strip()
        while _same(name) in used:
            name += "_"
        used.add(_same(name))
        found.append(name)
    return found


def _same(name: str) -> str:
    """Return what a disk that ignores capitals, or has one form of Unicode, makes of a name."""
    return unicodedata.normalize("NFC", name).casefold()


def sort(
    model: Classifier,
    folder: Path,
    out: Path,
    failed: Failed,
    unsure: float | None = None,
    link: bool = False,
) -> Counter[str]:
    """Copy a folder's pictures into `out/CLASS`, `out/unsure` and `out/unlike`, paths kept.

    What is there already stays. So it can be killed, and run again.

    Args:
        model: from `runtime.load`.
        folder: with the pictures. Nothing is written there.
        out: also gets `labels.csv`, a line for each picture once it is there.
        failed: see `predict.files`.
        unsure: those whose probability is below go into `unsure`.
        link: make symbolic links instead of copies.

    Returns:
        How many pictures each folder in `out` has got, now and before.

    Raises:
        InputError: one folder is in the other, or `out` was sorted otherwise.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder; name one with pictures")
    inner, outer = out.resolve(), folder.resolve()
    if inner.is_relative_to(outer) or outer.is_relative_to(inner):
        raise InputError(f"{out} and {folder}: one is in the other; choose a folder elsewhere")
    settings = {"folder": str(outer), "model": files.sha256(model.path)}
    _begin(out, settings | {"unsure": unsure, "link": link})
    done, counts = _done(out), Counter[str]()
    places = folders(model.classes)

    def remaining() -> Iterator[str]:
        total = sum(1 for _ in predict.files([str(folder)], lambda *_: None))
        names = predict.files([str(folder)], failed)
        for name in progress(names, "sort", total, beside_output=True):
            place = done.get(os.path.relpath(name, folder))
            if place and _is_there(Path(name), out / place / os.path.relpath(name, folder), link):
                counts[place] += 1
            else:
                yield name

    with (out / LABELS).open("ab", buffering=0) as table:
        if not table.tell():
            titles = (f"p({label})" for label in model.classes)
            _add(table, "file", "class", "best", UNLIKE, *titles)
        for one in predict.predict(model, remaining(), failed):
            name, label = os.path.relpath(one.file, folder), model.classes[one.best]
            apart = _apart(one, unsure)
            place = apart or places[one.best]
            target = out / place / name
            try:
                _put(Path(one.file), target, out / PART, link)
            except FileExistsError:
                failed(one.file, f"{target} is there and differs; move it elsewhere")
                continue
            except OSError as error:
                if error.errno in REMEDIES and error.errno != errno.ENAMETOOLONG:
                    raise
                failed(one.file, f"{target}: {error.strerror}")
                continue
            if done.get(name) != place:
                said = ("" if apart else label, label, one.unlike, *map(float, one.probabilities))
                _add(table, Path(place, name).as_posix(), *said)
            counts[place] += 1
    return counts


def _apart(one: Prediction, unsure: float | None) -> str:
    if one.is_unlike:
        return UNLIKE
    return UNSURE if unsure is not None and one.is_unsure(unsure) else ""


def _begin(out: Path, settings: dict[str, object]) -> None:
    """Note how a folder is sorted, or see that it is resumed in the same way."""
    try:
        same = json.loads((out / SETTINGS).read_text(encoding="utf-8")) == settings
    except FileNotFoundError:
        same = not (out / LABELS).exists()
        if same:
            files.write_json(out / SETTINGS, settings)
    except ValueError:
        same = False
    if not same:
        raise InputError(
            f"{out}: sorted from another folder, by another model or with other options; choose "
            "another folder"
        )
    (out / PART).unlink(missing_ok=True)


def _done(out: Path) -> dict[str, str]:
    """Return the folders of the pictures in the table. What a kill left of a line is cut off."""
    found: dict[str, str] = {}
    if not (out / LABELS).exists():
        return found
    with (out / LABELS).open("r+b") as table:
        whole = start = quotes = 0
        line = b""
        for part in table:  # a class's name may have line breaks
            line, quotes = line + part, quotes + part.count(b'"')
            start += len(part)
            if part.endswith(b"\n") and quotes % 2 == 0:
                text = io.StringIO(line.decode(errors="surrogateescape"), newline="")
                place, _, name = next(csv.reader(text))[0].partition("/")
                found[name] = place
                whole, line = start, b""
        table.truncate(whole)
    return found


def _add(table: FileIO, *cells: object) -> None:
    """Add a line at once, so that a table is whole at any time."""
    line = f"{predict.line(cells)}\n".encode(errors="surrogateescape")
    if table.write(line) < len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(table.name))


def _is_there(source: Path, target: Path, link: bool) -> bool:
    try:
        if link:
            return target.readlink() == source.absolute()
        one, two = source.stat(), target.lstat()
        return (one.st_size, one.st_mtime_ns) == (two.st_size, two.st_mtime_ns)
    except OSError:
        return False


def _put(source: Path, target: Path, part: Path, link: bool) -> None:
    """Copy or link a file, unless just that is there.

    Raises:
        FileExistsError: another file is there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(target):
        plain = target.is_file() and not target.is_symlink()
        copied = not link and plain and filecmp.cmp(source, target, shallow=False)
        if not copied and not _is_there(source, target, link):
            raise FileExistsError(target)
    elif link:
        target.symlink_to(source.absolute())
    else:
        files.room(target, source.stat().st_size)
        shutil.copy2(source, part)
        part.rename(target)
