"""NumPy files, streamed to disk and read through memory maps."""

import math
import mmap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Writer:
    """Appends rows to an open `.npy` file; see `writer`.

    It does not write through a memory map, even if the length is known. On a full disk, that kills
    the process with a signal instead of raising an error.
    """

    def __init__(self, file: Any, dtype: DTypeLike, row_shape: tuple[int, ...] | None) -> None:
        self._file = file
        self.dtype = np.dtype(dtype)
        self.row_shape = row_shape
        self.rows = 0
        with suppress(ValueError):  # there is no header, or only a part of one
            np.lib.format.read_magic(file)
            (_, *shape), _, _ = np.lib.format.read_array_header_1_0(file)
            self.row_shape, start = tuple(shape), file.tell()
            # The complete rows that an interrupted process left.
            self.rows = (file.seek(0, 2) - start) // self._row_bytes
        self.keep(self.rows)

    @property
    def _row_bytes(self) -> int:
        return self.dtype.itemsize * math.prod(self.row_shape or ())

    def keep(self, rows: int) -> None:
        """Keep the first `rows` and continue after them. The header has this number of rows.

        NumPy's padding leaves room for a larger number.
        """
        self.rows = rows
        self._file.seek(0)
        if self.row_shape is None:
            self._file.truncate(0)
            return
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (rows, *self.row_shape),
        }
        np.lib.format.write_array_header_1_0(self._file, header)
        self._file.truncate(self._file.tell() + rows * self._row_bytes)
        self._file.seek(0, 2)

    def row(self, place: int) -> NDArray[Any]:
        """Return a row of a file that an interrupted process left."""
        self._file.seek((place - self.rows) * self._row_bytes, 2)
        row = np.frombuffer(self._file.read(self._row_bytes), self.dtype)
        return row.reshape(self.row_shape or ())

    def append(self, rows: NDArray[Any]) -> None:
        """Append `rows` of shape (n, *row_shape), cast to the file's dtype.

        Raises:
            ValueError: the shape differs from that of the first, or the dtype cannot hold the
                values as finite numbers.
        """
        if self.row_shape is None:
            self.row_shape = rows.shape[1:]
            self.keep(0)
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"rows of shape {rows.shape[1:]}, expected {self.row_shape}")
        with np.errstate(over="ignore"):
            cast = np.ascontiguousarray(rows, dtype=self.dtype)
        if not np.isfinite(cast).all():
            raise ValueError(f"{self.dtype} cannot hold the values as finite numbers")
        self._file.write(cast.data)
        self.rows += len(rows)


@contextmanager
def writer(
    path: Path,
    dtype: DTypeLike,
    row_shape: tuple[int, ...] | None = None,
    resume: bool = False,
) -> Iterator[Writer]:
    """Open a `.npy` file for streaming. It gets its name only once it is complete.

    Args:
        path: the file to write; its folder is created.
        dtype: dtype of the stored values.
        row_shape: shape of one row. Without it, there must be rows, and the first give it.
        resume: keep the rows written before a failure, and continue after them next time, even if
            the file was complete.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    if not resume:
        part.unlink(missing_ok=True)
    elif path.exists():  # complete, but not the files that are written beside it
        path.replace(part)
    part.touch()
    try:
        with part.open("r+b") as file:
            out = Writer(file, dtype, row_shape)
            yield out
            out.keep(out.rows)
        part.replace(path)
    except OSError as error:
        error.filename = error.filename or str(path)  # a full-disk error names no file
        raise
    finally:
        if not resume:
            part.unlink(missing_ok=True)


def read(path: str | Path) -> NDArray[Any]:
    """Memory-map a `.npy` file, read-only; pickled objects are rejected."""
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


def give_back(array: NDArray[Any]) -> None:
    """Let the system have the pages of a memory-mapped array, which count as this process's memory.

    It keeps them cached while it has room, so to read them again is cheap.

    Args:
        array: from `read`, or a view of such an array. Of any other, nothing is given back.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
        base.madvise(mmap.MADV_DONTNEED)


def leave_out(source: Path, target: Path, rows: set[int]) -> None:
    """Write a `.npy` file again without some of its rows."""
    array = read(source)
    with writer(target, array.dtype, array.shape[1:]) as out:
        for row in range(len(array)):
            if row not in rows:
                out.append(array[row : row + 1])
