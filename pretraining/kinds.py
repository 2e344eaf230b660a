"""The kinds of drawn things that the sample's backbone learns from: no cats and no dogs."""

import math
from collections.abc import Callable
from functools import partial

import numpy as np
from numpy.typing import NDArray

from convnets.sources.drawing import Pen, Shape, Shapes, curve, ellipse, mirrored, polygon, scene
from convnets.sources.sample import (
    POINTED,
    ROUND,
    TINY_MUZZLE,
    WHISKERS,
    Animal,
    paint,
)


def box(colour: str, left: float, top: float, right: float, bottom: float) -> Shape:
    """Return a rectangle."""
    return polygon(colour, (left, top), (right, top), (right, bottom), (left, bottom))


def line(colour: str, width: float, *points: tuple[float, float]) -> Shape:
    """Return a line through two points, or a curve near more."""
    return curve(colour, width, width, *points)


def dome(colour: str, x: float, y: float, rx: float, ry: float) -> Shape:
    """Return the upper half of an ellipse with centre (x, y)."""
    steps = [math.pi * k / 14 for k in range(15)]
    return polygon(colour, *((x + rx * math.cos(t), y - ry * math.sin(t)) for t in steps))


def around(count: int, radius: float) -> list[tuple[float, float, float]]:
    """Return the places around (0, 0), as x, y and angle."""
    angles = [2 * math.pi * k / count for k in range(count)]
    return [(radius * math.cos(t), radius * math.sin(t), t) for t in angles]


DOT = (ellipse("black", 0, 0, 0.1),)
ROUND_EAR = (ellipse("ear", 0.12, -0.12, 0.34), ellipse("light", 0.12, -0.12, 0.2))
LONG_EAR = (ellipse("ear", 0, -0.75, 0.2, 0.8), ellipse("light", 0, -0.75, 0.1, 0.55))
SIDE_EAR = (ellipse("ear", 0.35, 0, 0.4, 0.18, 0.2),)
FOLDED_EAR = (polygon("ear", (-0.3, 0), (-0.25, -0.5), (0.5, -0.35), (0.35, 0.25)),)
HUGE_EAR = (ellipse("ear", 0.35, 0.1, 0.62, 0.85, 0.15),)
TUFTED_EAR = (polygon("ear", (-0.3, 0.1), (0.25, -0.85), (0.3, 0.3)),)
NO_EAR: Shapes = ()
MUZZLE = (ellipse("muzzle", 0, 0.05, 0.38, 0.3), ellipse("nose", 0, -0.1, 0.14, 0.1))
SNOUT = (
    ellipse("dark", 0, 0, 0.36, 0.27),
    *mirrored(ellipse("black", 0.13, 0, 0.06, 0.09)),
)
WIDE_MUZZLE = (
    ellipse("muzzle", 0, 0.3, 0.72, 0.45),
    *mirrored(ellipse("black", 0.28, 0.15, 0.08, 0.1)),
    line("black", 0.05, (-0.35, 0.48), (0, 0.62), (0.35, 0.48)),
)
LONG_FACE = (ellipse("coat", 0, 0.15, 0.68, 1.25), ellipse("muzzle", 0, 1.05, 0.5, 0.36))
NOSTRILS = mirrored(ellipse("black", 0.18, 0.68, 0.06, 0.09))
BIG_NOSE = (ellipse("nose", 0, -0.08, 0.2, 0.34),)
POINTED_FACE = (polygon("coat", (-0.9, -0.2), (0, 1.25), (0.9, -0.2)), ellipse("coat", 0, 0, 0.95))
POINTED_NOSE = (ellipse("nose", 0, 0.7, 0.14, 0.12),)
TRUNK = (
    curve("coat", 0.5, 0.22, (0, -0.2), (0, 0.6), (0.1, 1.2), (0.5, 1.5)),
    *mirrored(line("white", 0.1, (0.3, 0.25), (0.55, 0.75))),
)
BUSHY_TAIL = (
    curve("coat", 0.12, 0.3, (0, 0), (0.25, 0.05), (0.4, -0.25)),
    ellipse("light", 0.4, -0.3, 0.14, 0.16),
)
PLUME = (curve("coat", 0.2, 0.45, (0, 0), (0.55, -0.1), (0.3, -0.7), (0.05, -0.95)),)
PUFF = (ellipse("light", 0.05, 0, 0.11),)
WIRE = (line("dark", 0.03, (0, 0), (0.25, 0.05), (0.35, -0.3), (0.2, -0.6)),)
CURL = (line("coat", 0.05, (0, 0), (0.4, 0), (0.1, -0.35), (0, 0.05), (0.35, -0.1)),)
TUFT = (
    line("coat", 0.05, (0, 0), (0.3, 0.05), (0.4, -0.2), (0.35, -0.45)),
    ellipse("dark", 0.35, -0.45, 0.08, 0.1),
)
HAIR = tuple(line("dark", 0.05, (0, 0), (0.2, 0), (x, 0.5)) for x in (0.1, 0.2, 0.3))
NO_TAIL: Shapes = ()
CURVED_HORN = (line("white", 0.18, (0.5, -0.8), (1.3, -0.9), (1.0, -1.55)),)
STRAIGHT_HORN = (line("white", 0.16, (0.35, -0.8), (0.75, -1.8)),)
KNOB = (line("white", 0.12, (0.3, -0.8), (0.35, -1.3)), ellipse("dark", 0.36, -1.35, 0.13))
SPIRAL = tuple(
    ellipse("white", 0.95 + x * size, -0.35 - y * size, 0.17)
    for size, (x, y, _) in zip(
        (0.45, 0.43, 0.41, 0.39, 0.36, 0.33, 0.3), around(9, 1), strict=False
    )
)
ANTLER = (
    line("white", 0.11, (0.35, -0.8), (0.9, -1.3), (0.9, -1.9)),
    line("white", 0.1, (0.6, -1.15), (1.3, -1.5)),
    line("white", 0.1, (0.75, -1.4), (0.45, -1.8)),
)
MANE = tuple(
    polygon(
        "dark",
        (math.cos(t - 0.25), math.sin(t - 0.25)),
        (x, y),
        (math.cos(t + 0.25), math.sin(t + 0.25)),
    )
    for x, y, t in around(16, 1.55)
)
WOOL = tuple(ellipse("light", x, y, 0.34) for x, y, _ in around(10, 0.95))
SPIKES = tuple(
    polygon("dark", (0.9 * x - 0.1 * y, 0.9 * y + 0.1 * x), (1.5 * x, 1.5 * y), (0.9 * x, 0.9 * y))
    for x, y, _ in around(18, 1)
)
LOCKS = tuple(ellipse("dark", 0.3 + 0.15 * k, -0.9 + 0.3 * k, 0.22, 0.26) for k in range(5))
BEARD = (polygon("light", (-0.25, 0.9), (0.25, 0.9), (0, 1.6)),)

ANIMALS = {
    "fox": Animal(POINTED, (0.6, -0.6), POINTED_NOSE, ROUND, BUSHY_TAIL, face=POINTED_FACE),
    "rabbit": Animal(LONG_EAR, (0.42, -0.7), TINY_MUZZLE, ROUND, PUFF, sometimes=WHISKERS),
    "bear": Animal(ROUND_EAR, (0.6, -0.6), MUZZLE, ROUND, NO_TAIL, fat=1.2),
    "mouse": Animal(
        (ellipse("ear", 0.12, -0.2, 0.55), ellipse("light", 0.12, -0.2, 0.35)),
        (0.65, -0.65),
        POINTED_NOSE,
        DOT,
        WIRE,
        sometimes=WHISKERS,
        face=POINTED_FACE,
        fat=0.8,
    ),
    "pig": Animal(FOLDED_EAR, (0.6, -0.5), SNOUT, DOT, CURL, fat=1.15),
    "cow": Animal(SIDE_EAR, (0.85, -0.35), WIDE_MUZZLE, ROUND, TUFT, horn=CURVED_HORN, legs=1.1),
    "sheep": Animal(SIDE_EAR, (0.8, -0.3), MUZZLE, DOT, PUFF, behind=WOOL, fat=1.25),
    "ram": Animal(NO_EAR, (0, 0), MUZZLE, ROUND, PUFF, horn=SPIRAL, fat=1.1),
    "horse": Animal(
        TUFTED_EAR,
        (0.4, -0.95),
        NOSTRILS,
        ROUND,
        HAIR,
        behind=LOCKS,
        face=LONG_FACE,
        neck=0.25,
        legs=1.3,
    ),
    "elephant": Animal(HUGE_EAR, (0.95, -0.15), TRUNK, DOT, WIRE, fat=1.3),
    "lion": Animal(ROUND_EAR, (0.6, -0.65), MUZZLE, ROUND, TUFT, behind=MANE, sometimes=WHISKERS),
    "deer": Animal(
        SIDE_EAR,
        (0.6, -0.6),
        NOSTRILS,
        ROUND,
        PUFF,
        horn=ANTLER,
        face=LONG_FACE,
        neck=0.15,
        legs=1.3,
        fat=0.85,
    ),
    "goat": Animal(
        SIDE_EAR,
        (0.55, -0.4),
        NOSTRILS,
        DOT,
        PUFF,
        sometimes=BEARD,
        horn=STRAIGHT_HORN,
        face=LONG_FACE,
    ),
    "monkey": Animal(
        ROUND_EAR,
        (0.95, 0.05),
        WIDE_MUZZLE,
        ROUND,
        WIRE,
        face=(ellipse("coat", 0, 0, 1, 0.95), ellipse("light", 0, 0.15, 0.75, 0.72)),
        fat=0.85,
    ),
    "giraffe": Animal(
        SIDE_EAR,
        (0.55, -0.6),
        NOSTRILS,
        ROUND,
        TUFT,
        horn=KNOB,
        face=LONG_FACE,
        neck=0.55,
        legs=1.4,
        fat=0.8,
    ),
    "hippo": Animal(
        (ellipse("ear", 0, -0.1, 0.17),),
        (0.6, -0.75),
        (*WIDE_MUZZLE, ellipse("muzzle", 0, 0.5, 0.95, 0.5), *SNOUT),
        DOT,
        NO_TAIL,
        fat=1.4,
        legs=0.6,
    ),
    "squirrel": Animal(TUFTED_EAR, (0.6, -0.6), TINY_MUZZLE, DOT, PLUME, fat=0.85, legs=0.7),
    "koala": Animal(
        (ellipse("ear", 0.2, 0, 0.5), ellipse("light", 0.2, 0, 0.3)),
        (0.85, -0.5),
        BIG_NOSE,
        DOT,
        NO_TAIL,
        fat=1.1,
    ),
    "hedgehog": Animal(
        NO_EAR, (0, 0), POINTED_NOSE, DOT, NO_TAIL, behind=SPIKES, face=POINTED_FACE, legs=0.5
    ),
    "donkey": Animal(
        LONG_EAR, (0.5, -0.7), WIDE_MUZZLE, ROUND, TUFT, behind=LOCKS, neck=0.15, legs=1.2
    ),
    "crocodile": Animal(
        NO_EAR,
        (0, 0),
        (
            ellipse("coat", 0, 0.7, 0.42, 1.1),
            *mirrored(ellipse("black", 0.18, 1.5, 0.07)),
            *mirrored(
                *(polygon("white", (0.3, y), (0.5, y + 0.1), (0.3, y + 0.2)) for y in (0.5, 0.9))
            ),
        ),
        ROUND,
        (curve("coat", 0.3, 0.03, (0, 0), (0.4, 0.1), (0.7, -0.1)),),
        legs=0.5,
        fat=0.7,
    ),
    "walrus": Animal(
        NO_EAR,
        (0, 0),
        (
            *mirrored(ellipse("muzzle", 0.3, 0.1, 0.35, 0.3)),
            ellipse("nose", 0, -0.1, 0.15, 0.1),
            *mirrored(curve("white", 0.16, 0.05, (0.25, 0.3), (0.3, 1.2))),
        ),
        DOT,
        NO_TAIL,
        sometimes=WHISKERS,
        fat=1.3,
        legs=0.5,
    ),
}

THINGS: dict[str, Shapes] = {
    "car": (
        polygon("b", (-0.5, 0), (-0.3, -0.4), (0.3, -0.4), (0.55, 0)),
        box("a", -0.9, -0.05, 0.9, 0.35),
        *mirrored(ellipse("c", 0.5, 0.38, 0.2), ellipse("d", 0.5, 0.38, 0.09)),
        polygon("d", (-0.38, -0.04), (-0.22, -0.3), (0, -0.3), (0, -0.04)),
    ),
    "bus": (
        box("a", -0.9, -0.5, 0.9, 0.4),
        *(box("d", x, -0.35, x + 0.25, -0.05) for x in (-0.75, -0.4, -0.05, 0.3)),
        box("b", 0.62, -0.35, 0.8, 0.38),
        *mirrored(ellipse("c", 0.48, 0.42, 0.17)),
    ),
    "bicycle": (
        *mirrored(ellipse("c", 0.5, 0.3, 0.38), ellipse("d", 0.5, 0.3, 0.3)),
        *(
            line("a", 0.07, start, end)
            for start, end in (
                ((-0.5, 0.3), (-0.2, -0.2)),
                ((-0.2, -0.2), (0.3, -0.2)),
                ((0.3, -0.2), (0, 0.3)),
                ((0, 0.3), (-0.5, 0.3)),
                ((0.5, 0.3), (0.25, -0.45)),
                ((0.1, -0.5), (0.42, -0.42)),
            )
        ),
    ),
    "plane": (
        ellipse("a", 0, 0, 0.9, 0.16),
        polygon("b", (-0.15, 0), (0.2, 0), (-0.1, 0.75), (-0.3, 0.75)),
        polygon("b", (-0.15, 0), (0.2, 0), (-0.1, -0.7), (-0.3, -0.7)),
        polygon("b", (-0.85, 0), (-0.6, 0), (-0.8, -0.4), (-0.95, -0.4)),
    ),
    "boat": (
        polygon("a", (-0.8, 0.2), (0.8, 0.2), (0.5, 0.6), (-0.55, 0.6)),
        line("c", 0.06, (0, 0.2), (0, -0.85)),
        polygon("b", (0.06, -0.8), (0.65, 0.1), (0.06, 0.1)),
        polygon("d", (-0.06, -0.6), (-0.5, 0.1), (-0.06, 0.1)),
    ),
    "house": (
        box("a", -0.6, -0.15, 0.6, 0.75),
        polygon("b", (-0.8, -0.15), (0, -0.8), (0.8, -0.15)),
        box("c", -0.12, 0.3, 0.15, 0.75),
        *mirrored(box("d", 0.25, 0.05, 0.47, 0.3)),
    ),
    "tree": (
        box("c", -0.1, 0.1, 0.1, 0.85),
        *(ellipse("a", 0.3 * x, -0.3 + 0.3 * y, 0.34) for x, y, _ in around(6, 1)),
        ellipse("b", 0, -0.3, 0.3),
    ),
    "fir": (
        box("c", -0.08, 0.5, 0.08, 0.9),
        *(
            polygon(
                "a",
                (-0.6 + 0.13 * k, 0.55 - 0.42 * k),
                (0, -0.1 - 0.38 * k),
                (0.6 - 0.13 * k, 0.55 - 0.42 * k),
            )
            for k in range(3)
        ),
    ),
    "flower": (
        line("c", 0.07, (0, 0), (0.1, 0.5), (0, 0.95)),
        ellipse("c", 0.22, 0.6, 0.2, 0.09, -0.5),
        *(ellipse("a", x, y - 0.25, 0.25, 0.14, t) for x, y, t in around(7, 0.36)),
        ellipse("b", 0, -0.25, 0.19),
    ),
    "cactus": (
        curve("a", 0.34, 0.3, (0, 0.7), (0, 0), (0, -0.75)),
        *mirrored(curve("a", 0.2, 0.18, (0, 0.2), (0.5, 0.2), (0.5, -0.35))),
        polygon("b", (-0.3, 0.55), (0.3, 0.55), (0.22, 0.9), (-0.22, 0.9)),
    ),
    "chair": (
        box("a", -0.4, -0.85, -0.28, 0.85),
        box("b", -0.4, 0, 0.4, 0.14),
        box("a", 0.28, 0.1, 0.4, 0.85),
        box("b", -0.35, -0.8, -0.1, -0.2),
    ),
    "table": (
        box("a", -0.85, -0.25, 0.85, -0.08),
        *mirrored(box("b", 0.6, -0.08, 0.7, 0.65), box("c", 0.38, -0.08, 0.45, 0.5)),
    ),
    "lamp": (
        box("c", -0.05, -0.2, 0.05, 0.75),
        ellipse("c", 0, 0.78, 0.35, 0.09),
        polygon("a", (-0.25, -0.75), (0.25, -0.75), (0.5, -0.15), (-0.5, -0.15)),
    ),
    "sign": (
        box("c", -0.05, 0.1, 0.05, 0.95),
        polygon("a", (-0.6, 0.15), (0, -0.85), (0.6, 0.15)),
        polygon("b", (-0.38, 0.04), (0, -0.6), (0.38, 0.04)),
    ),
    "stop sign": (
        box("c", -0.05, 0.1, 0.05, 0.95),
        polygon("a", *((x, y - 0.3) for x, y, _ in around(8, 0.55))),
        box("b", -0.36, -0.4, 0.36, -0.2),
    ),
    "cup": (
        *(ellipse("a", 0.4 + x, 0.05 + y, 0.07) for x, y, _ in around(14, 0.3)),
        polygon("a", (-0.5, -0.5), (0.5, -0.5), (0.4, 0.6), (-0.4, 0.6)),
        ellipse("b", 0, -0.5, 0.5, 0.13),
    ),
    "mushroom": (
        curve("b", 0.3, 0.42, (0, -0.1), (0, 0.8)),
        dome("a", 0, 0, 0.75, 0.7),
        *(ellipse("d", x, -0.25 - abs(x) / 9, 0.09, 0.07) for x in (-0.4, -0.15, 0.1, 0.35)),
    ),
    "umbrella": (
        line("c", 0.06, (0, -0.1), (0, 0.7)),
        line("c", 0.06, (0, 0.7), (0.1, 0.95), (0.25, 0.7)),
        dome("a", 0, -0.05, 0.85, 0.7),
        polygon("b", (-0.28, -0.05), (0, -0.75), (0.28, -0.05)),
    ),
    "fish": (
        polygon("b", (0.45, 0), (0.9, -0.35), (0.9, 0.35)),
        ellipse("a", 0, 0, 0.6, 0.35),
        polygon("b", (-0.1, -0.3), (0.25, -0.55), (0.25, -0.25)),
        ellipse("d", -0.35, -0.08, 0.08),
        ellipse("c", -0.35, -0.08, 0.04),
    ),
    "butterfly": (
        *mirrored(
            ellipse("a", 0.42, -0.3, 0.42, 0.34, -0.5),
            ellipse("b", 0.35, 0.3, 0.3),
            ellipse("d", 0.45, -0.3, 0.14),
            line("c", 0.03, (0, -0.45), (0.2, -0.8)),
        ),
        ellipse("c", 0, 0, 0.08, 0.5),
    ),
    "snail": (
        curve("b", 0.2, 0.22, (0.6, 0.55), (0, 0.6), (-0.7, 0.5), (-0.75, 0.1)),
        *(ellipse("ad"[k % 2], 0.1, 0.1, 0.5 - 0.12 * k) for k in range(4)),
        *(line("b", 0.04, (-0.75, 0.1), (x, -0.25)) for x in (-0.85, -0.65)),
    ),
    "spider": (
        *mirrored(
            *(
                line("c", 0.05, (0, 0.4 * y), (0.5, 2 * y - 0.15), (0.85, 2 * y + 0.2))
                for y in (-0.3, -0.1, 0.1, 0.3)
            )
        ),
        ellipse("a", 0, 0.2, 0.32, 0.36),
        ellipse("b", 0, -0.22, 0.2),
        *mirrored(ellipse("d", 0.07, -0.28, 0.05)),
    ),
    "turtle": (
        *mirrored(ellipse("b", 0.4, 0.45, 0.14, 0.2)),
        ellipse("b", -0.75, 0.1, 0.22, 0.18),
        dome("a", 0, 0.4, 0.62, 0.8),
        *(ellipse("d", x, 0.1 - 0.1 * (x == 0), 0.11) for x in (-0.3, 0, 0.3)),
    ),
    "owl": (
        ellipse("a", 0, 0.15, 0.5, 0.75),
        *mirrored(
            polygon("a", (0.1, -0.5), (0.45, -0.95), (0.48, -0.3)),
            ellipse("b", 0.48, 0.25, 0.14, 0.45, 0.15),
            ellipse("d", 0.2, -0.25, 0.2),
            ellipse("c", 0.2, -0.25, 0.09),
        ),
        polygon("e", (-0.08, -0.1), (0.08, -0.1), (0, 0.12)),
    ),
    "penguin": (
        *mirrored(ellipse("e", 0.2, 0.9, 0.17, 0.07), ellipse("a", 0.45, 0.25, 0.1, 0.4, -0.3)),
        ellipse("a", 0, 0.3, 0.42, 0.6),
        ellipse("d", 0, 0.35, 0.28, 0.48),
        ellipse("a", 0, -0.45, 0.28),
        polygon("e", (-0.05, -0.5), (-0.5, -0.4), (-0.05, -0.34)),
        ellipse("d", -0.1, -0.52, 0.05),
    ),
}


def _thing(pen: Pen, shapes: Shapes) -> None:
    pen.paint(shapes)


KINDS: dict[str, Callable[[Pen], None]] = {
    **{name: partial(paint, animal=animal) for name, animal in ANIMALS.items()},
    **{name: partial(_thing, shapes=shapes) for name, shapes in THINGS.items()},
}


def picture(task: tuple[str, list[int], int, float]) -> NDArray[np.uint8]:
    """Draw one picture: of a kind, from a seed, of a size and a hardness."""
    kind, seed, size, hard = task
    return np.asarray(scene(KINDS[kind], np.random.default_rng(seed), (size, size), hard)[0])
