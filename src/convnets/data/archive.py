"""Image archives: treated as hostile until checked, and read without extraction."""

import re
import shutil
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from convnets.base.console import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MAX_MEMBER_BYTES = 64 * 2**20  # no photograph is larger
MAX_NESTED_BYTES = 16 * 2**30
MAX_RATIO = 200  # unpacked / packed bytes of a member; deflate's own limit is about 1,000
MAX_TOTAL_RATIO = 20  # the same for the whole archive, as overlapping members evade MAX_RATIO
# Errors from a damaged archive. zipfile raises more than its own BadZipFile.
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError)

_KAGGLE_NAME = re.compile(r"(?P<label>[^.]+)\.(?P<number>\d{1,9})\.(?:jpe?g|png)", re.IGNORECASE)


class Image(NamedTuple):
    """One labelled image of an archive."""

    label: str
    number: int | None  # Kaggle's number, None in a <class>/ layout
    member: str


@contextmanager
def open_images(path: Path) -> Iterator[tuple[zipfile.ZipFile, list[Image]]]:
    """Open an archive of images: Kaggle's `train.zip` in a zip, `train.zip` itself, or folders.

    In Kaggle's layout an image is named `<class>.<number>.jpg`. Otherwise its folder names its
    class. Unlabelled images, such as Kaggle's `test1`, are skipped if other images have Kaggle's
    names.

    Yields:
        The open zip that holds the images, and the images in the order of Kaggle's numbers or else
        of their names.

    Raises:
        InputError: the archive is missing, truncated, encrypted, hostile or without images.
    """
    with ExitStack() as stack:
        try:
            container = stack.enter_context(zipfile.ZipFile(path))
            _check(container, path, path.stat().st_size)
            names = container.namelist()
            nested = [name for name in names if PurePosixPath(name).name == "train.zip"]
            if nested:
                # A nested zip is seekable only as a file of its own.
                spool = stack.enter_context(tempfile.TemporaryFile(dir=path.parent))
                with container.open(nested[0]) as source:
                    shutil.copyfileobj(source, spool, 2**20)
                container = stack.enter_context(zipfile.ZipFile(spool))
                _check(container, path, spool.tell())
            found = _images(container, path)
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file; correct data.path") from error
        except IsADirectoryError as error:
            raise InputError(f"{path}: is a folder, not a zip; use data.source=folder") from error
        except DAMAGE as error:
            raise InputError(
                f"{path}: not a complete zip file ({error}); download it again"
            ) from error
        yield container, found


def _check(archive: zipfile.ZipFile, path: Path, size: int) -> None:
    """Reject members that no honest archive of photographs contains.

    Args:
        archive: the open archive.
        path: its name in messages.
        size: its size in bytes.
    """
    names = Counter(archive.namelist())
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
        elif names[member.filename] > 1:
            problem = "occurs more than once"
        elif name.suffix.lower() not in (*IMAGE_SUFFIXES, ".zip"):
            continue
        elif member.file_size > limit or member.file_size / packed > MAX_RATIO:
            problem = f"unpacks to {member.file_size:,} bytes, like a zip bomb"
        else:
            continue
        raise InputError(f"{path}: member {member.filename!r} {problem}; use another archive")
    total = sum(member.file_size for member in archive.infolist())
    if total > MAX_TOTAL_RATIO * size:
        raise InputError(
            f"{path}: unpacks to {total:,} bytes in all, like a zip bomb; use another archive"
        )


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
    if not numbered:
        _check_folders(archive, path, foldered)
        return sorted(foldered, key=lambda image: image.member)
    numbered.sort(key=lambda image: (image.label, image.number or 0))
    for one, other in pairwise(numbered):
        if one[:2] == other[:2]:
            raise InputError(
                f"{path}: members {one.member!r} and {other.member!r} are both number "
                f"{one.number} of {one.label!r}; remove one"
            )
    return numbered


def _check_folders(archive: zipfile.ZipFile, path: Path, images: list[Image]) -> None:
    """Reject a class folder without images."""
    classes = {PurePosixPath(image.member).parent for image in images}
    beside = {folder.parent for folder in classes}
    for member in archive.infolist():
        folder = PurePosixPath(member.filename)
        if (
            member.is_dir()
            and folder.parent in beside
            and folder not in classes | beside
            and not folder.name.startswith((".", "__MACOSX"))
        ):
            raise InputError(f"{path}: class {folder.name!r} has no images; add some or remove it")
