"""A model that answers: the workspace's champion without Keras, where it is there as ONNX."""

import os
import sys
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convnets.base import console
from convnets.base.console import InputError
from convnets.base.files import root
from convnets.evaluation import served
from convnets.models import answers
from convnets.tracking import store

if TYPE_CHECKING:
    import keras

CHAMPION = Path("models/champion.keras")  # the workspace's own: `dvc checkout` brings a commit's


class Classifier:
    """Says of pictures what they are. Keras is imported when its model is first asked for."""

    def __init__(
        self,
        path: Path,
        classes: list[str],
        size: int,
        load: Callable[[], "keras.Model"],
        without_keras: served.Compute | None = None,
    ) -> None:
        """Make a classifier.

        Args:
            path: the model's `.keras` file.
            classes: the class names.
            size: of a picture's side, in pixels.
            load: returns the Keras model.
            without_keras: what computes it without Keras, if that is there.
        """
        self.path, self.classes, self.size = path, classes, size
        self._load, self.without_keras, self._compiled = load, without_keras, False

    @cached_property
    def model(self) -> "keras.Model":
        """The model in Keras. To load it takes seconds."""
        return self._load()

    def __call__(self, pixels: NDArray[np.uint8]) -> answers.Answer:
        """Return what the model says of (n, size, size, 3) pixels, RGB."""
        if self.without_keras is not None:
            return self.without_keras(pixels)
        # Keras compiles a model for its first batch. For a single one, that takes longer than it
        # saves.
        compute = self.model.predict_on_batch if self._compiled else self.model
        self._compiled = True
        return answers.read(compute(pixels))


def load(name: str) -> Classifier:
    """Return a model that answers.

    Args:
        name: see `load_keras`.

    Raises:
        InputError: as there.
    """
    path, classes = _named(name)
    if Path(name) == CHAMPION and (found := served.load(path, root() / served.FOLDER)):
        about = (path, found.classes, found.size)
        return Classifier(*about, lambda: _keras(name, path, None)[0], found.compute)
    model, classes = _keras(name, path, classes)
    return Classifier(path, classes, model.input_shape[1], lambda: model)


def load_keras(name: str) -> tuple["keras.Model", list[str]]:
    """Return a Keras model and its class names.

    Args:
        name: the path of a `.keras` file, or `champion` for MLflow's model with that alias.

    Raises:
        InputError: the model does not exist, cannot be loaded safely, or is not for photographs.
    """
    return _keras(name, *_named(name))


def _keras(name: str, path: Path, classes: list[str] | None) -> tuple["keras.Model", list[str]]:
    from convnets.models import saved

    classes = saved.class_names(path) if classes is None else classes
    if "keras" not in sys.modules:
        console.hush()
        try:
            from convnets.models import internals  # noqa: F401  # it imports Keras
        finally:
            console.unhush()
    model = saved.load(path)
    # Neither is there before a model is built. A model with several inputs has several shapes.
    takes = getattr(model, "input_shape", None)
    match takes:
        case (None, int(high), int(wide), 3) if high == wide:
            fits = answers.are_for(model, classes)
        case _:
            shape = str(takes).replace("None, ", "", 1)
            raise InputError(
                f"{name}: takes {shape}, not square RGB images; choose another --model"
            )
    if not fits:
        raise InputError(f"{name}: {len(classes)} class names do not match its output; train again")
    return model, classes


def _named(name: str) -> tuple[Path, list[str] | None]:
    """Return a model's file, and its classes where they are not in the file."""
    if name == store.CHAMPION:
        return _registered()
    if Path(name) != CHAMPION:
        return Path(name), None
    path = root() / CHAMPION  # from a folder in the project, too
    if not path.exists():
        raise InputError(
            f"{CHAMPION}: does not exist in {root()}; run `dvc repro` or `dvc pull {CHAMPION}` in "
            "the project's folder, or use --model champion for MLflow's"
        )
    return path, None


def _registered() -> tuple[Path, list[str]]:
    import mlflow  # takes seconds, and a model in a file does not need it

    store.quieten()
    uri = f"models:/{store.MODEL}@{store.CHAMPION}"
    local = not os.environ.get("MLFLOW_TRACKING_URI")
    try:
        if local and not (root() / "mlflow.db").exists():
            raise FileNotFoundError(f"no mlflow.db in {root()}")
        with store.waiting():
            mlflow.set_tracking_uri(store.uri())
            folder = Path(mlflow.artifacts.download_artifacts(uri))
        (file,) = (folder / "artifacts").glob("*.keras")
        metadata = mlflow.models.Model.load(folder).metadata or {}
        return file, [str(name) for name in metadata.get("classes", ())]
    except Exception as error:
        if store.is_a_defect(error):
            raise
        raise InputError(
            f"{uri}: is not available ({store.reason(error)}); run `dvc repro` first, "
            "`dvc repro -s -f evaluate` if there is nothing to do, or give --model a .keras file"
        ) from error
