"""Run the frozen backbone once for all epochs: `python -m stages.extract STAGE`.

`extract_features` reads the plain images. `extract_views` reads augmented views of the training
images. Both keep the output at the cut, where `fine_tune` begins, and at the top.
"""

import argparse
from functools import partial

from convnets.backbones import backbone
from convnets.base import cluster, console, params
from convnets.examples import npy
from convnets.examples.examples import FEATURES, IMAGES, MIRRORED, VIEWS
from convnets.features import features
from convnets.models import precision
from convnets.tracking.run import Run, recorded

mapper = partial(cluster.mapper, whole=True, files=[backbone.FILE])


def images(p: params.Params, dtype_policy: str, run: Run) -> None:
    at_cut = mapper(partial(features.prepare, dtype_policy, p.backbone.fine_tune_from))
    whole = mapper(partial(features.prepare, dtype_policy))
    for split in ("train", "validation", "test"):
        source = IMAGES / f"{split}.npy"
        run.dataset(source, split)
        pixels = npy.read(source)
        cut, top, mirrored = (
            run.unfinished / f"{split}{kind}.npy" for kind in ("_cut", "", MIRRORED)
        )
        if split == "train":  # nothing reads its cut: fine_tune learns from augmented views
            features.write(whole, pixels, [top], f"extract {split}")
        else:
            features.write(at_cut, pixels, [cut, top], f"extract {split}")
            features.write(whole, pixels[:, :, ::-1], [mirrored], f"extract {split} mirrored")
    run.finish(FEATURES)


def views(p: params.Params, dtype_policy: str, run: Run) -> None:
    source = IMAGES / "train.npy"
    run.dataset(source, "train")
    fine_tune_from, count = p.backbone.fine_tune_from, p.views.count
    how = (dtype_policy, fine_tune_from, count, p.augmentation, p.seed)
    outs = [run.unfinished / "cut.npy", run.unfinished / "top.npy"]
    extract = mapper(partial(features.prepare_views, *how))
    features.write_views(extract, npy.read(source), outs, p.views)
    run.finish(VIEWS)


STAGES = {"extract_features": (images, FEATURES), "extract_views": (views, VIEWS)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=STAGES)
    stage, p = parser.parse_args().stage, params.load()
    extract, out = STAGES[stage]
    cluster.join()
    with recorded(stage) as run:
        dtype_policy = precision.policy(p.precision)
        console.say(f"{stage}: computes on {precision.told(dtype_policy)}")
        extract(p, dtype_policy, run)
    for file in sorted(out.glob("*.npy")):
        console.say(f"{file}: {npy.read(file).shape}, {file.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    console.run(main)
