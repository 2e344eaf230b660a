"""Run the frozen backbone once over all images; keep its features, and those at the cut."""

from pathlib import Path

from convnets import backbone, console, features, npy, params, precision, tracking


def main() -> None:
    p = params.load()
    out = Path("data/features")
    with tracking.run("extract_features") as run:
        precision.use(precision.policy(p.precision))
        base = backbone.build(p.backbone.name, p.image_size, Path("data/backbone.weights.h5"))
        parts = backbone.split(base, p.backbone.fine_tune_from)
        extract = features.extractor(p.backbone.name, *parts)
        whole = features.extractor(p.backbone.name, base)
        for split in ("train", "validation", "test"):
            images = Path(f"data/images/{split}.npy")
            run.dataset(images, split)
            outs = [run.unfinished / f"{split}_cut.npy", run.unfinished / f"{split}.npy"]
            if split == "train":  # nothing reads its cut: fine_tune learns from augmented views
                features.write(whole, npy.read(images), outs[1:], f"extract {split}")
            else:
                features.write(extract, npy.read(images), outs, f"extract {split}")
                mirrored = npy.read(images)[:, :, ::-1]
                out_mirrored = [run.unfinished / f"{split}_mirrored.npy"]
                features.write(whole, mirrored, out_mirrored, f"extract {split} mirrored")
        run.finish(out)
    console.say(f"{out}: {npy.read(out / 'train.npy').shape[1:]} for each image")


if __name__ == "__main__":
    console.run(main)
