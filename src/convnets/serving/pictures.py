"""A model as MLflow loads and serves it. MLflow runs this file: nothing is pickled."""

import base64
import binascii
import os
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"  # whatever the user has set

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel
from numpy.typing import NDArray
from PIL import Image

from convnets.models import answers, saved


class Pictures(PythonModel):
    """A classifier of pictures as people have them."""

    def load_context(self, context: Any) -> None:
        """Load the model, without running any code in it."""
        self.model = saved.load(Path(context.artifacts["model"]))
        self.classes = context.model_config["classes"]

    # MLflow would take type hints for a schema.
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Return for each picture its class, and the probability of each class by its name.

        If the model tells it, also how `unlike` the training pictures it is: 1 is the limit.

        Args:
            context: MLflow's; not used.
            model_input: an array or a column of pictures. A picture is the content of an image
                file, as bytes or in base64, or pixels from 0 to 255 of the model's shape.
            params: not used.

        Raises:
            MlflowException: a picture cannot be read. Served, it is a status of 400.
        """
        given = model_input.iloc[:, 0] if isinstance(model_input, pd.DataFrame) else model_input
        pixels = np.stack([self._pixels(place, picture) for place, picture in enumerate(given)])
        found = answers.read(self.model.predict(pixels, verbose=0))
        rows: list[dict[str, Any]] = [
            {
                "class": self.classes[int(row.argmax())],
                "probabilities": dict(zip(self.classes, map(float, row), strict=True)),
            }
            for row in found.probabilities
        ]
        if found.unlike is not None:
            for row, unlike in zip(rows, found.unlike, strict=True):
                row["unlike"] = float(unlike)
        return rows

    def _pixels(self, place: int, picture: Any) -> NDArray[np.float32]:
        shape = self.model.input_shape[1:]
        try:
            if isinstance(picture, str):
                picture = base64.b64decode(picture, validate=True)
            if isinstance(picture, bytes):
                from convnets.pictures import images  # no training needs it that logs this file

                rgb = images.decode(picture, shape[0])
                picture = rgb if shape[2] == 3 else np.array(Image.fromarray(rgb).convert("L"))
            pixels = np.asarray(picture, np.float32).reshape(_fitting(picture, shape))
        except (binascii.Error, ValueError, TypeError) as error:
            raise MlflowException(
                f"picture {place}: {error}; send the content of an image file, as bytes or in "
                f"base64, or pixels of shape {shape}",
                error_code=INVALID_PARAMETER_VALUE,
            ) from error
        return pixels


def _fitting(picture: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape, if the pixels have it, with or without the axis of a single channel."""
    found = np.shape(picture)
    if found not in (shape, shape[:2] if shape[2] == 1 else shape):
        raise ValueError(f"pixels of shape {found}")
    return shape


mlflow.models.set_model(Pictures())
