"""How recognising a layout grows with the pictures: `python -m benchmarks.growth_layouts`.

For each layout, the calls of functions for 1,000, 10,000 and 100,000 names, and the seconds. Ten
times the names should cost ten times as much.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from benchmarks.growth import SIZES, calls
from convnets.base.console import InputError
from convnets.sources import layout

# A name for each number. Some layouts are refused, after as much work.
LAYOUTS: dict[str, Callable[[int], str]] = {
    "classes": lambda n: f"class{n % 10}/{n}.jpg",
    "many classes": lambda n: f"class{n // 5}/{n}.jpg",
    "splits": lambda n: f"{('train', 'test')[n % 2]}/class{n // 2 % 10}/{n}.jpg",
    "splits below classes": lambda n: f"class{n // 2 % 10}/{('train', 'test')[n % 2]}/{n}.jpg",
    "numbered": lambda n: f"{('cat', 'dog')[n % 2]}.{n}.jpg",
    "one folder each": lambda n: f"class{n % 10}/{n}/1.jpg",
    "the same folders below": lambda n: f"fold{n % 5}/class{n // 5 % 10}/{n}.jpg",
    "masks": lambda n: f"class{n // 2 % 10}/{n // 2}{('', '_mask')[n % 2]}.png",
    "a word each": lambda n: f"class{n % 10}/x{n}_{''.join(chr(97 + int(d)) for d in str(n))}.jpg",
    "deep": lambda n: f"class{n % 10}/" + "/".join(str(n % 7) * 30) + f"/{n}.jpg",
    "flat": lambda n: f"{n}.jpg",
}


def recognise(name: str, count: int, **told: Any) -> None:
    """Recognise a layout of so many pictures, or refuse it."""
    names = [LAYOUTS[name](n) for n in range(count)]
    with suppress(InputError):
        layout.recognise(layout.Files(names, lambda _: b""), **told)


def main() -> None:
    print("layout                        1,000      10,000     100,000  seconds")
    for name in LAYOUTS:
        counts = [calls(partial(recognise, name, count)) for count in SIZES]
        start = time.perf_counter()
        recognise(name, 100_000)
        taken = time.perf_counter() - start
        print(f"{name:24}" + "".join(f"{count:12,}" for count in counts) + f"{taken:9.1f}")


if __name__ == "__main__":
    main()
