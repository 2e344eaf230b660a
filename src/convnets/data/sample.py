"""Drawn cats and dogs: a small stand-in for the photographs, made offline from a seed.

Only shape separates the classes. A cat has pointed ears, slit pupils, whiskers and a thin upright
tail. A dog has hanging ears, a long muzzle with a tongue, and a thick tail. Colour, size, position,
pose, background, light and noise do not depend on the class. So a linear model on pixels does
badly, and a small convnet does well but not perfectly.
"""

import io
import math
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLASSES = ("cat", "dog")
Point = tuple[float, float]


def draw(label: str, index: int, seed: int) -> Image.Image:
    """Draw one animal, 110 to 150 pixels a side. The same arguments give the same picture.

    Args:
        label: "cat" or "dog".
        index: the picture's number.
        seed: seed of the whole sample.
    """
    rng = np.random.default_rng([seed, CLASSES.index(label), index])
    width, height = (int(side) for side in rng.integers(110, 151, 2))
    image = _background(rng, width, height)
    animal, mask = _animal(rng, label, 128)
    side = int(min(width, height) * rng.uniform(0.6, 1.0))
    angle = float(rng.uniform(-20, 20))
    layers = [layer.resize((side, side)).rotate(angle, expand=True) for layer in (animal, mask)]
    if rng.random() < 0.5:
        layers = [layer.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for layer in layers]
    spare_x, spare_y = width - layers[0].width, height - layers[0].height
    corner = tuple(int(rng.uniform(min(0, spare), max(0, spare))) for spare in (spare_x, spare_y))
    image.paste(layers[0], (corner[0], corner[1]), layers[1])
    pixels = np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0.2, 1.2))), np.float32)
    pixels = (pixels - 128) * rng.uniform(0.5, 1.1) + 128 + rng.uniform(-40, 40)
    pixels += rng.normal(0, rng.uniform(2, 18), pixels.shape)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def write_archive(path: Path, count: int, seed: int) -> Iterator[str]:
    """Write `train.zip` in a zip, as Kaggle does, with `count` images of each class.

    Yields:
        Each member's name once it is written, to show progress.
    """
    inner_file = io.BytesIO()
    with zipfile.ZipFile(inner_file, "w") as inner:
        for label in CLASSES:
            for index in range(count):
                jpeg = io.BytesIO()
                draw(label, index, seed).save(jpeg, "JPEG", quality=85)
                name = f"train/{label}.{index}.jpg"
                inner.writestr(zipfile.ZipInfo(name), jpeg.getvalue())
                yield name
    with zipfile.ZipFile(path, "w") as outer:
        outer.writestr(zipfile.ZipInfo("train.zip"), inner_file.getvalue())


def _background(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Return a colour gradient with clutter: blobs, triangles and lines of any colour."""
    ends = rng.integers(0, 256, (2, 3))
    steps = np.linspace(0, 1, height)[:, None, None]
    gradient = (ends[0] * (1 - steps) + ends[1] * steps) * np.ones((1, width, 1))
    image = Image.fromarray(gradient.astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(2, 8)):
        x, y = rng.uniform(0, width), rng.uniform(0, height)
        size, colour = rng.uniform(4, 40), _colour(rng)
        kind = rng.integers(3)
        if kind == 0:
            pen.ellipse(_box(x, y, size, size * rng.uniform(0.4, 1)), colour)
        elif kind == 1:
            pen.polygon(
                [(x + float(d), y + float(e)) for d, e in rng.normal(0, size, (3, 2))], colour
            )
        else:
            pen.line([(x, y), tuple(rng.uniform(0, height, 2))], colour, int(rng.integers(1, 6)))
    return image


def _animal(rng: np.random.Generator, label: str, side: int) -> tuple[Image.Image, Image.Image]:
    """Return a square RGB picture of the animal, and its mask."""
    image, mask = Image.new("RGB", (side, side)), Image.new("L", (side, side))
    pen, mask_pen = ImageDraw.Draw(image), ImageDraw.Draw(mask)
    fur = rng.integers(20, 236, 3)
    dark = tuple(int(c) for c in fur * rng.uniform(0.45, 0.8))
    light = tuple(int(c) for c in 255 - (255 - fur) * rng.uniform(0.3, 0.8))
    coat = tuple(int(c) for c in fur)

    def ellipse(x: float, y: float, rx: float, ry: float, colour: tuple[int, ...]) -> None:
        pen.ellipse(_box(x, y, rx, ry), colour)
        mask_pen.ellipse(_box(x, y, rx, ry), 255)

    def polygon(points: list[Point], colour: tuple[int, ...]) -> None:
        pen.polygon(points, colour)
        mask_pen.polygon(points, 255)

    def line(points: list[Point], colour: tuple[int, ...], width: int) -> None:
        pen.line(points, colour, width, joint="curve")
        mask_pen.line(points, 255, width, joint="curve")

    def jitter(scale: float = 3.0) -> float:
        return float(rng.normal(0, scale))

    cat = label == "cat"
    hx, hy = 50 + jitter(4), 46 + jitter(3)  # the head's centre
    r = 25 * rng.uniform(0.85, 1.15)
    bend = rng.uniform(-14, 14)
    tail: list[Point] = [(94, 96), (110, 84 + bend), (112 + bend / 2, 62), (104 + bend, 46)]
    line(tail, coat, int(rng.integers(4, 8) if cat else rng.integers(7, 13)))
    ellipse(76 + jitter(), 90 + jitter(2), 33 * rng.uniform(0.85, 1.1), 21, coat)
    for x in (56.0, 68.0, 86.0, 98.0):
        polygon([(x, 96), (x + 9, 96), (x + 8 + jitter(1), 122), (x + 1, 122)], dark)
    if rng.random() < 0.5:  # stripes or spots, on either animal
        for x in (66.0, 76.0, 86.0):
            ellipse(x + jitter(), 86 + jitter(4), rng.uniform(2, 5), rng.uniform(3, 11), dark)
    spread = rng.uniform(0.55, 0.8)
    for sign in (-1, 1):
        x = hx + sign * r * spread
        if cat:
            tip = (hx + sign * r * rng.uniform(0.75, 1.1), hy - r * rng.uniform(1.35, 1.7))
            polygon([(x - 9, hy - r * 0.55), tip, (x + 9, hy - r * 0.5)], dark)
        else:
            drop = r * rng.uniform(0.0, 0.35)
            ellipse(hx + sign * r * 1.0, hy - r * 0.1 + drop, 7, r * rng.uniform(0.55, 0.8), dark)
    ellipse(hx, hy, r, r * rng.uniform(0.85, 1.0), coat)
    muzzle = (7 if cat else 11) * rng.uniform(0.85, 1.2)
    ellipse(hx, hy + r * 0.45, muzzle, muzzle * (0.7 if cat else 1.0), light)
    ellipse(hx, hy + r * 0.3, 2.5 if cat else 4.5, 2 if cat else 3.5, (30, 20, 25))
    if not cat and rng.random() < 0.6:
        ellipse(hx, hy + r * 0.45 + muzzle * 0.8, 3.5, 6, (220, 90, 110))
    for sign in (-1, 1):
        x, y = hx + sign * r * 0.42, hy - r * 0.12
        ellipse(x, y, 4.5, 4.5, (235, 235, 200))
        ellipse(x, y, 1.5 if cat else 3, 4 if cat else 3, (20, 20, 20))
        if cat and rng.random() < 0.8:
            for turn in (-0.2, 0.05, 0.3):
                end = (
                    hx + sign * r * 1.35 * math.cos(turn),
                    hy + r * 0.4 + r * 1.3 * math.sin(turn),
                )
                line([(hx + sign * 6, hy + r * 0.42), end], (240, 240, 240), 1)
    return image, mask


def _box(x: float, y: float, rx: float, ry: float) -> tuple[float, float, float, float]:
    return x - rx, y - ry, x + rx, y + ry


def _colour(rng: np.random.Generator) -> tuple[int, ...]:
    return tuple(int(value) for value in rng.integers(0, 256, 3))
