"""The models in MLflow take pictures as people have them."""

import base64
import io
import json
from pathlib import Path

import keras
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import infer_and_parse_data

from convnets.models.answers import by_class
from convnets.networks import architectures
from convnets.pictures import images
from convnets.sources import sample
from convnets.tracking import run as runs
from convnets.tracking import store

CLASSES = ["고양이", "rien à voir"]


def jpeg(number: int) -> bytes:
    content = io.BytesIO()
    sample.draw("cat", number, 0).save(content, "JPEG")
    return content.getvalue()


CONTENTS = [jpeg(0), jpeg(1)]


@pytest.fixture(scope="module")
def logged(tmp_path_factory):
    """A model in MLflow, loaded from there, and its probabilities for two pictures."""
    folder = tmp_path_factory.mktemp("store")
    store.quieten()
    mlflow.set_tracking_uri(store.database(folder))
    mlflow.set_experiment(store.experiment())
    model = architectures.plain(78, 2, 0)
    model.save(folder / "model.keras")
    with mlflow.start_run():
        uri = runs._log_model(folder / "model.keras", "train_scratch", CLASSES)
    pixels = np.stack([images.decode(content, 78) for content in CONTENTS])
    return mlflow.pyfunc.load_model(uri), pixels, by_class(model.predict(pixels, verbose=0))


GIVEN = {
    "bytes": lambda _: np.array(CONTENTS, dtype=object),
    "a column": lambda _: pd.DataFrame({"picture": CONTENTS}),
    "base64": lambda _: np.array([base64.b64encode(c).decode() for c in CONTENTS], dtype=object),
    "uint8": lambda pixels: pixels,
    "float32": lambda pixels: pixels.astype("float32"),
    "float64": lambda pixels: pixels.astype("float64"),
}


@pytest.mark.parametrize("kind", GIVEN)
def test_any_kind_of_picture_gets_the_same_answer(logged, kind):
    model, pixels, expected = logged
    answers = model.predict(GIVEN[kind](pixels))
    for answer, row in zip(answers, expected, strict=True):
        assert list(answer["probabilities"]) == CLASSES
        assert list(answer["probabilities"].values()) == pytest.approx(row.tolist(), abs=1e-6)
        assert answer["class"] == CLASSES[int(row.argmax())]


def test_a_request_as_the_server_reads_it(logged):
    model, pixels, expected = logged
    schema = model.metadata.get_input_schema()
    for inputs in ([base64.b64encode(c).decode() for c in CONTENTS], pixels.tolist()):
        parsed = infer_and_parse_data({"inputs": inputs}, schema)
        answers = model.predict(parsed)
        found = [list(answer["probabilities"].values()) for answer in answers]
        assert np.allclose(found, expected, atol=1e-6)


def test_a_champion_tells_what_is_unlike_too(logged, tmp_path):
    alone, pixels, _ = logged
    start = keras.Input((78, 78, 3), name="image")
    mean = keras.layers.GlobalAveragePooling2D()(start)
    outputs = {
        "probabilities": architectures.plain(78, 2, 0)(start),
        "unlike": keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(mean),
    }
    keras.Model(start, outputs).save(tmp_path / "champion.keras")
    with mlflow.start_run():
        uri = runs._log_model(tmp_path / "champion.keras", "train_scratch", CLASSES)
    model = mlflow.pyfunc.load_model(uri)
    schema = model.metadata.get_input_schema()
    parsed = infer_and_parse_data({"inputs": pixels.tolist()}, schema)
    found = [answer["unlike"] for answer in model.predict(parsed)]
    assert found == pytest.approx(pixels.mean(axis=(1, 2)).sum(axis=1), rel=1e-5)
    assert json.loads(json.dumps(found)) == found
    assert "unlike" in model.metadata.get_output_schema().input_names()
    assert all("unlike" not in answer for answer in alone.predict(pixels))


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b"no picture", "picture 1: not a JPEG"),
        ("%%%", "picture 1: .*base64"),
        (np.zeros((5, 5, 3)), r"picture 1: pixels of shape \(5, 5, 3\)"),
        ("", "picture 1: an empty file"),
    ],
)
def test_a_wrong_picture_is_named(logged, bad, reason):
    model, _, _ = logged
    both = np.empty(2, dtype=object)
    both[:] = [CONTENTS[0], bad]
    with pytest.raises(MlflowException, match=reason) as caught:
        model.predict(both)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_no_pickle_and_all_versions_are_pinned(logged):
    folder = mlflow.artifacts.download_artifacts(f"models:/{logged[0].metadata.model_id}")
    names = {path.name for path in Path(folder).rglob("*")}
    assert not [name for name in names if name.endswith((".pkl", ".pickle"))]
    assert {"pictures.py", "model.keras"} <= names
    pins = (Path(folder) / "requirements.txt").read_text().split()
    assert pins
    assert all("==" in pin for pin in pins)


def scores(accuracy: float, loss: float, images: str = "a") -> dict[str, str]:
    return {"val_accuracy": str(accuracy), "val_loss": str(loss), "validation": images}


def test_the_alias_moves_only_to_a_better_model_on_the_same_images(logged):
    client, uri = mlflow.MlflowClient(), f"models:/{logged[0].metadata.model_id}"
    told = []

    def alias() -> str:
        return str(client.get_model_version_by_alias("convnets", "champion").version)

    for given, champion in (
        (scores(0.90, 0.30), "1"),
        (scores(0.91, 0.40), "1"),  # worse
        (scores(0.89, 0.20), "3"),  # the lower loss
        (scores(0.89, 0.20), "4"),  # alike: the newer one
        (scores(0.50, 0.90, "b"), "5"),  # other images
        (scores(0.95, 0.10), "6"),
        (scores(0.95, 0.11), "6"),
    ):
        number = store.new_version(client, uri, "why", given)
        told.append(store.promote(client, number))
        assert alias() == champion
    assert told[0] == "convnets version 1 is the champion"
    assert told[1].startswith("convnets version 2 is registered, but version 1 stays the champion")
    assert "to promote the new one" in told[1]
    assert told[4] == "convnets version 5 is the champion, on other images than version 4"
    # Two stages register before either compares: whoever is last, the better one is left.
    numbers = [store.new_version(client, uri, "why", scores(0.9, s)) for s in (0.05, 0.07)]
    for number in numbers:
        store.promote(client, number)
    assert alias() == numbers[0]
