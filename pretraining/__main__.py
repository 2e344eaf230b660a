"""Train the sample's backbone, and write its weights: `python -m pretraining`.

It takes about ten minutes on two cores, and gives the same bytes again on the same kind of
processor. The network is a VGG16 with a quarter of the channels. It learns to tell 47 kinds of
drawn things apart, first from small and easy pictures, then from larger and harder ones. None is a
cat or a dog. `convnets.backbones.backbone` puts the weights into a whole VGG16, in which the other
channels are zero.
"""

import argparse
import os
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from convnets.backbones.backbone import SAMPLE
from convnets.base import files
from convnets.base.console import progress, say
from convnets.examples.examples import Examples
from convnets.models import precision
from convnets.training import batches
from pretraining.kinds import KINDS, picture

SEED = 1337
NARROW = 4  # VGG16 has this many times as many channels
BATCH = 32
LEARNING_RATE = 0.0015


class Phase(NamedTuple):
    """Some epochs on some pictures of each kind."""

    each: int  # pictures
    size: int  # pixels
    hard: float  # see `drawing.scene`
    epochs: int


EASY, HARD = Phase(200, 60, 0.4, 6), Phase(320, 90, 1.0, 3)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pretraining", description=__doc__)
    parser.add_argument("--out", type=Path, default=SAMPLE, help="default: %(default)s")
    out = parser.parse_args().out
    keras.utils.set_random_seed(SEED)
    precision.use(precision.policy("auto"))
    model = network(len(KINDS))
    for number, phase in enumerate((EASY, HARD)):
        train(model, pictures(SEED + number, phase), phase.epochs)
    unseen = pictures(SEED - 1, HARD._replace(each=20))
    found = model.evaluate(stream(unseen, 1), verbose=0, return_dict=True)
    say(f"unseen pictures: {found['kinds5_accuracy']:.1%} right")
    with files.atomic(out) as part, part.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **folded(model))
    say(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def pictures(seed: int, phase: Phase) -> Examples:
    """Draw a phase's pictures of each kind, with all processors.

    Returns:
        (n, size, size, 3) uint8 pixels, and the numbers of the kinds.
    """
    size = phase.size
    tasks = [
        (kind, [seed, place, index], size, phase.hard)
        for index in range(phase.each)
        for place, kind in enumerate(KINDS)
    ]
    drawn = np.empty((len(tasks), size, size, 3), np.uint8)
    with get_context("spawn").Pool() as pool:
        made = pool.imap(picture, tasks, chunksize=64)
        for place, pixels in enumerate(progress(made, "draw", len(tasks))):
            drawn[place] = pixels
    return Examples(drawn, np.tile(np.arange(len(KINDS)), phase.each), Path("drawn"))


def network(kinds: int) -> keras.Model:
    """Return a narrow VGG16 for preprocessed pixels, which scores each kind after blocks 3 to 5.

    In so short a time, it learns nothing without normalisation and losses in its middle.
    """
    inputs = x = keras.Input((None, None, 3))
    scores = []
    for block, (count, channels) in enumerate(
        ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512)), start=1
    ):
        for conv in range(1, count + 1):
            name = f"block{block}_conv{conv}"
            x = layers.Conv2D(channels // NARROW, 3, padding="same", use_bias=False, name=name)(x)
            x = layers.BatchNormalization(momentum=0.98, name=f"{name}_norm")(x)
            x = layers.Activation("relu")(x)
        x = layers.MaxPooling2D(2)(x)
        if block >= 3:
            pooling = layers.GlobalAveragePooling2D if block == 5 else layers.GlobalMaxPooling2D
            pooled = layers.BatchNormalization(momentum=0.98)(pooling()(x))
            scores.append(layers.Dense(kinds, dtype="float32", name=f"kinds{block}")(pooled))
    return keras.Model(inputs, scores)


def stream(shown: Examples, epochs: int) -> tf.data.Dataset:
    """Return shuffled batches of preprocessed pixels, with the kind once for each score."""
    return batches.training(shown, BATCH, range(epochs), SEED).map(
        lambda pixels, kinds: (
            keras.applications.vgg16.preprocess_input(tf.cast(pixels, tf.float32)),
            (kinds,) * 3,
        )
    )


def train(model: keras.Model, shown: Examples, epochs: int) -> None:
    """Train for some epochs, while the learning rate rises and falls."""
    steps = batches.steps(shown, BATCH)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0,
        int(0.95 * steps * epochs),
        warmup_target=LEARNING_RATE,
        warmup_steps=steps * epochs // 20,
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.02),
        [keras.losses.SparseCategoricalCrossentropy(from_logits=True) for _ in range(3)],
        loss_weights=[0.4, 0.4, 1],
        metrics=[["accuracy"]] * 3,
    )
    model.fit(stream(shown, epochs), steps_per_epoch=steps, epochs=epochs, verbose=2)


def folded(model: keras.Model) -> dict[str, NDArray[np.float16]]:
    """Return the kernel and the bias of each convolution, with its normalisation folded in."""
    weights = {}
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            norm = model.get_layer(f"{layer.name}_norm")
            gamma, beta, mean, variance = norm.get_weights()
            factor = gamma / np.sqrt(variance + norm.epsilon)
            weights[f"{layer.name}/kernel"] = (layer.get_weights()[0] * factor).astype(np.float16)
            weights[f"{layer.name}/bias"] = (beta - mean * factor).astype(np.float16)
    return weights


if __name__ == "__main__":
    main()
