"""Choose the training, validation and test images, and decode each once."""

from pathlib import Path

from convnets import console, files, params, subset, tracking


def main() -> None:
    p = params.load()
    counts = {split: getattr(p.subset, split) for split in subset.SPLITS}
    out = Path("data/images")
    with tracking.run("subset") as run:
        run.dataset(Path("data/images.zip"), "source")
        summary = subset.write(
            Path("data/images.zip"), out, counts, p.image_size, p.seed, p.subset.max_rejected
        )
        files.write_json(Path("metrics/subset.json"), summary)
        run.artifact(Path("metrics/subset.json"))
    for split in counts:
        console.say(
            f"{out}/{split}.npy: " + ", ".join(f"{n:,} {c}" for c, n in summary[split].items())
        )
    console.say(f"metrics/subset.json: {summary['rejected']} images rejected")


if __name__ == "__main__":
    console.run(main)
