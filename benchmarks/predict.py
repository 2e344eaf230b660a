"""Decoding beside computing: `python -m benchmarks.predict`, after `dvc repro`.

For small and for 12-megapixel pictures, in paired rounds: the pictures a second of decoding alone,
of computing alone, and of both together, as `predict` does them. The ratio is that of both to the
slower of the two alone.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
from PIL import Image

from convnets.pictures import images
from convnets.serving import predict, runtime
from convnets.sources import sample

ROUNDS = 5
KINDS = {"small": ((320, 240), 256), "12 megapixels": ((4000, 3000), 96)}  # the size, how many


def written(folder: Path, size: tuple[int, int], count: int) -> Iterator[str]:
    """Write JPEGs of photographic detail, a few with many names, and yield the names."""
    for number in range(count):
        path, first = folder / f"{number}.jpg", folder / f"{number % 4}.jpg"
        if path == first:
            drawn = sample.draw("cat", number, 0).resize(size, Image.Resampling.BICUBIC)
            noise = np.random.default_rng(number).integers(-12, 13, (*size[::-1], 1), np.int16)
            Image.fromarray((np.asarray(drawn) + noise).clip(0, 255).astype(np.uint8)).save(path)
        else:
            path.hardlink_to(first)
        yield str(path)


def seconds(work: Callable[[], object]) -> float:
    """Return how long some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    model = runtime.load(str(runtime.CHAMPION))
    blank = np.zeros((predict.BATCH, model.size, model.size, 3), np.uint8)
    model(blank)
    rows = []
    for kind, (size, count) in KINDS.items():
        with TemporaryDirectory() as folder:
            names = list(written(Path(folder), size, count))

            def refuse(name: str, reason: str) -> None:
                raise ValueError(f"{name}: {reason}")

            def decode(names: list[str] = names) -> None:
                for name in names:
                    images.decode(Path(name).read_bytes(), model.size)

            def compute(count: int = count) -> None:
                for _ in range(count // predict.BATCH):
                    model(blank)

            def both(names: list[str] = names) -> None:
                for _ in predict.predict(model, names, refuse):
                    pass

            took = [[seconds(work) for work in (decode, compute, both)] for _ in range(ROUNDS)]
        one, two, together = (count / median(column) for column in zip(*took, strict=True))
        ratio = median(max(first, second) / last for first, second, last in took)
        rows.append([kind, one, two, together, ratio])
    table = pd.DataFrame(rows, columns=["pictures", "decoded", "computed", "both", "ratio"])
    print(table.round(2).to_string(index=False))


if __name__ == "__main__":
    main()
