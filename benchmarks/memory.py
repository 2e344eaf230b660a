"""Peak memory of the stages: `python -m benchmarks.memory [PRESET]`.

Without a preset, it measures the streaming stages for 5,000 and 50,000 images, with one drawn
picture under many names, and a small backbone with random weights. With a preset of VGG16, it
measures every stage for one epoch, on as many drawn pictures as the preset takes. A thin backbone
stands in for VGG16. Its features have the same shapes, and cost hardly any time. The digits are
random.

The system can reclaim pages of memory-mapped files at any time. "anonymous" is the memory without
these pages.
"""

import argparse
import shlex
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import yaml
from dvc.repo import Repo

from benchmarks.measure import run
from convnets.base import files
from convnets.sources import sample
from convnets.tracking import presets

ROOT = Path(__file__).parents[1]
STREAMING = ("download", "subset", "download_weights", "extract_features")
ONCE = ("inputs", "download_weights")  # do not depend on the images


@contextmanager
def cloned(values: dict[str, Any]) -> Iterator[Path]:
    """A temporary clone of the last commit, with these params."""
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "convnets"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
        (clone / "params.yaml").write_text(yaml.safe_dump(values))
        yield clone


def measured(clone: Path, stages: dict[str, str]) -> Iterator[tuple[str, float, float, float]]:
    """Run stages; yield each one's name, peak GiB, the same without mapped files, and seconds."""
    for stage, command in stages.items():
        seen = run(shlex.split(command), clone)
        print(stage, seen.peak, seen.anonymous, seen.wall, flush=True)
        yield stage, seen.peak, seen.anonymous, seen.wall


def copies(thousands: int) -> dict[str, Any]:
    """Params for an archive of this many thousand images, which `pack` writes."""
    values: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["image_size"] = 80
    values["data"] = {"source": "archive", "path": "many.zip"}
    values["subset"] |= {"train": 200 * thousands, "validation": 100 * thousands}
    values["subset"]["test"] = 200 * thousands
    values["backbone"] = {
        "name": "MobileNetV2",
        "weights": "random",
        "preprocessing": "auto",
        "fine_tune_from": "Conv_1",
    }
    return values


def pack(clone: Path, thousands: int) -> None:
    """Write an archive of one drawn picture under many names."""
    picture = clone / "picture.jpg"
    sample.draw("cat", 0, 0).save(picture, quality=85)
    with zipfile.ZipFile(clone / "many.zip", "w") as packed:
        for number in range(thousands * 500):
            for label in sample.CLASSES:
                packed.write(picture, f"train/{label}.{number}.jpg")


def drawn(preset: Path) -> dict[str, Any]:
    """Params of a preset for one epoch on drawn pictures and what `stand_ins` writes."""
    values: dict[str, Any] = yaml.safe_load(presets.compose(str(preset)))
    values["epochs"] = 1
    values["data"] |= {"source": "sample", "path": None}
    values["backbone"] |= {"name": "thin.keras", "weights": None, "preprocessing": "none"}
    values["mnist"] = {"source": "file", "path": "digits.npz"}
    return values


def stand_ins(clone: Path, size: int) -> None:
    """Write a backbone with the features of VGG16's last block, and as many digits as MNIST has."""
    pixels = keras.Input((size, size, 3))
    x = keras.layers.AveragePooling2D(16)(pixels)
    for _ in range(4):
        x = keras.layers.Conv2D(512, 1, activation="relu")(x)
    keras.Model(pixels, keras.layers.MaxPooling2D()(x)).save(clone / "thin.keras")
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 60_000), ("test", 10_000)):
        arrays[f"x_{split}"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"y_{split}"] = rng.integers(0, 10, count, np.uint8)
    np.savez(clone / "digits.npz", allow_pickle=False, **arrays)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("preset", nargs="?", type=Path, help="such as presets/full.yaml")
    preset = parser.parse_args().preset
    with Repo(ROOT) as repo:
        stages = {stage.addressing: stage.cmd for stage in repo.index.stages}  # in their order
    rows: list[tuple[Any, ...]] = []
    if preset:
        values = drawn(preset)
        with cloned(values) as clone:
            stand_ins(clone, values["image_size"])
            rows += measured(clone, stages)
        columns, name = ["stage"], f"memory_{preset.stem}.csv"
    else:
        for thousands in (5, 50):
            with cloned(copies(thousands)) as clone:
                pack(clone, thousands)
                for stage, *seen in measured(clone, {name: stages[name] for name in STREAMING}):
                    if stage not in ONCE:
                        rows.append((stage, 1000 * thousands, *seen))
        columns, name = ["stage", "images"], "memory.csv"
    table = pd.DataFrame(rows, columns=[*columns, "peak_gib", "anonymous_gib", "seconds"])
    with files.atomic(ROOT / "benchmarks" / name) as part:
        table.to_csv(part, index=False, float_format="%.3g")
    print(table.to_markdown(index=False, floatfmt=".3g"))


if __name__ == "__main__":
    main()
