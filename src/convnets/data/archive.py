"""Image archives and folders: hostile until checked, and read without being extracted."""

import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from charset_normalizer import from_bytes

from convnets.base.console import InputError, progress
from convnets.data import layout
from convnets.data.layout import Layout

# What reading costs, not how well it was packed: a night photograph is nearly all zeros.
MAX_MEMBER_BYTES = 2**30  # a picture of 200 megapixels, uncompressed
MAX_NESTED_BYTES = 16 * 2**30
MAX_TOTAL_BYTES = 2**40
# What reading a member of a damaged archive may raise, besides zipfile's own refusal.
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
)
# How systems without UTF-8 write names: Korean, Japanese, Chinese, Western.
ENCODINGS = ["cp949", "cp932", "gb18030", "big5", "cp1252", "cp437"]


class Pictures(NamedTuple):
    """The pictures of a folder or an archive, while it is open."""

    layout: Layout
    read: Callable[[str], bytes]  # by `Image.member`


@contextmanager
def open_images(path: Path) -> Iterator[Pictures]:
    """Open a zip of images, also one in which Kaggle's `train.zip` is.

    Raises:
        InputError: the archive is missing, truncated, encrypted, hostile or without images.
    """
    with ExitStack() as stack:
        try:
            container = stack.enter_context(zipfile.ZipFile(path))
            members = _members(container)
            nested = [name for name in members if PurePosixPath(name).name == "train.zip"]
            if nested:
                # A zip in a zip can be sought in only once it stands in a file of its own.
                folder = path.parent if os.access(path.parent, os.W_OK) else None
                spool = stack.enter_context(tempfile.TemporaryFile(dir=folder))
                with container.open(members[nested[0]]) as source:
                    shutil.copyfileobj(source, spool, 2**20)
                container = stack.enter_context(zipfile.ZipFile(spool))
                members = _members(container)

            def read(name: str) -> bytes:
                return container.read(members[name])

            found = layout.recognise(members, read, _empty(container))
        except FileNotFoundError as error:
            raise InputError(f"{path}: no such file; correct data.path") from error
        except IsADirectoryError as error:
            raise InputError(f"{path}: is a folder, not a zip; use data.source=folder") from error
        except DAMAGE as error:
            raise InputError(
                f"{path}: not a complete zip file ({error}); download it again"
            ) from error
        except InputError as error:
            raise InputError(f"{path}: {error}") from error
        yield Pictures(found, read)


def repack(path: Path, out: Path) -> None:
    """Copy the files of a tar archive, compressed or not, into a zip, in one pass.

    Raises:
        InputError: it is damaged, or a member is hostile.
    """
    try:
        with tarfile.open(path, "r|*") as source, zipfile.ZipFile(out, "w") as target:
            seen: set[str] = set()
            total = 0
            for member in source:
                if not member.isfile():  # a link leads to a file that is in the archive too
                    continue
                name = _checked(member.name.removeprefix("./"), member.size)
                total += member.size
                if name in seen or total > MAX_TOTAL_BYTES:
                    problem = "occurs more than once" if name in seen else "is too much in all"
                    raise InputError(f"member {name!r} {problem}; use another archive")
                seen.add(name)
                file = source.extractfile(member)
                if file is not None:
                    _add(target, name, file)
    except (*DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{path}: not a complete tar file ({error}); download it again") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def walk(folder: Path) -> tuple[dict[str, Path], dict[str, str], set[str]]:
    """Return the files under a folder by their paths in it, why others are skipped, and the empty
    folders.

    Links to folders are followed, but never in a circle.

    Raises:
        InputError: a name is not UTF-8.
    """
    files: dict[str, Path] = {}
    skipped: dict[str, str] = {}
    empty: set[str] = set()

    def enter(place: Path, above: frozenset[str]) -> None:
        entries = sorted(os.scandir(place), key=lambda entry: entry.name)
        if not entries:
            empty.add(place.relative_to(folder).as_posix())
        for entry in entries:
            path = Path(entry.path)
            name = path.relative_to(folder).as_posix()
            try:
                name.encode()
            except UnicodeEncodeError as error:
                raise InputError(
                    f"{folder}: the name {path.name!r} is not UTF-8; rename it"
                ) from error
            try:
                kind = entry.stat().st_mode
            except OSError:
                skipped[name] = "a link that leads nowhere"
                continue
            real = os.path.realpath(path)
            if stat.S_ISDIR(kind) and real not in above:
                enter(path, above | {real})
            elif stat.S_ISREG(kind):
                files[name] = path
            else:
                skipped[name] = "not a file"

    enter(folder, frozenset((os.path.realpath(folder),)))
    return files, skipped, empty


def look_into(folder: Path) -> tuple[Pictures, dict[str, Path]]:
    """Return the pictures of a folder, and all its files by their paths in it.

    Raises:
        InputError: it is without images, its layout is not clear, or a name is not UTF-8.
    """
    files, skipped, empty = walk(folder)

    def read(name: str) -> bytes:
        return files[name].read_bytes()

    try:
        found = layout.recognise(files, read, empty)
    except InputError as error:
        raise InputError(f"{folder}: {error}") from error
    return Pictures(found._replace(skipped=skipped | found.skipped), read), files


def pack(members: dict[str, Path], out: Path) -> None:
    """Write files into a zip, stored as they are: photographs do not compress.

    Args:
        members: the files by their names in the zip.
        out: the zip.
    """
    with zipfile.ZipFile(out, "w") as packed:
        for name, file in progress(members.items(), "pack", len(members)):
            with file.open("rb") as source:
                _add(packed, name, source)


def _add(packed: zipfile.ZipFile, name: str, source: IO[bytes]) -> None:
    with packed.open(zipfile.ZipInfo(name), "w", force_zip64=True) as target:
        shutil.copyfileobj(source, target, 2**20)


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the files of a zip by their names, decoded; refuse what no honest archive has."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    encoding = _encoding(infos)
    windows = infos and not any("/" in info.orig_filename for info in infos)
    members: dict[str, zipfile.ZipInfo] = {}
    total = 0
    for info in infos:
        name = info.filename
        if not info.flag_bits & 0x800:  # else it is said to be UTF-8
            name = name.encode("cp437").decode(encoding, "replace")
        if windows:  # as PowerShell packs
            name = name.replace("\\", "/")
        limit = MAX_NESTED_BYTES if name.endswith(".zip") else MAX_MEMBER_BYTES
        name = _checked(name, info.file_size, limit)
        total += info.file_size
        if stat.S_ISLNK(info.external_attr >> 16):
            problem = "is a symbolic link"
        elif info.flag_bits & 0x1:
            problem = "is encrypted"
        elif name in members:
            problem = "occurs more than once"
        elif total > MAX_TOTAL_BYTES:
            problem = "is too much in all, like a zip bomb"
        else:
            members[name] = info
            continue
        raise InputError(f"member {name!r} {problem}; use another archive")
    return members


def _empty(archive: zipfile.ZipFile) -> set[str]:
    """Return the folders of a zip that have nothing in them."""
    names = archive.namelist()
    folders = {name.rstrip("/") for name in names if name.endswith("/")}
    return folders - {str(above) for name in names for above in PurePosixPath(name).parents}


def _checked(name: str, size: int, limit: int = MAX_MEMBER_BYTES) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name:
        raise InputError(f"member {name!r} points outside the archive; use another archive")
    if size > limit and (path.suffix.lower() in layout.SUFFIXES or path.suffix == ".zip"):
        raise InputError(
            f"member {name!r} unpacks to {size:,} bytes, like a zip bomb; use another archive"
        )
    return name


def _encoding(infos: list[zipfile.ZipInfo]) -> str:
    """Return the encoding of the names that a zip does not say to be UTF-8."""
    unknown = [info.filename for info in infos if not info.flag_bits & 0x800]
    raw = "\n".join(unknown).encode("cp437")
    try:
        raw.decode()
    except UnicodeDecodeError:
        best = from_bytes(raw, cp_isolation=ENCODINGS).best()
        return best.encoding if best else "cp437"
    return "utf-8"  # as macOS packs, without saying so
