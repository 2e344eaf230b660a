"""Files and folders that are there as a whole or not at all."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Give a place beside `path` to write to; it takes that name once all is written.

    After any failure the place is empty again, and what `path` was before is still there.

    Args:
        path: of the file or the folder to be; the folder that it is in is made.

    Yields:
        Where to write: nothing is there yet. The suffix is that of `path`.

    Raises:
        OSError: it cannot be written; `filename` is `path`.
    """
    part, old = (path.with_name(f".{kind}.{path.name}") for kind in ("part", "old"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(part)
        try:
            yield part
            if path.is_dir():  # unlike a file, it cannot simply be replaced
                _remove(old)
                path.replace(old)
            part.replace(path)
        finally:
            _remove(part)
        _remove(old)
    except OSError as error:
        named = [Path(str(name)) for name in (error.filename, error.filename2) if name is not None]
        if not named or any(name.is_relative_to(part) for name in named):
            error.filename = str(path)  # a full disk is told without the file
        raise


def write_json(path: Path, values: Any) -> None:
    """Write values as a JSON file for people to read, and for DVC to show as metrics."""
    with atomic(path) as part:
        part.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
