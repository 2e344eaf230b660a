"""The book's feature extraction on the real photographs, with the real VGG16 weights."""

import json

import numpy as np
import pytest
import yaml

from benchmarks.unlike import left_out, measure, refused
from convnets.backbones import backbone, lite
from convnets.base import params
from convnets.evaluation import metrics
from convnets.examples import examples
from convnets.listing.kinds import ImageError
from convnets.models import answers, saved, trained
from convnets.models.answers import by_class
from convnets.pictures import images
from convnets.sources import archive, layout
from convnets.training import batches
from tests.commands import Clone, backbone_of, executed

pytestmark = [pytest.mark.real_data, pytest.mark.slow("real data")]


def test_full_size_photographs_decode(shared):
    """Nearly all of the original files, of every size, are good images."""
    bad = 0
    with archive.opened(shared / "dogs-vs-cats-fullsize-1000.zip") as files:
        found = layout.recognise(files)
        assert len(found.images) == 1000
        for image in found.images:
            try:
                assert images.decode(files.read(image.member), 180).std() > 1
            except ImageError:
                bad += 1
    assert bad <= 5


def test_the_feature_head_reaches_the_book(shared, empty_clone: Clone):
    path = empty_clone.folder / "params.yaml"
    values = yaml.safe_load((empty_clone.folder / "presets/book.yaml").read_text())
    values["data"] = {"source": "archive", "path": str(shared / "dogs-vs-cats.zip")}
    values["backbone"]["weights"] = str(shared / "vgg16-imagenet-notop.weights.h5")
    values["train_scratch"]["epochs"] = 1
    values["subset"] |= {"train": 400, "validation": 100, "test": 150}  # minutes less to extract
    values["train_feature_head"]["epochs"] = 8
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    output = empty_clone.run("dvc", "repro", "train_feature_head", "train_scratch")
    assert {"subset", "extract_features", "train_feature_head"} <= set(executed(output))

    folder = empty_clone.folder
    summary = json.loads((folder / "metrics/subset.json").read_text())
    assert summary["train"] == {"cat": 400, "dog": 400}
    assert summary["test"] == {"cat": 150, "dog": 150}
    features = np.load(folder / "dvc-outs/features/test.npy", mmap_mode="r")
    assert features.shape == (300, 5, 5, 512)
    path = folder / "dvc-outs/trained/train_feature_head"
    model, found = saved.load(path / trained.MODEL), trained.read(path)
    assert len(found.history) == 8
    kept = found.history.loc[trained.best_epoch(found.history, "val_loss")]
    assert kept["val_accuracy"] > 0.94
    labels = np.repeat([0, 1], 150)
    test = examples.Examples(features, labels, folder)
    cached = model.get_layer("head").predict(batches.in_order(test, 64), verbose=0)
    tested = metrics.Predictions(labels, by_class(cached))
    assert metrics.score(tested, kept)["test_accuracy"] >= 0.94
    answered = answers.probabilities(found.logits["test"])
    # Keras multiplies in float32, the answers in float64: large features differ in the fifth digit.
    np.testing.assert_allclose(answered, tested.probabilities, rtol=0, atol=1e-4)
    # The features may be in bfloat16. The float32 model from pixels agrees with them.
    rows = np.arange(0, 300, 10)
    pixels = np.load(folder / "dvc-outs/images/test.npy", mmap_mode="r")[rows]
    difference = np.abs(model.predict(pixels, verbose=0) - cached[rows])
    assert np.median(difference) < 0.01
    assert (difference > 0.5).sum() <= 1

    assert len(trained.read(folder / "dvc-outs/trained/train_scratch").history) == 1


def test_a_backbone_of_a_file_knows_cats_from_dogs(shared):
    """Twenty nearest photographs on EfficientNet-Lite0's features: no training of a network."""
    base = backbone_of(str(shared / "efficientnet-lite0-notop.keras"), 128, None)
    assert base.output_shape == (None, 4, 4, 1280)
    with archive.opened(shared / "dogs-vs-cats.zip") as files:
        found = [image for image in layout.recognise(files).images if (image.number or 0) < 100]
        pixels = np.stack([images.decode(files.read(image.member), 128) for image in found])
    features = base.predict(pixels, verbose=0).mean(axis=(1, 2))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = np.array([image.label == found[0].label for image in found])
    near = np.argsort(-features @ features.T, axis=1)[:, 1:21]
    assert ((labels[near].mean(axis=1) > 0.5) == labels).mean() > 0.9


def test_a_flower_of_no_class_and_what_is_no_flower_are_unlike_flowers(shared):
    """Each of the twelve is left out in turn: one that the model never saw is found."""
    how = params.Backbone(
        name=lite.NAME,
        weights="imagenet",
        preprocessing="auto",
        pooling="mean",
        fine_tune_from=None,
    )
    base = backbone.build(how, 160)
    with archive.opened(shared / "flowers12.zip") as files:
        found = layout.recognise(files).images
        pixels = np.stack([images.decode(files.read(image.member), 160) for image in found])
    labels = np.unique([image.label for image in found], return_inverse=True)[1]
    odd = np.random.default_rng(0).integers(0, 256, (20, 160, 160, 3))
    odd[:3] = np.array([0, 128, 255])[:, None, None, None]
    digits = np.load(shared / "mnist.npz")["x_test"][:20].repeat(5, axis=1).repeat(5, axis=2)
    odd[10:] = 0
    odd[10:, 10:150, 10:150] = digits[:10, ..., None]
    features = base.predict(pixels, verbose=0)[:, 0, 0]
    foreign = {"odd": base.predict(odd.astype("float32"), verbose=0)[:, 0, 0]}
    shares = [refused((features, labels), foreign, seed) for seed in range(5)]
    assert all(each["odd"] > 0.95 for each in shares)
    assert np.mean([each["own"] for each in shares]) == pytest.approx(0.05, abs=0.03)
    assert left_out((features, labels), measure)["AUROC"] > 0.85
