"""Run the frozen backbone once for all epochs: `python -m stages.extract STAGE`.

`extract_features` reads the plain images. `extract_views` reads augmented views of the training
images. Both keep the output at the cut, where `fine_tune` begins, and at the top.
"""

import argparse
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any

from convnets.backbones import backbone
from convnets.base import cluster, console, params
from convnets.base.cluster import Map
from convnets.examples import npy
from convnets.examples.examples import FEATURES, IMAGES, MIRRORED, VIEWS
from convnets.features import computed, features
from convnets.features.computed import Computed
from convnets.models import precision
from convnets.tracking.run import Run, recorded


def mapper(prepare: Callable[..., Any], *how: Any) -> Map[features.Features]:
    """Return what applies a function of `features`. It is prepared when the first item comes."""
    made = cache(lambda: cluster.mapper(partial(prepare, *how), whole=True, files=[backbone.FILE]))

    def apply(items: Iterable[tuple[Any, ...]]) -> Iterator[features.Features]:
        yield from made()(items)

    return apply


def images(p: params.Params, dtype_policy: str, run: Run) -> None:
    how = (dtype_policy, p.backbone.fine_tune_from)
    whole, top = mapper(features.prepare, *how), mapper(features.prepare, *how, 1)
    known = Computed(features.key(*how))
    for split in ("train", "validation", "test"):
        source = IMAGES / f"{split}.npy"
        run.dataset(source, split)
        pixels = npy.read(source)
        cut, plain, mirrored = (
            run.unfinished / f"{split}{kind}.npy" for kind in ("_cut", "", MIRRORED)
        )
        parts = [cut, plain]
        if split == "train" or p.backbone.fine_tune_from is None:
            parts = [plain]  # nothing reads the other: fine_tune learns from augmented views
        features.write(whole, pixels, parts, f"extract {split}", known)
        features.write(top, pixels[:, :, ::-1], [mirrored], f"extract {split} mirrored", known)
    computed.prune()
    run.finish(FEATURES)


def views(p: params.Params, dtype_policy: str, run: Run) -> None:
    source = IMAGES / "train.npy"
    run.dataset(source, "train")
    fine_tune_from, count = p.backbone.fine_tune_from, p.views.count
    how = (dtype_policy, fine_tune_from, count, p.augmentation, p.seed)
    outs = [run.unfinished / f"{part}.npy" for part in computed.PARTS]
    outs = outs[-1:] if fine_tune_from is None else outs
    features.write_views(mapper(features.prepare_views, *how), npy.read(source), outs, p.views)
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
