"""What a model is computed on, and in which numbers. Weights stay float32."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf


def policy(precision: str) -> str:
    """Return Keras's dtype policy for a `precision` of auto, float32 or bfloat16.

    "auto" is bfloat16 where the processor computes in it natively, which is about twice as fast: a
    GPU of compute capability 8.0 or more, or a CPU with AVX-512 BF16 or AMX.
    """
    if precision == "auto":
        found = tf.config.list_physical_devices("GPU")
        native = all(map(_gpu_has_bfloat16, found)) if found else _cpu_has_bfloat16()
        precision = "bfloat16" if native else "float32"
    return {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]


def use(dtype_policy: str) -> None:
    """Set the dtype policy of the layers built from now on."""
    keras.config.set_dtype_policy(dtype_policy)


def strategy(*sizes: int) -> tf.distribute.Strategy:
    """Return how to train: on several GPUs of this machine in parallel, if it has them.

    Each takes an equal part of each batch. Keras averages the means of the parts, so an image in a
    smaller part would count for more; and it fails if the first batch has unequal parts. So only as
    many GPUs are used as divide all sizes. Several logical CPU devices count too, if somebody has
    configured them.

    Args:
        sizes: numbers of examples that must be divisible by the number of GPUs.
    """
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    whole = math.gcd(*sizes)
    count = max(n for n in range(1, len(devices) + 1) if whole % n == 0)
    if count == 1:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([device.name for device in devices[:count]])


def told(dtype_policy: str, devices: int = 1) -> str:
    """Return what is computed on, and in which numbers, such as `CPU, bfloat16`.

    Args:
        dtype_policy: from `policy`.
        devices: the number of GPUs, or of logical CPU devices, that compute.
    """
    names = gpus()[:devices] or ["CPU"] * devices
    counted = Counter(names).items()
    told = [f"{count} × {name}" if count > 1 else name for name, count in counted]
    return f"{', '.join(told)}, {dtype_policy.removeprefix('mixed_')}"


def gpus() -> list[str]:
    """Return the names of this machine's GPUs."""
    found = tf.config.list_physical_devices("GPU")
    details = [tf.config.experimental.get_device_details(gpu) for gpu in found]
    return [str(each.get("device_name", "GPU")) for each in details]


def _gpu_has_bfloat16(gpu: Any) -> bool:
    details = tf.config.experimental.get_device_details(gpu)
    return tuple(details.get("compute_capability", (0, 0))) >= (8, 0)


def _cpu_has_bfloat16() -> bool:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
