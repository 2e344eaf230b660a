"""The book's architectures, and models as files: safe to load, the same bytes every time."""

import json
import re
import zipfile
from pathlib import Path

import keras
from keras import layers

from convnets import files
from convnets.console import InputError


def mnist_convnet(pooling: bool) -> keras.Model:
    """Return the chapter's first convnet: 104,202 parameters (listing 8.1), or 712,202 without
    max pooling (listing 8.5). It takes (n, 28, 28, 1) pixels of 0 to 255.
    """
    inputs = keras.Input((28, 28, 1), name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    x = layers.Conv2D(32, 3, activation="relu")(x)
    x = layers.MaxPooling2D(2)(x) if pooling else x
    x = layers.Conv2D(64, 3, activation="relu")(x)
    x = layers.MaxPooling2D(2)(x) if pooling else x
    x = layers.Conv2D(128, 3, activation="relu")(x)
    return keras.Model(inputs, classifier(layers.Flatten()(x), 10))


def convnet(size: int, classes: int, dropout: float = 0.0) -> keras.Model:
    """Return the convnet trained from scratch (listings 8.7 and 8.16).

    It has 991,041 parameters at 180 × 180 with two classes.

    Args:
        size: of the square images, in pixels.
        classes: how many there are.
        dropout: before the last layer; 0 leaves the layer out.
    """
    inputs = keras.Input((size, size, 3), name="image")
    x = layers.Rescaling(1 / 255)(inputs)
    for filters in (32, 64, 128, 256):
        x = layers.Conv2D(filters, 3, activation="relu")(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Conv2D(256, 3, activation="relu")(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(inputs, classifier(x, classes))


def head(feature_shape: tuple[int, ...], classes: int, units: int, dropout: float) -> keras.Model:
    """Return the dense classifier on a backbone's features (listing 8.21).

    Args:
        feature_shape: of one image's features, such as (5, 5, 512).
        classes: how many there are.
        units: of the linear hidden layer.
        dropout: after it.
    """
    inputs = keras.Input(feature_shape, name="features")
    x = layers.Dense(units)(layers.Flatten()(inputs))
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(inputs, classifier(x, classes), name="head")


def normalised_head(
    feature_shape: tuple[int, ...], classes: int, units: int, dropout: float
) -> keras.Model:
    """Return a dense classifier that normalises each image's features first (Ba et al., 2016).

    A pretrained backbone's features are in the tens. On them as they are the book's head is sure of
    itself also where it is wrong; here no image's are larger than another's.

    Args:
        feature_shape: of one image's features, such as (5, 5, 512).
        classes: how many there are.
        units: of the hidden layer.
        dropout: before and after it.
    """
    inputs = keras.Input(feature_shape, name="features")
    # Over 12,800 values the mean and the variance would lose too much in bfloat16.
    x = layers.LayerNormalization(dtype="float32")(layers.Flatten()(inputs))
    x = layers.Dropout(dropout)(x)
    x = layers.Dense(units, activation="relu")(x)
    x = layers.Dropout(dropout)(x)
    return keras.Model(inputs, classifier(x, classes), name="head")


def classifier(x: keras.KerasTensor, classes: int) -> keras.KerasTensor:
    """Return probabilities: one, of the second class, for two classes, else one for each.

    They are float32 also where the layers before compute in bfloat16.
    """
    if classes == 2:
        return layers.Dense(1, activation="sigmoid", dtype="float32")(x)
    return layers.Dense(classes, activation="softmax", dtype="float32")(x)


def save(model: keras.Model, path: Path, classes: list[str]) -> None:
    """Save a model as `.keras`, atomically; the same model always gives the same bytes.

    The names of its classes, in the order of their labels, go into the archive's `metadata.json`.

    Keras writes the time into the archive, in `metadata.json` and in every member's entry, and
    into `config.json` the memory addresses of objects that layers share. The time is taken out and
    the addresses are counted instead, so that DVC sees a change only where there is one.
    """
    with files.whole(path) as part:
        unfinished = part.with_name(f".keras{part.name}")
        try:
            model.save(unfinished)
            with zipfile.ZipFile(unfinished) as source, zipfile.ZipFile(part, "w") as target:
                for name in sorted(source.namelist()):
                    content = source.read(name)
                    if name == "metadata.json":
                        metadata = json.loads(content)
                        del metadata["date_saved"]
                        metadata["classes"] = classes
                        content = json.dumps(metadata).encode()
                    elif name == "config.json":
                        content = _counted(content)
                    target.writestr(zipfile.ZipInfo(name), content)
        finally:
            unfinished.unlink(missing_ok=True)


def class_names(path: Path) -> list[str]:
    """Return the names of the classes that a saved model tells apart, in the order of their labels.

    Raises:
        InputError: it is no model that `save` wrote.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = json.loads(archive.read("metadata.json"))["classes"]
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: names no classes ({error}); train it again") from error
    return [str(name) for name in names]


def _counted(config: bytes) -> bytes:
    """Return a model's config with its memory addresses replaced by 0, 1, 2 …"""
    numbers: dict[bytes, int] = {}
    return re.sub(
        rb'(?<="shared_object_id": )\d+',
        lambda address: b"%d" % numbers.setdefault(address[0], len(numbers)),
        config,
    )


def load(path: Path) -> keras.Model:
    """Load a `.keras` file for inference, without running any code that it may carry.

    Raises:
        InputError: it is missing, damaged, or holds custom code such as a Lambda layer.
    """
    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: cannot be loaded safely ({reason}); train it again") from error
