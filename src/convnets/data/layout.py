"""What the names of files say: which are pictures, of which class and split.

The same for a folder and for an archive. Every file that is not used has a reason.
"""

import csv
import io
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import PurePosixPath
from typing import NamedTuple

from convnets.base.console import InputError

SUFFIXES = frozenset(
    f".{kind}"
    for kind in ("jpg", "jpeg", "jpe", "jfif", "png", "webp", "bmp", "gif", "tif", "tiff", "avif")
) | {".heic", ".heif"}
TABLES = ("labels.csv", "metadata.csv")
# Hugging Face's ImageFolder has file_name and label, Kaggle's competitions id and breed.
FILE_COLUMNS = ("file_name", "file", "filename", "image", "image_id", "path", "id")
LABEL_COLUMNS = ("label", "class", "breed", "category", "species")
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


class Image(NamedTuple):
    """One labelled picture."""

    label: str
    number: int | None  # of a name such as `cat.12.jpg`: it gives the order
    member: str  # its path in the folder or archive
    split: str | None = None  # train, validation or test, where folders say so


class Layout(NamedTuple):
    """How the pictures are laid out."""

    name: str  # classes, splits, numbered or table
    images: list[Image]  # by class, then by number or path
    skipped: dict[str, str]  # the path of each file that is not used, and why


def recognise(
    names: Iterable[str], read: Callable[[str], bytes], folders: Iterable[str] = ()
) -> Layout:
    """Recognise the layout of a folder or an archive.

    - classes: `cat/1.jpg`, at any depth below the class.
    - splits: `train/cat/1.jpg`, where `train` is a name in `SPLITS`, in any capitals.
    - numbered: `cat.1.jpg`, as Kaggle's, where all pictures are named so.
    - table: a `labels.csv` or `metadata.csv` names the class of each picture.

    Folders around all of these do not matter.

    Args:
        names: the paths of all files, with `/` between folders.
        read: gives the content of a file.
        folders: the paths of folders without any file.

    Raises:
        InputError: there are no pictures or no classes, there is more than one reading, or a folder
            beside the classes is empty.
    """
    pictures, tables, skipped = sort_out(names)
    if not pictures:
        raise InputError("no images found; expected <class>/*.jpg, or <class>.<number>.jpg")
    inside = _unwrap(pictures)
    splits = _by_split(inside)
    classes = _by_class(inside, splits)
    readings = {
        "table": _by_table(tables, inside, read),
        "splits": splits,
        "classes": classes,
        "numbered": _by_number(inside, splits, classes),
    }
    possible = {name: found for name, found in readings.items() if found}
    table, others = possible.get("table"), [n for n in possible if n != "table"]
    if table and others and _agree(table, possible[others[0]]):
        del possible["table"]  # it says what the folders say
    if not possible:
        (path, *_) = inside.values()
        raise InputError(
            f"no classes found: nothing names the class of {path!r}; put each class into a folder "
            "of its own, or add a labels.csv with the columns file_name and label"
        )
    if len(possible) > 1:
        told = " or ".join(f"{_classes(found)} ({name})" for name, found in possible.items())
        raise InputError(f"ambiguous, the classes may be {told}; rename or move the others")
    ((name, images),) = possible.items()
    images.sort(key=lambda image: (image.label, image.number or 0, image.member))
    used = {image.member for image in images}
    why = "not in the table" if name == "table" else "beside the class folders"
    skipped |= {path: why for path in pictures if path not in used}
    _check(name, images)
    if name in ("classes", "splits"):
        _check_folders(images, folders)
    return Layout(name, images, skipped)


def split_of(folder: str) -> str | None:
    """Return the split that a folder's name stands for, if it does."""
    words = [word for word in re.split(r"[^a-z]+", folder.lower()) if word]
    words = [word for word in words if word not in FILLERS]
    return SPLITS.get(words[0]) if len(words) == 1 else None


def sort_out(names: Iterable[str]) -> tuple[list[str], list[str], dict[str, str]]:
    """Return the paths of pictures and of tables, and why each of the others is skipped."""
    pictures, tables, skipped = [], [], {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if any(part.startswith(".") or part.lower() in JUNK for part in path.parts):
            skipped[name] = "hidden or a system's"
        elif path.name.lower() in TABLES:
            tables.append(name)
        elif path.suffix.lower() in SUFFIXES:
            pictures.append(name)
        else:
            skipped[name] = "not an image"
    return pictures, tables, skipped


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
    images = [
        Image(folder, _number(path[-1]), name)
        for folder, below in folders.items()
        for path, name in below.items()
    ]
    # One folder around Kaggle's names is no class.
    return [] if len(folders) == 1 and all(image.number is not None for image in images) else images


def _by_split(inside: dict[Parts, str]) -> list[Image]:
    images = []
    for folder, below in _folders(inside).items():
        split = split_of(folder)
        if split is None:
            continue
        # `seg_train/seg_train/sea/1.jpg`: folders around the classes of one split.
        within = {path[1:]: name for path, name in below.items()}
        while len(_folders(within)) == 1 and split_of(next(iter(_folders(within)))):
            within = {path[1:]: name for path, name in within.items() if len(path) > 1}
        images += [
            Image(path[0], _number(path[-1]), name, split)
            for path, name in within.items()
            if len(path) > 1
        ]
    return images


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


def _number(name: str) -> int | None:
    match = _NUMBERED.fullmatch(name)
    return int(match["number"]) if match else None


def _by_table(
    tables: list[str], inside: dict[Parts, str], read: Callable[[str], bytes]
) -> list[Image]:
    by_name: dict[str, list[str]] = defaultdict(list)
    for path, name in inside.items():
        for known in {path[-1], PurePosixPath(path[-1]).stem}:
            by_name[known].append(name)
    exact = set(inside.values())
    splits = {name: split_of(path[0]) for path, name in inside.items() if len(path) > 1}
    images = {}
    for table in tables:
        rows = csv.DictReader(io.StringIO(read(table).decode("utf-8-sig", "replace"), newline=""))
        columns = {str(column).strip().lower(): column for column in rows.fieldnames or ()}
        file = next((columns[key] for key in FILE_COLUMNS if key in columns), None)
        label = next((columns[key] for key in LABEL_COLUMNS if key in columns), None)
        if file is None or label is None:
            continue
        for row in rows:
            given, of_class = (row[file] or "").strip(), (row[label] or "").strip()
            whole = str(PurePosixPath(table).parent / given)
            found = [whole] if whole in exact else by_name.get(PurePosixPath(given).name, [])
            if len(found) > 1:
                raise InputError(f"{table}: {given!r} may be {found[0]!r} or {found[1]!r}")
            if found and of_class:
                images[found[0]] = Image(of_class, None, found[0], splits.get(found[0]))
    named = {image.split for image in images.values()}
    keep = len(named) > 1
    return [image if keep else image._replace(split=None) for image in images.values()]


def _agree(table: list[Image], folders: list[Image]) -> bool:
    known = {image.member: image.label for image in folders}
    return all(known.get(image.member, image.label) == image.label for image in table)


def _classes(images: list[Image]) -> str:
    names = sorted({image.label for image in images})
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _check(name: str, images: list[Image]) -> None:
    """Refuse names of classes that look the same, and a number that a class has twice."""
    alike: dict[str, str] = {}
    for label in sorted({image.label for image in images}):
        other = alike.setdefault(unicodedata.normalize("NFC", label).casefold(), label)
        if other != label:
            raise InputError(
                f"classes {other!r} and {label!r} differ only by capitals or Unicode form; "
                "rename one"
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
