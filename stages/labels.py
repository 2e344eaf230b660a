"""Write each image's label, and the page of the images."""

import json
from pathlib import Path

from convnets.base import console
from convnets.examples import npy
from convnets.examples.examples import IMAGES, LABELS, fingerprint
from convnets.listing import labels, listing
from convnets.pages import overview, page
from convnets.tracking.run import recorded

PAGE, REPORT = Path("metrics/data.html"), Path("metrics/report.html")


def main() -> None:
    with recorded("labels") as run:
        run.dataset(IMAGES, "images")
        run.dataset(labels.CORRECTIONS, "corrections")
        labelled = labels.write(IMAGES, LABELS, labels.corrections())
        run.metrics({name: float(count) for name, count in labelled.counts.items()})
        summary = json.loads(Path("metrics/subset.json").read_text(encoding="utf-8"))
        pixels, duplicates = (npy.read(IMAGES / f"{name}.npy") for name in ("train", "duplicates"))
        found = listing.load(listing.LISTING)
        page.write(overview.html(found, summary, labelled, pixels, duplicates), PAGE)
        run.artifact(PAGE)
    if REPORT.exists() and fingerprint() not in REPORT.read_text(encoding="utf-8"):
        REPORT.unlink()
        console.say(f"{REPORT}: was of other images; `evaluate` makes a new one")
    for told in labelled.told:
        console.say(told)
    parts = [f"{sum(map(len, labelled.tables.values())):,} labels"]
    parts += [f"{count:,} {what}" for what, count in labelled.counts.items() if count]
    console.say(f"{LABELS}: {', '.join(parts)}; see {PAGE}")


if __name__ == "__main__":
    console.run(main)
