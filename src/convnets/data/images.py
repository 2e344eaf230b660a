"""Decode an image file into pixels, or reject it with a reason."""

import io
import warnings

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("JPEG", "PNG")


class ImageError(ValueError):
    """The bytes are not a complete JPEG or PNG image of acceptable size."""


def decode(content: bytes, size: int) -> NDArray[np.uint8]:
    """Decode a JPEG or PNG upright, in RGB, and resize the whole image to a square, as Keras does.

    Transparent pixels are blended with white. 16-bit and palette images become 8-bit RGB.

    Args:
        content: the file's bytes.
        size: side of the result, in pixels.

    Returns:
        A (size, size, 3) uint8 array.

    Raises:
        ImageError: the image is truncated, in another format, or too large to be a photograph.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content), formats=FORMATS) as image:
                # A JPEG can be decoded directly at half or a quarter of its size, which saves time.
                image.draft("RGB", (2 * size, 2 * size))
                upright = ImageOps.exif_transpose(_rgb(image))
                square = upright.resize((size, size), Image.Resampling.BILINEAR)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError("far too many pixels") from error
    except UnidentifiedImageError as error:
        raise ImageError("not a JPEG or PNG") from error
    except (OSError, ValueError, SyntaxError, EOFError) as error:
        raise ImageError(str(error) or "cannot be decoded") from error
    return np.asarray(square, dtype=np.uint8)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16-bit grey: Pillow's own conversion to 8 bits would clip it to white.
        return Image.fromarray((np.asarray(image) // 256).astype(np.uint8)).convert("RGB")
    if "A" in image.getbands() or "transparency" in image.info:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")
