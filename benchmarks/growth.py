"""How the cost of what comes from outside grows with it: `python -m benchmarks.growth`.

For each form of an archive, the seconds and the calls of functions for 1,000, 10,000 and 100,000
pictures that are listed and read once, and what ten times the pictures cost. The same for layouts
and tables, if their benchmarks are there.
"""

import io
import runpy
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

from convnets.sources import archive

SIZES = (1_000, 10_000, 100_000)
PICTURE = b"\xff\xd8\xff"  # its start: nothing is decoded
OTHERS = ("benchmarks.growth_layouts", "benchmarks.growth_tables")


def names(count: int) -> Iterator[str]:
    """Yield names of pictures: ten classes, a hundred pictures in a folder."""
    for n in range(count):
        yield f"class{n % 10}/{n // 1000}/{n}.jpg"


def zipped(count: int, out: Any) -> None:
    """Write a zip."""
    with zipfile.ZipFile(out, "w") as packed:
        for name in names(count):
            packed.writestr(name, PICTURE)


def tarred(count: int, out: Any, mode: Any = "w", links: str = "") -> None:
    """Write a tar; with `links`, all but the first picture are links, each to the one before."""
    with tarfile.open(fileobj=out, mode=mode, format=tarfile.GNU_FORMAT) as packed:
        before = ""
        for name in names(count):
            member = tarfile.TarInfo(name)
            if links and before:
                member.type = tarfile.LNKTYPE if links == "hard" else tarfile.SYMTYPE
                member.linkname = before if links == "hard" else f"../../{before}"
                packed.addfile(member)
            else:
                member.size = len(PICTURE)
                packed.addfile(member, io.BytesIO(PICTURE))
            before = name if links == "hard" or not before else before


def nested(count: int, out: Any) -> None:
    """Write a zip of zips, each of a hundred pictures."""
    with zipfile.ZipFile(out, "w") as packed:
        for n in range(count // 100):
            inner = io.BytesIO()
            zipped(100, inner)
            packed.writestr(f"class{n % 10}/{n}.zip", inner.getvalue())


def folder(count: int, path: Path) -> None:
    """Write a folder."""
    for name in names(count):
        file = path / name
        if not file.parent.exists():
            file.parent.mkdir(parents=True)
        file.write_bytes(PICTURE)


FORMS: dict[str, Callable[[int, Any], None]] = {
    "zip": zipped,
    "tar": tarred,
    "tar.gz": lambda count, out: tarred(count, out, "w:gz"),
    "tar of hard links": lambda count, out: tarred(count, out, links="hard"),
    "tar of symbolic links": lambda count, out: tarred(count, out, links="symbolic"),
    "zip of zips": nested,
    "folder": folder,
}


def made(form: str, count: int, place: Path) -> Path:
    """Write an archive of so many pictures into a folder, or a folder; return its path."""
    path = place / f"{count}-{form.replace(' ', '-')}"
    if form == "folder":
        folder(count, path)
    else:
        with path.open("wb") as out:
            FORMS[form](count, out)
    return path


def read(path: Path) -> int:
    """List an archive and read each picture; return how many there are."""
    with archive.opened(path) as files:
        for name in files.names:
            files.read(name)
        return len(files.names)


def calls(run: Callable[[], object]) -> int:
    """Return how many functions, in Python and in C, are called."""
    total = 0

    def count(frame: Any, event: str, argument: Any) -> None:
        nonlocal total
        total += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        run()
    finally:
        sys.setprofile(None)
    return total


def main() -> None:
    """Print a Markdown table, then those of the other benchmarks."""
    columns = [f"{size:,} pictures | calls" for size in SIZES]
    print(f"| archive | {' | '.join(columns)} | ratios of the calls |")
    print("|---|" + "---:|" * (2 * len(SIZES) + 1))
    for form in FORMS:
        cells, counted = [], []
        with tempfile.TemporaryDirectory() as place:
            for size in SIZES:
                path = made(form, size, Path(place))
                began = time.perf_counter()
                read(path)
                seconds = time.perf_counter() - began
                counted.append(calls(partial(read, path)))
                cells += [f"{seconds:.2f} s", f"{counted[-1]:,}"]
        ratios = ", ".join(f"{more / fewer:.1f}" for fewer, more in pairwise(counted))
        print(f"| {form} | {' | '.join(cells)} | {ratios} |", flush=True)
    for other in OTHERS:
        if find_spec(other):
            runpy.run_module(other, run_name="__main__")


if __name__ == "__main__":
    main()
