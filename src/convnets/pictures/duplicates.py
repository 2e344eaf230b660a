"""Pictures that occur more than once: the same bytes, or bytes that look the same."""

import hashlib
from typing import NamedTuple

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Of all pairs among 5,000 photographs of cats and dogs, two look the same, at a distance of 0. The
# nearest of the others have 10 bits and a difference of 45. A copy in another size or quality has
# at most 4 bits and 2, one that is a fifth brighter at most 8 bits and mostly below 24.
DISTANCE = 8  # bits of 64 in which the perceptual hashes may differ
DIFFERENCE = 24  # mean difference of the reduced pictures, of 255
REDUCED = 8  # side of a reduced picture, in pixels


class Print(NamedTuple):
    """What is compared of a picture."""

    content: bytes  # a hash of the file
    perceptual: int  # a hash of the picture, 64 bits
    # (REDUCED, REDUCED, 3) uint8. An array from a task would keep the task's other results in Ray's
    # object store, the pictures.
    reduced: bytes


class Copy(NamedTuple):
    """A picture that is a copy of an earlier one, by their places in the list."""

    place: int
    original: int
    exact: bool  # the same bytes


def of(content: bytes, pixels: NDArray[np.uint8]) -> Print:
    """Return the print of a picture.

    The perceptual hash compares the picture's low frequencies with their median (pHash; Zauner,
    2010), so it is nearly the same in other sizes, qualities and formats.

    Args:
        content: the file.
        pixels: the decoded picture, (n, n, 3).
    """
    picture = Image.fromarray(pixels)
    perceptual = np.packbits(imagehash.phash(picture).hash).tobytes()
    return Print(hashlib.sha256(content).digest(), int.from_bytes(perceptual), _reduced(picture))


def reduced(pixels: NDArray[np.uint8]) -> bytes:
    """Return what is compared of a picture's pixels, (n, n, 3)."""
    return _reduced(Image.fromarray(pixels))


def _reduced(picture: Image.Image) -> bytes:
    return picture.resize((REDUCED, REDUCED), Image.Resampling.BOX).tobytes()


def find(prints: list[Print]) -> list[Copy]:
    """Return the copies, each with the first picture that is the same and no copy itself.

    Every pair is compared, so the time grows with the square of the number: 5,000 pictures take a
    tenth of a second, and 50,000 take ten.
    """
    contents: dict[bytes, int] = {}
    perceptual = np.array([each.perceptual for each in prints], dtype=np.uint64)
    copies: list[Copy] = []
    is_copy = np.zeros(len(prints), dtype=bool)
    for place, each in enumerate(prints):
        original = contents.setdefault(each.content, place)
        if original == place:
            bits = np.bitwise_count(perceptual[:place] ^ each.perceptual)
            near = np.flatnonzero((bits <= DISTANCE) & ~is_copy[:place])
            original = next((int(n) for n in near if _alike(prints[n], each)), place)
        if original != place:
            is_copy[place] = True
            contents[each.content] = original
            exact = each.content == prints[original].content
            copies.append(Copy(place, original, exact))
    return copies


def _alike(one: Print, other: Print) -> bool:
    """Whether two pictures with near hashes look the same. Those of two plain colours do not."""
    pixels = (np.frombuffer(each.reduced, np.uint8).astype(np.int16) for each in (one, other))
    return bool(np.abs(np.subtract(*pixels)).mean() <= DIFFERENCE)


def to_drop(copies: list[Copy], labels: list[str]) -> set[int]:
    """Return the places of the copies, and of both where they are of two classes: one is wrong.

    Args:
        copies: from `find`.
        labels: the class of each picture.
    """
    apart = {copy.original for copy in copies if labels[copy.place] != labels[copy.original]}
    return {copy.place for copy in copies} | apart
