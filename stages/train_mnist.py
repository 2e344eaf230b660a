"""Train the first convnet on digits, with or without max pooling (listings 8.1 to 8.5)."""

import sys
from pathlib import Path

from convnets import console, mnist, models, params, tracking, training


def main() -> None:
    p = params.load()
    pooling = sys.argv[1]
    train, validation = mnist.hold_out(
        mnist.load(Path("data/mnist.npz"), "train"), p.train_mnist.validation_share, p.seed
    )
    with tracking.run("train_mnist", pooling) as run:
        model = training.fit(
            lambda: models.mnist_convnet(pooling == "max_pooling"),
            train,
            validation,
            training.settings(p.train_mnist, p.epochs, p.seed, p.precision),
            run,
            Path(f"metrics/train_mnist_{pooling}.json"),
        )
        out = Path(f"models/train_mnist_{pooling}.keras")
        training.publish(model, out, [str(digit) for digit in range(10)], run, train.inputs[:2])


if __name__ == "__main__":
    console.run(main)
