"""Run the frozen backbone once for all epochs: `python -m stages.extract STAGE`.

`extract_features` reads the plain images. `extract_views` reads augmented views of the training
images. Both keep the output at the cut, where `fine_tune` begins, and at the top.
"""

import argparse

import keras

from convnets.base import console, params
from convnets.data import npy
from convnets.data.examples import IMAGES
from convnets.models import backbone, precision
from convnets.tracking.run import Run, recorded
from convnets.training import features
from convnets.training.cached import FEATURES, MIRRORED, VIEWS


def images(p: params.Params, base: keras.Model, run: Run) -> None:
    at_cut = features.extractor(p.backbone.name, *backbone.split(base, p.backbone.fine_tune_from))
    whole = features.extractor(p.backbone.name, base)
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


def views(p: params.Params, base: keras.Model, run: Run) -> None:
    source = IMAGES / "train.npy"
    run.dataset(source, "train")
    at_cut = features.extractor(p.backbone.name, *backbone.split(base, p.backbone.fine_tune_from))
    outs = [run.unfinished / "cut.npy", run.unfinished / "top.npy"]
    features.write_views(at_cut, npy.read(source), outs, p.views, p.augmentation, p.seed)
    run.finish(VIEWS)


STAGES = {"extract_features": (images, FEATURES), "extract_views": (views, VIEWS)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("stage", choices=STAGES)
    stage, p = parser.parse_args().stage, params.load()
    extract, out = STAGES[stage]
    with recorded(stage) as run:
        precision.use(precision.policy(p.precision))
        base = backbone.build(p.backbone.name, p.image_size, backbone.WEIGHTS)
        extract(p, base, run)
    for file in sorted(out.glob("*.npy")):
        console.say(f"{file}: {npy.read(file).shape}, {file.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    console.run(main)
