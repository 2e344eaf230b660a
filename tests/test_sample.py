"""The drawn sample, and the backbone that learned from other drawn things."""

import json

import keras
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from convnets.backbones import backbone
from convnets.base import params
from convnets.base.console import InputError
from convnets.evaluation import explain
from convnets.examples import examples, npy
from convnets.models import saved
from convnets.sources import sample, sources
from pretraining import __main__ as pretraining
from pretraining.kinds import ANIMALS, KINDS
from tests.commands import ROOT, TRAINING, backbone_of

CHAMPION = ROOT / "models/champion.keras"


def test_the_same_twice_and_varied(tmp_path):
    for name in ("a.zip", "b.zip"):
        sources.write_sample(tmp_path / name, 3, 7)
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert len({sample.draw("dog", i, 7).tobytes() for i in range(20)}) == 20


@pytest.mark.slow
def test_a_linear_model_on_pixels_guesses():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pixels = np.stack(
        [
            np.asarray(sample.draw(label, i, 1337).resize((30, 30))).ravel()
            for label in sample.CLASSES
            for i in range(500)
        ]
    )
    labels, numbers = np.repeat([0, 1], 500), np.tile(np.arange(500), 2)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01))
    train = numbers < 300
    assert model.fit(pixels[train], labels[train]).score(pixels[~train], labels[~train]) < 0.58


@pytest.mark.parametrize("label", sample.CLASSES)
def test_the_mask_is_where_the_animal_is(label):
    """It is large enough to be seen, and of another colour than what is around it."""
    for index in range(10):
        picture, mask = sample.draw(label, index, 0), sample.mask(label, index, 0)
        assert mask.shape == picture.size[::-1]
        assert 0.06 < mask.mean() < 0.7


def test_the_backbone_has_seen_no_cat_and_no_dog():
    assert len(KINDS) >= 40
    assert not {"cat", "dog"} & set(KINDS)
    for kind in (sample.CAT, sample.DOG):
        for other in ANIMALS.values():
            names = ("ear", "muzzle", "eye", "tail")
            assert sum(getattr(kind, name) is getattr(other, name) for name in names) <= 2


def test_the_backbone_is_a_whole_vgg16_with_the_narrow_one_s_features():
    """The other channels are zero, and its features are those of the narrow network alone."""
    assert backbone.SAMPLE.stat().st_size <= 3e6
    whole = backbone_of("VGG16", 90, "sample")
    assert whole.count_params() == 14_714_688
    given = np.stack([np.asarray(sample.draw("cat", i, 0).resize((90, 90))) for i in range(4)])
    features = whole.predict(given, verbose=0)
    assert (features[..., 128:] == 0).all()
    assert (features[..., :128].max(axis=(0, 1, 2)) > 0).mean() > 0.8  # few channels are dead
    x = keras.applications.vgg16.preprocess_input(given.astype("float32"))
    with np.load(backbone.SAMPLE) as narrow:
        for layer in whole.layers:
            if isinstance(layer, keras.layers.Conv2D):
                kernel, bias = narrow[f"{layer.name}/kernel"], narrow[f"{layer.name}/bias"]
                x = keras.ops.conv(x, kernel.astype("float32"), padding="same") + bias
                x = keras.ops.relu(x)
            elif isinstance(layer, keras.layers.MaxPooling2D):
                x = keras.ops.max_pool(x, 2, 2)
    np.testing.assert_allclose(features[..., :128], x, rtol=1e-3, atol=1e-3 * features.max())


@pytest.mark.slow
def test_the_backbone_is_made_from_a_seed_alone():
    def made() -> dict[str, np.ndarray]:
        keras.utils.set_random_seed(0)
        model = pretraining.network(len(KINDS))
        shown = pretraining.pictures(0, pretraining.Phase(each=2, size=32, hard=0.5, epochs=1))
        pretraining.train(model, shown, 1)
        return pretraining.folded(model)

    first, second = made(), made()
    assert {name: weight.tobytes() for name, weight in first.items()} == {
        name: weight.tobytes() for name, weight in second.items()
    }
    with np.load(backbone.SAMPLE) as kept:
        assert {name: kept[name].shape for name in kept} == {
            name: weight.shape for name, weight in first.items()
        }


def test_other_backbones_have_no_sample_weights():
    with pytest.raises(InputError, match=r"sample has the weights of VGG16 alone; set backbone"):
        backbone_of("MobileNetV2", 96, "sample")


def test_the_rows_come_in_the_chapter_s_order():
    """`make repro` has just written the table; else it is the committed one."""
    table = pd.read_csv(ROOT / "metrics/comparison.csv", index_col="model")
    accuracy = table["test_accuracy"]
    trained = {stage.replace("@", "_") for stage in TRAINING} - {"train_residual"}
    assert set(accuracy.index) == trained
    transfer = ["train_feature_head", "train_augmented_head", "train_mirrored_head", "fine_tune"]
    assert 0.6 <= accuracy["train_scratch"] <= 0.85
    assert accuracy["train_scratch"] < accuracy["train_augmented"] < accuracy[transfer].min()
    assert accuracy[transfer].min() >= 0.93
    champion = json.loads((ROOT / "metrics/evaluate.json").read_text())["champion"]
    assert champion in transfer


@pytest.mark.slow
@pytest.mark.skipif(not CHAMPION.exists(), reason="`make repro` has not run here")
def test_the_evidence_is_on_the_animal():
    """Grad-CAM's evidence is denser on it than beside it, and mostly strongest there."""
    model, seed = saved.load(CHAMPION), params.load(ROOT / "params.yaml").seed
    images = npy.read(ROOT / "dvc-outs/images/test.npy")[::4]
    table = examples.read_table("test")[::4]
    evidence = explain.grad_cam(model, images, table["label"].to_numpy())
    assert min(evidence.shape[1:]) >= explain.FEWEST
    inside, area, strongest = [], [], []
    for file, heat in zip(table["file"], evidence, strict=True):
        label, number = file.rpartition("/")[2].split(".")[:2]
        animal = Image.fromarray(sample.mask(label, int(number), seed)).resize(images.shape[2:0:-1])
        large = Image.fromarray(heat).resize(animal.size, Image.Resampling.BILINEAR)
        place, shown = np.asarray(animal), np.asarray(large)
        inside.append((shown * place).sum() / max(shown.sum(), 1e-9))
        area.append(place.mean())
        strongest.append(place.flat[shown.argmax()])
    assert np.mean(inside) > 1.8 * np.mean(area)
    assert np.mean(strongest) > 0.65
