"""The training loop of every model: the book's `fit`, and the best epoch's weights."""

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
import pandas as pd
from keras.callbacks import Callback, LambdaCallback
from rich.console import Console

from convnets.base import files
from convnets.base.console import InputError, bar, say
from convnets.base.params import Monitor, Params, Training
from convnets.examples.examples import Examples
from convnets.models import answers, precision
from convnets.models.internals import needs_several_images
from convnets.models.trained import Logits, best_epoch, by_epoch
from convnets.tracking.run import Run
from convnets.training import batches

BATCH = 64  # examples that a model answers at once


class Task(NamedTuple):
    """What a model learns from, and how."""

    build: Callable[[], keras.Model]  # called twice: training may use bfloat16, the result does not
    train: Examples
    validation: Examples  # they choose the epoch
    how: Training  # the stage's section of the params
    class_weight: Literal["none", "balanced"] = "none"
    augment: batches.Augment | None = None  # of the training inputs, if they are images


class _Epochs(Callback):  # type: ignore[misc]  # Keras has no types
    """After each epoch, update history and best weights, save the state, log and print the epoch.

    The saved state is enough to resume as if there had been no interruption. It has the model's
    variables, including the state of dropout, the optimizer's variables, and this class's data. The
    order of the images and their augmentation depend only on the seed and the epoch.
    """

    def __init__(self, run: Run, how: Training, kept: Monitor) -> None:
        super().__init__()
        self.run, self.how, self.kept = run, how, kept
        self.state = run.unfinished / "state.npz"
        self.rows: list[dict[str, float]] = []
        self.best: list[Any] = []

    def resume(self, model: keras.Model) -> int:
        """Restore the saved state of an interrupted process, if any; return the epochs done."""
        if self.state.exists():
            variables = [*model.variables, *model.optimizer.variables]
            with np.load(self.state, allow_pickle=False) as saved:
                for place, variable in enumerate(variables):
                    variable.assign(saved[f"now_{place}"])
                self.best = [saved[f"best_{place}"] for place in range(len(model.weights))]
                self.rows = json.loads(str(saved["rows"]))
            self.run.epochs(self.rows)
            say(f"{self.run.stage}: resuming after epoch {len(self.rows)}")
        return len(self.rows)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        row = {name: float(value) for name, value in (logs or {}).items()}
        if not all(map(math.isfinite, row.values())):
            raise InputError(
                f"{self.run.stage}: the loss is not a number in epoch {epoch + 1}; lower the "
                "learning rate"
            )
        self.rows.append(row)
        if best_epoch(by_epoch(self.rows), self.kept) == len(self.rows):
            self.best = self.model.get_weights()
        self._save()
        self.run.epochs(self.rows)
        values = "  ".join(f"{name} {value:.4f}" for name, value in row.items())
        say(f"epoch {epoch + 1}/{self.how.epochs}  {values}")
        self.model.stop_training = self.ended

    @property
    def ended(self) -> bool:
        """Whether the last epochs were no better, as many as `patience` says, or were all."""
        done, patience = len(self.rows), self.how.patience or self.how.epochs
        since = done - best_epoch(by_epoch(self.rows), self.kept) if done else 0
        return done >= self.how.epochs or since >= patience

    def _save(self) -> None:
        variables = [*self.model.variables, *self.model.optimizer.variables]
        arrays = {f"now_{place}": variable.numpy() for place, variable in enumerate(variables)}
        arrays |= {f"best_{place}": weights for place, weights in enumerate(self.best)}
        with files.atomic(self.state) as part:
            np.savez(part, allow_pickle=False, rows=np.array(json.dumps(self.rows)), **arrays)


def fit(task: Task, p: Params, run: Run) -> tuple[keras.Model, pd.DataFrame]:
    """Return a trained model, with the weights of its best epoch, and its history, a row per epoch.

    An interrupted training resumes after its last complete epoch, and gives the same bytes.

    With the schedule `cosine`, the learning rate falls to 0 over the epochs in a half cosine
    (Loshchilov & Hutter, 2017). With `balanced` class weights, an image's loss counts in inverse
    proportion to the size of its class in the training images (King & Zeng, 2001).

    Args:
        task: what the model learns from, and how.
        p: the seed of the weights, the order, dropout and augmentation; the precision in training;
            and what chooses the epoch, see `best_epoch`.
        run: receives the metrics of each epoch.

    Raises:
        InputError: the loss became NaN or infinite, or the model needs larger batches.
    """
    build, train, validation, how, class_weight, augment = task
    run.dataset(train.source, "train")
    run.dataset(validation.source, "validation")
    keras.utils.set_random_seed(p.seed)
    first = min(how.batch_size, len(validation.labels))
    strategy = precision.strategy(how.batch_size, len(train.labels), first)
    dtype_policy = precision.policy(p.precision)
    told = precision.told(dtype_policy, strategy.num_replicas_in_sync)
    say(f"{run.stage}: computes on {told}")
    steps = batches.steps(train, how.batch_size)
    rate: Any = how.learning_rate
    if how.schedule == "cosine":
        rate = keras.optimizers.schedules.CosineDecay(rate, how.epochs * steps)
    decay: float | None = how.weight_decay
    if how.optimizer != "adamw" and not decay:
        decay = None  # with 0, the others would compute it nevertheless; AdamW refuses None
    with strategy.scope():
        precision.use(dtype_policy)
        model = build()
        precision.use("float32")
        if min(how.batch_size, len(train.labels)) == 1 and needs_several_images(model):
            raise InputError(
                f"{run.stage}: batch normalisation learns nothing from batches of one image; set "
                "batch_size to 2 or more, or choose another architecture"
            )
        model.compile(
            optimizer=keras.optimizers.get(
                {
                    "class_name": how.optimizer,
                    "config": {"learning_rate": rate, "weight_decay": decay},
                }
            ),
            **answers.learning(model),
        )
        model.optimizer.build(model.trainable_variables)
    weights = None
    if class_weight == "balanced":
        from sklearn.utils.class_weight import compute_class_weight  # takes a second

        classes = np.unique(train.labels)
        found = compute_class_weight("balanced", classes=classes, y=train.labels)
        weights = dict(zip(classes.tolist(), found.tolist(), strict=True))
    epochs = _Epochs(run, how, p.monitor)
    done = epochs.resume(model)
    callbacks: list[Callback] = [epochs]
    with ExitStack() as stack:
        terminal = Console()
        if terminal.is_terminal:
            shown = bar(run.stage, how.epochs * steps, done * steps, terminal)
            advance = stack.enter_context(shown)
            callbacks.append(LambdaCallback(on_train_batch_end=lambda batch, logs: advance()))
        if not epochs.ended:
            model.fit(
                batches.training(train, how.batch_size, range(done, how.epochs), p.seed, augment),
                steps_per_epoch=steps,
                initial_epoch=done,
                epochs=how.epochs,
                shuffle=False,  # the stream is already shuffled
                class_weight=weights,
                validation_data=batches.in_order(validation, how.batch_size),
                callbacks=callbacks,
                verbose=0,
            )
    finished = build()
    finished.set_weights(epochs.best)
    history = by_epoch(epochs.rows)
    _tell(history, best_epoch(history, p.monitor), run)
    return finished, history


def answered(model: keras.Model, held_out: dict[str, list[Examples]]) -> Logits:
    """Return a model's answers for each split, as `answers.logits`.

    Args:
        model: takes the examples' inputs.
        held_out: by split; of several with the same labels, each is a view.
    """
    return {
        split: np.concatenate(
            [answers.logits(model, batches.in_order(view, BATCH)) for view in views], axis=1
        )
        for split, views in held_out.items()
    }


def _tell(history: pd.DataFrame, best: int, run: Run) -> None:
    """Report the best epoch on the screen and in MLflow."""
    kept = history.to_dict("records")[best - 1]
    run.metrics({f"best_{name}": float(value) for name, value in kept.items()})
    values = "  ".join(f"{name} {kept[name]:.4f}" for name in ("val_accuracy", "val_loss"))
    say(f"the best epoch is {best} of {len(history)}  {values}")
