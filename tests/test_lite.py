"""EfficientNet-Lite2, which is in the package."""

import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from convnets.backbones import backbone, lite
from convnets.base import params
from convnets.base.console import InputError
from convnets.models import saved
from tests.commands import backbone_of

PIXELS = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype("uint8")


def how(**given: object) -> params.Backbone:
    known = {"name": lite.NAME, "weights": "imagenet", "preprocessing": "auto"}
    return params.Backbone.model_validate(known | {"fine_tune_from": None} | given)


@pytest.mark.parametrize("size", [78, 96, 301])
def test_it_takes_any_size_and_computes_in_float32(tmp_path, size):
    for name in ("a.keras", "b.keras"):
        lite.write(how(), size, tmp_path / name)
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    base = backbone.load(tmp_path / "a.keras")
    assert base.input_shape == (None, size, size, 3)
    assert base.output_shape[3] == 1280
    assert base.count_params() == 4_869_168
    assert {weight.dtype for weight in base.weights} == {"float32"}
    assert not base.trainable_weights


def test_what_is_written_is_what_keras_would_have_written(tmp_path):
    with zipfile.ZipFile(lite.MODEL) as packed, zipfile.ZipFile(tmp_path / "a.keras", "w") as plain:
        for name in packed.namelist():
            plain.writestr(name, packed.read(name))
    expected = keras.models.load_model(tmp_path / "a.keras", safe_mode=True)
    features = expected.predict(PIXELS, verbose=0)
    found = backbone_of(lite.NAME, 96, "imagenet")
    assert [layer.name for layer in found.layers] == [layer.name for layer in expected.layers]
    np.testing.assert_array_equal(found.predict(PIXELS, verbose=0), features)
    pooled = backbone.build(how(pooling="mean"), 96)
    np.testing.assert_allclose(
        pooled.predict(PIXELS, verbose=0),
        features.mean((1, 2), keepdims=True),
        rtol=1e-4,
        atol=1e-5,
    )
    saved.save(pooled, tmp_path / "again.keras")
    assert saved.load(tmp_path / "again.keras").get_config() == pooled.get_config()


@pytest.mark.parametrize("name", ["VGG16", "MobileNetV2"])
def test_the_means_of_any_backbone(name):
    keras.utils.set_random_seed(0)
    base = backbone_of(name, 96)
    given = params.Backbone(
        name=name, weights="random", preprocessing="auto", pooling="mean", fine_tune_from=1
    )
    keras.utils.set_random_seed(0)
    pooled = backbone.build(given, 96)
    expected = base.predict(PIXELS, verbose=0).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(pooled.predict(PIXELS, verbose=0), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"weights": "random"}, r"backbone\.weights: .*set it to imagenet"),
        ({"weights": "sample"}, r"backbone\.weights: .*set it to imagenet"),
        ({"weights": "lite.weights.h5"}, r"backbone\.weights: .*set it to imagenet"),
        ({"weights": None}, r"backbone\.weights: .*set it to imagenet"),
        ({"preprocessing": "VGG16"}, r"backbone\.preprocessing: .*set it to auto"),
        ({"name": "EfficientNet-Lite2"}, "did you mean EfficientNetLite2"),
        ({"name": "efficientnetlite2"}, "did you mean EfficientNetLite2"),
        ({"name": "EfficientNetLite"}, "did you mean EfficientNetLite2"),
    ],
)
def test_what_it_cannot_be_is_one_line(given, why):
    with pytest.raises(InputError, match=why) as refused:
        backbone.build(how(**given), 96)
    assert "\n" not in str(refused.value)


def test_the_licence_is_beside_it():
    notice = (Path(lite.MODEL).parent / "LICENSE-efficientnet-lite.txt").read_text()
    assert "Apache" in notice


@pytest.mark.real_data
def test_its_features_are_those_of_the_weights_in_float32(shared):
    whole = backbone_of(str(shared / "efficientnet-lite2-notop.keras"), 96, None)
    half = backbone_of(lite.NAME, 96, "imagenet")
    expected, found = (base.predict(PIXELS, verbose=0).ravel() for base in (whole, half))
    assert np.corrcoef(expected, found)[0, 1] > 0.9999
