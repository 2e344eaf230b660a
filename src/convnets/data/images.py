"""Decode an image file into pixels, or reject it with a reason."""

import io
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    ExifTags,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from convnets.base import console

MEMORY = 1_500_000_000  # bytes that one picture may take while it is decoded
STRIP = 2**20  # pixels that are converted at a time
BELOW = 255.999  # of 256: the highest value becomes 255, since fractions are cut off
DEPTHS = (8, 10, 12, 14, 16)  # bits per value of cameras and scanners
TURNS = {  # by EXIF's Orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

logging.getLogger("PIL").setLevel(logging.CRITICAL)  # its errors become the reasons below


class ImageError(ValueError):
    """The bytes are not a complete image of a known format and acceptable size."""


class _Jpeg(JpegImagePlugin.JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Do nothing: the resolution is not needed, and a damaged one would cost the picture."""


class _Tiff(TiffImagePlugin.TiffImageFile):
    def load(self) -> Any:
        with _no_stderr():  # libtiff prints its errors there
            return super().load()


@contextmanager
def _no_stderr() -> Iterator[None]:
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _png(file: io.BytesIO) -> ImageFile.ImageFile:
    try:
        return PngImagePlugin.PngImageFile(file)
    except SyntaxError:
        # EXIF with a wrong checksum must not cost the picture: cut it out.
        content = file.getvalue()
        start = content.find(b"eXIf") - 4
        if start < 0:
            raise
        end = start + 12 + int.from_bytes(content[start : start + 4])
        return PngImagePlugin.PngImageFile(io.BytesIO(content[:start] + content[end:]))


def _avif(file: io.BytesIO) -> ImageFile.ImageFile:
    try:
        return AvifImagePlugin.AvifImageFile(file)
    except Exception:
        # Unreadable EXIF must not cost the picture, whose turn is stored elsewhere: hide it.
        content = file.getvalue().replace(b"Exif", b"none", 1)
        return AvifImagePlugin.AvifImageFile(io.BytesIO(content))


def _heic(file: io.BytesIO) -> ImageFile.ImageFile:
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError("a HEIC picture; run `pip install pillow-heif`") from error
    image: ImageFile.ImageFile = pillow_heif.HeifImageFile(file)
    return image


# The start of a file, its decoder, and the bytes per pixel that decoding and converting hold at
# most. They were measured with the costliest variant of each format: a progressive JPEG keeps the
# coefficients of the whole picture however small it is decoded, WebP keeps two canvases, a TIFF may
# be one strip of 16 bits, and HEIC has 10 bits. The decoders are called directly, as `Image.open`
# has one limit for all of them, which is less than a phone's JPEG of 200 megapixels.
FORMATS: dict[str, tuple[bytes, Callable[[io.BytesIO], ImageFile.ImageFile], int]] = {
    "JPEG": (rb"\xff\xd8\xff", _Jpeg, 6),  # the first picture of an MPO, too
    "PNG": (rb"\x89PNG\r\n\x1a\n", _png, 8),
    "WebP": (rb"RIFF....WEBP", WebPImagePlugin.WebPImageFile, 16),
    "AVIF": (rb"....ftyp.{0,64}?avi[fs]", _avif, 16),
    "HEIC": (rb"....ftyp.{0,64}?(hei[cmsx]|hev[cmsx]|mif1|msf1)", _heic, 20),
    "TIFF": (rb"II[*+]\0|MM\0[*+]", _Tiff, 16),
    "GIF": (rb"GIF8[79]a", GifImagePlugin.GifImageFile, 8),
    "BMP": (rb"BM", BmpImagePlugin.BmpImageFile, 8),
}


def decode(content: bytes, size: int) -> NDArray[np.uint8]:
    """Decode an image upright, in RGB, and resize the whole image to a square, as Keras does.

    The format is recognised by the content. Of several frames or pages, the first is decoded.
    Transparent pixels are blended with white. Values of more than 8 bits become 8 bits, see
    `_scale`. Not for threads: warnings are off meanwhile, and for a TIFF so is stderr.

    Args:
        content: the file's bytes.
        size: side of the result, in pixels.

    Returns:
        A (size, size, 3) uint8 array.

    Raises:
        ImageError: the image is damaged, in another format, or too large for `MEMORY`. The message
            is one printable line.
    """
    name = _recognised(content)
    try:
        with warnings.catch_warnings(action="ignore"):
            rgb = _upright(_opened(content, name), size)
            square = rgb.resize((size, size), Image.Resampling.BILINEAR)
    except ImageError:
        raise
    except Exception as error:  # a decoder raises any kind for damaged bytes
        raise ImageError(f"{name} cannot be decoded: {_told(error)}") from error
    return np.asarray(square, dtype=np.uint8)


def header(content: bytes) -> tuple[str, tuple[int, int]]:
    """Return an image's format and its width and height, without decoding it.

    Raises:
        ImageError: it is damaged there, in another format, or too large.
    """
    name = _recognised(content)
    try:
        with warnings.catch_warnings(action="ignore"):
            return name, _opened(content, name).size
    except ImageError:
        raise
    except Exception as error:  # a decoder raises any kind for damaged bytes
        raise ImageError(f"{name} cannot be decoded: {_told(error)}") from error


def _told(error: Exception) -> str:
    return console.printable(" ".join(str(error).split()) or type(error).__name__)[:200]


def _recognised(content: bytes) -> str:
    for name, (start, *_) in FORMATS.items():
        if re.match(start, content, re.DOTALL):
            return name
    if not content:
        raise ImageError("an empty file")
    *most, last = FORMATS
    raise ImageError(f"not a {', '.join(most)} or {last}")


def _opened(content: bytes, name: str) -> ImageFile.ImageFile:
    _, decoder, per_pixel = FORMATS[name]
    image = decoder(io.BytesIO(content))
    pixels, largest = image.width * image.height, MEMORY // per_pixel
    if pixels > largest:
        raise ImageError(
            f"too large: {pixels / 1e6:,.1f} megapixels, {name} is decoded up to "
            f"{largest / 1e6:.1f}; make it smaller"
        )
    return image


def _upright(image: ImageFile.ImageFile, size: int) -> Image.Image:
    """Load an image, and return it in RGB, turned as its EXIF says."""
    # A JPEG can be decoded directly at 1/2, 1/4 or 1/8 of its size: that saves time and memory.
    image.draft("RGB", (2 * size, 2 * size))
    upper = ";16" in str(image.tile)  # of 16-bit colours, Pillow keeps the upper bytes
    image.load()
    turn = _turn(image)  # only now: a TIFF is turned while it is loaded
    rgb = _rgb(image, upper)
    del image  # its memory is needed for the turned copy
    return rgb if turn is None else rgb.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF says nothing about the pixels
        return None


def _rgb(image: Image.Image, upper: bool) -> Image.Image:
    convert: Callable[[Image.Image], Image.Image] = _opaque
    if image.mode[0] in "IF":
        offset, factor = _scale(*_range(image), whole=image.mode != "F")
        convert = partial(_grey, offset=offset, factor=factor)
    elif upper and image.mode in ("RGB", "RGBA"):
        convert = partial(_brightened, table=_table(image))
    elif image.mode == "RGB" and not image.has_transparency_data:
        return image
    rgb = Image.new("RGB", image.size)
    for top, strip in _strips(image):  # the steps of the whole image would not fit in `MEMORY`
        rgb.paste(convert(strip), (0, top))
    return rgb


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield strips of about `STRIP` pixels, each after its first row."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")  # Pillow converts it to nothing else
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _range(image: Image.Image) -> tuple[float, float]:
    """Return the lowest and the highest finite value of an image with one band."""
    arrays = (np.asarray(strip) for _, strip in _strips(image))
    finite = (pixels[np.isfinite(pixels)] for pixels in arrays)
    ends = [(float(pixels.min()), float(pixels.max())) for pixels in finite if pixels.size]
    return min((low for low, _ in ends), default=0), max((high for _, high in ends), default=0)


def _depth(highest: float) -> int:
    return next(depth for depth in DEPTHS if highest < 2**depth)


def _scale(low: float, high: float, whole: bool) -> tuple[float, float]:
    """Return the offset and the factor that bring grey values to [0, 255].

    Whole numbers below 2**16 lose their lower bits. Their depth is the smallest of `DEPTHS` that
    holds the highest of them, so a scan of 12 bits in a file of 16 is not black. Fractions are in
    [0, 1] or else in [0, 255]. The range of all other values is stretched.

    Args:
        low: the image's lowest value.
        high: its highest value.
        whole: the values are whole numbers.
    """
    if low >= 0 and whole and high < 2**16:
        return 0, 2.0 ** (8 - _depth(high))
    if low >= 0 and not whole and high <= 255:
        return 0, BELOW if high <= 1 else 1
    return low, BELOW / (high - low or 1)


def _grey(image: Image.Image, offset: float, factor: float) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)  # the difference of two float32 may overflow
    grey = np.clip(np.nan_to_num((pixels - offset) * factor), 0, 255)
    if "transparency" in image.info:
        grey[pixels == image.info["transparency"]] = 255
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def _table(image: Image.Image) -> list[int]:
    """Return the new values of an image's bands if it has the upper bytes of 16-bit colours.

    They have the same depth as grey of 16 bits would have, see `_scale`. Alpha stays as it is.
    """
    highest = int(np.max(image.getextrema()[:3]))
    top = max(1, 2 ** (_depth(256 * highest + 255) - 8) - 1)
    colours = [min(255, value * 255 // top) for value in range(256)]
    return 3 * colours + list(range(256)) * (len(image.getbands()) - 3)


def _brightened(image: Image.Image, table: list[int]) -> Image.Image:
    return _opaque(image.point(table))
