"""Score the answers of all trained models, compare them, and choose the champion. Without Keras."""

import hashlib
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from convnets.base import files
from convnets.base.console import InputError
from convnets.base.params import Monitor
from convnets.evaluation import calibration, chance, decided
from convnets.evaluation.calibration import Calibrated, Outputs
from convnets.evaluation.metrics import METRICS, Predictions, recalls, score
from convnets.examples import digits, examples
from convnets.examples.examples import IMAGES, LABELS
from convnets.models.saved import Kind, Limit
from convnets.models.trained import HELD_OUT, Trained, best_epoch, read

BOOKS = ["cat", "dog"]  # the classes of the book's images
Labels = dict[tuple[Kind, str], NDArray[np.integer[Any]]]  # by kind and split


class Results(NamedTuple):
    """The results of all models. Each dictionary is by model name, in the book's order."""

    table: pd.DataFrame  # one row per model: its metrics, and the book's accuracy
    champion: str
    trained: dict[str, Trained]
    kept: dict[str, int]  # the epoch, counted from 1, whose weights were kept
    tested: dict[str, Predictions]
    calibrated: dict[str, Calibrated]  # of the models of images alone
    calibration: pd.DataFrame  # one row per model of images: before and after calibration
    images: pd.DataFrame  # one row per test image: file, class and label
    monitor: Monitor  # by which the best epoch was kept
    limits: list[Limit]  # how sure the champion must be to be right so often, by validation

    @property
    def best(self) -> Trained:
        """The champion."""
        return self.trained[self.champion]

    @property
    def answers(self) -> Predictions:
        """The champion's calibrated predictions for the test images."""
        return self.calibrated[self.champion].test

    @property
    def validation(self) -> Predictions:
        """The champion's calibrated predictions for the validation images."""
        return self.calibrated[self.champion].validation

    def of_images(self) -> list[str]:
        """Return the names of the models of images. The champion is chosen from these."""
        return self.by_kind()[Kind.IMAGES]

    def by_kind(self) -> dict[Kind, list[str]]:
        """Return the names of the models of images, and of those of digits, if there are any."""
        groups = {
            kind: [name for name, each in self.trained.items() if each.record.kind is kind]
            for kind in Kind
        }
        return {kind: names for kind, names in groups.items() if names}

    def recall(self) -> pd.DataFrame:
        """Return each class's share of correct predictions, by model of the images."""
        classes = self.best.record.classes
        found = {name: recalls(self.tested[name]) for name in self.of_images()}
        return pd.DataFrame(found, index=pd.Index(classes, name="class"))

    def confused(self) -> pd.DataFrame:
        """Return the champion's mistakes by `actual` and `predicted` class, and their number.

        The most frequent come first. `share` is of the test images of the actual class.
        """
        classes, of = np.array(self.best.record.classes), self.answers
        counts = np.zeros((len(classes), len(classes)), int)
        np.add.at(counts, (of.labels, of.predicted), ~of.right)
        actual, predicted = np.nonzero(counts)
        found = pd.DataFrame({"actual": classes[actual], "predicted": classes[predicted]})
        found["images"] = counts[actual, predicted]
        found["share"] = found["images"] / np.bincount(of.labels, minlength=len(classes))[actual]
        return found.sort_values("images", ascending=False, kind="stable", ignore_index=True)

    def predictions(self) -> pd.DataFrame:
        """Return the class that each model predicts, as it was trained, for each test image.

        The columns are `data`, which is images or digits, `file`, `class` and the models. A digit's
        `file` is its number in the test split. A model of digits has nothing for the images, and
        the other way round.
        """
        parts = []
        for kind, names in self.by_kind().items():
            classes = np.array(self.trained[names[0]].record.classes)
            labels = self.tested[names[0]].labels
            known = {
                "data": kind,
                "file": self.images["file"] if kind is Kind.IMAGES else range(len(labels)),
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

    def validated(self) -> dict[str, str]:
        """Return the champion's scores on the validation images, and a hash of these images."""
        digest = hashlib.sha256()
        for path in (IMAGES / "validation.npy", LABELS / "validation.csv"):
            with path.open("rb") as file:
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
    """Read what the trainings left, in the order of the book's listings. Other models come last.

    Args:
        folder: has a folder for each model. One that is empty or missing was not trained.
        made: the outs of all stages. A model that no stage makes is rejected.

    Raises:
        InputError: a file is missing or damaged, something is left over, or no model of the images
            was trained.
    """
    expected = {path for path in map(Path, made) if path.parent == folder}
    there = (path for path in folder.glob("[!.]*") if path.is_dir() or path.suffix == ".keras")
    if left := sorted(set(there) - expected):
        names = " ".join(map(str, left))
        raise InputError(f"{left[0]}: no stage makes it; to remove what is left: rm -r {names}")
    found = {path.name: trained for path in sorted(expected) if (trained := read(path))}
    if not any(trained.record.kind is Kind.IMAGES for trained in found.values()):
        raise InputError(
            f"{folder}: no model of the images is trained; run `dvc repro`, or give one epochs"
        )

    def place(name: str) -> tuple[list[float], str]:
        listing = found[name].record.listing
        return [float(part) for part in listing.split(".")] if listing else [math.inf], name

    return {name: found[name] for name in sorted(found, key=place)}


def compare(trained: dict[str, Trained], monitor: Monitor) -> Results:
    """Score all models on their test splits, and choose the champion from the models of images.

    Args:
        trained: from `load`.
        monitor: by which the best epoch was kept.

    Raises:
        InputError: a model's answers are for other examples.
    """
    tables = {split: examples.read_table(split) for split in HELD_OUT}
    labels = {(Kind.IMAGES, split): table["label"].to_numpy() for split, table in tables.items()}
    if any(each.record.kind is Kind.DIGITS for each in trained.values()):
        labels[Kind.DIGITS, "test"] = digits.load(digits.FILE, "test").labels
    return gather(trained, monitor, labels, tables["test"])


def gather(
    trained: dict[str, Trained], monitor: Monitor, labels: Labels, images: pd.DataFrame
) -> Results:
    """As `compare`, with the labels of each split of each kind, and a row per test image."""

    def outputs(split: str, *kinds: Kind) -> dict[str, Outputs]:
        found = {
            name: Outputs(labels[record.kind, split], logits[split])
            for name, (record, _, logits) in trained.items()
            if record.kind in kinds
        }
        for name, each in found.items():
            if len(each.labels) != len(each.logits):
                raise InputError(f"{name}: not for the labels of {split}; train it again")
        return found

    tested, validated = outputs("test", *Kind), outputs("validation", Kind.IMAGES)
    predictions = {name: each.predictions() for name, each in tested.items()}
    kept = {name: best_epoch(each.history, monitor) for name, each in trained.items()}
    scores = {
        name: score(each, trained[name].history.to_dict("records")[kept[name] - 1])
        for name, each in predictions.items()
    }
    table = pd.DataFrame.from_dict(scores, orient="index").rename_axis("model")
    table["book"] = pd.Series(  # of digits, and of cats and dogs
        {
            name: record.book
            for name, (record, *_) in trained.items()
            if record.kind is Kind.DIGITS or [c.casefold() for c in record.classes] == BOOKS
        },
        index=table.index,
        dtype=float,
    )
    calibrated = {
        name: calibration.calibrate(each, tested[name]) for name, each in validated.items()
    }
    champion = calibration.best(calibrated)
    before_and_after = calibration.table(predictions, calibrated)
    limits = decided.limits(calibrated[champion].validation)
    rest = (predictions, calibrated, before_and_after, images, monitor, limits)
    return Results(table, champion, trained, kept, *rest)


def write(results: Results, folder: Path, unlike: float | None) -> None:
    """Write the comparison, the scores, the curves and the predictions.

    DVC shows `models.json`: the metrics for comparing experiments, the champion's first.

    Args:
        results: of all models.
        folder: for the files.
        unlike: the share of the test images that seem unlike the training images to the champion.
    """
    tables = {
        "comparison": results.table,
        "recall": results.recall(),
        "calibration": results.calibration,
        "curves": pd.concat(
            {name: each.history for name, each in results.trained.items()}, names=["model"]
        ),
    }
    for kind, table in tables.items():
        with files.atomic(folder / f"{kind}.csv") as part:
            table.to_csv(part)
    scores = results.table.drop(columns="book").to_dict("index")
    files.write_json(
        folder / "evaluate.json",
        {"champion": results.champion, "test_unlike": unlike, "models": scores},
    )
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


def of_models(results: Results) -> dict[str, dict[str, float]]:
    """Return the metrics of each model, by name."""
    named = [metric.name for metric in METRICS]
    after = ["temperature", "calibrated_log_loss", "calibrated_calibration_error"]
    table = results.table[named].join(results.calibration[after])
    return {
        str(model): {str(name): float(value) for name, value in row.dropna().items()}
        for model, row in table.iterrows()
    }


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
