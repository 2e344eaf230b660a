"""How long a run takes on this machine: costs that were measured, scaled by a short measurement.

Measured on two quiet cores of an AMD EPYC with AVX-512 and bfloat16. The stages' starts are from a
run of `photos` with 400 pictures (79 s), the milliseconds from `benchmarks/results.csv`, scaled to
the book's preset on these cores (79 minutes); EfficientNet-Lite2's from 5,000 pictures (201 s).
"""

import os
import time
from collections.abc import Mapping

import numpy as np
from threadpoolctl import threadpool_limits

from convnets.base import params
from convnets.base.cluster import this_node

SECOND = 0.4  # seconds to multiply
MULTIPLIED = 164.0  # billions of operations a second: a matrix product on all those cores
COUNTED = 0.05  # seconds of one of them to sum a million squares in Python
START, TRAINING = 62.0, 6.0  # seconds of all stages that compute little, and of each training
# Milliseconds for a picture of 180 pixels; in bfloat16, but for EfficientNet-Lite2.
EXTRACTED = {"VGG16": 32.0, "EfficientNetLite2": 7.5}
STEP = {"head": 0.3, "convnet": 6.5, "fine_tune": 10.4}  # in an epoch
DIGITS = 180.0  # seconds for all epochs of the two convnets of MNIST's digits
FLOAT32 = 2.2  # times as long as in bfloat16


def slowness() -> tuple[float, float]:
    """Return how many times as long this machine takes now: to compute, and to run Python."""
    square = np.ones((512, 512), np.float32)
    with threadpool_limits(1):
        square @ square
        begun, products = time.perf_counter(), 0
        while (took := time.perf_counter() - begun) < SECOND:
            square @ square
            products += 1
    speed = 2 * 512**3 * products / took / 1e9 * (os.cpu_count() or 1)
    begun = time.perf_counter()
    sum(number * number for number in range(1_000_000))
    return MULTIPLIED / speed, (time.perf_counter() - begun) / COUNTED


def seconds(p: params.Params, pictures: Mapping[str, int]) -> float:
    """Return about how long `dvc repro` takes after decoding, on this machine's processor.

    Args:
        p: of the run. Of a backbone that is not in `EXTRACTED`, VGG16's cost is taken.
        pictures: in each split.
    """
    p = p.model_copy(deep=True)  # of a stage that tells: what only a message reads is no dep
    computing, python = slowness()
    area = (p.image_size / 180) ** 2
    fast = p.precision != "float32" and "bf16" in this_node().processor
    numbers = 1.0 if fast else FLOAT32
    light = p.backbone.name == "EfficientNetLite2"
    each = EXTRACTED["EfficientNetLite2"] if light else EXTRACTED.get(p.backbone.name, 32) * numbers
    train, held_out = pictures["train"], sum(pictures.values()) - pictures["train"]
    passes = 2 * (train + held_out) + p.views.count * train  # each picture's mirror image, too
    took, trained = passes * each * area, 0
    for stage, section in {**(p.model_extra or {}), "fine_tune": p.fine_tune}.items():
        epochs = section.epochs and (p.epochs or section.epochs)  # as `Params.of`
        kind = "head" if isinstance(section, params.HeadTraining) else "convnet"
        cost = STEP[stage if stage in STEP else kind]
        took += epochs * train * cost * (1.0 if kind == "head" else numbers * area)
        trained += bool(epochs)
    digits = DIGITS * numbers if p.mnist.source in ("keras", "file") else 0.0
    return computing * (took / 1000 + digits) + python * (START + TRAINING * trained)


def told(duration: float) -> str:
    """Return a duration as one would say it: `about 90 seconds`, `about 12 minutes`."""
    if duration < 100:
        return f"about {max(10, round(duration, -1)):.0f} seconds"
    minutes = duration / 60
    return f"about {minutes:.0f} minutes" if minutes < 90 else f"about {minutes / 60:.1f} hours"
