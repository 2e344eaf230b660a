"""EfficientNet-Lite2 with ImageNet's weights, which is in the package. Without Keras."""

import json
import zipfile
from pathlib import Path

from convnets.base import files
from convnets.base.console import InputError
from convnets.base.params import Backbone

NAME = "EfficientNetLite2"
MODEL = Path(__file__).with_name("efficientnet-lite2.keras")  # for any size; half-precision weights


def write(how: Backbone, size: int, out: Path) -> None:
    """Write it as a `.keras` file that takes (n, size, size, 3) RGB pixels of 0 to 255.

    Keras reads the weights as float32. To let Keras write it would take many times as long.

    Args:
        how: names it, its weights and its pooling.
        size: side of the square images, in pixels.
        out: the file to write, atomically.

    Raises:
        InputError: other weights or another preprocessing are asked for.
    """
    if how.weights != "imagenet":
        raise InputError(
            f"backbone.weights: {NAME} is in the package, with ImageNet's weights; set it to "
            "imagenet, or backbone.name to another model"
        )
    if how.preprocessing not in ("auto", "none"):
        raise InputError(f"backbone.preprocessing: {NAME} takes pixels as they are; set it to auto")
    with zipfile.ZipFile(MODEL) as archive:
        members = {name: archive.read(name) for name in sorted(archive.namelist())}
    config = json.loads(members["config.json"])
    model = config["config"]
    model["layers"][0]["config"]["batch_shape"] = [None, size, size, 3]
    if how.pooling == "mean":
        model["layers"].append(_mean(model["output_layers"]))
        model["output_layers"] = ["mean", 0, 0]
    members["config.json"] = json.dumps(config).encode()
    with files.atomic(out) as part, zipfile.ZipFile(part, "w") as copy:  # not compressed
        for name, content in members.items():
            copy.writestr(zipfile.ZipInfo(name), content)


def _mean(above: list[object]) -> dict[str, object]:
    """Return the config of a layer that takes the mean over all places."""
    features = {"shape": [None, None, None, 1280], "dtype": "float32", "keras_history": above}
    given = {"class_name": "__keras_tensor__", "config": features}
    return {
        "module": "keras.layers",
        "class_name": "GlobalAveragePooling2D",
        "config": {"name": "mean", "dtype": "float32", "keepdims": True},
        "registered_name": None,
        "name": "mean",
        "inbound_nodes": [{"args": [given], "kwargs": {}}],
    }
