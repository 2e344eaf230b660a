"""The one loop that trains every model: the book's `fit`, best checkpoint by validation loss."""

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import pandas as pd
from keras.callbacks import Callback, LambdaCallback
from matplotlib import pyplot as plt
from rich.console import Console

from convnets import batches, files, models, precision
from convnets.batches import Augment, Examples
from convnets.console import InputError, bar, say
from convnets.params import Training
from convnets.tracking import Run

plt.switch_backend("Agg")  # curves go into files, also where there is no screen


class Settings(NamedTuple):
    """How a model is trained."""

    epochs: int
    batch_size: int
    optimizer: str
    learning_rate: float
    seed: int
    policy: str  # Keras's dtype policy of the layers while they train
    cosine: bool  # let the learning rate fall to 0 in a half cosine (Loshchilov & Hutter, 2017)


def settings(
    stage: Training, epochs: int | None, seed: int, numbers: str, cosine: bool = False
) -> Settings:
    """Put a stage's settings together.

    Args:
        stage: the stage's own section of the params.
        epochs: overrides the stage's own number, if given.
        seed: of the weights, the order, dropout and augmentation.
        numbers: the `precision` param.
        cosine: let the learning rate fall to 0 over the epochs.
    """
    return Settings(
        epochs or stage.epochs,
        stage.batch_size,
        stage.optimizer,
        stage.learning_rate,
        seed,
        precision.policy(numbers),
        cosine,
    )


class _Epochs(Callback):  # type: ignore[misc]  # Keras has no types
    """After each epoch: its row, the best weights so far, all of it saved, MLflow's step, a line.

    What is saved suffices to go on as if there had been no interruption: the model's variables,
    which count the state of dropout among them, the optimizer's, and what this class keeps. The
    order of the images and their augmentation depend on the epoch alone.
    """

    def __init__(self, run: Run, epochs: int) -> None:
        super().__init__()
        self.run, self.epochs = run, epochs
        self.state = run.unfinished / "state.npz"
        self.rows: list[dict[str, float]] = []
        self.best: list[Any] = []

    def resume(self, model: keras.Model) -> int:
        """Take up what an interrupted process saved, if it did; return the epochs done."""
        if self.state.exists():
            variables = [*model.variables, *model.optimizer.variables]
            with np.load(self.state, allow_pickle=False) as saved:
                for place, variable in enumerate(variables):
                    variable.assign(saved[f"now_{place}"])
                self.best = [saved[f"best_{place}"] for place in range(len(model.weights))]
                self.rows = json.loads(str(saved["rows"]))
            self.run.epochs(self.rows)
            say(f"{self.run.stage}: going on after epoch {len(self.rows)}")
        return len(self.rows)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        row = {name: float(value) for name, value in (logs or {}).items()}
        if not all(map(math.isfinite, row.values())):
            raise InputError(
                f"{self.run.stage}: the loss is not a number in epoch {epoch + 1}; lower the "
                "learning rate"
            )
        if row["val_loss"] < min((past["val_loss"] for past in self.rows), default=float("inf")):
            self.best = self.model.get_weights()
        self.rows.append(row)
        self._save()
        self.run.epochs(self.rows)
        values = "  ".join(f"{name} {value:.4f}" for name, value in row.items())
        say(f"epoch {epoch + 1}/{self.epochs}  {values}")

    def _save(self) -> None:
        variables = [*self.model.variables, *self.model.optimizer.variables]
        arrays = {f"now_{place}": variable.numpy() for place, variable in enumerate(variables)}
        arrays |= {f"best_{place}": weights for place, weights in enumerate(self.best)}
        with files.whole(self.state) as part:
            np.savez(part, allow_pickle=False, rows=np.array(json.dumps(self.rows)), **arrays)


def fit(
    build: Callable[[], keras.Model],
    train: Examples,
    validation: Examples,
    how: Settings,
    run: Run,
    metrics: Path,
    augmentation: Augment | None = None,
) -> keras.Model:
    """Train a model and return it with the weights of its best epoch by validation loss.

    An interrupted training goes on after its last whole epoch, to the same bytes.

    Writes `metrics` with the best epoch's numbers and, beside it, a `.csv` with a row an epoch.

    Args:
        build: makes the model; called twice, since the one that trains may compute in bfloat16
            and the one returned is float32 throughout.
        train: what to learn from.
        validation: what chooses the epoch.
        how: see `Settings`.
        run: gets a metric step an epoch and the curves.
        metrics: a `.json` file.
        augmentation: of the training inputs, if they are images.

    Raises:
        InputError: the loss became NaN or infinite.
    """
    run.dataset(train.source, "train")
    run.dataset(validation.source, "validation")
    keras.utils.set_random_seed(how.seed)
    precision.use(how.policy)
    model = build()
    precision.use("float32")
    binary = model.output_shape[-1] == 1
    steps = batches.steps(train, how.batch_size)
    rate: Any = how.learning_rate
    if how.cosine:
        rate = keras.optimizers.schedules.CosineDecay(rate, how.epochs * steps)
    model.compile(
        optimizer=keras.optimizers.get(
            {"class_name": how.optimizer, "config": {"learning_rate": rate}}
        ),
        loss="binary_crossentropy" if binary else "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.optimizer.build(model.trainable_variables)
    epochs = _Epochs(run, how.epochs)
    done = epochs.resume(model)
    callbacks: list[Callback] = [epochs]
    with ExitStack() as stack:
        terminal = Console()
        if terminal.is_terminal:
            shown = bar(run.stage, how.epochs * steps, done * steps, terminal)
            advance = stack.enter_context(shown)
            callbacks.append(LambdaCallback(on_train_batch_end=lambda batch, logs: advance()))
        model.fit(
            batches.training(
                train, how.batch_size, range(done, how.epochs), how.seed, augmentation
            ),
            steps_per_epoch=steps,
            initial_epoch=done,
            epochs=how.epochs,
            shuffle=False,  # the stream is shuffled
            validation_data=batches.in_order(validation, how.batch_size),
            callbacks=callbacks,
            verbose=0,
        )
    finished = build()
    finished.set_weights(epochs.best)
    _record(epochs.rows, run, metrics)
    return finished


def publish(model: keras.Model, path: Path, classes: list[str], run: Run, example: Any) -> None:
    """Save a model as its stage's out, and log it to MLflow.

    Args:
        model: takes pixels.
        path: a `.keras` file.
        classes: their names, in the order of the labels; they are kept with the model.
        run: gets the model with its signature.
        example: (n, h, w, c) pixels, uint8, a few.
    """
    models.save(model, path, classes)
    run.model(model, example, classes)
    say(f"{path}: {model.count_params():,} parameters")


def _record(rows: list[dict[str, float]], run: Run, metrics: Path) -> None:
    history = pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="epoch"))
    best = int(history["val_loss"].to_numpy().argmin()) + 1
    summary = {"epochs": len(rows), "best_epoch": best} | rows[best - 1]
    with files.whole(metrics.with_suffix(".csv")) as part:
        history.to_csv(part)
    files.write_json(metrics, summary)
    run.metrics({f"best_{name}": value for name, value in rows[best - 1].items()})
    values = f"val_accuracy {summary['val_accuracy']:.4f}  val_loss {summary['val_loss']:.4f}"
    say(f"{metrics}: the best epoch is {best} of {len(rows)}  {values}")
    for name in ("loss", "accuracy"):
        figure, axes = plt.subplots(layout="constrained")
        history[[name, f"val_{name}"]].plot(ax=axes, title=f"{run.stage}: {name}", marker=".")
        axes.axvline(best, linestyle=":", color="grey")
        run.figure(figure, f"curves/{name}.png")
