"""Pictures that are blurred, dark, bright or nearly empty, from their pixels."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

SIDE = 128  # pixels: all are compared at one size
# One of Kaggle's 5,000 cats and dogs, a dark one, is beyond one of these. In pixels of 128, a
# Gaussian blur of 2 is found in nine of ten pictures or more, one of 1 in fewer than half.
LIMITS = {
    "dark": ("brightest", 0.25),  # below it is the brightest twentieth, of 1
    "bright": ("darkest", -0.75),  # above it (so minus) is the darkest twentieth
    "flat": ("contrast", 0.05),  # below it is the standard deviation of the grey values
    "blurred": ("sharpness", 0.12),  # below it is that of the Laplacian, by that of the grey values
}


def quality(pictures: Iterable[NDArray[np.uint8]]) -> pd.DataFrame:
    """Return a row for each picture: `darkest`, `brightest`, `contrast`, `sharpness`, and `odd`.

    `odd` names the first of LIMITS that the picture is beyond, else it is empty. The Laplacian's
    spread as a measure of focus: Pech-Pacheco et al. (2000).

    Args:
        pictures: (height, width, 3) each, such as the rows of an array (n, size, size, 3).
    """
    rows = []
    for picture in pictures:
        grey = Image.fromarray(picture).convert("L").resize((SIDE, SIDE), Image.Resampling.BOX)
        shares = np.cumsum(grey.histogram()) / SIDE**2
        dark, bright = np.searchsorted(shares, [0.05, 0.95]) / 255
        v = np.asarray(grey, dtype=np.int16)
        laplacian = 4 * v[1:-1, 1:-1] - v[:-2, 1:-1] - v[2:, 1:-1] - v[1:-1, :-2] - v[1:-1, 2:]
        contrast = v.std() / 255
        rows.append((dark, bright, contrast, laplacian.std() / 255 / (contrast + 1e-3)))
    found = pd.DataFrame(rows, columns=["darkest", "brightest", "contrast", "sharpness"])
    found["odd"] = ""
    for name, (column, limit) in reversed(LIMITS.items()):
        found.loc[found[column] * np.sign(limit) < limit, "odd"] = name
    return found
