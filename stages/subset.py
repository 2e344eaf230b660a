"""Choose the training, validation and test images, and decode each once."""

from pathlib import Path

from convnets.base import cluster, console, cost, files, params
from convnets.examples.examples import IMAGES
from convnets.listing import listing
from convnets.listing.subset import SPLITS
from convnets.pictures import arrays
from convnets.tracking.run import recorded


def main() -> None:
    p = params.load()
    cluster.join()
    source = Path("dvc-outs/images.zip")
    with recorded("subset") as run:
        run.dataset(source, "source")
        found = listing.load(listing.LISTING)
        how = (p.subset, p.image_size, p.seed)
        summary = arrays.write(source, found, run.unfinished, IMAGES, *how)
        files.write_json(Path("metrics/subset.json"), summary)
        run.artifact(Path("metrics/subset.json"))
    for split in SPLITS:
        counts = ", ".join(
            f"{count:,} {console.printable(name)}" for name, count in summary[split].items()
        )
        console.say(f"{IMAGES}/{split}.npy: {counts}")
    for why, count in summary["rejected_reasons"].items():
        console.say(f"rejected {count:,}: {why}; see metrics/subset.json")
    if summary["duplicates"]:
        console.say(
            f"duplicates {summary['duplicates']:,}: {summary['duplicates_across_splits']:,} across "
            f"splits, {summary['duplicates_across_classes']:,} across classes; "
            f"{summary['duplicates_dropped']:,} images dropped"
        )
    for doubt in summary["doubts"]:
        console.say(console.printable(doubt))
    left = cost.seconds(p, {split: sum(summary[split].values()) for split in SPLITS})
    console.say(
        f"a whole run takes {cost.told(left)} from here, if the machine stays as busy as now"
    )


if __name__ == "__main__":
    console.run(main)
