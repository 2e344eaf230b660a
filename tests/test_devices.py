"""Training on several devices in one machine. Logical CPU devices stand in for GPUs."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from convnets.models.trained import MODEL, read
from tests.commands import Clone, command

pytestmark = pytest.mark.slow

SPLIT = """
import runpy, sys
import tensorflow as tf

count, module, *arguments = sys.argv[1:]
(cpu,) = tf.config.list_physical_devices("CPU")
parts = [tf.config.LogicalDeviceConfiguration()] * int(count)
tf.config.set_logical_device_configuration(cpu, parts)
sys.argv = [module, *arguments]
sys.path.insert(0, "")
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
DIGITS, DROPOUT, RESIDUAL = "train_mnist@max_pooling", "train_augmented", "train_residual"
EPOCHS = 3


def on(devices: int, stage: str) -> list[str]:
    """The command of a stage, after the CPU has been split into logical devices."""
    python, dash_m, *arguments = command(stage)
    assert dash_m == "-m"
    return [python, "-c", SPLIT, str(devices), *arguments]


def trained(clone: Clone, stage: str) -> Path:
    return clone.folder / f"dvc-outs/trained/{stage.replace('@', '_')}"


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    clone = Clone.of_commit(tmp_path_factory.mktemp("devices") / "convnets")
    path = clone.folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values |= {"epochs": EPOCHS, "image_size": 78, "precision": "float32"}
    values["subset"] |= {"train": 24, "validation": 8, "test": 2}
    # A step of sgd is in proportion to the gradient. The others divide by its size, so what is
    # nothing but rounding in a gradient near 0 may become a step of full length.
    for stage in ("train_mnist", RESIDUAL):
        values[stage] |= {"optimizer": "sgd", "learning_rate": 0.01, "schedule": "constant"}
    values[RESIDUAL] |= {"epochs": EPOCHS, "dropout": 0}  # each device draws its own
    values["train_mnist"] |= {"validation_share": 147 / 1497}  # its last batch has 19 images
    path.write_text(yaml.safe_dump(values))
    for stage in ("download", "subset", "labels", "download_mnist"):
        clone.run(*command(stage))
    return clone


def histories(clone: Clone, stage: str) -> list[list[dict[str, float]]]:
    """The epochs of a training on one device, and of the same on two."""
    found = []
    for devices, told in ((1, "computes on CPU, float32"), (2, "computes on 2 × CPU, float32")):
        assert told in clone.run(*on(devices, stage))
        found.append(read(trained(clone, stage)).history.to_dict("records"))
    return found


def test_two_devices_have_the_losses_of_one_within_rounding(clone):
    one, two = histories(clone, DIGITS)
    steps = -(-1350 // 64)  # of an epoch; its last batch has 6 images
    for epoch, (here, there) in enumerate(zip(one, two, strict=True), start=1):
        # Each step rounds the weights, to one part in 2**24 up or down.
        rounding = epoch * steps * float(np.finfo("float32").eps)
        assert there == pytest.approx(here, rel=rounding), epoch
    assert one[-1]["loss"] < one[0]["loss"] - 0.02  # thousands of times the tolerance


def test_two_devices_normalise_over_the_whole_batch(clone):
    """Else the loss of the first epoch differs by a percent."""
    one, two = histories(clone, RESIDUAL)
    assert two[0]["loss"] == pytest.approx(one[0]["loss"], rel=1e-3)


def test_two_devices_resume_with_the_same_bytes(clone):
    """With dropout, whose state each device has."""
    clone.run(*on(2, DROPOUT))
    undisturbed = (trained(clone, DROPOUT) / MODEL).read_bytes()
    process = subprocess.Popen(
        on(2, DROPOUT),
        cwd=clone.folder,
        env=clone.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert next((line for line in process.stdout if line.startswith("epoch")), None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    output = clone.run(*on(2, DROPOUT))
    assert "computes on 2 × CPU" in output
    assert "resuming after" in output
    assert (trained(clone, DROPOUT) / MODEL).read_bytes() == undisturbed


def test_only_as_many_devices_are_used_as_divide_all_sizes():
    """Keras 3.15 fails on a first batch of unequal parts, and weighs a last one wrongly."""
    program = (
        "import tensorflow as tf; from convnets.models import precision;"
        '(cpu,) = tf.config.list_physical_devices("CPU");'
        "parts = [tf.config.LogicalDeviceConfiguration()] * 4;"
        "tf.config.set_logical_device_configuration(cpu, parts);"
        "sizes = (32, 480, 32), (30, 480, 27), (32, 482, 32), (32, 481, 32), (32, 480, 5);"
        "print([precision.strategy(*given).num_replicas_in_sync for given in sizes])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["[4, 3, 2, 1, 1]"], done.stderr
