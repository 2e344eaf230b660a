"""Decode an image file into pixels, or reject it with a reason."""

import io
import logging
import math
import os
import re
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
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
    Jpeg2KImagePlugin,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from convnets.base import console
from convnets.listing.kinds import BLANK, FORMATS, ImageError, kind

MEMORY = 1_500_000_000  # bytes that one picture may take while it is decoded
LARGE = 2**24  # pixels of a picture that is decoded while no other large one is
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
NOTES = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0", b"exif\0")  # that may turn a PNG
SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xd9-\xfe])")  # of a JPEG
# What OpenJPEG takes memory for, wherever it stands: the size and tiles; and the layers, levels,
# blocks and precincts of all bands, or of one.
TILES = re.compile(rb"\xff\x4f(?=\xff\x51.{4}(.{34}))", re.DOTALL)
_CODED = rb"([\0-\x20])([\0-\x08]{2}).[\0\1](.{0,33}))"
CODED = (
    re.compile(rb"\xff(?=\x52\0[\x0c-\x2d](.).(..)[\0\1]" + _CODED, re.DOTALL),
    re.compile(rb"\xff(?=\x53\0[\x09-\x2a].(.)()" + _CODED, re.DOTALL),
)

_alone = threading.Lock()
logging.getLogger("PIL").setLevel(logging.CRITICAL)  # its errors become the reasons below


class _Jpeg(JpegImagePlugin.JpegImageFile):
    def _read_dpi_from_exif(self) -> None:
        """Do nothing: the resolution is not needed, and a damaged one would cost the picture."""


def _jpeg(file: io.BytesIO) -> ImageFile.ImageFile:
    content, end, scans, steps = file.getvalue(), 2, 0, 0
    while (found := SEGMENT.search(content, end)) and found[1] != b"\xd9":  # the picture's end
        # At first, Pillow reads padding byte by byte, and copies EXIF at each of its segments.
        steps += 25 if scans else found.start() - end + 5000
        if steps > 2_500_000:
            raise ImageError("more segments or padding than a JPEG has; save it anew")
        scans += found[1] == b"\xda"
        end = found.end() + int.from_bytes(content[found.end() : found.end() + 2])
    image = _Jpeg(file)
    pixels = image.width * image.height  # each scan decodes all; a progressive JPEG has about ten
    _afford("JPEG", pixels, pixels * scans / 10, f"its {scans:,} scans cost")
    return image


class _Tiff(TiffImagePlugin.TiffImageFile):
    def _setup(self) -> None:
        tags, known = self.tag_v2, TiffImagePlugin
        stored = [tags._tagdata.get(tag, b"") for tag in (known.STRIPOFFSETS, known.TILEOFFSETS)]
        _afford("TIFF", 0, 32 * max(map(len, stored)), "its strips or tiles cost")
        sides = (tags.get(known.TILEWIDTH), tags.get(known.TILELENGTH))
        _afford("TIFF", 0, math.prod(s for s in sides if isinstance(s, int)), "a tile costs")
        kind = tags.get(known.PHOTOMETRIC_INTERPRETATION, 0)
        _check_bands(tags.get(known.SAMPLESPERPIXEL, 1), {2: 3, 5: 4, 6: 3, 8: 3}.get(kind, 1))
        super()._setup()

    def load(self) -> Any:
        with _no_stderr():  # libtiff prints its errors there
            return super().load()


def _check_bands(bands: int, colours: int = 3) -> None:
    if bands > colours + 1:  # one may be alpha
        raise ImageError(f"{bands} bands, too many for a picture; save three of them as RGB")


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
    # Profiles, texts and damaged EXIF must not cost the picture: only what may turn it is kept.
    content, end, name = file.getvalue(), 8, b""
    kept, notes = [content[:8]], PngImagePlugin.PngStream(file)
    while end < len(content) and name != b"IEND":
        start, end = end, end + 12 + int.from_bytes(content[end : end + 4])
        name = content[start + 4 : start + 8]
        needed = not name[:1].islower() or name == b"tRNS"
        if name == b"eXIf" or content.startswith(NOTES, start + 8):
            file.seek(start)
            with suppress(Exception):  # it is damaged, or too large when decompressed
                notes.crc(name, notes.call(*notes.read()))
                needed = True
        kept += [content[start:end]] * needed
        if len(kept) > 200_000:  # Pillow reads them one by one
            raise ImageError("more chunks than a PNG has; save it anew")
    return PngImagePlugin.PngImageFile(io.BytesIO(b"".join(kept)))


def _gif(file: io.BytesIO) -> ImageFile.ImageFile:
    # Pillow reads block by block up to the first frame, which must come within eight megabytes.
    image = GifImagePlugin.GifImageFile(io.BytesIO(file.getvalue()[: 2**23]))
    image.fp = file
    return image


def _pnm(file: io.BytesIO) -> ImageFile.ImageFile:
    content = file.getvalue()
    if content[1:2] in b"123":  # text, of which Pillow copies what is left at each comment
        content = re.sub(rb"#[^\r\n]*", b"", content)
    image = PpmImagePlugin.PpmImageFile(io.BytesIO(content[: 2**20]))  # the header
    image.fp = io.BytesIO(content)
    return image


def _jpeg2000(file: io.BytesIO) -> ImageFile.ImageFile:
    content, layers, levels, block = file.getvalue(), 0, 0, 1024
    for coded in {found.groups() for each in CODED for found in each.finditer(content)}:
        (style,), of_layers, (level,), blocks, precincts = coded
        layers, levels = max(layers, int.from_bytes(of_layers)), max(levels, level)
        block = min(block, 16 << sum(blocks))
        for smaller, each in enumerate(reversed(precincts[: (level + 1) * (style & 1)])):
            block = min(block, 1 << (each & 15) + (each >> 4) + 2 * smaller)
    for found in TILES.finditer(content):
        x, y, x0, y0, width, height, tile_x, tile_y, bands = struct.unpack(">8IH", found[1])
        _check_bands(bands)
        pixels, tiles = (x - x0) * (y - y0), ((tile_x - x) // width) * ((tile_y - y) // height)
        packets = layers * bands * (tiles * (levels + 1) + 4 * pixels // 3 // block)
        costs = pixels * 1024 / block + 512 * tiles + packets
        _afford("JPEG2000", pixels, costs, "its tiles, layers and blocks cost")
    image = Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(content[: 2**20]))  # the header
    image.fp, (codec, box, start, how) = file, image.tile[0]
    image.tile = [ImageFile._Tile(codec, box, start, (*(how or ())[:4], len(content)))]
    return image


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


# The decoder of each format, and the bytes per pixel that decoding and converting hold at most.
# They were measured with the costliest variant of each: a progressive JPEG keeps the coefficients
# of the whole picture however small it is decoded, WebP keeps two canvases, a TIFF may be one strip
# of 16 bits, HEIC has 10 bits, JPEG 2000 computes in 32. The decoders are called directly, as
# `Image.open` has one limit for all, which is less than a phone's JPEG of 200 megapixels.
DECODERS: dict[str, tuple[Callable[[io.BytesIO], ImageFile.ImageFile], int]] = {
    "JPEG": (_jpeg, 6),  # of an MPO, the first picture
    "PNG": (_png, 8),
    "WebP": (WebPImagePlugin.WebPImageFile, 16),
    "AVIF": (_avif, 16),
    "HEIC": (_heic, 20),
    "TIFF": (_Tiff, 16),
    "JPEG2000": (_jpeg2000, 40),
    "PNM": (_pnm, 8),
    "GIF": (_gif, 8),
    "BMP": (BmpImagePlugin.BmpImageFile, 8),
}


def decode(content: bytes, size: int) -> NDArray[np.uint8]:
    """Decode an image upright, in RGB, and resize the whole image to a square, as Keras does.

    The format is recognised by the content. Of several frames or pages, the first is decoded.
    Transparent pixels are blended with white. Values of more than 8 bits become 8 bits, see
    `_scale`. Warnings are off meanwhile, so for threads they must be off before. For a TIFF stderr
    is off, too: it is not for threads.

    Args:
        content: the file's bytes.
        size: side of the result, in pixels.

    Returns:
        A (size, size, 3) uint8 array.

    Raises:
        ImageError: the image is damaged, in another format, or too large for `MEMORY`. The message
            is one printable line.
    """
    with _reasons(content) as name:
        return np.asarray(_square(_opened(content, name), size), dtype=np.uint8)


def header(content: bytes) -> tuple[str, tuple[int, int]]:
    """Return an image's format and its width and height, without decoding it.

    Raises:
        ImageError: it is damaged there, in another format, or too large.
    """
    with _reasons(content) as name:
        return name, _opened(content, name).size


@contextmanager
def _reasons(content: bytes) -> Iterator[str]:
    """Yield the format; whatever its decoder raises becomes an `ImageError`."""
    name = kind(content)
    if name is None:
        *most, last = FORMATS
        raise ImageError(f"not a {', '.join(most)} or {last}" if content else "an empty file")
    try:
        with warnings.catch_warnings(action="ignore"):
            yield name
    except ImageError:
        raise
    except Exception as error:  # a decoder raises any kind for damaged bytes
        told = console.printable(" ".join(str(error).split()) or type(error).__name__)[:200]
        raise ImageError(f"{name} cannot be decoded: {told}") from error


def _opened(content: bytes, name: str) -> ImageFile.ImageFile:
    image = DECODERS[name][0](io.BytesIO(content.lstrip(BLANK)))
    pixels = image.width * image.height
    slow = any(tile[0] in Image.DECODERS for tile in image.tile[:1])  # they are in Python
    _afford(name, pixels, 75 * pixels * slow, "decoding it in Python costs")
    return image


def _afford(name: str, pixels: int, costs: float, what: str) -> None:
    """Refuse pixels, or what costs as much time or memory as so many, beyond a format's bound."""
    largest = MEMORY // DECODERS[name][1]
    if max(pixels, costs) > largest:
        much, remedy = f"{what} as much as {costs / 1e6:,.1f}", "save it anew"
        if pixels > largest:
            much, remedy = f"{pixels / 1e6:,.1f}", "make it smaller"
        raise ImageError(
            f"too large: {much} megapixels, {name} is decoded up to {largest / 1e6:.1f}; {remedy}"
        )


def _square(image: ImageFile.ImageFile, size: int) -> Image.Image:
    """Load an image, and return it in RGB, turned as its EXIF says, as a square."""
    # A JPEG can be decoded directly at 1/2, 1/4 or 1/8 of its size: that saves time and memory.
    image.draft("RGB", (2 * size, 2 * size))
    with _alone if image.width * image.height > LARGE else nullcontext():
        upper = ";16" in str(image.tile)  # of 16-bit colours, Pillow keeps the upper bytes
        image.load()
        turn = _turn(image)  # only now: a TIFF is turned while it is loaded
        rgb = _rgb(image, upper)
        del image  # its memory is needed for the turned copy
        rgb = rgb if turn is None else rgb.transpose(turn)
        return rgb.resize((size, size), Image.Resampling.BILINEAR)


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
