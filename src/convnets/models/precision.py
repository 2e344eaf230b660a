"""The numeric precision of the layers' computations. Weights stay float32."""

from pathlib import Path

import keras


def policy(precision: str) -> str:
    """Return Keras's dtype policy for a `precision` of auto, float32 or bfloat16.

    "auto" is bfloat16 if the CPU supports it, since oneDNN is then about twice as fast.
    """
    if precision == "auto":
        try:
            flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        except OSError:  # not Linux
            flags = ""
        native = "avx512_bf16" in flags or "amx_bf16" in flags
        precision = "bfloat16" if native else "float32"
    return {"float32": "float32", "bfloat16": "mixed_bfloat16"}[precision]


def use(dtype_policy: str) -> None:
    """Set the dtype policy of the layers built from now on."""
    keras.config.set_dtype_policy(dtype_policy)
