"""Choose the training, validation and test images, and decode each once."""

from pathlib import Path

from convnets.base import console, files, params
from convnets.data import subset
from convnets.data.examples import IMAGES
from convnets.tracking.run import recorded


def main() -> None:
    p = params.load()
    source = Path("data/images.zip")
    with recorded("subset") as run:
        run.dataset(source, "source")
        summary = subset.write(source, IMAGES, p.subset, p.image_size, p.seed)
        files.write_json(Path("metrics/subset.json"), summary)
        run.artifact(Path("metrics/subset.json"))
    for split in subset.SPLITS:
        counts = ", ".join(f"{count:,} {name}" for name, count in summary[split].items())
        console.say(f"{IMAGES}/{split}.npy: {counts}")
    console.say(f"metrics/subset.json: {summary['rejected']} images rejected")


if __name__ == "__main__":
    console.run(main)
