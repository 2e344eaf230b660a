"""Train a convnet from scratch: `python -m stages.train_convnet STAGE`.

It learns from the images (listings 8.7 to 8.17), or from the digits, with or without max pooling
(listings 8.1 to 8.5).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import keras

from convnets.base import console, params
from convnets.data import digits, examples
from convnets.data.examples import IMAGES, Examples
from convnets.models import architectures
from convnets.models.saved import Identity, Record, arguments
from convnets.tracking.run import recorded
from convnets.training.fit import fit, publish


class Task(NamedTuple):
    """The data, and the model that learns from them."""

    how: params.Training
    train: Examples
    validation: Examples
    classes: list[str]
    test: tuple[Path, Path]  # the test split's inputs and labels
    build: Callable[[], keras.Model]
    augmentation: params.Augmentation | None = None
    mirrored: bool = False
    class_weight: Literal["none", "balanced"] = "none"


def of_images(stage: str, p: params.Params, augmented: bool) -> Task:
    how = p.of(stage, params.ConvnetTraining)
    train, validation = (
        examples.load(IMAGES / f"{split}.npy", IMAGES / f"{split}.csv")
        for split in ("train", "validation")
    )
    classes = examples.class_names()
    test = (IMAGES / "test.npy", IMAGES / "test.csv")
    augmentation = how.augmentation or (p.augmentation if augmented else None)

    def build() -> keras.Model:
        return architectures.build_convnet(p.image_size, len(classes), how)

    return Task(
        how, train, validation, classes, test, build, augmentation, how.mirrored, p.class_weight
    )


def of_digits(stage: str, p: params.Params, pooling: bool) -> Task:
    how = p.of(stage.partition("@")[0], params.MnistTraining)
    source = Path("dvc-outs/mnist.npz")
    # MNIST has no validation split.
    train, validation = digits.hold_out(digits.load(source, "train"), how.validation_share, p.seed)

    def build() -> keras.Model:
        return architectures.mnist_convnet(pooling)

    return Task(how, train, validation, digits.CLASSES, (source, source), build)


def main() -> None:
    parser = arguments()
    parser.add_argument("--augmented", action="store_true", help="augment each image in each epoch")
    parser.add_argument("--digits", action="store_true", help="train on digits")
    parser.add_argument(
        "--pooling", action="store_true", help="the digits' convnet has max pooling"
    )
    given, p = parser.parse_args(), params.load()
    stage: str = given.stage
    if given.digits:
        task = of_digits(stage, p, given.pooling)
    else:
        task = of_images(stage, p, given.augmented)
    with recorded(stage) as run:
        fitted = fit(
            task.build,
            task.train,
            task.validation,
            task.how,
            run,
            seed=p.seed,
            numbers=p.precision,
            monitor=p.monitor,
            class_weight=task.class_weight,
            augmentation=task.augmentation,
        )
        inputs, labels = (path.as_posix() for path in task.test)
        record = Record(
            **Identity.given(given).model_dump(),
            classes=task.classes,
            part=None,
            inputs=[inputs],
            labels=labels,
            history=fitted.history,
            monitor=fitted.monitor,
        )
        model = fitted.model
        if task.mirrored:
            pixels = keras.Input(model.input_shape[1:], name="image")
            model = keras.Model(pixels, architectures.with_mirror(model, pixels))
        publish(model, record, run)


if __name__ == "__main__":
    console.run(main)
