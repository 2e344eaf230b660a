"""The book's architectures to the parameter, and models as files."""

import io
import json
import os
import random
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import strategies as st
from keras.src.backend.common import global_state

from convnets.backbones import backbone
from convnets.base import params
from convnets.base.console import InputError
from convnets.evaluation import explain
from convnets.features import features
from convnets.heads import architectures as heads
from convnets.heads import cached
from convnets.models import answers, internals, layers, precision, saved
from convnets.networks import architectures
from convnets.sources import sample
from tests.commands import ROOT, backbone_of, record

BOOK = params.load(ROOT / "presets/book.yaml")
CONVNET = BOOK.of("train_scratch", params.ConvnetTraining)
HEAD = BOOK.of("train_feature_head", params.HeadTraining)


def head_of(architecture: str, shape: tuple[int, ...], units: int | None) -> keras.Model:
    """A head of two classes."""
    how = HEAD.model_copy(update={"architecture": architecture, "units": units})
    return heads.build_head(shape, 2, how)


@pytest.mark.parametrize(("pooling", "parameters"), [(True, 104_202), (False, 712_202)])
def test_mnist_convnet(pooling, parameters):
    assert architectures.mnist_convnet(pooling).count_params() == parameters


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_convnet(dropout):
    assert architectures.plain(180, 2, dropout).count_params() == 991_041


@pytest.mark.parametrize("size", [78, 251])
def test_a_residual_convnet_takes_any_size(size):
    model = architectures.residual(size, 3, 0.5)
    assert model.count_params() == 1_233_123
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3)).astype("uint8")
    assert model.predict(images, verbose=0).sum(axis=1) == pytest.approx(1)
    evidence = explain.grad_cam(model, images, np.array([0, 2]))
    assert min(evidence.shape[1:]) >= explain.FEWEST
    assert (evidence.max(axis=(1, 2)) == 1).all()
    pixels = keras.Input(images.shape[1:])
    mirrored = keras.Model(pixels, layers.with_mirror(model, pixels))
    outputs, of_mirror = (
        mirrored.predict(seen, verbose=0) for seen in (images, images[:, :, ::-1])
    )
    np.testing.assert_allclose(outputs, of_mirror, rtol=1e-3)
    assert not np.allclose(outputs, model.predict(images, verbose=0), rtol=1e-3, atol=0)
    np.testing.assert_allclose(explain.grad_cam(mirrored, images, np.array([0, 2])), evidence)


def test_an_unknown_architecture_is_named():
    how = CONVNET.model_copy(update={"architecture": "residul"})
    with pytest.raises(InputError, match="no convnet 'residul'; did you mean residual"):
        architectures.build_convnet(90, 2, how)


def test_vgg16_and_its_weights_before_and_after_freezing():
    base = backbone_of("VGG16", 180)
    assert base.count_params() == 14_714_688
    assert base.output_shape == (None, 5, 5, 512)
    assert len(base.trainable_weights) == 0
    base.trainable = True
    assert len(base.trainable_weights) == 26


def test_the_cut_of_vgg16_is_before_block5():
    lower, upper = backbone.split(backbone_of("VGG16", 180), 4)
    assert lower.layers[-1].name == "block4_pool"
    assert [layer.name for layer in upper.layers if layer.weights] == [
        "block5_conv1",
        "block5_conv2",
        "block5_conv3",
    ]
    assert (len(lower.trainable_weights), len(upper.trainable_weights)) == (0, 6)


def test_batch_normalization_stays_frozen():
    _, upper = backbone.split(backbone_of("MobileNetV2", 96), 10)
    frozen = [la for la in upper.layers if isinstance(la, keras.layers.BatchNormalization)]
    assert frozen
    assert not any(layer.trainable for layer in frozen)


def test_a_cut_inside_a_block_is_refused_and_the_nearest_named():
    base = backbone_of("ResNet50V2", 96)
    with pytest.raises(InputError, match=r"nearest layer that does is conv5_block3_preact_bn \(13"):
        backbone.split(base, 12)
    with pytest.raises(InputError, match="no layer 'conv5_preact'; did you mean conv5_"):
        backbone.split(base, "conv5_preact")
    for too_many in (len(base.layers), 1000):
        with pytest.raises(InputError, match="does not split resnet50v2 in two"):
            backbone.split(base, too_many)


def test_an_unknown_backbone_gets_the_nearest_name():
    with pytest.raises(InputError, match="did you mean VGG16"):
        backbone_of("VGG-16", 96)


def mobile_net() -> keras.Model:
    return keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(96, 96, 3))


def test_weights_of_another_model_are_refused(tmp_path):
    weights = tmp_path / "other.weights.h5"
    mobile_net().save_weights(weights)
    with pytest.raises(InputError, match=r"other\.weights\.h5.*not the weights of VGG16"):
        backbone_of("VGG16", 96, str(weights))


def test_truncated_weights_are_refused(tmp_path):
    weights = tmp_path / "cut.weights.h5"
    mobile_net().save_weights(weights)
    weights.write_bytes(weights.read_bytes()[:-100_000])
    with pytest.raises(InputError, match=r"cut\.weights\.h5"):
        backbone_of("MobileNetV2", 96, str(weights))


def own(tmp_path, outputs, *, size: int | None = None, channels: int = 3) -> str:
    """The path of a model, whose output is a function of its input."""
    inputs = keras.Input((size, size, channels))
    keras.Model(inputs, outputs(inputs)).save(tmp_path / "own.keras")
    return str(tmp_path / "own.keras")


def small(inputs: keras.KerasTensor) -> keras.KerasTensor:
    return keras.layers.Conv2D(4, 3, strides=2, padding="same")(inputs)


def test_the_backbone_of_a_file_takes_pixels_or_is_given_a_known_preprocessing(tmp_path):
    path = own(tmp_path, lambda inputs: keras.layers.Conv2D(6, 1, name="last")(small(inputs)))
    model = keras.models.load_model(path)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype("float32")
    for preprocessing, given in (
        ("none", pixels),
        ("auto", pixels),
        ("MobileNetV2", keras.applications.mobilenet_v2.preprocess_input(pixels.copy())),
    ):
        base = backbone_of(path, 96, None, preprocessing)
        found, expected = base.predict(pixels, verbose=0), model.predict(given, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
        assert not base.trainable_weights
    lower, upper = backbone.split(base, "last")
    assert upper(lower(pixels)).shape == (2, 48, 48, 6)
    with pytest.raises(InputError, match=r"backbone.preprocessing: no model 'mobilenetv2'"):
        backbone_of(path, 96, None, "mobilenetv2")


def test_a_sequential_model_is_a_backbone(tmp_path):
    layers = keras.layers
    base = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Rescaling(1 / 255),
            layers.Conv2D(4, 3, strides=2),
            keras.Sequential([layers.BatchNormalization(), layers.Conv2D(6, 1, name="last")]),
        ]
    )
    base.save(tmp_path / "sequential.keras")
    loaded = backbone_of(str(tmp_path / "sequential.keras"), 33, None)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 33, 33, 3)).astype("float32")
    expected = base.predict(pixels, verbose=0)
    np.testing.assert_allclose(loaded.predict(pixels, verbose=0), expected, atol=1e-5)
    lower, upper = backbone.split(loaded, "last")
    np.testing.assert_allclose(upper(lower(pixels)), expected, atol=1e-5)


def small_model(name: str, *given: int, several: bool = False) -> keras.Model:
    """A model of two convolutions, whose layers have the model's name in theirs."""
    inputs = [keras.Input((None, None, channels)) for channels in given]
    x = keras.layers.Concatenate()(inputs) if len(inputs) > 1 else inputs[0]
    first, second = (
        keras.layers.Conv2D(4, 1, name=f"{name}_{i}", bias_initializer="normal") for i in (1, 2)
    )
    x = first(x)
    return keras.Model(inputs, [x, second(x)] if several else second(x), name=name)


def normalised(inputs: keras.KerasTensor) -> keras.KerasTensor:
    layer = keras.layers.Normalization()
    layer.adapt(np.random.default_rng(0).normal(120, 60, (50, 3)).astype("float32"))
    return small(layer(inputs))


def parallel(inputs: keras.KerasTensor) -> keras.KerasTensor:
    x = small(inputs)
    merged = keras.layers.Concatenate()([small_model("a", 4)(x), small_model("b", 4)(x)])
    return small_model("c", 8, 4)([merged, keras.layers.Conv2D(4, 1)(x)])


def twice(inputs: keras.KerasTensor) -> keras.KerasTensor:
    model = small_model("twice", 4)
    return model(model(small(inputs)))


def attention(inputs: keras.KerasTensor) -> keras.KerasTensor:
    places = keras.layers.Reshape((256, 4))(small(inputs))
    layer = keras.layers.MultiHeadAttention(2, 4)
    return keras.layers.Reshape((16, 16, 4))(layer(query=places, value=places))


@pytest.mark.parametrize(
    "outputs",
    [
        normalised,
        parallel,
        attention,
        lambda inputs: small_model("several", 4, several=True)(small(inputs))[0],
        lambda inputs: keras.ops.split(small(inputs), 2, axis=-1)[0],
        twice,
        lambda inputs: keras.layers.Dense(6, name="dense_2")(small(inputs)),
    ],
)
def test_any_graph_of_a_backbone_computes_the_same_all_the_way(tmp_path, outputs):
    """As written and loaded, put together with a head, saved, loaded, and explained."""
    path = own(tmp_path, outputs, size=32)
    how = params.Backbone(name=path, weights=None, preprocessing="none", fine_tune_from=1)
    backbone.write(how, 32, 0, tmp_path / "written.keras")
    base = backbone.load(tmp_path / "written.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    features = np.asarray(keras.models.load_model(path)(pixels))
    near = {"rtol": 1e-4, "atol": 1e-4 * np.abs(features).max()}
    np.testing.assert_allclose(base(pixels), features, **near)
    head = head_of("dense", features.shape[1:], 8)
    saved.save(cached.end_to_end(base, head, "whole"), tmp_path / "whole.keras")
    whole = saved.load(tmp_path / "whole.keras")
    np.testing.assert_allclose(whole(pixels), head(features), atol=1e-3)
    assert explain.grad_cam(whole, pixels, np.array([0, 1, 0, 1])).shape[1:] == (16, 16)
    assert explain.feature_maps(whole, pixels[0]).ndim == 3
    answers.divide(whole, 2)


def test_a_backbone_of_few_places_or_without_a_plain_convolution_is_explained(tmp_path):
    separable = keras.layers.SeparableConv2D(4, 3, strides=16, padding="same")
    base = backbone_of(own(tmp_path, separable), 32, None)
    whole = cached.end_to_end(base, head_of("dense", (2, 2, 4), 8), "whole")
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("uint8")
    assert explain.grad_cam(whole, pixels, np.array([0, 1])).shape == (2, 2, 2)
    assert explain.feature_maps(whole, pixels[0]).shape == (2, 2, 4)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_a_written_backbone_computes_as_the_one_that_was_built(tmp_path, policy):
    """Also one of any size, in either precision; the same backbone gives the same bytes."""
    path = own(tmp_path, small)
    how = params.Backbone(name=path, weights=None, preprocessing="none", fine_tune_from=1)
    out = tmp_path / "data"  # does not exist in a fresh clone
    for name in ("a.keras", "b.keras"):
        backbone.write(how, 32, 0, out / name)
    assert (out / "a.keras").read_bytes() == (out / "b.keras").read_bytes()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3)).astype("float32")
    precision.use(policy)
    try:
        loaded = backbone.load(out / "a.keras")
    finally:
        precision.use("float32")
    assert loaded.layers[-1].dtype_policy.name == policy
    assert loaded.output_shape == (None, 16, 16, 4)
    expected = backbone.build(how, 32).predict(pixels, verbose=0)
    tolerance = 1e-4 if policy == "float32" else 0.02 * np.abs(expected).max()
    np.testing.assert_allclose(loaded.predict(pixels, verbose=0), expected, atol=tolerance)


def broken(tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> str:
    """The path of a model whose config is changed."""
    path = Path(own(tmp_path, small))
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    config = json.loads(members["config.json"])
    change(config)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"config.json": json.dumps(config).encode()}).items():
            archive.writestr(name, content)
    return str(path)


def deep(config: dict[str, Any]) -> None:
    for _ in range(400):
        config["config"] = {"config": config["config"]}


def alike(name: str) -> keras.Model:
    return keras.Sequential([keras.layers.Conv2D(4, 1, name="conv")], name=name)


def test_what_is_no_backbone_is_refused(tmp_path):
    layers = keras.layers
    pool, dense = layers.GlobalAveragePooling2D(), layers.Dense(10)
    nan = keras.initializers.Constant(np.nan)
    large = keras.initializers.Constant(1e4)
    for outputs, shape, why in (
        (lambda x: dense(pool(small(x))), {}, r"\(None, 10\), not a feature map; save"),
        (small, {"channels": 1}, r"takes \(None, None, None, 1\), not \(n, height, width, 3\)"),
        (small, {"size": 64}, r"images of 64 × 64 pixels, and image_size is 32"),
        (lambda x: [small(x), small(x)], {}, "several inputs or outputs"),
        (layers.Lambda(lambda x: 2 * x), {}, r"cannot be loaded safely .*Lambda.*export it again"),
        (layers.Conv2D(4, 3, kernel_initializer=nan), {}, "features are not finite"),
        (layers.Conv2D(4, 3, kernel_initializer=large), {}, "not finite, or beyond"),
        (layers.Conv2D(4, 40), {}, r"at image_size 32 \("),
        (lambda x: keras.ops.reshape(small(x), (-1, 4, 16, 4)), {}, r"give \(8, 4, 16, 4\)"),
        (layers.Conv2D(4, 3, name="image"), {}, 'name "image" is used 2 times'),
        (layers.Conv2D(4, 3, name="층"), {}, r"at image_size 32 \(.*층"),
        (lambda x: alike("a")(x) + alike("b")(x), {}, 'name "conv" is used 2 times'),
    ):
        name = own(tmp_path, outputs, **shape)
        with pytest.raises(InputError, match=why):
            backbone_of(name, 32, None)
    for change in (
        deep,
        lambda config: config.update(class_name="NoSuch\x1b[31mLayer"),
        lambda config: config["config"].update(layers=[]),
        lambda config: config["config"]["layers"][1].update(inbound_nodes=[]),
        lambda config: config["config"]["layers"][1]["config"].update(activation="nothing"),
        lambda config: config.update(
            module="keras.layers", class_name="Dense", config={"units": 3}, registered_name=None
        ),
    ):
        name = broken(tmp_path, change)
        with pytest.raises(InputError, match=re.escape(name)) as refused:
            backbone_of(name, 32, None)
        assert str(refused.value).isprintable()
    unbuilt = tmp_path / "unbuilt.keras"
    keras.Sequential([layers.Conv2D(4, 3)]).save(unbuilt)
    with pytest.raises(InputError, match="call the model on an image"):
        backbone_of(str(unbuilt), 32, None)
    Path(name).write_bytes(Path(name).read_bytes()[:1000])
    with pytest.raises(InputError, match=r"not a \.keras file, or only a part"):
        backbone_of(name, 32, None)
    with pytest.raises(InputError, match=r"none\.keras: no such file"):
        backbone_of(str(tmp_path / "none.keras"), 32, None)
    with pytest.raises(InputError, match="has its own weights; set backbone"):
        backbone_of(own(tmp_path, small), 32, "imagenet")
    with pytest.raises(InputError, match=r"null is for a \.keras file"):
        backbone_of("VGG16", 32, None)
    with pytest.raises(InputError, match=r"preprocessing: no model ''.* none, auto"):
        backbone_of("VGG16", 32, "random", "")


def test_features_that_their_file_cannot_hold_are_refused(tmp_path):
    out = tmp_path / "views.npy"
    large = np.full((1, 2, 2, 4), 1e6, "float32")
    views = params.Views(count=1, max_gigabytes=1)
    with pytest.raises(InputError, match=r"views: float16 cannot hold .* backbone\.preprocessing"):
        features.write_views(lambda batches: ([large] for _ in batches), large, [out], views)
    assert not out.exists()


def test_what_cannot_be_cut_is_refused(tmp_path):
    layer, relu = keras.layers.Conv2D(4, 1, padding="same"), keras.layers.ReLU()
    for outputs, cut, why in (
        (small, 1, "no layer does; take another backbone"),
        (lambda x: keras.layers.Concatenate()([small_model("a", 3)(x), x]), 1, "no layer does"),
        (lambda x: small(layer(relu(layer(small(x))))), 2, r"nearest layer that does is .* \(3\)"),
    ):
        base = backbone_of(own(tmp_path, outputs), 32, None)
        with pytest.raises(InputError, match=f"fine_tune_from: {cut} .*{why}"):
            backbone.split(base, cut)
    backbone.split(base, 3)  # the nearest of the last one


FAMILIES = {
    "MobileNetV2": 10,
    "EfficientNetV2B0": "top_conv",
    "DenseNet121": 9,
    "ConvNeXtTiny": "convnext_tiny_stage_3_block_2_depthwise_conv",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_any_backbone_is_cut_and_put_together_and_loads_elsewhere(tmp_path, name):
    """The cached path equals the model's, and a fresh process needs only Keras to load it."""
    lower, upper = backbone.split(backbone_of(name, 96), FAMILIES[name])
    assert not lower.trainable_weights
    assert upper.trainable_weights
    head = head_of("dense", upper.output_shape[1:], 8)
    top = keras.Model(upper.input, head(upper(upper.input)), name="top")
    model = cached.end_to_end(lower, top, "whole")
    images = np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3)).astype("uint8")
    cut, whole = features.extractor(lower, upper)(images)
    assert cached.disagreement(model, images, top, cut.numpy()) < 1e-5
    np.testing.assert_allclose(
        head.predict(whole.numpy(), verbose=0), model.predict(images, verbose=0), atol=1e-5
    )
    evidence = explain.grad_cam(model, images, np.array([0, 1]))
    assert min(evidence.shape) >= 2
    assert min(evidence.shape[1:]) >= explain.FEWEST
    assert evidence.max() == 1
    assert explain.feature_maps(model, images[0]).std() > 0
    path = tmp_path / "whole.keras"
    saved.save(model, path, record(["cat", "dog"]))
    np.save(tmp_path / "images.npy", images)
    code = (
        "import keras, numpy as np;"
        "model = keras.models.load_model('whole.keras', safe_mode=True);"
        "np.save('out.npy', model.predict(np.load('images.npy'), verbose=0))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    expected = model.predict(images, verbose=0)
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected, atol=1e-6)


@pytest.mark.parametrize("architecture", ["normalised", "pooled"])
def test_a_mirrored_model_cannot_tell_an_image_from_its_mirror_image(architecture, tmp_path):
    base = backbone_of("VGG16", 48)
    head = head_of(architecture, base.output_shape[1:], 8)
    model = cached.end_to_end(base, head, "mirrored", mirrored=True)
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 48, 3)).astype("uint8")
    extract = features.extractor(base)
    (plain,), (mirror,) = extract(images), extract(images[:, :, ::-1])
    assert cached.disagreement(model, images, head, plain, mirror) < 1e-5
    assert cached.disagreement(model, images[:, :, ::-1], head, plain, mirror) < 1e-5
    assert cached.disagreement(model, images, head, plain) > 1e-4
    saved.save(model, tmp_path / "mirrored.keras", record(["cat", "dog"]))
    loaded = saved.load(tmp_path / "mirrored.keras")
    assert cached.disagreement(loaded, images, loaded.get_layer("head"), plain, mirror) < 1e-5
    evidence = explain.grad_cam(model, images, np.array([0, 1, 1]))
    assert evidence.max() == 1


def test_heads_are_found_by_name():
    assert head_of("dense", (5, 5, 512), 256).count_params() == 12_800 * 256 + 256 + 257
    assert head_of("dense", (5, 5, 512), None).count_params() == 12_801
    assert head_of("normalised", (5, 5, 512), None).count_params() == 2 * 12_800 + 12_801
    with pytest.raises(InputError, match="no head 'densse'; did you mean dense"):
        head_of("densse", (5, 5, 512), 8)


def test_a_model_s_layers_are_found_in_the_order_of_their_calls():
    """Including the layers of nested models. One of these is called twice."""
    inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4, name="twice")])
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, name="first")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1, name="last")(inner(inner(x))))
    start = keras.Input((4,))
    output, steps = internals.steps(model, start)
    assert [step.layer.name for step in steps][-4:] == ["first", "twice", "twice", "last"]
    unfolded = keras.Model(start, output)
    given = np.ones((2, 4), "f4")
    np.testing.assert_allclose(model(given), unfolded(given), atol=1e-6)


@pytest.mark.parametrize("kind", heads.HEADS)
def test_a_head_that_needs_several_images_tells_none_from_another_alone(kind):
    head = head_of(kind, (2, 2, 8), 8)
    model = keras.Sequential([keras.Input((2, 2, 8)), head])  # nested, as in fine_tune
    images = np.random.default_rng(0).normal(0, 10, (9, 1, 2, 2, 8)).astype("float32")
    body = keras.Model(head.input, head.layers[-2].input)  # before dropout
    alone = np.concatenate([np.asarray(body(image, training=True)) for image in images])
    assert internals.needs_several_images(model) == (np.ptp(alone, axis=0) == 0).all()
    head.trainable = False
    assert not internals.needs_several_images(model)


def test_a_cut_is_where_nothing_passes_around():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(4, name="before")(inputs)
    y = keras.layers.Dense(4, name="inside")(x)
    z = keras.layers.Dense(4, name="after")(keras.layers.Add(name="sum")([x, y]))
    model = keras.Model(inputs, keras.layers.Dense(1, name="last")(z))
    assert {
        name: internals.divides(model, model.get_layer(name))
        for name in ("inside", "sum", "after", "last")
    } == {
        "inside": True,
        "sum": False,
        "after": True,
        "last": True,
    }


def test_preprocessing_is_the_one_of_the_same_module():
    for name in ("vgg16", "mobilenet_v2"):
        module = getattr(keras.applications, name)
        constructor = {"vgg16": "VGG16", "mobilenet_v2": "MobileNetV2"}[name]
        found = internals.preprocessing(getattr(keras.applications, constructor))
        pixels = np.full((1, 2, 2, 3), 200, "f4")
        np.testing.assert_array_equal(found(pixels.copy()), module.preprocess_input(pixels.copy()))


def test_a_record_comes_back(tmp_path):
    known = record(["Größe", "고양이"], title="probe", listing="8.16", book=0.9)
    saved.save(architectures.mnist_convnet(True), tmp_path / "a.keras", known)
    assert saved.record(tmp_path / "a.keras") == known
    architectures.mnist_convnet(True).save(tmp_path / "foreign.keras")
    with pytest.raises(InputError, match=r"foreign\.keras: has no record"):
        saved.record(tmp_path / "foreign.keras")


def test_a_normalised_head_sees_no_brightness_of_the_features():
    head = head_of("normalised", (2, 2, 512), 16)
    x = np.random.default_rng(0).normal(5, 2, (4, 2, 2, 512)).astype("float32")
    np.testing.assert_allclose(
        head.predict(x, verbose=0), head.predict(7 * x, verbose=0), atol=1e-3
    )


@pytest.mark.parametrize("architecture", heads.HEADS)
def test_a_linear_head_starts_from_zeros(architecture):
    x = np.random.default_rng(0).normal(0, 10, (4, 2, 2, 8)).astype("float32")
    linear, deeper = (head_of(architecture, (2, 2, 8), units)(x) for units in (None, 8))
    assert (np.asarray(linear) == 0.5).all()
    assert (np.asarray(deeper) != 0.5).all()


def test_a_pooled_head_sees_no_scale_of_a_feature():
    """Batch normalisation removes what a root leaves of the scale."""
    how = HEAD.model_copy(update={"architecture": "pooled", "units": 8, "dropout": 0})
    head = heads.build_head((2, 2, 8), 2, how)
    x = np.random.default_rng(0).normal(0, 10, (64, 2, 2, 8)).astype("float32")
    scaled = x * np.geomspace(1, 1000, 8, dtype="float32")
    plain, large = (np.asarray(head(given, training=True))[:, 0] for given in (x, scaled))
    np.testing.assert_allclose(plain, large, atol=0.05)
    assert np.std(plain) > 0.1


def test_a_pooled_head_has_a_slope_at_zero():
    """Else fine_tune, which trains through it, would get a number that is none."""
    head = head_of("pooled", (2, 2, 8), None)
    head.layers[-1].kernel.assign(tf.ones((8, 1)))
    zeros = tf.zeros((4, 2, 2, 8))
    with tf.GradientTape() as tape:
        tape.watch(zeros)
        outputs = head(zeros, training=False)
    slopes = tape.gradient(outputs, zeros).numpy()
    assert np.isfinite(slopes).all()
    assert np.abs(slopes).max() > 0


def test_the_cached_path_in_bfloat16_agrees_with_the_model_in_float32():
    base = backbone_of("VGG16", 90)
    precision.use(precision.policy("bfloat16"))
    try:
        fast = backbone_of("VGG16", 90)
    finally:
        precision.use("float32")
    fast.set_weights(base.get_weights())
    images = np.random.default_rng(0).integers(0, 256, (4, 90, 90, 3)).astype("uint8")
    (slow,) = features.extractor(base)(images)
    (quick,) = features.extractor(fast)(images)
    assert np.abs(slow - quick).max() < 0.03 * np.abs(slow).max()


@pytest.mark.slow
def test_two_processes_save_the_same_bytes_and_nothing_else(tmp_path, root):
    code = (
        "import sys, keras; from pathlib import Path; from tests.commands import record;"
        "from convnets.models import precision, saved; from convnets.networks import architectures;"
        "keras.utils.set_random_seed(0);"
        "precision.use('mixed_bfloat16'); precision.use('float32');"
        "saved.save(architectures.plain(90, 2, 0.5), Path(sys.argv[1]), record(['cat', 'dog']))"
    )
    environment = os.environ | {"PYTHONPATH": f"{root / 'src'}{os.pathsep}{root}"}
    for name in ("a.keras", "b.keras"):
        command = [sys.executable, "-c", code, str(tmp_path / name)]
        subprocess.run(command, check=True, capture_output=True, env=environment)
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.keras", "b.keras"]
    assert saved.class_names(tmp_path / "a.keras") == ["cat", "dog"]
    assert (
        saved.load(tmp_path / "a.keras").count_params()
        == architectures.plain(90, 2, 0).count_params()
    )


@pytest.mark.slow
def test_another_backend_of_the_user_changes_nothing(tmp_path):
    """Neither in a stage nor in `predict`."""
    saved.save(architectures.plain(78, 2, 0), tmp_path / "a.keras", record(["cat", "dog"]))
    sample.draw("cat", 0, 0).save(tmp_path / "a.png")
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "KERAS_BACKEND": "torch"}
    stage = "import stages, keras; print(keras.backend.backend())"
    for command in (
        ["-c", stage],
        [
            "-m",
            "convnets",
            "predict",
            str(tmp_path / "a.png"),
            "--model",
            str(tmp_path / "a.keras"),
        ],
    ):
        done = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert re.search("tensorflow|cat|dog", done.stdout)


def test_a_model_with_a_lambda_is_refused(tmp_path):
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.Lambda(lambda x: x + 1)(inputs))
    model.save(tmp_path / "evil.keras")
    with pytest.raises(InputError, match=r"evil\.keras: cannot be loaded safely"):
        saved.load(tmp_path / "evil.keras")


def test_a_model_with_a_class_of_its_own_is_refused(tmp_path):
    @keras.saving.register_keras_serializable("elsewhere")
    class Own(keras.layers.Layer):
        def call(self, x):
            return x

    inputs = keras.Input((4,))
    keras.Model(inputs, Own()(inputs)).save(tmp_path / "own.keras")
    registered = keras.saving.get_custom_objects()
    del registered["elsewhere>Own"]
    with pytest.raises(InputError, match=r"own\.keras: cannot be loaded safely"):
        saved.load(tmp_path / "own.keras")


def test_weights_of_another_architecture_in_a_model_are_refused(tmp_path):
    for name, pooling in (("a.keras", True), ("b.keras", False)):
        saved.save(architectures.mnist_convnet(pooling), tmp_path / name, record([]))
    with (
        zipfile.ZipFile(tmp_path / "a.keras") as a,
        zipfile.ZipFile(tmp_path / "b.keras") as b,
        zipfile.ZipFile(tmp_path / "mixed.keras", "w") as mixed,
    ):
        for name in a.namelist():
            mixed.writestr(name, (b if name == "model.weights.h5" else a).read(name))
    with pytest.raises(InputError, match=r"mixed\.keras: cannot be loaded safely"):
        saved.load(tmp_path / "mixed.keras")


def test_a_truncated_model_is_refused(tmp_path):
    path = tmp_path / "cut.keras"
    saved.save(architectures.mnist_convnet(True), path, record([]))
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"cut\.keras"):
        saved.load(path)


def test_no_model_file_carries_the_time(tmp_path):
    saved.save(architectures.mnist_convnet(True), tmp_path / "a.keras", record([]))
    with zipfile.ZipFile(tmp_path / "a.keras") as file:
        assert b"date_saved" not in file.read("metadata.json")


@pytest.fixture(scope="module")
def members(tmp_path_factory) -> dict[str, bytes]:
    """What is in a real, small model."""
    path = tmp_path_factory.mktemp("small") / "small.keras"
    layers, inputs = keras.layers, keras.Input((8, 8, 3))
    x = layers.Flatten()(layers.Conv2D(2, 3)(layers.RandomFlip()(inputs)))
    saved.save(keras.Model(inputs, layers.Dense(3)(x)), path, record(["a", "b", "c"]))
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members: dict[str, bytes], path: Path, how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def outcomes(path: Path) -> list[str]:
    """What each way to read a model says: nothing, or its one line."""
    said = []
    for read in (saved.load, saved.record, saved.class_names):
        try:
            read(path)
            said.append("")
        except InputError as error:
            said.append(str(error))
            assert str(error).startswith(f"{path}: ")
            assert str(error).isprintable()
            assert len(str(error)) < len(str(path)) + 400
    return said


@hypothesis.settings(max_examples=60, derandomize=True)
@hypothesis.given(st.data())
def test_a_damaged_model_is_one_line_or_a_model(members, tmp_path_factory, data):
    changed = data.draw(st.sampled_from(["the file", *members]))
    path = packed(members, tmp_path_factory.mktemp("damaged") / "model.keras")
    content = bytearray(path.read_bytes() if changed == "the file" else members[changed])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.sampled_from([0, 1, 2, 9, len(content)]))
        content[place : place + cut] = data.draw(st.binary(max_size=4))
    if changed == "the file":
        path.write_bytes(content)
    else:
        packed(members | {changed: bytes(content)}, path)
    outcomes(path)


def encrypted(path: Path) -> None:
    content = bytearray(path.read_bytes())
    for mark, flags in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        for found in re.finditer(re.escape(mark), bytes(content)):
            content[found.start() + flags] |= 1
    path.write_bytes(content)


def test_what_is_no_model_is_one_line(members, tmp_path):
    path = packed(members, tmp_path / "model.keras")
    assert outcomes(path) == ["", "", ""]
    encrypted(path)
    assert all("encrypted" in line for line in outcomes(path))
    folder, pipe = tmp_path / "folder.keras", tmp_path / "pipe.keras"
    folder.mkdir()
    os.mkfifo(pipe)
    for path in (folder, pipe):
        assert all("not a file" in line for line in outcomes(path))
    for metadata in (b"", b"[]", b"\xff", b"[" * 10**6, b'{"classes": "abc"}', b"9" * 5000):
        path = packed(members | {"metadata.json": metadata}, tmp_path / "model.keras")
        assert all(outcomes(path)[1:])


def layer(config: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = (each for each in config["config"]["layers"] if each["class_name"] == kind)
    return found["config"]


def test_a_model_takes_no_more_than_its_file(members, tmp_path):
    path = tmp_path / "model.keras"
    large = members | {"metadata.json": b"[" + b"[]," * 3 * 10**6 + b"[]]"}
    assert all("larger than 8 MB" in line for line in outcomes(packed(large, path)))
    packed(large, path, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 10**5
    assert all("compressed" in line for line in outcomes(path))

    for kind, change, why in (
        ("Dense", {"units": 10**9}, "1,000,000,000 values"),
        ("Dense", {"units": 10**6}, "fewer weights"),
        ("Conv2D", {"filters": 10**30}, "cannot be loaded safely"),
        ("InputLayer", {"batch_shape": [None, 10**6, 10**6, 3]}, "cannot be loaded safely"),
    ):
        config = json.loads(members["config.json"])
        layer(config, kind).update(change)
        packed(members | {"config.json": json.dumps(config).encode()}, path)
        assert why in outcomes(path)[0]

    weights = io.BytesIO(members["model.weights.h5"])
    with h5py.File(weights, "a") as file:
        kernel = "layers/dense/vars/0"
        del file[kernel]
        file.create_dataset(kernel, (10**9,), "f4", chunks=(1000,), compression="gzip")
    packed(members | {"model.weights.h5": weights.getvalue()}, path)
    assert "fewer weights" in outcomes(path)[0]


def test_a_model_is_loaded_without_a_trace(members, tmp_path):
    """Neither Python's random numbers, from which Keras takes seeds, nor weights made in vain."""
    path = packed(members, tmp_path / "model.keras")
    random.seed(1)
    saved.load(path)
    after = random.random()
    random.seed(1)
    keras.models.load_model(path, compile=False)
    assert after == random.random()
    assert global_state.get_global_attribute("uninitialized_variables") == []
