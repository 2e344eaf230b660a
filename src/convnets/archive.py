"""Image archives: hostile until checked, and read without being extracted."""

import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from convnets.console import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_MEMBER_BYTES = 64 * 2**20  # no photograph is larger
MAX_NESTED_BYTES = 16 * 2**30
MAX_RATIO = 200  # of unpacked to packed bytes; deflate's own limit is about 1,000

_KAGGLE_NAME = re.compile(r"(?P<label>[^.]+)\.(?P<number>\d+)\.(?:jpe?g|png)", re.IGNORECASE)


class Image(NamedTuple):
    """One labelled image of an archive."""

    label: str
    number: int | None  # Kaggle's number, None in a <class>/ layout
    member: str


@contextmanager
def open_images(path: Path) -> Iterator[tuple[zipfile.ZipFile, list[Image]]]:
    """Open an archive of images: Kaggle's `train.zip` in a zip, `train.zip` itself, or folders.

    In Kaggle's layout an image is named `<class>.<number>.jpg`; otherwise the folder that it is
    in names its class. Unlabelled images, such as Kaggle's `test1`, are passed over when there
    are labelled ones in Kaggle's naming.

    Yields:
        The zip that holds the images, open, and its images in Kaggle's or else the names' order.

    Raises:
        InputError: the archive is missing, truncated, encrypted, hostile or without images.
    """
    try:
        with zipfile.ZipFile(path) as outer:
            _check(outer, path)
            nested = [name for name in outer.namelist() if PurePosixPath(name).name == "train.zip"]
            if not nested:
                yield outer, _images(outer, path)
                return
            # A zip inside a zip can be sought in only once it stands in a file of its own.
            with tempfile.TemporaryFile(dir=path.parent) as spool:
                with outer.open(nested[0]) as source:
                    shutil.copyfileobj(source, spool, 2**20)
                with zipfile.ZipFile(spool) as inner:
                    _check(inner, path)
                    yield inner, _images(inner, path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; correct data.path") from error
    except IsADirectoryError as error:
        raise InputError(f"{path}: a folder, not a zip; use data.source=folder") from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise InputError(f"{path}: not a whole zip file ({error}); download it again") from error


def _check(archive: zipfile.ZipFile, path: Path) -> None:
    """Refuse members that no honest archive of photographs has."""
    for member in archive.infolist():
        name = PurePosixPath(member.filename)
        limit = MAX_NESTED_BYTES if name.suffix == ".zip" else MAX_MEMBER_BYTES
        packed = max(1, member.compress_size)
        if name.is_absolute() or ".." in name.parts or "\\" in member.filename:
            problem = "points outside the archive"
        elif (member.external_attr >> 16) & 0o170000 == 0o120000:
            problem = "is a symbolic link"
        elif member.flag_bits & 0x1:
            problem = "is encrypted"
        elif name.suffix.lower() not in (*IMAGE_SUFFIXES, ".zip"):
            continue
        elif member.file_size > limit or member.file_size / packed > MAX_RATIO:
            problem = f"unpacks to {member.file_size:,} bytes, like a zip bomb"
        else:
            continue
        raise InputError(f"{path}: member {member.filename!r} {problem}; use another archive")


def _images(archive: zipfile.ZipFile, path: Path) -> list[Image]:
    numbered, foldered = [], []
    for member in archive.namelist():
        name = PurePosixPath(member)
        if name.suffix.lower() not in IMAGE_SUFFIXES or name.name.startswith("._"):
            continue
        if match := _KAGGLE_NAME.fullmatch(name.name):
            numbered.append(Image(match["label"], int(match["number"]), member))
        elif len(name.parts) > 1:
            foldered.append(Image(name.parent.name, None, member))
    if not numbered and not foldered:
        raise InputError(
            f"{path}: no images found; expected train.zip, <class>.<number>.jpg or <class>/*.jpg"
        )
    if numbered:
        return sorted(numbered, key=lambda image: (image.label, image.number or 0))
    return sorted(foldered, key=lambda image: image.member)
