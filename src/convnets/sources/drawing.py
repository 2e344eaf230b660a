"""Drawn scenes: a thing in front of and behind clutter, in any colour, place and light.

A thing is a list of shapes, in coordinates from about −1 to 1: x to the right, y down. Everything
else about a scene is drawn by lot, and says nothing about what the thing is.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

Points = NDArray[np.float64]  # (n, 2)
Pixels = NDArray[Any]  # (height, width, channels)
FINE = 2  # shapes are drawn at twice the size, so that their edges are smooth
VISIBLE = 28  # the mean difference from what is behind, of 255, from which on a person sees a thing


class Shape(NamedTuple):
    """A filled outline. Its colour is the name of one of the scene's colours."""

    colour: str
    points: Points


Shapes = tuple[Shape, ...]


def polygon(colour: str, *points: tuple[float, float]) -> Shape:
    """Return a polygon."""
    return Shape(colour, np.array(points, float))


def ellipse(
    colour: str, x: float, y: float, rx: float, ry: float | None = None, turn: float = 0.0
) -> Shape:
    """Return an ellipse with centre (x, y), or a circle; `turn` is in radians."""
    around = np.linspace(0, 2 * math.pi, 24, endpoint=False)
    flat = np.stack([rx * np.cos(around), (rx if ry is None else ry) * np.sin(around)], axis=1)
    return Shape(colour, flat @ _rotation(turn).T + (x, y))


def curve(colour: str, start: float, end: float, *points: tuple[float, float]) -> Shape:
    """Return a Bézier curve, whose width goes from `start` to `end`."""
    steps, last = np.linspace(0, 1, 14)[:, None], len(points) - 1
    weights = [
        math.comb(last, k) * steps**k * (1 - steps) ** (last - k) for k in range(len(points))
    ]
    middle = np.concatenate(weights, axis=1) @ np.array(points, float)
    ahead = np.gradient(middle, axis=0)
    aside = ahead[:, ::-1] * (-1, 1) / (np.linalg.norm(ahead, axis=1, keepdims=True) + 1e-9)
    half = aside * (start + (end - start) * steps) / 2
    return Shape(colour, np.concatenate([middle + half, (middle - half)[::-1]]))


def mirrored(*shapes: Shape) -> Shapes:
    """Return shapes and their mirror images."""
    return (*shapes, *(Shape(shape.colour, shape.points * (-1, 1)) for shape in shapes))


class Frame(NamedTuple):
    """The place, size and turn of a part."""

    origin: Points = np.zeros(2)
    matrix: Points = np.eye(2)

    def part(
        self,
        x: float = 0,
        y: float = 0,
        size: float = 1.0,
        turn: float = 0.0,
        stretch: tuple[float, float] = (1, 1),
    ) -> Self:
        """Return the frame of a part at (x, y). A negative stretch is a mirror image."""
        inner = self.matrix @ _rotation(turn) @ np.diag(stretch) * size
        return self._replace(origin=self.origin + self.matrix @ (x, y), matrix=inner)


WHOLE = Frame()


class Pen:
    """A transparent picture of shapes that are turned, stretched and bent alike."""

    def __init__(
        self, rng: np.random.Generator, size: tuple[int, int], scale: float, centre: Points
    ) -> None:
        """Begin with random colours, and a random view.

        Args:
            rng: decides.
            size: (width, height) in pixels.
            scale: pixels for a length of 1.
            centre: of the view, in pixels.
        """
        self.rng, self.size, self.centre = rng, size, centre
        stretch, flip = rng.uniform(0.78, 1.28) ** 0.5, rng.choice([-1, 1])
        shear = np.array([[1, rng.uniform(-0.13, 0.13)], [0, 1]])
        turn = _rotation(rng.uniform(-0.25, 0.25))
        self.view = scale * turn @ shear @ np.diag([flip * stretch, 1 / stretch])
        self.far = rng.uniform(-0.09, 0.09, 2)  # what is farther is smaller
        self.wave = rng.uniform(0, 0.05), rng.uniform(2, 5), rng.uniform(0, 2 * math.pi, 2)
        self.colours = {name: tuple(rng.integers(0, 256, 3)) for name in "abcdefgh"}
        self.outline = None if rng.random() < 0.5 else tuple(rng.integers(0, 90, 3))
        self.width = int(rng.integers(1, 4))
        self.shapes: list[Shape] = []

    def paint(self, shapes: Iterable[Shape], frame: Frame = WHOLE) -> None:
        """Add shapes. No two are quite alike."""
        for shape in shapes:
            middle = shape.points.mean(axis=0)
            size = self.rng.uniform(0.9, 1.12, 2)
            points = middle + (shape.points - middle) * size + self.rng.normal(0, 0.02, 2)
            self.shapes.append(Shape(shape.colour, frame.origin + points @ frame.matrix.T))

    def drawn(self) -> Image.Image:
        """Return the picture, (width, height) RGBA."""
        image = Image.new("RGBA", self.size)
        if not self.shapes:
            return image
        points = np.concatenate([shape.points for shape in self.shapes])
        height, often, phase = self.wave
        points = points + height * np.sin(often * points[:, ::-1] + phase)
        points += self.rng.normal(0, 0.004, points.shape)  # drawn by hand
        points = points @ self.view.T / (1 + points @ self.far)[:, None] + self.centre
        pen, start = ImageDraw.Draw(image), 0
        for shape in self.shapes:
            edge = [*map(tuple, points[start : start + len(shape.points)])]
            start += len(shape.points)
            pen.polygon(edge, self.colours[shape.colour])
            if self.outline is not None:
                pen.line([*edge, edge[0]], self.outline, self.width)
        return image


def scene(
    paint: Callable[[Pen], None], rng: np.random.Generator, size: tuple[int, int], hard: float = 1.0
) -> tuple[Image.Image, NDArray[np.bool_]]:
    """Draw a scene.

    Args:
        paint: paints the thing.
        rng: decides everything else.
        size: (width, height) in pixels.
        hard: how much clutter, texture, noise and movement there is; 0 to 1.

    Returns:
        The picture, RGB, and where the thing is and nothing hides it, (height, width).
    """
    width, height = size
    fine, side = (width * FINE, height * FINE), min(size) * FINE / 2
    while True:
        scale = side * rng.uniform(0.74 - 0.2 * hard, 0.8 + 0.15 * hard)
        away = rng.uniform(-0.4, 0.4, 2) * hard * (1.15 - scale / side / 2) * side
        pen = Pen(rng, fine, scale, np.array(fine) / 2 + away)
        paint(pen)
        behind = _background(rng, size, hard)
        behind = _over(behind, _clutter(rng, fine, int(rng.integers(2, 5 + int(7 * hard)))))
        thing, mask = _flat(pen.drawn())
        thing = thing + _texture(rng, size, 30 * hard)
        pixels = behind * (1 - mask) + thing * mask
        few = int(rng.integers(1, 4)) if rng.random() < 0.55 * hard else 0
        front, hidden = _flat(_clutter(rng, fine, few))
        pixels = pixels * (1 - hidden) + front * hidden
        grey, contrast = rng.random() < 0.15, rng.uniform(0.5, 1.1)
        whole, seen = mask[..., 0] > 0.5, (mask * (1 - hidden))[..., 0] > 0.5
        apart = pixels[seen] - behind[seen]
        apart = np.abs(apart.mean(axis=1) if grey else apart)
        if seen.mean() > max(0.06, 0.85 * whole.mean()) and apart.mean() * contrast > VISIBLE:
            break
    if grey:
        pixels[:] = pixels.mean(axis=2, keepdims=True)
    tint = rng.uniform(0.85, 1.15, 3)
    pixels = (pixels - 128) * contrast * tint + 128 + rng.uniform(-40, 40)
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    blurred = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1.0)))
    noisy = np.asarray(blurred) + rng.normal(0, rng.uniform(2, 5 + 11 * hard), pixels.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), seen


def _rotation(turn: float) -> Points:
    cos, sin = math.cos(turn), math.sin(turn)
    return np.array([[cos, -sin], [sin, cos]])


def _flat(layer: Image.Image) -> tuple[Pixels, Pixels]:
    """Return a layer's colours, (h, w, 3), and how much of each pixel it covers, (h, w, 1)."""
    pixels = np.asarray(layer.reduce(FINE), np.float32)
    return pixels[..., :3], pixels[..., 3:] / 255


def _over(pixels: Pixels, layer: Image.Image) -> Pixels:
    colours, share = _flat(layer)
    return np.asarray(pixels * (1 - share) + colours * share)


def _background(rng: np.random.Generator, size: tuple[int, int], hard: float) -> Pixels:
    """Return a gradient from one colour to another, with a texture."""
    ends = rng.integers(0, 256, (2, 3)).astype(np.float32)
    across = rng.random() < 0.5
    steps = np.linspace(0, 1, size[0 if across else 1], dtype=np.float32)
    steps = steps[None, :, None] if across else steps[:, None, None]
    return np.asarray(ends[0] * (1 - steps) + ends[1] * steps + _texture(rng, size, 38 * hard))


def _texture(rng: np.random.Generator, size: tuple[int, int], strongest: float) -> Pixels:
    """Return a texture around 0: smooth, speckled, checked or striped, (h, w, 1)."""
    kind, strength = rng.integers(4), rng.uniform(0, strongest)
    if kind == 3:
        y, x = np.mgrid[: size[1], : size[0]] / max(size)
        turn, often = rng.uniform(0, math.pi), rng.uniform(15, 70)
        waves = np.sin(often * (x * math.cos(turn) + y * math.sin(turn)))
        return np.asarray(strength * 0.8 * np.sign(waves)[..., None], np.float32)
    cells = (int(rng.integers(*((3, 12), (20, 60), (4, 20))[kind])),) * 2
    values = rng.choice([-1.0, 1.0], cells) if kind == 2 else rng.normal(0, 1, cells)
    how = Image.Resampling.NEAREST if kind == 2 else Image.Resampling.BICUBIC
    return (
        strength
        * np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, how))[..., None]
    )


def _clutter(rng: np.random.Generator, size: tuple[int, int], count: int) -> Image.Image:
    """Return shapes of any kind and colour, things like ears, eyes and tails among them."""
    middle = np.array(size) / 2
    pen = Pen(rng, size, max(size) / 2, middle)
    for _ in range(count):
        x, y = rng.uniform(-1, 1, 2)
        frame = WHOLE.part(x, y, rng.uniform(0.06, 0.34), rng.uniform(-math.pi, math.pi))
        one, other = (str(name) for name in rng.choice([*"abcdefgh"], 2))
        pen.paint(BITS[rng.integers(len(BITS))](one, other), frame)
    return pen.drawn()


# What lies about. Each is made of two colours.
BITS: tuple[Callable[[str, str], list[Shape]], ...] = (
    lambda a, b: [ellipse(a, 0, 0, 1, 0.7)],
    lambda a, b: [polygon(a, (-1, 0.6), (0.9, 0.8), (0.2, -1))],
    lambda a, b: [polygon(a, (-0.8, -1), (0.8, -1), (0.8, 1), (-0.8, 1))],
    lambda a, b: [curve(a, 0.2, 0.2, (-3, 0), (3, 0.5))],
    lambda a, b: [curve(a, 0.5, 0.3, (0, 0), (1, 0), (1.5, -1), (1, -2))],
    lambda a, b: [
        polygon(a, (-0.5, 0), (0.1, -1.3), (0.5, 0)),
        polygon(b, (-0.25, -0.1), (0, -0.8), (0.25, -0.1)),
    ],
    lambda a, b: [ellipse(a, 0, 0, 0.4), ellipse(b, 0, 0, 0.15, 0.25)],
    lambda a, b: [ellipse(a, 0, 0, 0.4, 1), ellipse(b, 1, 0.2, 0.5), ellipse(a, 1, 0, 0.2, 0.15)],
    lambda a, b: [curve(a, 0.06, 0.03, (0, 0), (1.5, turn)) for turn in (-0.5, 0, 0.5)],
)
