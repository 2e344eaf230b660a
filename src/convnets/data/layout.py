"""What the names of files say: which are pictures, of which class and split.

The same for a folder and for an archive. Every file that is not used has a reason.
"""

import codecs
import csv
import io
import json
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from charset_normalizer import from_bytes

from convnets.base import files
from convnets.base.console import InputError, printable
from convnets.data.images import SUFFIXES as SUFFIXES
from convnets.data.images import ImageError, is_picture

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
# How systems without UTF-8 write: Korean, Japanese, Chinese, Western.
ENCODINGS = ["cp949", "cp932", "gb18030", "big5", "cp1252", "cp437"]
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


def recognise(source: Files, wanted: str = "auto", labels: Path | None = None) -> Layout:
    """Recognise the layout of a folder or an archive.

    - classes: `cat/1.jpg`, at any depth below the class; `cat/train/1.jpg` keeps the split.
    - splits: `train/cat/1.jpg`, where `train` is a name in `SPLITS`, in any capitals.
    - numbered: `cat.1.jpg`, as Kaggle's, where all pictures are named so.
    - table: a `labels.csv` or `metadata.csv` names the class of each picture.

    Folders around all of these do not matter.

    Args:
        source: the folder or the archive.
        wanted: one of these layouts, or `auto`.
        labels: a table that stands elsewhere. Then the layout is `table`.

    Raises:
        InputError: there are no pictures or no classes, there is more than one reading, the wanted
            layout does not fit, or a folder beside the classes is empty.
    """
    pictures, tables, skipped = sort_out(source.names, source.read)
    skipped |= source.skipped
    if not pictures:
        raise InputError("no images found; expected <class>/*.jpg, or <class>.<number>.jpg")
    inside = _unwrap(pictures)
    splits = _by_split(inside)
    classes = _by_class(inside, splits)
    if labels is None:
        try:
            table, left = _by_table({name: source.read(name) for name in tables}, inside)
        except ImageError as error:
            raise InputError(f"{' or '.join(tables)} is {error}; get it again") from error
    else:
        wanted = "table"
        try:
            table, left = _by_table({str(labels): labels.read_bytes()}, inside)
        except OSError as error:
            raise InputError(f"{labels}: {error.strerror}; correct data.labels") from error
        if not table:
            raise InputError(
                f"{labels}: names none of the images; it needs the columns file_name and label"
            )
    readings = {
        "table": table,
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
        if possible and not fits:
            raise InputError(f"data.layout {wanted} does not fit; possible: {', '.join(possible)}")
        possible = fits
    others = [name for name in possible if name != "table"]
    if others and table and _agree(table, possible[others[0]]):
        del possible["table"]  # it says what the folders say
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
    skipped |= {path: told for path, told in left.items() if name == "table" or path in tables}
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
    pictures, tables, skipped = [], [], {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if any(part.startswith(".") or part.lower() in JUNK for part in path.parts):
            skipped[name] = "hidden or a system's"
        elif any(character < " " for character in name):
            skipped[name] = "has a control character in its name"
        elif path.name.lower() in TABLES:
            tables.append(name)
        elif is_picture(name, read):
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


def _by_table(
    tables: dict[str, bytes], inside: dict[Parts, str]
) -> tuple[list[Image], dict[str, str]]:
    """Return the pictures that tables name, and why other rows and tables are left out.

    Args:
        tables: the content of each CSV file by its path.
        inside: the pictures.
    """
    by_name: dict[str, list[str]] = defaultdict(list)
    for path, name in inside.items():
        for known in {path[-1], PurePosixPath(path[-1]).stem}:
            by_name[known].append(name)
    exact = set(inside.values())
    splits = {name: split_of(path[0]) for path, name in inside.items() if len(path) > 1}
    images: dict[str, Image] = {}
    left: dict[str, str] = {}
    for table, content in tables.items():
        for given, of_class, split in _rows(table, content, left):
            whole = [str(PurePosixPath(table).parent / given), given]
            found = [name for name in whole if name in exact][:1]
            found = found or _ending(given, by_name.get(PurePosixPath(given).name, []))
            if len(found) > 1:
                raise InputError(f"{table}: {given!r} may be {found[0]!r} or {found[1]!r}")
            if not found:
                left[given] = "in the table, but no such file"
            elif not of_class:
                left[found[0]] = "without a class in the table"
            else:
                image = Image(of_class, None, found[0], split or splits.get(found[0]))
                if images.setdefault(found[0], image) != image:
                    raise InputError(f"{table}: {given!r} has two classes; remove one row")
    named = {image.split for image in images.values()}
    keep = len(named) > 1
    return [image if keep else image._replace(split=None) for image in images.values()], left


def _rows(
    table: str, content: bytes, left: dict[str, str]
) -> Iterator[tuple[str, str, str | None]]:
    """Yield the file, the class and the split of each row, if the table has such columns."""
    text = content.decode(encoding_of(content), "replace")
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)  # spreadsheets write any of them
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = {str(column).strip().lower(): column for column in rows.fieldnames or ()}
        file, label = (
            next((columns[key] for key in keys if key in columns), None)
            for keys in (FILE_COLUMNS, LABEL_COLUMNS)
        )
        if file is None or label is None:
            left[table] = "a table without the columns file_name and label"
            return
        for row in rows:
            given = (row[file] or "").strip().replace("\\", "/")  # as Windows writes paths
            split = split_of(row.get(columns.get("split", "")) or "")
            yield given, (row[label] or "").strip(), split
    except csv.Error as error:
        raise InputError(f"{table}: not a table ({error}); correct it") from error


def _ending(given: str, names: list[str]) -> list[str]:
    """Return the names that end with a path, with or without a suffix; any, if it is absolute."""
    if given.startswith("/") or re.match("[A-Za-z]:/", given):
        return names
    path = f"/{given}"
    return [
        name
        for name in names
        if f"/{name}".endswith(path) or f"/{PurePosixPath(name).with_suffix('')}".endswith(path)
    ]


def encoding_of(raw: bytes) -> str:
    """Return the encoding of text that does not say which it is."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        raw.decode()
    except UnicodeDecodeError:
        best = from_bytes(raw, cp_isolation=ENCODINGS).best()
        return best.encoding if best else "cp437"  # which has a character for each byte
    return "utf-8-sig"


def _agree(table: list[Image], folders: list[Image]) -> bool:
    known = {image.member: image.label for image in folders}
    return all(known.get(image.member, image.label) == image.label for image in table)


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
