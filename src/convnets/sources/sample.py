"""Drawn cats and dogs: a small stand-in for the photographs, made offline from a seed.

Only shape separates the classes. A cat has pointed ears, slit pupils, whiskers, a small muzzle and
a thin tail. A dog has hanging ears, round eyes, a long muzzle with a tongue, and a thick tail. The
coat, pattern, pose, place, size, background, clutter, light and noise do not depend on the class.
So a linear model on pixels does little better than guessing, and a convnet needs more pictures than
there are here. A backbone that has learned from other drawn things needs fewer.
"""

import io
import zipfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convnets.sources.drawing import (
    WHOLE,
    Frame,
    Pen,
    Shape,
    Shapes,
    curve,
    ellipse,
    mirrored,
    polygon,
    scene,
)

CLASSES = ("cat", "dog")
HARD = 0.5  # see `scene`: a convnet with few examples does poorly, and a person well


class Animal(NamedTuple):
    """What tells a kind of animal from the others. Its head has a radius of about 1."""

    ear: Shapes  # the right one, from its root
    root: tuple[float, float]  # of the right ear
    muzzle: Shapes  # around (0, 0)
    eye: Shapes  # the right one, around (0, 0)
    tail: Shapes  # to the right of its root
    sometimes: Shapes = ()  # on the muzzle
    horn: Shapes = ()  # the right one, on the head
    behind: Shapes = ()  # the head
    face: Shapes = (ellipse("coat", 0, 0, 1, 0.93),)
    neck: float = 0
    legs: float = 1
    fat: float = 1


class Pose(NamedTuple):
    """How an animal holds itself."""

    head: tuple[float, float, float]  # x, y and radius
    tail: tuple[float, float]
    trunk: Shape
    limbs: Shapes  # y is from the hip
    hip: float = 0.3
    in_front: bool = False  # the limbs, of the trunk


def _leg(colour: str, x: float) -> Shape:
    return curve(colour, 0.15, 0.12, (x, 0), (x, 0.5))


STAND = Pose(
    (-0.42, -0.3, 0.32),
    (0.58, 0.12),
    ellipse("coat", 0.15, 0.22, 0.48, 0.26),
    (_leg("coat", -0.2), _leg("limb", -0.02), _leg("limb", 0.36), _leg("coat", 0.52)),
)
SIT = Pose(
    (0, -0.35, 0.36),
    (0.3, 0.6),
    ellipse("coat", 0.02, 0.38, 0.36, 0.47),
    mirrored(_leg("limb", 0.13), ellipse("limb", 0.22, 0.54, 0.15, 0.07)),
    in_front=True,
)
LIE = Pose(
    (-0.5, -0.1, 0.32),
    (0.68, 0.3),
    ellipse("coat", 0.15, 0.32, 0.6, 0.25),
    (
        ellipse("limb", 0.5, 0.1, 0.2),
        curve("limb", 0.12, 0.12, (-0.1, 0.15), (-0.6, 0.18)),
        curve("limb", 0.12, 0.12, (-0.1, 0.23), (-0.62, 0.26)),
    ),
    in_front=True,
)
FACE = Pose((0, -0.05, 0.6), (0.5, 0.8), ellipse("coat", 0, 0.85, 0.6, 0.45), ())
POSES, OFTEN = (STAND, SIT, LIE, FACE), (0.4, 0.25, 0.25, 0.1)

POINTED = (
    polygon("ear", (-0.4, 0.3), (0.16, -1.0), (0.4, 0.3)),
    polygon("light", (-0.2, 0.1), (0.12, -0.7), (0.2, 0.1)),
)
HANGING = (ellipse("ear", 0.12, 0.5, 0.27, 0.68, -0.15),)
TINY_MUZZLE = (
    *mirrored(ellipse("muzzle", 0.1, 0, 0.17, 0.13)),
    polygon("nose", (-0.09, -0.16), (0.09, -0.16), (0, -0.05)),
)
LONG_MUZZLE = (
    ellipse("muzzle", 0, 0.15, 0.42, 0.5),
    ellipse("nose", 0, -0.08, 0.2, 0.15),
    curve("black", 0.05, 0.05, (0, 0.05), (0, 0.38)),
)
WHISKERS = mirrored(
    *(curve("white", 0.03, 0.02, (0.2, 0), (1.1, turn)) for turn in (-0.3, 0.05, 0.4))
)
SLIT = (ellipse("white", 0, 0, 0.2, 0.17, 0.25), ellipse("black", 0, 0, 0.06, 0.16))
ROUND = (ellipse("white", 0, 0, 0.17), ellipse("black", 0, 0, 0.11))
CLOSED = (curve("black", 0.06, 0.06, (-0.14, 0), (0, 0.12), (0.14, 0)),)
THIN_TAIL = (curve("coat", 0.09, 0.06, (0, 0), (0.27, 0.05), (0.38, -0.35), (0.2, -0.7)),)
THICK_TAIL = (curve("coat", 0.2, 0.08, (0, 0), (0.24, -0.15), (0.32, -0.45)),)

CAT = Animal(POINTED, (0.58, -0.58), TINY_MUZZLE, SLIT, THIN_TAIL, sometimes=WHISKERS)
DOG = Animal(
    HANGING,
    (1.02, -0.42),
    LONG_MUZZLE,
    ROUND,
    THICK_TAIL,
    sometimes=(ellipse("tongue", 0.05, 0.66, 0.15, 0.26),),
)


def paint(pen: Pen, animal: Animal) -> None:
    """Paint an animal, in any coat and pose."""
    rng = pen.rng
    _choose_colours(pen)
    pose = POSES[rng.choice(len(POSES), p=OFTEN)]
    x, y, radius = pose.head + rng.normal(0, (0.05, 0.05, 0.03))
    y -= 0.55 * animal.neck
    trunk = WHOLE.part(0, 0, stretch=(1, rng.uniform(0.88, 1.12) * animal.fat))
    hip = WHOLE.part(0, pose.hip, stretch=(1, rng.uniform(0.85, 1.15) * animal.legs))
    pen.paint(animal.tail, WHOLE.part(*pose.tail, rng.uniform(0.85, 1.2), rng.uniform(-0.6, 0.6)))
    if not pose.in_front:
        pen.paint(pose.limbs, hip)
    if animal.neck:
        pen.paint([curve("coat", 0.36, 0.25, (pose.trunk.points[12][0] + 0.2, 0.2), (x, y))])
    pen.paint([pose.trunk], trunk)
    if rng.random() < 0.4:  # spots on any animal
        for _ in range(rng.integers(2, 7)):
            spot = pose.trunk.points.mean(axis=0) + rng.uniform(-0.3, 0.3, 2) * (1, 0.5)
            colour = "dark" if rng.random() < 0.7 else "light"
            pen.paint([ellipse(colour, *spot, *rng.uniform(0.02, 0.12, 2))], trunk)
    if pose.in_front:
        pen.paint(pose.limbs, hip)
    _paint_head(pen, animal, WHOLE.part(x, y, radius, rng.uniform(-0.3, 0.3)))


def _paint_head(pen: Pen, animal: Animal, head: Frame) -> None:
    """Paint a head that looks to one side."""
    rng = pen.rng
    aside = rng.uniform(-0.8, 0.8)
    pen.paint(animal.behind, head)
    for side in (-1, 1):
        nearer = side * (1 + 0.2 * side * aside)
        x, y = animal.root[0] * nearer - 0.12 * aside, animal.root[1]
        turn, size = side * rng.uniform(-0.15, 0.3), rng.uniform(0.85, 1.2)
        pen.paint(animal.ear, head.part(x, y, size, turn, (side, 1)))
        pen.paint(animal.horn, head.part(-0.12 * aside, 0, 1, 0, (nearer, 1)))
    pen.paint(animal.face, head)
    muzzle = head.part(0.38 * aside, 0.38, rng.uniform(0.88, 1.15))
    pen.paint(animal.muzzle, muzzle)
    if rng.random() < 0.6:
        pen.paint(animal.sometimes, muzzle)
    eye = CLOSED if rng.random() < 0.08 else animal.eye
    apart, size = rng.uniform(0.36, 0.46), rng.uniform(0.9, 1.15)
    for side in (-1, 1):
        pen.paint(eye, head.part(0.28 * aside + side * apart, -0.18, size, 0, (side, 1)))


def _choose_colours(pen: Pen) -> None:
    """Choose a coat, coloured or grey, and what goes with it."""
    rng = pen.rng
    coat = rng.integers(15, 241, 3).astype(float)
    if rng.random() < 0.35:
        coat = rng.integers(30, 226) * np.ones(3)
    shades = coat * rng.uniform(0.35, 0.65), 255 - (255 - coat) * rng.uniform(0.3, 0.65)
    dark, light = shades if rng.random() < 0.85 else shades[::-1]
    black = np.array((40, 30, 35)) * rng.uniform(0.3, 1)
    chosen = {
        "coat": coat,
        "dark": dark,
        "light": light,
        "ear": (dark, light)[rng.integers(2)],
        "limb": (coat, dark)[rng.integers(2)],
        "muzzle": light if rng.random() < 0.7 else coat,
        "nose": black if rng.random() < 0.75 else dark,
        "black": black,
        "white": (235, 235, 205) if rng.random() < 0.7 else (190, 220, 110),
        "tongue": (220, 90, 110),
    }
    pen.colours |= {name: tuple(map(int, colour)) for name, colour in chosen.items()}


def draw(label: str, index: int, seed: int) -> Image.Image:
    """Draw one animal, RGB, 110 to 150 pixels a side. The same arguments give the same picture.

    Args:
        label: "cat" or "dog".
        index: the picture's number.
        seed: seed of the whole sample.
    """
    return _drawn(label, index, seed)[0]


def mask(label: str, index: int, seed: int) -> NDArray[np.bool_]:
    """Return where the animal of `draw` is, and nothing hides it, (height, width)."""
    return _drawn(label, index, seed)[1]


def _drawn(label: str, index: int, seed: int) -> tuple[Image.Image, NDArray[np.bool_]]:
    rng = np.random.default_rng([seed, CLASSES.index(label), index])
    width, height = (int(side) for side in rng.integers(110, 151, 2))
    return scene(
        partial(paint, animal=(CAT, DOG)[CLASSES.index(label)]), rng, (width, height), HARD
    )


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
