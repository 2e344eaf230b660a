"""Score all trained models on the test images, compare them, and choose the champion."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd

from convnets.base import files, untrained
from convnets.base.console import InputError, progress
from convnets.data import digits, examples
from convnets.data.examples import Examples
from convnets.evaluation import calibration, chance
from convnets.evaluation.calibration import Calibrated, Outputs
from convnets.evaluation.metrics import METRICS, Predictions, recalls, score
from convnets.models import saved
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
        return not self.sees_images or [c.casefold() for c in self.record.classes] == ["cat", "dog"]


class Results(NamedTuple):
    """The results of all models. Each dictionary is by model name, in the book's order."""

    table: pd.DataFrame  # one row per model: its metrics, and the book's accuracy
    champion: str
    trained: dict[str, Trained]
    tested: dict[str, Predictions]
    calibrated: dict[str, Calibrated]  # of the models of images alone
    calibration: pd.DataFrame  # one row per model of images: before and after calibration
    images: pd.DataFrame  # one row per test image: file, class and label

    @property
    def best(self) -> Trained:
        """The champion."""
        return self.trained[self.champion]

    @property
    def answers(self) -> Predictions:
        """The champion's calibrated predictions for the test images."""
        return self.calibrated[self.champion].test

    def of_images(self) -> list[str]:
        """Return the names of the models of images. The champion is chosen from these."""
        return [name for name, trained in self.trained.items() if trained.sees_images]

    def by_data(self) -> dict[str, list[str]]:
        """Return the names of the models of images, and of those of digits, if there are any."""
        of_images = self.of_images()
        of_digits = [name for name in self.trained if name not in of_images]
        groups = {"the images": of_images, "the digits": of_digits}
        return {data: names for data, names in groups.items() if names}

    def recall(self) -> pd.DataFrame:
        """Return each class's share of correct predictions, by model of the images."""
        classes = self.best.record.classes
        found = {
            name: recalls(tested)
            for name, tested in self.tested.items()
            if self.trained[name].sees_images
        }
        return pd.DataFrame(found, index=pd.Index(classes, name="class"))

    def predictions(self) -> pd.DataFrame:
        """Return the class that each model predicts, as it was trained, for each test image.

        The columns are `data`, which is images or digits, `file`, `class` and the models. A digit's
        `file` is its number in the test split. A model of digits has nothing for the images, and
        the other way round.
        """
        parts = []
        for data, names in self.by_data().items():
            classes = np.array(self.trained[names[0]].record.classes)
            labels = self.tested[names[0]].labels
            known = {
                "data": data.removeprefix("the "),
                "file": self.images["file"] if data == "the images" else range(len(labels)),
                "class": classes[labels],
            }
            predicted = {name: classes[self.tested[name].predicted] for name in names}
            parts.append(pd.DataFrame(known | predicted))
        return pd.concat(parts)

    def differences(self) -> pd.DataFrame:
        """Return a row for each pair of models of the images, with p values by Holm."""
        right = {name: {0: pd.Series(self.tested[name].right)} for name in self.of_images()}
        pairs = chance.pairs(right)
        return pairs.assign(p=chance.holm(pairs["p"]))

    def histories(self) -> dict[str, pd.DataFrame]:
        """Return a table for each model, with one row per epoch."""
        return {name: by_epoch(trained.record.history) for name, trained in self.trained.items()}

    def validated(self) -> dict[str, str]:
        """Return the champion's scores on the validation images, and a hash of these images."""
        digest = hashlib.sha256()
        for kind in ("npy", "csv"):
            with (examples.IMAGES / f"validation.{kind}").open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        best = self.calibration.loc[self.champion]
        return {
            "val_accuracy": str(best["val_accuracy"]),
            "val_loss": str(best["calibrated_val_log_loss"]),
            "validation": digest.hexdigest(),
        }

    def why(self) -> str:
        """Return why the champion was chosen."""
        found = self.calibration
        best, equal = found.loc[self.champion], found["p_value"] >= chance.LEVEL
        return (
            f"right on {best['val_accuracy']:.2%} of the validation images; of {len(found)} "
            f"models, {equal.sum()} do not differ from the best one beyond chance, and of these it "
            f"has the lowest calibrated log loss, {best['calibrated_val_log_loss']:.4f}"
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
    expected = {path for path in expected if untrained.made(path)}
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


def outputs(trained: Trained, split: str) -> Outputs:
    """Run a model on a split, from cached features if it has them.

    Args:
        trained: the model.
        split: test; for a model of the images also validation.
    """
    model, record = trained
    scored = model.get_layer(record.part) if record.part else model
    given = [_examples(Path(file), Path(record.labels), split) for file in record.inputs]
    logits = [calibration.logits(scored, batches.in_order(each, 64)) for each in given]
    return Outputs(given[0].labels, np.concatenate(logits))


def _examples(inputs: Path, labels: Path, split: str) -> Examples:
    if inputs.suffix == ".npz":
        return digits.load(inputs, split)
    inputs, labels = (path.with_name(path.name.replace("test", split)) for path in (inputs, labels))
    return examples.load(inputs, labels)


def compare(trained: dict[str, Trained]) -> Results:
    """Score all models on their test splits, and choose the champion from the models of images."""
    of_images = [name for name in trained if trained[name].sees_images]
    if not of_images:
        raise InputError("evaluate: no model of the images is trained; give one epochs or views")
    names = progress(trained, "test", len(trained))
    tested = {name: outputs(trained[name], "test") for name in names}
    validated = {
        name: outputs(trained[name], "validation")
        for name in progress(of_images, "validate", len(of_images))
    }
    return gather(trained, tested, validated, examples.read_table(examples.IMAGES / "test.csv"))


def gather(
    trained: dict[str, Trained],
    tested: dict[str, Outputs],
    validated: dict[str, Outputs],
    images: pd.DataFrame,
) -> Results:
    """Combine the results.

    Args:
        trained: all models, by name.
        tested: their outputs for their test splits.
        validated: the outputs for the validation images, of the models of images.
        images: one row per test image.
    """
    predictions = {name: each.predictions() for name, each in tested.items()}
    scores = {name: score(each, trained[name].record) for name, each in predictions.items()}
    table = pd.DataFrame.from_dict(scores, orient="index").rename_axis("model")
    book = {name: each.record.book for name, each in trained.items() if each.of_the_book}
    table["book"] = pd.Series(book, dtype=float).reindex(table.index)
    calibrated = {
        name: calibration.calibrate(each, tested[name]) for name, each in validated.items()
    }
    champion = calibration.best(calibrated)
    before_and_after = calibration.table(predictions, calibrated)
    return Results(table, champion, trained, predictions, calibrated, before_and_after, images)


def write(results: Results, folder: Path) -> None:
    """Write the comparison, the scores, the curves and the predictions.

    DVC shows `models.json`: the metrics for comparing experiments, the champion's first.
    """
    tables = {
        "comparison": results.table,
        "recall": results.recall(),
        "calibration": results.calibration,
        "curves": pd.concat(results.histories(), names=["model"]),
    }
    for kind, table in tables.items():
        with files.atomic(folder / f"{kind}.csv") as part:
            table.to_csv(part)
    scores = results.table.drop(columns="book").to_dict("index")
    files.write_json(folder / "evaluate.json", {"champion": results.champion, "models": scores})
    compared = [metric.name for metric in METRICS if metric.compared]
    first = {"champion": results.table.loc[results.champion, compared].to_dict()}
    of_models = results.table[compared].to_dict("index")
    files.write_json(folder / "models.json", first | of_models)
    classes = results.best.record.classes
    predicted = results.answers.predicted
    confusion = {"actual": results.images["class"], "predicted": [classes[i] for i in predicted]}
    with files.atomic(folder / "confusion.csv") as part:
        pd.DataFrame(confusion).to_csv(part, index=False)
    with files.atomic(folder / "predictions.csv") as part:
        results.predictions().to_csv(part, index=False)


def by_name(results: Results) -> dict[str, float]:
    """Return every metric of every model, as `model.metric`."""
    return {
        f"{model}.{name}": value
        for model, scores in of_models(results).items()
        for name, value in scores.items()
    }


def of_models(results: Results) -> dict[str, dict[str, float]]:
    """Return the metrics of each model, by name."""
    named = [metric.name for metric in METRICS]
    after = ["temperature", "calibrated_log_loss", "calibrated_calibration_error"]
    table = results.table[named].join(results.calibration[after])
    return {
        str(model): {str(name): float(value) for name, value in row.dropna().items()}
        for model, row in table.iterrows()
    }


def keep(results: Results, out: Path) -> None:
    """Calibrate the champion, and save it."""
    model, record = results.best
    calibration.apply(model, results.calibrated[results.champion].temperature)
    saved.save(model, out, record)


def mistakes(tested: Predictions, count: int) -> list[int]:
    """Return the rows of at most `count` wrong predictions, the most confident first."""
    wrong = np.flatnonzero(~tested.right)
    sure = tested.probabilities.max(axis=1)[wrong]
    return [int(row) for row in wrong[np.argsort(-sure, kind="stable")][:count]]


def successes(tested: Predictions, count: int) -> list[int]:
    """Return the row of the most confident right prediction for each of the first `count` classes.

    A class without a right prediction has none.
    """
    sure = np.where(tested.right, tested.probabilities.max(axis=1), 0)
    classes = range(min(count, tested.probabilities.shape[1]))
    best = [int(np.argmax(np.where(tested.labels == label, sure, 0))) for label in classes]
    return [row for label, row in enumerate(best) if sure[row] * (tested.labels[row] == label)]
