"""Get the pipeline's inputs: the images, the backbone's weights, the digits.

`python -m stages.download STAGE` runs any of the download stages.
"""

import argparse
from pathlib import Path

from convnets.base import console, files, params
from convnets.tracking.run import Run, recorded

# Each function imports its own room, so no stage depends on the code of the others.


def images(p: params.Params, run: Run) -> str:
    from convnets.listing import listing
    from convnets.sources import sources

    out = Path("dvc-outs/images.zip")
    with files.atomic(out) as part:
        found = sources.write(p.data, p.subset, p.seed, part)
        reasons = listing.by_reason(found.skipped)
        summary = {
            "source": p.data.source,
            "layout": found.name,
            "images": len(found.images),
            "skipped": {why: skipped["files"] for why, skipped in reasons.items()},
            "bytes": part.stat().st_size,
        }
    listing.save(found, listing.LISTING)
    for why, skipped in reasons.items():
        example = console.printable(skipped["examples"][0])
        console.say(f"skipped {skipped['files']:,}: {why}, such as {example}")
    files.write_json(Path("metrics/download.json"), summary)
    run.artifact(Path("metrics/download.json"))
    return f"{out}: {len(found.images):,} images"


def weights(p: params.Params, run: Run) -> str:
    from convnets.backbones import lite

    out = Path("dvc-outs/backbone.keras")
    if p.backbone.name == lite.NAME:
        lite.write(p.backbone, p.image_size, out)
    else:
        console.hush()  # until Keras is imported, as in the other stages
        from convnets.backbones import backbone

        console.unhush()
        backbone.write(p.backbone, p.image_size, p.seed, out)
    told = f"{p.backbone.name}, {p.backbone.weights}" if p.backbone.weights else p.backbone.name
    return f"{out}: {told}"


def mnist(p: params.Params, run: Run) -> str:
    from convnets.examples import digits

    digits.write(p.mnist, p.seed, digits.FILE)
    return f"{digits.FILE}: {len(digits.load(digits.FILE, 'test').labels):,} test images"


STAGES = {"download": images, "download_weights": weights, "download_mnist": mnist}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=STAGES)
    stage, p = parser.parse_args().stage, params.load()
    with recorded(stage) as run:
        told = STAGES[stage](p, run)
    console.say(told)


if __name__ == "__main__":
    console.run(main)
