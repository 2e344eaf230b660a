"""Look at all pictures through their cached features: labels, what is unlike, what would help."""

import json
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from convnets.audit import pictures
from convnets.base import console, files, params
from convnets.examples import npy
from convnets.examples.examples import FEATURES, IMAGES
from convnets.pages import audit as pages
from convnets.pages import page
from convnets.tracking.run import recorded

OUT, PAGE, SUMMARY = Path("dvc-outs/audit"), Path("metrics/audit.html"), Path("metrics/audit.json")


def main() -> None:
    p = params.load()
    with recorded("audit") as run:
        run.dataset(FEATURES, "features")
        table, features = pictures.load()
        subset = json.loads(Path("metrics/subset.json").read_text(encoding="utf-8"))
        copies = pictures.pairs(table, subset["duplicate_files"])
        pixels = {split: npy.read(IMAGES / f"{split}.npy") for split in pictures.SPLITS}
        # With more threads, these many small products take longer, and their last bits may vary.
        with threadpool_limits(1):
            found = pictures.examine(table, features, pixels, copies, p.seed)
        with files.atomic(OUT) as part:
            part.mkdir()
            found.table.to_csv(part / "pictures.csv", index=False)
            found.near.to_csv(part / "neighbours.csv", index=False)
            found.curve.to_csv(part / "curve.csv", index=False, float_format="%.5f")
            np.save(part / "probabilities.npy", found.answers.probabilities, allow_pickle=False)
        summary = pictures.summary(found)
        files.write_json(SUMMARY, summary)
        page.write(pages.html(found, summary, pixels), PAGE)
        run.artifact(PAGE)
        run.metrics({key: float(summary[key]) for key in ("accuracy", "doubtful", "unlike")})
    for told in (*summary["advice"], summary["trusted"]):
        console.say(told)
    console.say(f"see {PAGE}")


if __name__ == "__main__":
    console.run(main)
