"""Image archives and folders: hostile until checked, and read without being extracted."""

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO

from convnets.base.console import InputError, progress
from convnets.data import layout
from convnets.data.images import ImageError
from convnets.data.layout import Files, encoding_of

# What reading costs, not how well it was packed: a night photograph is nearly all zeros.
MAX_MEMBER_BYTES = 2**30  # a picture of 200 megapixels, uncompressed
MAX_NESTED_BYTES = 16 * 2**30
MAX_TOTAL_BYTES = 2**40
# What reading a member of a damaged archive may raise, besides zipfile's own refusal.
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    UnicodeDecodeError,
)


@contextmanager
def opened(path: Path) -> Iterator[Files]:
    """Open a folder, a zip, also one in which Kaggle's `train.zip` is, or a tar archive.

    An `InputError` inside the `with` block is told with the path.

    Raises:
        InputError: it is missing, truncated, encrypted or hostile.
    """
    try:
        with nullcontext(_walk(path)) if path.is_dir() else _unpacked(path) as files:
            yield files
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path}: its folders are nested too deeply; move them up") from error


@contextmanager
def _unpacked(path: Path) -> Iterator[Files]:
    # Neither a zip in a zip nor a compressed tar archive can be sought in: it is unpacked first.
    folder = path.parent if os.access(path.parent, os.W_OK) else None
    with ExitStack() as stack:
        try:
            skipped: dict[str, str] = {}
            members: Mapping[str, str | zipfile.ZipInfo]
            if tarfile.is_tarfile(path):
                spool = stack.enter_context(TemporaryFile(dir=folder))
                members, skipped, empty = _repack(path, spool)
                container = stack.enter_context(zipfile.ZipFile(spool))
            else:
                container = stack.enter_context(zipfile.ZipFile(path))
                members, empty = _members(container), _empty(container)
            nested = [name for name in members if PurePosixPath(name).name == "train.zip"]
            if len(nested) == 1 and not layout.sort_out(members)[0]:  # as Kaggle packs
                spool = stack.enter_context(TemporaryFile(dir=folder))
                with container.open(members[nested[0]]) as source:
                    shutil.copyfileobj(source, spool, 2**20)
                container = stack.enter_context(zipfile.ZipFile(spool))
                members, empty = _members(container), _empty(container)
        except FileNotFoundError as error:
            raise InputError("no such file or folder; correct the path") from error
        except (*DAMAGE, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise InputError(f"not a complete zip or tar file ({error}); get it again") from error

        def read(name: str, most: int = -1) -> bytes:
            try:
                with container.open(members[name]) as file:
                    return file.read(most)
            except (*DAMAGE, OSError) as error:
                raise ImageError(f"damaged in the archive: {error}") from error

        yield Files(members, read, empty, skipped)


def _repack(path: Path, out: IO[bytes]) -> tuple[dict[str, str], dict[str, str], set[str]]:
    """Copy the files of a tar archive, compressed or not, into a zip, in one pass.

    The names of the zip's members are numbers, since a tar does not say how its names are encoded.

    Returns:
        The zip's member for each file, also for a link to one; why others are skipped; and the
        empty folders.
    """
    members: dict[str, str] = {}
    links: dict[str, str] = {}
    skipped: dict[str, str] = {}
    folders: set[str] = set()
    total = 0
    with tarfile.open(path, "r|*") as source, zipfile.ZipFile(out, "w") as target:
        for member in source:
            name = _checked(member.name.removeprefix("./"), member.size)
            total += member.size
            if name in members or total > MAX_TOTAL_BYTES:
                problem = "occurs more than once" if name in members else "is too much in all"
                raise InputError(f"member {name!r} {problem}; use another archive")
            file = source.extractfile(member) if member.isfile() else None
            if file is not None:
                members[name] = str(len(members))
                with target.open(zipfile.ZipInfo(members[name]), "w", force_zip64=True) as copy:
                    shutil.copyfileobj(file, copy, 2**20)
            elif member.islnk():
                links[name] = member.linkname.removeprefix("./")
            elif member.issym():
                links[name] = os.path.normpath(PurePosixPath(name).parent / member.linkname)
            elif member.isdir():
                folders.add(name)
            else:
                skipped[name] = "not a file"
    for name, linked in links.items():
        for _ in links:  # a link may lead to a link
            linked = links.get(linked, linked)  # noqa: PLW2901 - followed step by step
        if linked in members:
            members[name] = members[linked]
        else:
            skipped[name] = "a link that leads nowhere"
    known = {str(above) for name in members for above in PurePosixPath(name).parents}
    encoding = encoding_of(b"\n".join(name.encode(errors="surrogateescape") for name in members))

    def decoded(name: str) -> str:
        return name.encode(errors="surrogateescape").decode(encoding, "replace")

    return (
        {decoded(name): member for name, member in members.items()},
        {decoded(name): why for name, why in skipped.items()},
        {decoded(name) for name in folders - known},
    )


def _walk(folder: Path) -> Files:
    """Return the files under a folder. Links to folders are followed, but never in a circle."""
    names: set[str] = set()
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
                raise InputError(f"the name {path.name!r} is not UTF-8; rename it") from error
            try:
                found = entry.stat()
            except PermissionError:
                raise
            except OSError:
                skipped[name] = "a link that leads nowhere"
                continue
            real = os.path.realpath(path)
            if stat.S_ISDIR(found.st_mode) and real not in above:
                enter(path, above | {real})
            elif not stat.S_ISREG(found.st_mode):
                skipped[name] = "not a file"
            elif found.st_size > MAX_MEMBER_BYTES:
                skipped[name] = f"larger than {MAX_MEMBER_BYTES:,} bytes"
            else:
                names.add(name)

    enter(folder, frozenset((os.path.realpath(folder),)))

    def read(name: str, most: int = -1) -> bytes:
        with (folder / name).open("rb") as file:
            return file.read(most)

    return Files(names, read, empty, skipped)


def pack(files: Files, names: Collection[str], out: Path) -> None:
    """Write files into a zip, stored as they are: photographs do not compress.

    Args:
        files: from `opened`.
        names: of the files.
        out: the zip.
    """
    with zipfile.ZipFile(out, "w") as packed:
        for name in progress(names, "pack", len(names)):
            packed.writestr(zipfile.ZipInfo(name), files.read(name))


def _members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the files of a zip by their names, decoded; refuse what no honest archive has."""
    infos = [info for info in archive.infolist() if not info.is_dir()]
    unknown = [info.filename for info in infos if not info.flag_bits & 0x800]
    encoding = encoding_of("\n".join(unknown).encode("cp437"))
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
    if size > limit and path.suffix.lower() in layout.SUFFIXES | {".csv", ".zip"}:
        raise InputError(
            f"member {name!r} unpacks to {size:,} bytes, like a zip bomb; use another archive"
        )
    return name
