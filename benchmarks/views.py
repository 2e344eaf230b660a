"""The loss in accuracy with a cache of K views, compared with new views in each epoch.

A cache with as many views as epochs uses each view once, so it *is* augmentation on the fly. The
smaller caches are its first K views. The book's head trains on each cache from the same seeds. Run
`dvc repro extract_features` first, then `python -m benchmarks.views`.
"""

import argparse
import tempfile
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from convnets.backbones import backbone
from convnets.base import cluster, files, params
from convnets.base.console import progress, say
from convnets.examples import examples, npy
from convnets.examples.examples import Examples
from convnets.features import features
from convnets.heads import architectures as heads
from convnets.models import precision
from convnets.training import batches

COUNTS = (1, 2, 4, 8, 16)
STAGE = "train_augmented_head"


def scores(
    p: params.Params, train: Examples, held: dict[str, Examples], seed: int
) -> dict[str, float]:
    """Train the book's head; return the scores of its best epoch by validation loss."""
    how = p.of(STAGE, params.HeadTraining)
    keras.utils.set_random_seed(seed)
    classes = len(examples.class_names())
    model = heads.build_head(train.inputs.shape[1:], classes, how)
    optimizer = keras.optimizers.RMSprop(how.learning_rate)
    model.compile(optimizer, "binary_crossentropy", metrics=["accuracy"])
    with tempfile.TemporaryDirectory() as folder:
        best = Path(folder) / "best.weights.h5"
        model.fit(
            batches.training(train, how.batch_size, range(how.epochs), seed),
            steps_per_epoch=batches.steps(train, how.batch_size),
            epochs=how.epochs,
            validation_data=batches.in_order(held["validation"], how.batch_size),
            callbacks=[
                keras.callbacks.ModelCheckpoint(
                    best, monitor="val_loss", save_best_only=True, save_weights_only=True
                )
            ],
            verbose=0,
        )
        model.load_weights(best)
    found: dict[str, float] = {}
    for split, kept in held.items():
        loss, accuracy = model.evaluate(batches.in_order(kept, 256), verbose=0)
        found |= {f"{split}_accuracy": accuracy, f"{split}_loss": loss}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cache", type=Path, help="a folder to keep views in, or to reuse them")
    parser.add_argument("--seeds", type=int, default=3)
    given = parser.parse_args()
    p = params.load()
    dtype_policy = precision.policy(p.precision)
    precision.use(dtype_policy)
    epochs = p.of(STAGE, params.HeadTraining).epochs
    held = {
        split: examples.load(Path(f"dvc-outs/features/{split}.npy"), split)
        for split in ("validation", "test")
    }
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        cache = (given.cache or Path(folder)) / "top.npy"
        how = (dtype_policy, None, epochs, p.augmentation, p.seed)
        features.write_views(
            cluster.mapper(partial(features.prepare_views, *how), True, [backbone.FILE]),
            npy.read("dvc-outs/images/train.npy"),
            [cache],
            params.Views(count=epochs, max_gigabytes=100),
        )
        train = examples.load(cache, "train", epochs)
        each = train.inputs.reshape(-1, epochs, *train.inputs.shape[1:])
        seeds = range(p.seed, p.seed + given.seeds)
        runs = [(count, seed) for count in (*COUNTS, epochs) for seed in seeds]
        for count, seed in progress(runs, "train heads", len(runs)):
            few = np.concatenate(each[:, :count])
            found = scores(p, train._replace(inputs=few, views=count), held, seed)
            rows.append({"views": count, "seed": seed} | found)
            say(f"K = {count}, seed {seed}: {found['validation_loss']:.3f}")
    with files.atomic(Path("benchmarks/views.csv")) as part:
        pd.DataFrame(rows).to_csv(part, index=False, float_format="%.5g")
    table = pd.DataFrame(rows).drop(columns="seed").groupby("views").agg(["mean", "std"])
    say(table.round(4).to_string())


if __name__ == "__main__":
    main()
