"""Which files are pictures: by their endings, or else by their first bytes."""

import mimetypes
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import PurePosixPath

FIRST = 2**10  # bytes of a file that tell its format
BLANK = b"\xef\xbb\xbf \t\r\n"  # which careless programs write before a picture
FORMATS = {  # the start of a file, and the endings
    "JPEG": (rb"\xff\xd8\xff", "jpg jpeg jpe jfif mpo"),
    "PNG": (rb"\x89PNG\r\n\x1a\n", "png apng"),
    "WebP": (rb"RIFF....WEBP", "webp"),
    "AVIF": (rb"....ftyp.{0,64}?avi[fs]", "avif avifs"),
    "HEIC": (rb"....ftyp.{0,64}?(hei[cmsx]|hev[cmsx]|mif1|msf1)", "heic heif hif"),
    "TIFF": (rb"II[*+]\0|MM\0[*+]", "tif tiff"),
    "JPEG2000": (rb"\xff\x4f\xff\x51|....jP  \r\n", "jp2 j2k j2c jpc jpf jpx"),
    "PNM": (rb"P[1-6f]" + 2 * rb"(\s|#[^\r\n]*[\r\n])+\d+", "ppm pgm pbm pnm pfm"),
    "GIF": (rb"GIF8[79]a", "gif"),
    "BMP": (rb"BM.{13}\0\0\0", "bmp dib"),
}
SUFFIXES = frozenset(f".{each}" for _, endings in FORMATS.values() for each in endings.split())
TYPES = mimetypes.MimeTypes()  # Python's own, whatever the system knows
_TEXTS = (".md", ".yaml", ".yml", ".toml", ".cfg", ".ini", ".log", ".ipynb")
TYPES.types_map[True].update(dict.fromkeys(_TEXTS, "text/plain"))


class ImageError(ValueError):
    """The bytes are not a complete image of a known format and acceptable size."""


def is_picture(name: str, read: Callable[..., bytes] | None = None) -> bool:
    """Return whether a file's ending or, if that says nothing, its first bytes are a picture's.

    Raw photographs and slides are TIFFs with endings of their own.

    Args:
        name: its path.
        read: returns the first bytes of a path, at most so many; None to go by the ending.
    """
    ending, known = PurePosixPath(name).suffix.lower(), TYPES.guess_type(name)[0]
    if ending in SUFFIXES or read is None or known not in (None, "application/octet-stream"):
        return ending in SUFFIXES
    with suppress(OSError, ImageError):
        return kind(read(name, FIRST)) not in (None, "TIFF" if ending else None)
    return False


def kind(first: bytes) -> str | None:
    """Return the format of `FORMATS` that a file's first bytes say, if any."""
    for name, (start, _) in FORMATS.items():
        if re.match(start, first.lstrip(BLANK), re.DOTALL):
            return name
    return None
