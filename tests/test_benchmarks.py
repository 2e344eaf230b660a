"""The benchmark compares like with like, and measures the cost of a process."""

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import suppress
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest

from benchmarks import book, compare, measure
from convnets.backbones import backbone
from convnets.base import params
from convnets.heads import architectures as heads
from convnets.networks import architectures
from tests.commands import ROOT, backbone_of

HEAD = params.load(ROOT / "presets/book.yaml").of("train_feature_head", params.HeadTraining)


def weighty(model):
    """The kernels' shapes and the activations, in order, of a model's layers that have weights."""
    layers = [layer for layer in model.layers if hasattr(layer, "kernel")]
    return [(layer.kernel.shape, layer.activation.__name__) for layer in layers]


def test_the_books_models_have_its_parameters_and_are_ours(tmp_path):
    few = {"x": np.zeros((20, 28, 28), np.uint8), "y": np.zeros(20, np.uint8)}
    arrays = {f"{key}_{split}": few[key] for key in few for split in ("train", "test")}
    np.savez(tmp_path / "mnist.npz", **arrays)
    digits, *_ = book.mnist(tmp_path / "mnist.npz")
    plain, augmented = book.convnet(False), book.convnet(True)
    head = book.feature_head()
    assert digits.count_params() == 104_202
    assert plain.count_params() == augmented.count_params() == 991_041
    assert weighty(digits) == weighty(architectures.mnist_convnet(True))
    assert weighty(plain) == weighty(augmented) == weighty(architectures.plain(180, 2, 0.5))
    assert weighty(head) == weighty(heads.build_head((5, 5, 512), 2, HEAD))

    base = book.backbone(None)
    assert base.count_params() == 14_714_688
    tuned = book.on_backbone(base, True).trainable_weights
    _, ours = backbone.split(backbone_of("VGG16", 180), 4)
    top = [
        *ours.trainable_weights,
        *heads.build_head((5, 5, 512), 2, HEAD).trainable_weights,
    ]
    assert [w.shape for w in tuned] == [w.shape for w in top]
    assert len(book.on_backbone(base, False).trainable_weights) == 4


def test_operations_are_counted():
    # The literature gives 15.3 billion multiplications for VGG16's convolutions at 224 pixels.
    base = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    assert compare.operations(base.layers) / 2 == pytest.approx(15.35e9, rel=0.01)


def test_a_process_is_measured(tmp_path):
    program = "import time\nheld = bytearray(b'1') * 2**28\nprint('step 1')\ntime.sleep(0.5)\n"
    seen = measure.run([sys.executable, "-c", program + "print('end')"], tmp_path, "step")
    assert 0.25 < seen.anonymous <= seen.peak < 0.5
    assert len(seen.steps) == 1 and 0 < seen.steps[0] < seen.wall
    assert seen.last == "end"
    with pytest.raises(SystemExit, match="failed"):
        measure.run([sys.executable, "-c", "raise ValueError"], tmp_path)


def test_an_interrupted_measurement_ends(tmp_path):
    waits = "import pathlib, signal; pathlib.Path('waits').touch(); signal.pause()"
    measures = (
        "import pathlib, sys; from benchmarks import measure; from convnets.base import console; "
        f"command, folder = [sys.executable, '-c', {waits!r}], pathlib.Path({str(tmp_path)!r}); "
        "console.run(lambda: measure.run(command, folder))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", measures],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        while not (tmp_path / "waits").exists():
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
        try:
            _, said = process.communicate(timeout=60)
        finally:
            with suppress(ProcessLookupError):  # where both have ended
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130
    assert said.endswith("stopped; run it again to resume\n")


def test_an_interrupted_comparison_resumes_only_with_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(compare, "UNFINISHED", tmp_path)
    digits = tmp_path / "digits.npz"
    digits.write_bytes(b"one")

    def begun(**changed: object) -> Path:
        given = {"archive": None, "weights": None, "digits": digits, "share": 0.1, "rounds": 1}
        folder = compare.begin(Namespace(**given | changed))
        assert (folder / "convnets/dvc.yaml").exists()
        return folder

    first = begun()
    assert begun(rounds=2) == first
    assert begun(share=0.2) != first
    digits.write_bytes(b"others")
    assert begun() != first


def test_minutes_are_put_together(tmp_path):
    ran = [(name, "ours", 60.0) for name in compare.PREPARING]
    ran += [(name, "ours", 120.0) for stages in compare.ROWS.values() for name in stages]
    ran += [(stages[-1], "book", 600.0) for stages in compare.ROWS.values()]
    table = pd.DataFrame(ran, columns=["stage", "side", "seconds"])
    table.insert(0, "round", 1)
    table = table[["round", "side", "stage"]].assign(
        minutes=table["seconds"] / 60,
        images_per_second=100.0,
        share_of_peak=0.5,
        peak=1.5,
        anonymous=0.5,
        before=3.0,
        numbers="float32",
        monitor="val_loss",
        matrix_peak=2e11,
    )
    text = compare.write(table, tmp_path, "2 cores.")
    _, minutes = compare.summary(table)
    assert minutes.loc["all"].to_dict() == {"book": 60, "ours": 20, "times as fast": 3}
    assert minutes.loc["features", "ours"] == 4  # extraction and the head
    assert (tmp_path / "results.md").read_text() == text
    assert {file.name for file in tmp_path.iterdir()} == {
        f"results.{suffix}" for suffix in ("csv", "md", "png")
    }
