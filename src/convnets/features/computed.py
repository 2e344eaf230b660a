"""Features that were computed before, by the pixels that they are of.

They are in `.features/KEY`, where KEY stands for all else that their bits depend on. Each file has
the rows of a batch. Its name is a hash of the key and of its content, so a file that is damaged, or
of another key, is noticed.
"""

import hashlib
import io
import os
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from convnets.base import files
from convnets.base.console import say
from convnets.examples import npy

FOLDER = Path(".features")  # in the main checkout, also for experiments elsewhere
LARGEST = 8 * 10**9  # bytes that stay
PARTS = ("cut", "top")
OPEN = 128  # files at a time


class Computed:
    """The rows of a key. Several processes may read and add at the same time."""

    def __init__(self, key: str) -> None:
        self._key, self._folder = key, files.root() / FOLDER / key
        self._places: dict[tuple[str, bytes], tuple[Path, int]] = {}
        damaged = 0
        for path in sorted(self._folder.glob("*.npy")):
            if path.stem == self._name(path.read_bytes()):
                self._note(path)
            else:
                damaged += 1
                if re.fullmatch("[0-9a-f]{64}", path.stem):
                    path.unlink()
        if damaged:
            say(f"{self._folder}: {damaged:,} damaged or foreign files, which are not used")

    def _name(self, content: bytes) -> str:
        return hashlib.sha256(self._key.encode() + content).hexdigest()

    def _note(self, path: Path) -> None:
        rows = npy.read(path)
        for part in set(PARTS).intersection(rows.dtype.names or ()):
            for place, picture in enumerate(rows["picture"]):
                self._places[part, picture.tobytes()] = path, place

    def has(self, picture: bytes, parts: int) -> bool:
        """Tell whether the last `parts` of a picture's row are there."""
        return (PARTS[-parts], picture) in self._places

    def add(self, pictures: Sequence[bytes], row: Sequence[NDArray[Any]]) -> None:
        """Keep rows.

        Args:
            pictures: the SHA-256 of each picture's pixels.
            row: the (n, …) features at the cut, if any, and at the top.
        """
        named = list(zip(PARTS[-len(row) :], row, strict=True))
        kinds = [(part, "<f4", values.shape[1:]) for part, values in named]
        rows = np.empty(len(pictures), [("picture", "V32"), *kinds])
        for name, values in [("picture", np.array(pictures, "V32")), *named]:
            rows[name] = values
        content = io.BytesIO()
        np.save(content, rows, allow_pickle=False)
        path = self._folder / f"{self._name(content.getvalue())}.npy"
        self._folder.mkdir(parents=True, exist_ok=True)
        part = self._folder / f".part.{uuid4().hex}"  # another process may write the same now
        try:
            part.write_bytes(content.getbuffer())
            part.replace(path)
        except OSError as error:
            part.unlink(missing_ok=True)
            error.filename = str(path)  # a full-disk error names no file
            raise
        self._note(path)

    def write(self, pictures: Sequence[bytes], outs: Sequence[Path]) -> None:
        """Write the last parts of pictures' rows as (n, …) float32, a file for each part."""
        read = lru_cache(OPEN)(npy.read)
        for part, out in zip(PARTS[-len(outs) :], outs, strict=True):
            with npy.writer(out, "float32") as writer:
                for picture in pictures:
                    path, place = self._places[part, picture]
                    writer.append(read(path)[part][place][None])
        for path in {self._places[PARTS[-1], picture][0] for picture in pictures}:
            os.utime(path)


def prune(largest: int = LARGEST) -> None:
    """Remove the files that were not used for the longest time, until few enough bytes are left."""
    kept = 0
    known = [(path.stat(), path) for path in (files.root() / FOLDER).glob("*/*")]
    for seen, path in sorted(known, key=lambda each: -each[0].st_mtime):
        kept += seen.st_size
        if kept > largest:
            path.unlink(missing_ok=True)
