"""Train a convnet from scratch: `python -m stages.train_convnet STAGE`.

It learns from the images (listings 8.7 to 8.17), or from the digits, with or without max pooling
(listings 8.1 to 8.5).
"""

import argparse
from functools import partial
from typing import NamedTuple

import keras

from convnets.augmentation.augment import augment
from convnets.base import console, params
from convnets.examples import digits, examples
from convnets.examples.examples import IMAGES, Examples
from convnets.models.layers import with_mirror
from convnets.models.saved import Kind, Record, arguments
from convnets.models.trained import Trained, publish
from convnets.networks import architectures
from convnets.tracking.run import recorded
from convnets.training.fit import Task, answered, fit


class Job(NamedTuple):
    """A training, and what its model is for."""

    task: Task
    test: Examples
    record: Record
    mirrored: bool = False


def of_images(given: argparse.Namespace, p: params.Params) -> Job:
    how = p.of(given.stage, params.ConvnetTraining)
    train, validation, test = (
        examples.load(IMAGES / f"{split}.npy", split) for split in ("train", "validation", "test")
    )
    record = Record.given(given, Kind.IMAGES, examples.class_names())
    changes = how.augmentation or (p.augmentation if given.augmented else None)

    def build() -> keras.Model:
        return architectures.build_convnet(p.image_size, len(record.classes), how)

    change = partial(augment, how=changes) if changes else None
    task = Task(build, train, validation, how, p.class_weight, change)
    return Job(task, test, record, how.mirrored)


def of_digits(given: argparse.Namespace, p: params.Params) -> Job:
    how = p.of(given.stage.partition("@")[0], params.MnistTraining)
    # MNIST has no validation split.
    known = digits.load(digits.FILE, "train")
    train, validation = digits.hold_out(known, how.validation_share, p.seed)

    def build() -> keras.Model:
        return architectures.mnist_convnet(given.pooling)

    record = Record.given(given, Kind.DIGITS, digits.CLASSES)
    task = Task(build, train, validation, how)
    return Job(task, digits.load(digits.FILE, "test"), record)


def main() -> None:
    parser = arguments()
    parser.add_argument("--augmented", action="store_true", help="augment each image in each epoch")
    parser.add_argument("--digits", action="store_true", help="train on digits")
    parser.add_argument(
        "--pooling", action="store_true", help="the digits' convnet has max pooling"
    )
    given, p = parser.parse_args(), params.load()
    job = of_digits(given, p) if given.digits else of_images(given, p)
    with recorded(given.stage) as run:
        model, history = fit(job.task, p, run)
        if job.mirrored:
            pixels = keras.Input(model.input_shape[1:], name="image")
            model = keras.Model(pixels, with_mirror(model, pixels))
        logits = answered(model, {"validation": [job.task.validation], "test": [job.test]})
        publish(model, Trained(job.record, history, logits), run)


if __name__ == "__main__":
    console.run(main)
