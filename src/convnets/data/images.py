"""Decode an image file into pixels, or reject it with a reason."""

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator

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

# Without a handler of the program's own, Python would print Pillow's errors on stderr.
logging.getLogger("PIL").addHandler(logging.NullHandler())


class ImageError(ValueError):
    """The bytes are not a complete image of a known format and acceptable size."""


class _Jpeg(JpegImagePlugin.JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Do nothing: the resolution is not needed, and a damaged one would cost the picture."""


def _avif(file: io.BytesIO) -> ImageFile.ImageFile:
    try:
        return AvifImagePlugin.AvifImageFile(file)
    except Exception:
        # Damaged EXIF costs the picture. How to turn it is stored elsewhere, so hide the EXIF.
        return AvifImagePlugin.AvifImageFile(
            io.BytesIO(file.getvalue().replace(b"Exif", b"none", 1))
        )


def _heic(file: io.BytesIO) -> ImageFile.ImageFile:
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError("a HEIC picture; run `pip install 'convnets[heic]'`") from error
    image: ImageFile.ImageFile = pillow_heif.HeifImageFile(file)
    return image


# The start of a file, its decoder, and the most bytes per pixel that decoding and converting hold
# at once. They were measured, with the costliest variant of each format: a progressive JPEG keeps
# the coefficients of the whole picture however small it is decoded, WebP keeps two canvases, and
# a TIFF may be a single strip of 16 bits. The decoders are used directly because `Image.open` has
# one limit for all formats, which a photograph of 200 megapixels exceeds.
FORMATS: dict[str, tuple[bytes, Callable[[io.BytesIO], ImageFile.ImageFile], int]] = {
    "JPEG": (rb"\xff\xd8\xff", _Jpeg, 6),  # the first picture of an MPO, too
    "PNG": (rb"\x89PNG\r\n\x1a\n", PngImagePlugin.PngImageFile, 8),
    "WebP": (rb"RIFF....WEBP", WebPImagePlugin.WebPImageFile, 17),
    "AVIF": (rb"....ftyp.{0,64}?avi[fs]", _avif, 14),
    "HEIC": (rb"....ftyp.{0,64}?(hei[cmsx]|hev[cmsx]|mif1|msf1)", _heic, 12),
    "TIFF": (rb"II[*+]\0|MM\0[*+]", TiffImagePlugin.TiffImageFile, 12),
    "GIF": (rb"GIF8[79]a", GifImagePlugin.GifImageFile, 8),
    "BMP": (rb"BM", BmpImagePlugin.BmpImageFile, 8),
}


def decode(content: bytes, size: int) -> NDArray[np.uint8]:
    """Decode an image upright, in RGB, and resize the whole image to a square, as Keras does.

    The format is recognised by the content. Of several frames or pages, the first is decoded.
    Transparent pixels are blended with white. Values of more than 8 bits become 8 bits: see
    `_scale`. A large JPEG is decoded at an eighth of its size or more.

    Args:
        content: the file's bytes.
        size: side of the result, in pixels.

    Returns:
        A (size, size, 3) uint8 array.

    Raises:
        ImageError: the image is damaged, in another format, or too large for `MEMORY`. The message
            is one printable line.
    """
    for name, (start, opened, per_pixel) in FORMATS.items():
        if re.match(start, content, re.DOTALL):
            break
    else:
        *most, last = FORMATS
        raise ImageError(f"not a {', '.join(most)} or {last}")
    try:
        with warnings.catch_warnings(action="ignore"):
            image = opened(io.BytesIO(content))
            if image.width * image.height * per_pixel > MEMORY:
                raise ImageError(
                    f"{image.width * image.height / 1e6:,.0f} megapixels, {name} is decoded up to "
                    f"{MEMORY / per_pixel / 1e6:.0f}; make it smaller"
                )
            if name == "JPEG":
                # It can be decoded directly at 1/2, 1/4 or 1/8 of its size, which saves time.
                image.draft("RGB", (2 * size, 2 * size))
            turn, rgb = _rgb(image)
            del image  # a turned copy needs its memory
            if turn is not None:
                rgb = rgb.transpose(turn)
            square = rgb.resize((size, size), Image.Resampling.BILINEAR)
    except ImageError:
        raise
    except Exception as error:  # a decoder raises any kind for damaged bytes
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"damaged {name}: {console.printable(reason)[:200]}") from error
    return np.asarray(square, dtype=np.uint8)


def _rgb(image: ImageFile.ImageFile) -> tuple[Image.Transpose | None, Image.Image]:
    """Load an image. Return how to turn it upright, and the image in RGB."""
    coarse = ";16" in str(image.tile)  # Pillow keeps the upper 8 bits of 16-bit colours
    image.load()
    turn = _turn(image)  # after loading: a TIFF is turned while it is loaded
    if image.mode[0] in "IF":
        convert = _grey(image)
    elif coarse and image.mode in ("RGB", "RGBA", "LA"):
        convert = _colours(image)
    elif image.mode == "RGB" and not image.has_transparency_data:
        return turn, image
    else:
        convert = _opaque
    rgb = Image.new("RGB", image.size)
    for top, strip in _strips(image):  # the steps of the whole image would not fit in `MEMORY`
        rgb.paste(convert(strip), (0, top))
    return turn, rgb


def _turn(image: Image.Image) -> Image.Transpose | None:
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # damaged EXIF; the pixels are still good
        return None


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the image in strips of about `STRIP` pixels, with the row that each begins at."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _opaque(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")  # the only mode that it converts to
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _depth(largest: float) -> int:
    return next(depth for depth in DEPTHS if largest < 2**depth)


def _scale(low: float, high: float, whole: bool) -> tuple[float, float]:
    """Return the offset and the factor that bring values to [0, 255].

    Whole numbers of up to 16 bits lose the lower bits beyond 8. Their depth is the smallest of
    `DEPTHS` that holds the highest value, so that a 12-bit scan in 16 bits is not black. Fractions
    are of [0, 1] or else of [0, 255]. The range of any other values is stretched.

    Args:
        low: the image's lowest value.
        high: its highest value.
        whole: the values are whole numbers.
    """
    if low >= 0 and whole and high < 2**16:
        return 0, 2.0 ** (8 - _depth(high))
    if low >= 0 and not whole and high <= 255:
        return 0, 255 if high <= 1 else 1
    return low, 255 / (high - low or 1)


def _grey(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return the conversion to RGB of an image's strips, for 16-bit and 32-bit grey."""
    lows, highs = [], []
    for _, strip in _strips(image):
        pixels = np.asarray(strip)
        pixels = pixels[np.isfinite(pixels)]
        if pixels.size:
            lows.append(float(pixels.min()))
            highs.append(float(pixels.max()))
    offset, factor = _scale(min(lows, default=0), max(highs, default=0), image.mode != "F")
    clear = image.info.get("transparency")

    def convert(strip: Image.Image) -> Image.Image:
        pixels = np.asarray(strip, dtype=np.float64)  # no value overflows
        grey = np.clip(np.nan_to_num((pixels - offset) * factor), 0, 255)
        if clear is not None:
            grey[pixels == clear] = 255
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")

    return convert


def _colours(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """Return the conversion to RGB of an image's strips, for the upper 8 of 16 bits of colours."""
    alpha = image.mode.endswith("A")
    highest = max(high for _, high in image.getextrema()[: 3 - 2 * (image.mode == "LA")])
    top = 2 ** (_depth(256 * highest + 255) - 8) - 1
    table = [min(255, value * 255 // max(top, 1)) for value in range(256)]
    ...
