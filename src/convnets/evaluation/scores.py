"""Score all trained models on the test images, compare them, and choose the champion."""

import shutil
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd

from convnets.base import files
from convnets.base.console import InputError, progress
from convnets.data import digits, examples
from convnets.data.examples import Examples
from convnets.evaluation.metrics import METRICS, Predictions, score
from convnets.models import architectures, saved
from convnets.models.saved import Record
from convnets.training import batches
from convnets.training.fit import by_epoch


class Trained(NamedTuple):
    """A model and the record of its training."""

    model: keras.Model
    record: Record

    @property
    def sees_images(self) -> bool:
        """Whether it classifies the images, not the digits."""
        return self.record.labels == (examples.IMAGES / "test.csv").as_posix()

    @property
    def of_the_book(self) -> bool:
        """Whether the book's figure is about the same things: digits, or cats and dogs."""
        return not self.sees_images or self.record.classes == ["cat", "dog"]


class Results(NamedTuple):
    """The results of all models. Each dictionary is by model name, in the book's order."""

    table: pd.DataFrame  # one row per model: its metrics, and the book's accuracy
    champion: str
    trained: dict[str, Trained]
    tested: dict[str, Predictions]
    images: pd.DataFrame  # one row per test image: file, class and label

    @property
    def best(self) -> Trained:
        """The champion."""
        return self.trained[self.champion]

    def of_images(self) -> list[str]:
        """Return the names of the models of images. The champion is chosen from these."""
        return [name for name, trained in self.trained.items() if trained.sees_images]

    def histories(self) -> dict[str, pd.DataFrame]:
        """Return a table for each model, with one row per epoch."""
        return {name: by_epoch(trained.record.history) for name, trained in self.trained.items()}

    def why(self) -> str:
        """Return why the champion was chosen."""
        best = self.table.loc[self.champion]
        return (
            f"right on {best['val_accuracy']:.2%} of the validation images, the best of "
            f"{len(self.of_images())} models, and on {best['test_accuracy']:.2%} of the test images"
        )


def load(folder: Path, made: frozenset[str]) -> dict[str, Trained]:
    """Load all trained models in the order of the book's listings. Other models come last.

    Args:
        folder: the folder with one `.keras` file per model.
        made: the outs of all stages. A model that no stage makes is rejected.

    Raises:
        InputError: a model is missing, is left over, or cannot be loaded safely.
    """
    expected = {path for path in map(Path, made) if path.parent == folder}
    for path in sorted(expected ^ set(folder.glob("[!.]*.keras"))):
        told = "is missing; run `dvc repro`" if path in expected else "no stage makes it; remove it"
        raise InputError(f"{path}: {told}")
    records = {path: saved.record(path) for path in expected}

    def place(path: Path) -> tuple[bool, list[int], str]:
        listing = records[path].listing
        return (
            listing is None,
            [int(part) for part in (listing or "").split(".") if part],
            path.stem,
        )

    paths = progress(sorted(expected, key=place), "load", len(expected))
    return {path.stem: Trained(saved.load(path), records[path]) for path in paths}


def test(trained: Trained) -> Predictions:
    """Run a model on its test split, from cached features if it has them."""
    model, record = trained
    scored = model.get_layer(record.part) if record.part else model
    given = [_examples(Path(file), Path(record.labels)) for file in record.inputs]
    outputs = [scored.predict(batches.in_order(split, 64), verbose=0) for split in given]
    return Predictions(given[0].labels, architectures.by_class(np.mean(outputs, axis=0)))


def _examples(inputs: Path, labels: Path) -> Examples:
    if inputs.suffix == ".npz":
        return digits.load(inputs, "test")
    return examples.load(inputs, labels)


def compare(trained: dict[str, Trained]) -> Results:
    """Score all models on their test splits, and choose the champion from the models of images."""
    names = progress(trained, "test", len(trained))
    tested = {name: test(trained[name]) for name in names}
    return gather(trained, tested, examples.read_table(examples.IMAGES / "test.csv"))


def gather(
    trained: dict[str, Trained], tested: dict[str, Predictions], images: pd.DataFrame
) -> Results:
    """Combine the results.

    Args:
        trained: all models, by name.
        tested: their predictions for their test splits.
        images: one row per test image.
    """
    scores = {name: score(of_model, trained[name].record) for name, of_model in tested.items()}
    table = pd.DataFrame.from_dict(scores, orient="index").rename_axis("model")
    book = {name: each.record.book for name, each in trained.items() if each.of_the_book}
    table["book"] = pd.Series(book, dtype=float).reindex(table.index)
    best = champion({name: scores[name] for name in scores if trained[name].sees_images})
    return Results(table, best, trained, tested, images)


def champion(scores: dict[str, dict[str, float]]) -> str:
    """Return the model with the best validation accuracy. The lower loss breaks ties."""
    return max(scores, key=lambda name: (scores[name]["val_accuracy"], -scores[name]["val_loss"]))


def write(results: Results, folder: Path) -> None:
    """Write the comparison, the scores, the curves and the champion's predictions.

    DVC shows `models/<name>.json`: the metrics for comparing experiments.
    """
    with files.atomic(folder / "comparison.csv") as part:
        results.table.to_csv(part)
    scores = results.table.drop(columns="book").to_dict("index")
    files.write_json(folder / "evaluate.json", {"champion": results.champion, "models": scores})
    compared = [metric.name for metric in METRICS if metric.compared]
    for name, row in results.table[compared].iterrows():
        files.write_json(folder / f"models/{name}.json", row.to_dict())
    curves = pd.concat(results.histories(), names=["model"])
    with files.atomic(folder / "curves.csv") as part:
        curves.to_csv(part)
    classes = results.best.record.classes
    predicted = results.tested[results.champion].predicted
    confusion = {"actual": results.images["class"], "predicted": [classes[i] for i in predicted]}
    with files.atomic(folder / "confusion.csv") as part:
        pd.DataFrame(confusion).to_csv(part, index=False)


def by_name(results: Results) -> dict[str, float]:
    """Return every metric of every model, as `model.metric`."""
    named = [metric.name for metric in METRICS]
    return {
        f"{model}.{name}": float(row[name])
        for model, row in results.table.iterrows()
        for name in named
    }


def keep(results: Results, source: Path, out: Path) -> None:
    """Copy the champion's file."""
    with files.atomic(out) as part:
        shutil.copyfile(source / f"{results.champion}.keras", part)


def mistakes(tested: Predictions, count: int) -> list[int]:
    """Return the rows of at most `count` wrong predictions, the most confident first."""
    wrong = np.flatnonzero(tested.predicted != tested.labels)
    sure = tested.probabilities.max(axis=1)[wrong]
    return [int(row) for row in wrong[np.argsort(-sure, kind="stable")][:count]]


def successes(tested: Predictions, count: int) -> list[int]:
    """Return the row of the most confident right prediction for each of the first `count` classes.

    A class without a right prediction has none.
    """
    sure = np.where(tested.predicted == tested.labels, tested.probabilities.max(axis=1), 0)
    classes = range(min(count, tested.probabilities.shape[1]))
    best = [int(np.argmax(np.where(tested.labels == label, sure, 0))) for label in classes]
    return [row for label, row in enumerate(best) if sure[row] * (tested.labels[row] == label)]
