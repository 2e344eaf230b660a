"""Peak memory of the streaming stages for 5,000 and 50,000 images: `python -m benchmarks.memory`.

It uses one drawn picture under many names, and a small backbone with random weights. The system can
reclaim pages of memory-mapped files at any time. "anonymous" is the memory without these pages.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pandas as pd
import yaml

from benchmarks.measure import run
from convnets.base import files
from convnets.data import sample

ROOT = Path(__file__).parents[1]
STAGES = {
    "download": "download download",
    "subset": "subset",
    "download_weights": "download download_weights",
    "extract_features": "extract extract_features",
}


def prepare(clone: Path, thousands: int) -> None:
    """Write an archive of this many thousand images, and params that use all of them."""
    picture = clone / "picture.jpg"
    sample.draw("cat", 0, 0).save(picture, quality=85)
    with zipfile.ZipFile(clone / "many.zip", "w") as packed:
        for number in range(thousands * 500):
            for label in sample.CLASSES:
                packed.write(picture, f"train/{label}.{number}.jpg")
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values["image_size"] = 80
    values["data"] = {"source": "archive", "path": "many.zip"}
    values["subset"] |= {"train": 200 * thousands, "validation": 100 * thousands}
    values["subset"]["test"] = 200 * thousands
    values["backbone"] = {"name": "MobileNetV2", "weights": "random", "fine_tune_from": "Conv_1"}
    (clone / "params.yaml").write_text(yaml.safe_dump(values))


def main() -> None:
    rows = []
    for thousands in (5, 50):
        with tempfile.TemporaryDirectory() as folder:
            clone = Path(folder) / "convnets"
            subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
            prepare(clone, thousands)
            for stage, command in STAGES.items():
                seen = run([sys.executable, "-m", *f"stages.{command}".split()], clone)
                rows.append((stage, 1000 * thousands, seen.peak, seen.anonymous, seen.wall))
                print(*rows[-1], flush=True)
    columns = ["stage", "images", "peak_gib", "anonymous_gib", "seconds"]
    table = pd.DataFrame(rows, columns=columns)
    table = table[table["stage"] != "download_weights"]  # does not depend on the images
    with files.atomic(ROOT / "benchmarks/memory.csv") as part:
        table.to_csv(part, index=False, float_format="%.3g")
    print(table.to_markdown(index=False, floatfmt=".3g"))


if __name__ == "__main__":
    main()
