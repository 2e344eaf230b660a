"""Handwritten digits: MNIST, or scikit-learn's small set, which needs no network."""

import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from convnets.base import files, params
from convnets.base.console import InputError
from convnets.examples.examples import Examples

FILE = Path("dvc-outs/mnist.npz")
CLASSES = [str(digit) for digit in range(10)]


def write(how: params.Mnist, seed: int, out: Path) -> None:
    """Write digits in Keras's format: `x_train` (n, 28, 28) uint8, `y_train`, `x_test`, `y_test`.

    Args:
        how: the source: digits (scikit-learn's, 8 × 8, upscaled), keras (a download) or a file.
        seed: seed of the split of scikit-learn's digits.
        out: the `.npz` file to write.

    Raises:
        InputError: the file is not MNIST, or the download failed.
    """
    if how.source == "digits":
        arrays = _digits(seed)
    elif how.source == "keras":
        import keras

        try:
            (x_train, y_train), (x_test, y_test) = keras.datasets.mnist.load_data()
        except Exception as error:  # Keras raises a bare Exception for a failed download
            raise InputError(
                f"mnist.npz: cannot be downloaded ({error}); connect to a network, or set "
                "mnist.source to file"
            ) from error
        arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
    else:
        arrays = _read(files.given(how.path or ""))
    with files.atomic(out) as part:
        np.savez(part, allow_pickle=False, **arrays)


def load(path: Path, split: str) -> Examples:
    """Return the train or test digits: (n, 28, 28, 1) uint8 and their labels."""
    arrays = _read(path)
    return Examples(arrays[f"x_{split}"][..., None], arrays[f"y_{split}"].astype(np.int64), path)


def hold_out(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Split off a random share for validation; return the rest and the share.

    The book has no validation digits and keeps the last epoch. Here they choose the epoch.
    """
    order = np.random.default_rng(seed).permutation(len(examples.labels))
    held, rest = np.split(order, [max(1, round(share * len(order)))])
    train, validation = (
        Examples(examples.inputs[rows], examples.labels[rows], examples.source)
        for rows in (rest, held)
    )
    return train, validation


def _read(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x_train", "y_train", "x_test", "y_test")}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not an mnist.npz ({error}); correct mnist.path") from error
    for split in ("train", "test"):
        images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if images.shape != (len(labels), 28, 28) or images.dtype != np.uint8:
            raise InputError(f"{path}: x_{split} is not (n, 28, 28) uint8; correct mnist.path")
        if len(labels) == 0 or labels.min() < 0 or labels.max() > 9:
            raise InputError(f"{path}: y_{split} has labels other than 0 to 9; correct mnist.path")
    return arrays


def _digits(seed: int) -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    small = (digits.images * (255 / 16)).astype(np.uint8)
    images = np.stack(
        [
            np.asarray(Image.fromarray(image).resize((28, 28), Image.Resampling.BICUBIC))
            for image in small
        ]
    )
    x_train, x_test, y_train, y_test = train_test_split(
        images, digits.target, test_size=1 / 6, random_state=seed, stratify=digits.target
    )
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}
