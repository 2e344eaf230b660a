"""Atomic writes: a file or folder appears complete or not at all."""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convnets.base.console import InputError

JOURNAL = Path(".unfinished/written")  # a line for each file that the pipeline wrote
RESERVE = 10**9  # bytes of a disk that stay free; of a small disk, a twentieth


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Write a file or folder atomically: yield a temporary path, then rename it to `path`.

    After a failure the temporary path is removed, and `path` is unchanged.

    Args:
        path: the file or folder to write. Its parent folder is created.

    Yields:
        The temporary path, beside `path` and with the same suffix. Nothing exists there yet.

    Raises:
        OSError: the write failed; `filename` is `path`.
    """
    part, old = (path.with_name(f".{kind}.{path.name}") for kind in ("part", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        try:
            yield part
            if path.is_dir():  # a folder, unlike a file, cannot be overwritten
                _remove(old)
                path.replace(old)
            _note(part, path)
            part.replace(path)
        finally:
            _remove(part)
        _remove(old)
    except OSError as error:
        named = [Path(str(name)) for name in (error.filename, error.filename2) if name is not None]
        if not named or any(name.is_relative_to(part) for name in named):
            error.filename = str(path)  # a full-disk error names no file
        raise


def root() -> Path:
    """Return the main checkout, also from a folder in it, or from DVC's temporary directories."""
    here = Path(os.environ.get("DVC_ROOT", ".")).resolve()
    return next((place for place in (here, *here.parents) if (place / "dvc.yaml").exists()), here)


def given(path: str) -> Path:
    """Return a path that a person gave: `~` is the home, and a relative one starts at `root`."""
    return root() / Path(path).expanduser()


def room(path: Path, needed: int) -> None:
    """Refuse to write what a disk has no room for. Some of it stays free for everything else.

    Args:
        path: where it is to be written. Neither it nor its folder need exist.
        needed: bytes.

    Raises:
        InputError: it does not fit.
    """
    above = (each for each in path.absolute().parents if not each.name.startswith(".part."))
    place = next(each for each in above if each.is_dir())
    disk = shutil.disk_usage(place)
    free = max(0, disk.free - min(RESERVE, disk.total // 20))
    if needed > free:
        raise InputError(
            f"{place}: {needed / 1e6:,.1f} MB are needed, but {free / 1e6:,.1f} MB can be used "
            f"({disk.free / 1e6:,.1f} MB are free, some must stay so); free some space"
        )


def copy(source: Path, target: Path) -> None:
    """Copy a file's content.

    Raises:
        InputError: the disk has no room for it.
    """
    room(target, source.stat().st_size)
    shutil.copyfile(source, target)


def move(source: Path, target: Path) -> None:
    """Move a file, also to another disk: it appears complete or not at all."""
    try:
        _note(source, target)
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with atomic(target) as part:
            copy(source, part)
        source.unlink()


def link(source: Path, target: Path) -> None:
    """Give a file a second name, or copy it where that cannot be."""
    try:
        target.hardlink_to(source)
    except OSError:  # another disk, or one without links
        copy(source, target)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_json(path: Path, values: Any) -> None:
    """Write values as readable JSON, which DVC can show as metrics."""
    with atomic(path) as part:
        part.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def journal() -> frozenset[str]:
    """Return the stamps of the files that the pipeline wrote here."""
    try:
        text = JOURNAL.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return frozenset()
    return frozenset(text.split("\n"))


def stamp(file: Path, name: Path | None = None) -> str:
    """Return a file's line in the journal: its size, its time of change and its name.

    Args:
        file: in the project.
        name: the name that it gets. The size and the time stay.
    """
    seen = file.lstat()
    place = (name or file).absolute().relative_to(Path.cwd())
    return f"{seen.st_size} {seen.st_mtime_ns} {place}"


def remember(paths: Iterable[Path]) -> None:
    """Keep in the journal that files of this project are the pipeline's, and forget all others."""
    text = "".join(f"{line}\n" for line in sorted({stamp(path) for path in paths}))
    with atomic(JOURNAL) as part:
        part.write_text(text, encoding="utf-8", errors="surrogateescape")


def _note(source: Path, target: Path) -> None:
    """Write into the journal, before it happens, that a file or folder of the project gets a name.

    So what a killed stage wrote is known to be the pipeline's.
    """
    inside = target.absolute().is_relative_to(Path.cwd())
    if target == JOURNAL or not inside or not Path(".dvc").is_dir():
        return
    found = [path for path in source.rglob("*") if path.is_file()] if source.is_dir() else [source]
    lines = [f"{stamp(path, target / path.relative_to(source))}\n" for path in found]
    JOURNAL.parent.mkdir(exist_ok=True)
    with JOURNAL.open("a", encoding="utf-8", errors="surrogateescape") as file:
        file.write("".join(lines))


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
