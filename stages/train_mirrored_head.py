"""Past the book: a normalised head on the views, that sees each image and its mirror image."""

from pathlib import Path

import numpy as np

from convnets import backbone, batches, console, features, models, npy, params, tracking, training


def main() -> None:
    p = params.load()
    train = batches.load(Path("data/views/top.npy"), "train", p.views.count)
    plain, mirrored = (
        batches.load(Path(f"data/features/validation{kind}.npy"), "validation")
        for kind in ("", "_mirrored")
    )
    # Each alone: the mean of both, which the model returns, has at most their mean loss (Jensen).
    validation = plain._replace(
        inputs=np.concatenate([plain.inputs, mirrored.inputs]),
        labels=np.concatenate([plain.labels, mirrored.labels]),
    )
    classes, how = batches.class_names(), p.train_mirrored_head
    with tracking.run("train_mirrored_head") as run:
        head = training.fit(
            lambda: models.normalised_head(
                train.inputs.shape[1:], len(classes), how.units, how.dropout
            ),
            train,
            validation,
            training.settings(how, p.epochs, p.seed, p.precision, cosine=True),
            run,
            Path("metrics/train_mirrored_head.json"),
        )
        base = backbone.build(p.backbone.name, p.image_size, Path("data/backbone.weights.h5"))
        name = "train_mirrored_head"
        model = features.end_to_end(p.backbone.name, p.image_size, base, head, name, mirrored=True)
        images, cached = npy.read("data/images/validation.npy")[:16], plain.inputs[:16]
        differ = features.disagreement(model, images, head, cached, mirrored.inputs[:16])
        run.metrics({"cache_disagreement": differ})
        training.publish(model, Path(f"models/{name}.keras"), classes, run, images[:2])


if __name__ == "__main__":
    console.run(main)
