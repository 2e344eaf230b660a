"""How the cost of a table of labels grows with its rows.

python -m benchmarks.growth_tables
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

from benchmarks.growth import SIZES
from convnets.listing.listing import Layout
from convnets.sources import layout
from convnets.sources.layout import Files

CLASSES = ("cat", "dog", "owl")


def _paths(count: int) -> list[str]:
    """Pictures in folders of their own, many of one name, as in CheXpert and MURA."""
    return [f"data/images/s{n // 4}/{n % 4}.png" for n in range(count)]


def _csv(rows: list[tuple[str, str]], by: str = ",") -> str:
    return "".join(f"{by.join(row)}\n" for row in [("path", "kind"), *rows])


def _wide(rows: list[tuple[str, str]]) -> str:
    """A column for each class, and measurements that are all different."""
    header = ",".join(("path", "weight", *CLASSES))
    return header + "".join(
        f"\n{path},{n / 7:.4f},{','.join(str(int(label == each)) for each in CLASSES)}"
        for n, (path, label) in enumerate(rows)
    )


# What a table has in its rows, by how it is written.
FORMS: dict[str, Callable[[list[tuple[str, str]]], bytes]] = {
    "whole paths": lambda rows: _csv(rows).encode(),
    "without the outer folders": lambda rows: _csv(
        [(path.removeprefix("data/images/"), label) for path, label in rows]
    ).encode(),
    "absolute, from elsewhere": lambda rows: _csv(
        [(rf"C:\x\{path}".replace("/", "\\").upper(), label) for path, label in rows], ";"
    ).encode(),
    "without endings": lambda rows: _csv(
        [(path.removesuffix(".png"), label) for path, label in rows], "\t"
    ).encode(),
    "names of other files": lambda rows: _csv(
        [*rows, *((f"x{path}", label) for path, label in rows)]
    ).encode(),
    "one column a class": lambda rows: _wide(rows).encode(),
    "no header": lambda rows: "".join(f"{path} {label}\n" for path, label in rows).encode(),
    "JSON lines": lambda rows: "".join(
        json.dumps({"file": path, "kind": label}) + "\n" for path, label in rows
    ).encode(),
    "UTF-16": lambda rows: _csv(rows).encode("utf-16"),
    "cp1252": lambda rows: _csv([(path, label + "é") for path, label in rows]).encode("cp1252"),
}


def task(form: str, count: int) -> Callable[[], Layout]:
    """Return a function that recognises `count` pictures and their table of this form."""
    paths = _paths(count)
    content = FORMS[form]([(path, CLASSES[n % 3]) for n, path in enumerate(paths)])
    files = Files([*paths, "data/table.txt"], lambda _: content)
    return lambda: layout.recognise(files, "table")


def seconds(run: Callable[[], object]) -> float:
    """Return the processor time that a function takes."""
    start = time.process_time()
    run()
    return time.process_time() - start


def table(sizes: tuple[int, ...] = SIZES) -> Iterator[str]:
    """Yield a Markdown table of the seconds of each form at each size, and their ratios."""
    yield "| table | " + " | ".join(f"{size:,} rows" for size in sizes) + " | ratios |"
    yield "|---|" + "---:|" * (len(sizes) + 1)
    for form in FORMS:
        took = [seconds(task(form, size)) for size in sizes]
        ratios = ", ".join(f"{after / before:.1f}" for before, after in pairwise(took))
        yield f"| {form} | " + " | ".join([*(f"{each:.2f} s" for each in took), ratios]) + " |"


if __name__ == "__main__":
    for line in table():
        print(line, flush=True)
