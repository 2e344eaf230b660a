"""Get the pipeline's inputs: the images, the backbone's weights, the digits.

`python -m stages.download STAGE` runs any of the download stages.
"""

import sys
from pathlib import Path

from convnets.base import console, files, params
from convnets.tracking.run import Run, recorded

# Each function imports its own room, so no stage depends on the code of the others.


def images(p: params.Params, run: Run) -> str:
    from convnets.data import archive, sources

    out = Path("data/images.zip")
    with files.atomic(out) as part:
        sources.write(p.data, p.subset, p.seed, part)
        with archive.open_images(part) as (_, found):
            summary = {
                "source": p.data.source,
                "images": len(found),
                "bytes": part.stat().st_size,
            }
    files.write_json(Path("metrics/download.json"), summary)
    run.artifact(Path("metrics/download.json"))
    return f"{out}: {summary['images']:,} images"


def weights(p: params.Params, run: Run) -> str:
    console.hush()  # until Keras is imported, as in the other stages
    from convnets.models import backbone

    console.unhush()
    backbone.write_weights(p.backbone, p.image_size, p.seed, backbone.WEIGHTS)
    return f"{backbone.WEIGHTS}: {p.backbone.name}, {p.backbone.weights}"


def mnist(p: params.Params, run: Run) -> str:
    from convnets.data import digits

    out = Path("data/mnist.npz")
    digits.write(p.mnist, p.seed, out)
    return f"{out}: {len(digits.load(out, 'test').labels):,} test images"


STAGES = {"download": images, "download_weights": weights, "download_mnist": mnist}


def main() -> None:
    p, stage = params.load(), sys.argv[1]
    with recorded(stage) as run:
        told = STAGES[stage](p, run)
    console.say(told)


if __name__ == "__main__":
    console.run(main)
