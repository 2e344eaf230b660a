"""Push augmented views of the training images through the frozen backbone, once for all epochs."""

from pathlib import Path

from convnets import backbone, console, features, npy, params, precision, tracking


def main() -> None:
    p = params.load()
    out = Path("data/views")
    with tracking.run("extract_views") as run:
        run.dataset(Path("data/images/train.npy"), "train")
        precision.use(precision.policy(p.precision))
        base = backbone.build(p.backbone.name, p.image_size, Path("data/backbone.weights.h5"))
        parts = backbone.split(base, p.backbone.fine_tune_from)
        features.write_views(
            features.extractor(p.backbone.name, *parts),
            npy.read("data/images/train.npy"),
            [run.unfinished / "cut.npy", run.unfinished / "top.npy"],
            p.views.count,
            p.seed,
            p.augmentation.rotation,
            p.augmentation.zoom,
            p.views.max_gigabytes,
        )
        run.finish(out)
    for file in sorted(out.iterdir()):
        console.say(f"{file}: {file.stat().st_size / 1e9:.2f} GB")


if __name__ == "__main__":
    console.run(main)
