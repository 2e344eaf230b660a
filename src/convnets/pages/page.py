"""Self-contained pages: no network, no script, no server."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from convnets.base import files

THUMBNAIL = 192  # the longer side in pixels, at most


def picture(pixels: NDArray[Any], size: int = THUMBNAIL) -> str:
    """Return (h, w, 3) pixels from 0 to 255 as the data URI of a WebP image.

    An image with a side of more than `size` pixels is reduced.
    """
    image = Image.fromarray(np.asarray(pixels).clip(0, 255).astype(np.uint8))
    image.thumbnail((size, size))
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


def render(package: str, template: str, shown: dict[str, Any]) -> str:
    """Return a page as HTML. All external text is escaped.

    Args:
        package: the package with the template.
        template: its file name. It extends `page.html`.
        shown: the content.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(name, "") for name in (package, "convnets.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %" if share == share else "–"
    environment.filters["number"] = lambda value, form: form.format(value).replace("%", " %")
    return environment.get_template(template).render(shown)


def write(html: str, path: Path) -> None:
    """Write a page, atomically."""
    with files.atomic(path) as part:
        part.write_text(html, encoding="utf-8")
