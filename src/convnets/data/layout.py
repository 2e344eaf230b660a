"""What the names of files say: which are pictures, of which class and split.

The same for a folder and for an archive. Every file that is not used has a reason.
"""

import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from convnets.base import files, params
from convnets.base.console import InputError, printable
from convnets.data import tables
from convnets.data.images import SUFFIXES as SUFFIXES
from convnets.data.images import is_picture

SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Words that people put around the name of a split: `seg_train`, `test_set`, `Training Data`.
FILLERS = frozenset(("set", "seg", "data", "dataset", "images", "imgs", "split"))
JUNK = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "__pycache__"))

_NUMBERED = re.compile(r"(?P<label>[^.]+)\.(?P<number>\d{1,9})\.[^.]+")
Parts = tuple[str, ...]


class Files(NamedTuple):
    """The files of a folder or an archive, by their paths in it."""

    names: Collection[str]
    read: Callable[..., bytes]  # of a path, all bytes or at most so many
    empty: Collection[str] = ()  # the folders without any file
    skipped: Mapping[str, str] = {}  # what is not a file, and why


class Image(NamedTuple):
    """One labelled picture."""

    label: str
    number: int | None  # of a name such as `cat.12.jpg`: it gives the order
    member: str  # its path in the folder or archive
    split: str | None = None  # train, validation or test, where folders say so


LISTING = Path("dvc-outs/images.json")  # the layout of the pipeline's images


class Layout(NamedTuple):
    """How the pictures are laid out."""

    name: str  # classes, splits, numbered or table
    images: list[Image]  # by class, then by number or path
    skipped: dict[str, str]  # the path of each file that is not used, and why


def recognise(
    source: Files,
    wanted: str = "auto",
    labels: Path | None = None,
    *,
    columns: params.Columns | None = None,
) -> Layout:
    """Recognise the layout of a folder or an archive.

    - classes: `cat/1.jpg`, at any depth below the class; `cat/train/1.jpg` keeps the split.
    - splits: `train/cat/1.jpg`, where `train` is a name in `SPLITS`, in any capitals.
    - numbered: `cat.1.jpg`, as Kaggle's, where all pictures are named so.
    - table: a table names the class of each picture, see `tables.read`.

    Folders around all of these do not matter.

    Args:
        source: the folder or the archive.
        wanted: one of these layouts, or `auto`.
        labels: a table that stands elsewhere. Then the layout is `table`.
        columns: of the tables, where they are not found.

    Raises:
        InputError: there are no pictures or no classes, there is more than one reading, the wanted
            layout does not fit, or a folder beside the classes is empty.
    """
    pictures, named, skipped = sort_out(source.names, source.read)
    skipped |= source.skipped
    if not pictures:
        raise InputError("no images found; expected <class>/*.jpg, or <class>.<number>.jpg")
    inside = _unwrap(pictures)
    splits = _by_split(inside)
    classes = _by_class(inside, splits)
    if labels is None:
        of_tables = tables.read(named, source.read, pictures, split_of, columns)
    else:
        wanted = "table"
        try:
            content = labels.read_bytes()
        except OSError as error:
            raise InputError(f"{labels}: {error.strerror}; correct data.labels") from error
        of_tables = tables.read([str(labels)], lambda _: content, pictures, split_of, columns)
    table = _by_table(of_tables, inside)
    unclear = "; ".join(f"{name}: {why}" for name, why in list(of_tables.unclear.items())[:3])
    readings = {
        "table": _one_split(table),
        "splits": splits,
        "classes": classes,
        "numbered": _by_number(inside, splits, classes),
    }
    possible = {name: found for name, found in readings.items() if found}
    # Folders of one class are none: `images/1.jpg` beside a table.
    several = {
        name: found
        for name, found in possible.items()
        if name == "table" or len({image.label for image in found}) > 1
    }
    possible = several or possible
    if wanted != "auto":
        fits = {name: found for name, found in possible.items() if name == wanted}
        if wanted == "table" and not fits and (unclear or labels):
            raise InputError(unclear or f"{labels}: no table of labels; correct data.labels")
        if possible and not fits:
            raise InputError(f"data.layout {wanted} does not fit; possible: {', '.join(possible)}")
        possible = fits
    others = [name for name in possible if name != "table"]
    rows = of_tables.rows
    if others and not of_tables.sure:  # the numbers of any column are nothing against folders
        table, rows = [], {member: row._replace(label="") for member, row in rows.items()}
        possible.pop("table", None)
    for name in others if rows else ():
        completed = _completed(possible[name], table, rows)
        if completed:
            possible[name] = completed
            possible.pop("table", None)
        elif any(re.sub(r"\d+", "", image.label) for image in possible[name][:1]) and (
            len({re.sub(r"\d+", "", image.label) for image in possible[name]}) == 1
        ):
            del possible[name]  # `part_1`, `part_2`, `patient3`: beside a table, only folders
    if columns and not of_tables.rows:
        raise InputError(unclear or "data.columns is set, but no table is there; set data.labels")
    if unclear and not (several or table):
        raise InputError(f"no classes found: {unclear}")
    if not possible:
        without = [name for path, name in inside.items() if not _NUMBERED.fullmatch(path[-1])]
        path = min(without or inside.values())
        raise InputError(
            f"no classes found: nothing names the class of {path!r}; put each class into a folder "
            "of its own, or add a labels.csv with the columns file_name and label"
        )
    if len(possible) > 1:
        told = " or ".join(f"{_classes(found)} ({name})" for name, found in possible.items())
        raise InputError(
            f"ambiguous, the classes may be {told}; set data.layout to {' or '.join(possible)}"
        )
    ((name, images),) = possible.items()
    images.sort(key=lambda image: (image.label, image.number or 0, image.member))
    used = {image.member for image in images}
    why = "not in the table" if name == "table" else "beside the class folders"
    skipped |= {path: why for path in pictures if path not in used}
    skipped |= {path: f"a table that is not used: {why}" for path, why in of_tables.unclear.items()}
    skipped |= {path: why for path, why in of_tables.left.items() if path not in used}
    _check(name, images)
    if name in ("classes", "splits"):
        _check_folders(images, source.empty)
    return Layout(name, images, skipped)


def save(found: Layout, path: Path) -> None:
    """Write a layout, for `load`."""
    files.write_json(path, found._asdict())


def load(path: Path) -> Layout:
    """Return a layout that `save` wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return Layout(**found | {"images": [Image(*row) for row in found["images"]]})


def split_of(folder: str) -> str | None:
    """Return the split that a folder's name stands for, if it does."""
    words = [word for word in re.split(r"[^a-z]+", folder.lower()) if word]
    words = [word for word in words if word not in FILLERS]
    return SPLITS.get(words[0]) if len(words) == 1 else None


def sort_out(
    names: Iterable[str], read: Callable[..., bytes] | None = None
) -> tuple[list[str], list[str], dict[str, str]]:
    """Return the paths of pictures and of tables, and why each of the others is skipped."""
    pictures, labels, skipped = [], [], {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if any(part.startswith(".") or part.lower() in JUNK for part in path.parts):
            skipped[name] = "hidden or a system's"
        elif any(character < " " for character in name):
            skipped[name] = "has a control character in its name"
        elif is_picture(name, read):
            pictures.append(name)
        elif path.suffix.lower() in tables.SUFFIXES:
            labels.append(name)
        else:
            skipped[name] = "not an image"
    return pictures, labels, skipped


def _unwrap(pictures: Iterable[str]) -> dict[Parts, str]:
    """Return the paths by their parts below the folders that are around everything."""
    inside = {PurePosixPath(name).parts: name for name in pictures}
    while len(_folders(inside)) == 1:
        ((_, below),) = _folders(inside).items()
        within = {path[1:]: name for path, name in below.items()}
        deeper = _folders(within)
        # With pictures in the folder itself or beside it, it may be a class of its own.
        alone = len(below) == len(inside) and all(len(path) > 1 for path in within)
        if len(deeper) < (1 if alone else 2):
            break
        inside = within
    return inside


def _folders(inside: dict[Parts, str]) -> dict[str, dict[Parts, str]]:
    """Return the paths below each folder of the top level."""
    found: dict[str, dict[Parts, str]] = defaultdict(dict)
    for path, name in inside.items():
        if len(path) > 1:
            found[path[0]][path] = name
    return found


def _by_class(inside: dict[Parts, str], splits: list[Image]) -> list[Image]:
    folders = _folders(inside)
    others = [folder for folder in folders if split_of(folder) is None]
    if not others or (len(others) < 2 and splits):
        return []
    # `cat/train/1.jpg`: the splits may be below the classes.
    split = all(len(path) > 2 and split_of(path[1]) for below in folders.values() for path in below)
    images = [
        Image(folder, _number(path[-1], folder), name, split_of(path[1]) if split else None)
        for folder, below in folders.items()
        for path, name in below.items()
    ]
    # One folder around Kaggle's names is no class.
    numbered = all(_NUMBERED.fullmatch(path[-1]) for below in folders.values() for path in below)
    return [] if len(folders) == 1 and numbered else images


def _by_split(inside: dict[Parts, str]) -> list[Image]:
    """Return the pictures in class folders below a folder named like a split, wherever it is."""
    below: dict[Parts, dict[Parts, str]] = defaultdict(dict)
    for path, name in inside.items():
        for depth, folder in enumerate(path[:-1], start=1):
            if split_of(folder):
                below[path[:depth]][path[depth:]] = name
                break
    images = []
    for place, all_below in below.items():
        split, within = split_of(place[-1]), all_below
        # `seg_train/seg_train/sea/1.jpg`: folders around the classes of one split.
        while len(_folders(within)) == 1 and (
            split_of(next(iter(_folders(within)))) or _around(below.values())
        ):
            within = {path[1:]: name for path, name in within.items() if len(path) > 1}
        images += [
            Image(path[0], _number(path[-1], path[0]), name, split)
            for path, name in within.items()
            if len(path) > 1
        ]
    return images


def _around(splits: Iterable[dict[Parts, str]]) -> bool:
    """Whether each split has the same single folder around several others: `train/images/cat`."""
    names = {folder for within in splits for folder in _folders(within)}
    return len(names) == 1 and all(
        len(_folders({path[1:]: name for path, name in within.items()})) > 1
        and all(len(path) != 2 for path in within)
        for within in splits
    )


def _by_number(inside: dict[Parts, str], splits: list[Image], classes: list[Image]) -> list[Image]:
    """Return the pictures named `<class>.<number>.jpg`, if all with a class are named so."""
    images = []
    for path, name in inside.items():
        match = _NUMBERED.fullmatch(path[-1])
        split = split_of(path[0]) if len(path) > 1 else None
        if match:
            images.append(Image(match["label"], int(match["number"]), name, split))
        elif split != "test":  # Kaggle's test images have no class
            return []
    labels: dict[str, set[str]] = defaultdict(set)
    for image in images:
        labels[str(PurePosixPath(image.member).parent)].add(image.label)
    if classes and max(map(len, labels.values())) == 1:
        return []  # cat/frame.0001.jpg: the folders say more
    if splits and all(len(path) > 2 for path in inside):
        return []  # train/cat/frame.0001.jpg
    if len({image.split for image in images}) == 1:
        images = [image._replace(split=None) for image in images]
    return images


def _number(name: str, label: str) -> int | None:
    """Return the number of a name such as `cat.12.jpg` in the class `cats`; a date is none."""
    match = _NUMBERED.fullmatch(name)
    if match is None or not label.casefold().startswith(match["label"].casefold()):
        return None
    return int(match["number"])


def _by_table(found: tables.Labels, inside: dict[Parts, str]) -> list[Image]:
    """Return the pictures of which tables say the class."""
    splits = {name: split_of(path[0]) for path, name in inside.items() if len(path) > 1}
    return [
        Image(row.label, None, name, row.split or splits.get(name) or row.of_table)
        for name, row in found.rows.items()
        if row.label
    ]


def _one_split(images: list[Image]) -> list[Image]:
    """Return pictures; what all of them are in is no split."""
    keep = len({image.split or "train" for image in images}) > 1
    return [image if keep else image._replace(split=None) for image in images]


def _completed(
    folders: list[Image], table: list[Image], rows: dict[str, tables.Row]
) -> list[Image]:
    """Return the pictures of folders with what tables add, if the two agree; else none.

    Tables add splits, and pictures of the same classes that are elsewhere. A folder in which they
    name several other classes is none itself, such as Tiny ImageNet's `val/images`.
    """
    said: dict[tuple[str | None, str], set[str]] = defaultdict(set)
    for image in folders:
        label = rows.get(image.member, tables.Row()).label or image.label
        said[image.split, image.label].add(label)
    classes = {label for (_, label), labels in said.items() if label in labels}
    images = {}
    for image in folders:
        row = rows.get(image.member, tables.Row())
        labels = said[image.split, image.label]
        if len(labels) > 1 and labels <= classes - {image.label}:
            continue
        if row.label not in ("", image.label):
            return []
        if row.split and image.split and row.split != image.split:
            raise InputError(
                f"{image.member!r} is in a folder for {image.split}, and in a table for "
                f"{row.split}; correct one of them"
            )
        split = row.split or image.split or row.of_table
        images[image.member] = image._replace(split=split)
    more = [image for image in table if image.member not in images]
    if any(image.label not in classes for image in more):
        return []
    return _one_split([*images.values(), *more])


def _classes(images: list[Image]) -> str:
    names = sorted({image.label for image in images})
    return printable(", ".join(names[:3]) + (", …" if len(names) > 3 else ""))


def _check(name: str, images: list[Image]) -> None:
    """Refuse names of classes that look the same, and a number that a class has twice."""
    alike: dict[str, str] = {}
    for label in sorted({image.label for image in images}):
        if any(character < " " for character in label):
            raise InputError(f"the class {label!r} has a control character; rename it")
        other = alike.setdefault(unicodedata.normalize("NFC", label).casefold().strip(), label)
        if other != label:
            raise InputError(
                f"classes {other!r} and {label!r} differ only by capitals or Unicode form, or by a "
                "space; rename one"
            )
    if name == "numbered":
        for one, next_one in pairwise(images):
            if one.split == next_one.split and one[:2] == next_one[:2]:
                raise InputError(
                    f"{one.member!r} and {next_one.member!r} are both number {one.number} of "
                    f"{one.label!r}; remove one"
                )


def _check_folders(images: list[Image], folders: Iterable[str]) -> None:
    """Refuse a class that is an empty folder."""
    paths = {PurePosixPath(image.member): image.label for image in images}
    beside = {
        parent.parent
        for path, label in paths.items()
        for parent in path.parents
        if parent.name == label
    }
    for folder in map(PurePosixPath, sorted(folders)):
        hidden = folder.name.startswith(".") or folder.name.lower() in JUNK
        if folder.parent in beside and not hidden and split_of(folder.name) is None:
            raise InputError(f"class {folder.name!r} has no images; add some or remove the folder")
