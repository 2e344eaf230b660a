"""Image archives and folders: hostile until checked, and read without being extracted."""

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import struct
import tarfile
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from posixpath import dirname, join, normpath
from tempfile import TemporaryFile, gettempdir
from typing import IO, Any, NamedTuple

from convnets.base import files
from convnets.base.console import REMEDIES, InputError, printable, progress, say
from convnets.listing.kinds import ImageError
from convnets.sources import layout
from convnets.sources.layout import Files
from convnets.sources.tables import encoding_of

# What reading costs, not how well it was packed: a night photograph is nearly all zeros.
MAX_MEMBER_BYTES = 2**30  # a picture of 200 megapixels, uncompressed
PARTS, NAME_BYTES = 100, 4096  # of a file's path, at most
NESTED = 3  # archives in one another
LINKS = 40  # that lead to one another, as Linux follows them
HEADER_BYTES = 2**20  # of what a tar says about a file
CHUNK, SMALL = 2**20, 64  # bytes to read at a time; each of bzip2 or LZMA may become thousands
SYSTEM = layout.JUNK | {"lost+found", "#recycle", "@recycle", "#snapshot", "@tmp"}
SYSTEM |= {"system volume information", "network trash folder", "temporary items"}
ARCHIVE = re.compile(r"\.(zip|7z|rar|t(ar|gz|bz2?|xz)|tar\.(gz|bz2|xz|zst))$", re.IGNORECASE)
COMPRESSED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open))
FOREIGN = {  # what a file is, and where which bytes say so
    "a 7z archive": (0, b"7z\xbc\xaf\x27\x1c"),
    "a RAR archive": (0, b"Rar!\x1a\x07"),
    "compressed by zstd": (0, b"\x28\xb5\x2f\xfd"),
    "the image of a disc": (0x8001, b"CD001"),
    "the image of a disk": (-512, b"koly"),
}
NO_ARCHIVE = "not a complete zip or tar file"
NOT_TEXT = "its name is not text; rename it"


class _NoArchiveError(InputError):
    """A file is no archive at all."""


class _Header(tarfile.TarInfo):
    """A tar's header. A damaged one is not the end of the archive, and a long one is not read."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: Any, errors: Any) -> Any:
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(str(error)) if buf.strip(b"\0") else error from None
        if header.size < 0 or (header.type in b"LKxgX" and header.size > HEADER_BYTES):
            raise tarfile.ReadError(f"a header of {header.size:,} bytes")
        return header


class _Repaired(io.FileIO):
    """A zip in which each name that is said to be UTF-8 is so: else zipfile refuses all of it."""

    def read(self, size: int | None = -1) -> bytes:
        content, at = bytearray(super().read(-1 if size is None else size)), 0
        while content.startswith(b"PK\1\2", at):
            length, *others = struct.unpack_from("<3H", content, at + 28)
            name = bytes(content[at + 46 : at + 46 + length])
            if content[at + 9] & 8 and not _is_text(name):
                name = name.decode("ascii", "replace").replace("\ufffd", "\x1a").encode()
                content[at + 46 : at + 46 + length] = name
            at += 46 + length + sum(others)
        return bytes(content)


class _Entry(NamedTuple):
    """What a folder or an archive has: a file, a link to one, why it is neither, or a folder."""

    name: str
    size: int = 0  # bytes, unpacked, as the archive says
    open: Any = None  # a function that opens it, if it is a file
    step: int = CHUNK  # bytes to read at a time
    link: str = ""
    why: str = ""

    def chunks(self, most: int = -1) -> Iterator[bytes]:
        with self.open() as file:
            if self.step == SMALL:
                file.MIN_READ_SIZE = SMALL
            yield from iter(partial(file.read, self.step if most < 0 else most), b"")


class _Listing:
    """The files of a folder or an archive by name, and why others are skipped."""

    def __init__(self) -> None:
        self.members: dict[str, _Entry] = {}
        self.skipped: dict[str, str] = {}
        self.empty: set[str] = set()

    def add(self, name: str, member: _Entry) -> None:
        """Add a file. Of several with one name, the last counts."""
        if name in self.members:
            self.skip(name, "its name is there again, and the last counts")
        self.members[name] = member

    def skip(self, name: str, why: str) -> None:
        """Tell why a file is skipped. Each counts, also of several with one name."""
        taken = name in self.members or name in self.skipped
        self.skipped[f"{name} ({len(self.skipped)})" if taken else name] = why

    def read(self, name: str, most: int = -1) -> bytes:
        if name not in self.members:
            raise ImageError("missing: it could not be read before")
        try:
            chunks = self.members[name].chunks(most)
            return b"".join(chunks) if most < 0 else next(chunks, b"")
        except Exception as error:  # whatever a library raises on damaged bytes
            raise ImageError(f"damaged in the archive: {_told(error)}") from error


class _Spool:
    """A zip without a name, for files that cannot be read where they are."""

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.folder = path.parent if os.access(path.parent, os.W_OK) else Path(gettempdir())
        self.stack = stack
        self.zip: zipfile.ZipFile | None = None

    def copy(self, size: int, chunks: Iterable[bytes], out: IO[bytes]) -> None:
        files.room(self.folder / "unpacked", size)
        with _library():
            for chunk in chunks:
                out.write(chunk)

    def keep(self, name: str, member: _Entry) -> _Entry:
        """Copy a file, if it is wanted; return it as it can be read later."""
        with _library():
            chunks = member.chunks()
            first = next(chunks, b"")
        of_it = layout.sort_out([name], lambda _, most: first[:most])
        if not ARCHIVE.search(name) and name in of_it[2]:
            return member
        if self.zip is None:
            file = self.stack.enter_context(TemporaryFile(dir=self.folder))  # noqa: SIM115
            self.zip = self.stack.enter_context(zipfile.ZipFile(file, "w"))
        info = zipfile.ZipInfo(str(len(self.zip.filelist)))
        with self.zip.open(info, "w", force_zip64=True) as out:
            self.copy(member.size, chain([first], chunks), out)
        return _Entry(name, info.file_size, partial(self.zip.open, info))


@contextmanager
def opened(path: Path) -> Iterator[Files]:
    """Open a folder, a zip or a tar archive, and the archives in it.

    `cat.zip` is a folder `cat`, unless all that is in it is in a folder of that name, or it is the
    only archive. Archives beside as many pictures stay closed.

    An `InputError` inside the `with` block is told with the path.

    Raises:
        InputError: it is missing, truncated, encrypted or hostile, or nothing in it can be used.
    """
    try:
        with ExitStack() as stack:
            spool = _Spool(path, stack)
            if path.is_dir():
                listing = _listed(_folder(path))
            elif path.is_file():
                listing = _archive(stack.enter_context(path.open("rb")), spool, in_place=True)
            else:
                what = "neither a file nor a folder" if path.exists() else "no such file or folder"
                raise InputError(f"{what}; correct the path")
            _open_nested(listing, spool, 1)
            if listing.skipped and not layout.sort_out(listing.members, listing.read)[0]:
                name, why = next(iter(listing.skipped.items()))
                raise InputError(f"no images found; {name!r} is passed over: {why}")
            yield Files(listing.members, listing.read, listing.empty, listing.skipped)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def names(folder: Path) -> Iterator[str]:
    """Yield the files of a folder, as they are on the disk: archives are files."""
    return (entry.name for entry in _folder(folder) if entry.open)


def pack(source: Files, names: Collection[str], out: Path) -> None:
    """Write files into a zip, stored as they are: photographs do not compress.

    One that cannot be read is left out, and counts as unreadable when it is decoded.

    Args:
        source: from `opened`.
        names: of the files.
        out: the zip.

    Raises:
        InputError: the disk has no room for them.
    """
    with zipfile.ZipFile(out, "w") as packed:
        for name in progress(names, "pack", len(names)):
            try:
                content = source.read(name)
            except ImageError as error:
                say(f"{printable(name)}: left out, {error}")
                continue
            files.room(out, len(content))
            packed.writestr(zipfile.ZipInfo(name), content)


def _told(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return printable(" ".join(text.split()) or type(error).__name__)[:200]


@contextmanager
def _library() -> Iterator[None]:
    """Turn whatever a library raises on a damaged archive into one line, but not a disk's errors.

    Nothing but their calls is inside, so that a defect of ours shows itself.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in REMEDIES:
            raise
        raise InputError(f"{NO_ARCHIVE} ({_told(error)}); get it again") from error


def _listed(entries: Iterable[_Entry], spool: _Spool | None = None) -> _Listing:
    """Sort out what a folder or an archive has. With a spool, what is wanted is copied there."""
    listing = _Listing()
    links: dict[str, str] = {}
    folders: set[str] = set()
    known: set[str] = set()  # folders with something in them
    for entry in entries:
        name, why = _checked(entry)
        if why and (entry.open or entry.link or entry.why):  # else a folder
            listing.skip(name, why)
        elif entry.open:
            links.pop(name, None)
            fits = entry.size <= MAX_MEMBER_BYTES or ARCHIVE.search(name)
            listing.add(name, spool.keep(name, entry) if spool and fits else entry)
        elif entry.link in listing.members:  # at once: a chain of them costs nothing
            listing.add(name, listing.members[entry.link])
        elif entry.link:
            links[name] = entry.link
        elif name and not why:
            folders.add(name)
        while (name := name.rpartition("/")[0]) and name not in known:
            known.add(name)
    for name, target in links.items():
        for _ in range(LINKS):
            target = links.get(target, target)  # noqa: PLW2901 - followed step by step
        if target in listing.members:
            listing.add(name, listing.members[target])
        else:
            listing.skip(name, "a link that leads nowhere")
    listing.empty = folders - known
    return _decoded(listing)


def _checked(entry: _Entry) -> tuple[str, str]:
    """Return a path relative to the folder or archive, and why it is skipped, if so."""
    name = entry.name
    if name.count("/") > PARTS or len(name.encode(errors="surrogateescape")) > NAME_BYTES:
        return f"{name[:60]}…", f"deeper than {PARTS} folders, or longer than {NAME_BYTES:,} bytes"
    parts = [part for part in name.split("/") if part not in ("", ".")]
    name = "/".join(parts)
    if ".." in parts:
        raise InputError(f"member {name!r} points outside the archive; use another archive")
    if not parts and entry.open:
        return name, "it has no name"
    if any(part.startswith(".") or part.lower() in SYSTEM for part in parts):
        return name, "hidden or a system's"
    if entry.size > MAX_MEMBER_BYTES and not layout.sort_out([name])[2]:
        return name, f"larger than {MAX_MEMBER_BYTES:,} bytes"
    return name, entry.why


def _is_text(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _texts(raw: list[bytes]) -> list[str | None]:
    """Return names that do not say their encoding as text; None for the few that are none."""
    wrong = {name for name in raw if not _is_text(name)}
    if 2 * len(wrong) > sum(not name.isascii() for name in raw):
        encoding = encoding_of(b"\n".join(raw))
        return [name.decode(encoding, "replace") for name in raw]
    return [None if name in wrong else name.decode() for name in raw]


def _decoded(listing: _Listing) -> _Listing:
    """Make the names of a listing text. A tar does not say how they are encoded."""
    given = [*listing.members, *listing.skipped, *listing.empty]
    raw = [name.encode(errors="surrogateescape") for name in given]
    if not all(map(_is_text, raw)):
        found = dict(zip(given, _texts(raw), strict=True))
        for name in [name for name in listing.members if found[name] is None]:
            del listing.members[name]
            listing.skipped[name] = NOT_TEXT
        shown = (name.decode(errors="backslashreplace") for name in raw)
        texts = {name: found[name] or told for name, told in zip(given, shown, strict=True)}
        listing.members = {texts[name]: member for name, member in listing.members.items()}
        listing.skipped = {texts[name]: why for name, why in listing.skipped.items()}
        listing.empty = {texts[name] for name in listing.empty}
    return listing


def _open_nested(listing: _Listing, spool: _Spool, depth: int) -> None:
    """Put what is in archives into their place, if there are fewer pictures beside them."""
    archives = [name for name in listing.members if ARCHIVE.search(name)]
    if len(layout.sort_out(listing.members, listing.read)[0]) >= len(archives):
        return
    inner: dict[str, _Listing] = {}
    for name in archives:
        member = listing.members.pop(name)
        try:
            if depth > NESTED:
                raise InputError(f"more than {NESTED} archives in one another; unpack it")
            with TemporaryFile(dir=spool.folder) as file:  # a file in a zip cannot be sought in
                spool.copy(member.size, member.chunks(), file)
                inner[name] = _archive(file, spool)
                _open_nested(inner[name], spool, depth + 1)
        except _NoArchiveError:
            listing.skip(name, NO_ARCHIVE)
        except InputError as error:
            raise InputError(f"{name!r}: {error}") from error
    for name, found in inner.items():
        alone = len(inner) == 1 and found.members.keys().isdisjoint(listing.members)
        above = "" if alone else _above(name, found)
        for inside, member in found.members.items():
            listing.add(above + inside, member)
        for inside, why in found.skipped.items():
            listing.skip(above + inside, why)
        listing.empty |= {above + inside for inside in found.empty}


def _above(name: str, found: _Listing) -> str:
    """Return the folder that an archive stands for, with a slash.

    `cat.zip` of `1.jpg` is `cat/`. A folder that has the name already is enough, as in
    `cat-001.zip` of `cat/1.jpg`.
    """
    folder, slash, file = name.rpartition("/")
    stem = ARCHIVE.sub("", file)
    pictures = layout.sort_out(found.members, found.read)[0]
    tops = {re.escape(each[: each.find("/") + 1].rstrip("/")) or "$" for each in pictures}
    same = len(tops) == 1 and re.match(rf"{tops.pop()}(?![^\W\d_])", stem, re.IGNORECASE)
    return folder + slash if same else f"{folder}{slash}{stem}/"


def _archive(file: IO[bytes], spool: _Spool, in_place: bool = False) -> _Listing:
    """Return what is in an archive. A zip can be read in place, as long as it is open."""
    with _library():
        file.seek(0)
        start = file.read(tarfile.BLOCKSIZE)
        file.seek(0)
        opens = (each for magic, each in COMPRESSED if start.startswith(magic))
        stream: Any = next((each(file) for each in opens), file)
        tar = _is_tar(stream.read(tarfile.BLOCKSIZE))
        zipped = start.startswith(b"PK\3\4") or (stream is file and zipfile.is_zipfile(file))
    if tar:
        stream.seek(0)
        return _listed(_tar(stream), spool)
    if zipped:
        return _listed(_zip(file), None if in_place else spool)
    if stream is not file:
        raise InputError("compressed, but no tar archive; unpack it, and give its folder")
    size = file.seek(0, os.SEEK_END)
    for kind, (offset, magic) in FOREIGN.items():
        file.seek(max(0, size + offset) if offset < 0 else offset)
        if file.read(len(magic)) == magic:
            raise InputError(f"{kind}, which cannot be read; unpack it, and give its folder")
    raise _NoArchiveError(f"{NO_ARCHIVE}; get it again")


def _is_tar(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _tar(file: Any) -> Iterator[_Entry]:
    """Yield what is in a tar, in one pass. Names are bytes, as `surrogateescape` writes them."""
    at = -1
    with _library():
        source: Any = tarfile.open(  # noqa: SIM115 - its file is closed elsewhere
            fileobj=file, mode="r:", tarinfo=_Header, encoding="utf-8"
        )
    while True:
        with _library():
            header = source.next()
            source.members.clear()
            if header is None:
                return
            if source.offset <= at:  # a negative size
                raise tarfile.ReadError("a file that leads back")
            at = source.offset
        name = header.name
        if header.isreg():
            yield _Entry(name, header.size, partial(source.extractfile, header))
        elif header.islnk() or header.issym():
            target = join("" if header.islnk() else dirname(name), header.linkname)
            yield _Entry(name, link=normpath(target).lstrip("/"))
        else:
            yield _Entry(name, why="" if header.isdir() else "not a file")


def _zip(file: Any) -> Iterator[_Entry]:
    """Yield what is in a zip."""
    with _library():
        try:
            container = zipfile.ZipFile(file)
        except UnicodeDecodeError:
            container = zipfile.ZipFile(_Repaired(file.fileno(), closefd=False))
        infos = container.infolist()
        unknown = [info for info in infos if not info.flag_bits & 0x800]  # else it is UTF-8
        texts = iter(_texts([info.orig_filename.encode("cp437") for info in unknown]))
    windows = not any("/" in info.orig_filename for info in infos)  # as PowerShell packs
    for info in infos:
        name = info.orig_filename if info.flag_bits & 0x800 else next(texts)
        if name is None or "\x1a" in name:
            yield _Entry(info.orig_filename.replace("\x1a", "?"), why=NOT_TEXT)
            continue
        name = name.replace("\\", "/") if windows else name
        if name.endswith("/"):
            yield _Entry(name)
        elif info.flag_bits & 0x1:
            raise InputError(f"member {name!r} is encrypted; unpack it, and give its folder")
        elif stat.S_ISLNK(info.external_attr >> 16):
            yield _Entry(name, why="a symbolic link")
        else:
            slow = info.compress_type in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            opens, step = partial(container.open, info), SMALL if slow else CHUNK
            yield _Entry(name, info.file_size, opens, step)


def _folder(folder: Path) -> Iterator[_Entry]:
    """Yield what is in a folder. Each folder is entered once, whatever leads to it."""
    todo, links = [""], list[str]()  # the links come last, so that the folders keep their names
    entered: set[tuple[int, int | str]] = set()
    while todo or links:
        above = todo.pop() if todo else links.pop()
        seen = (folder / above).stat()
        identity = (seen.st_dev, seen.st_ino or above)  # some disks have no numbers
        if identity in entered:
            yield _Entry(above, why="a link to a folder that is there already")
            continue
        entered.add(identity)
        if above:
            yield _Entry(above)
        inner: list[str] = []
        entries = sorted(os.scandir(folder / above), key=lambda entry: entry.name, reverse=True)
        while entries:
            entry = entries.pop()  # it keeps what the disk says of it
            name = f"{above}/{entry.name}" if above else entry.name
            if not _is_text(os.fsencode(name)):
                yield _Entry(os.fsencode(name).decode(errors="backslashreplace"), why=NOT_TEXT)
                continue
            why = _checked(_Entry(name))[1]  # of a system's folder: it may not be readable
            try:
                found = None if why else entry.stat()
            except PermissionError:
                raise
            except OSError:
                found, why = None, "a link that leads nowhere"
            if found and stat.S_ISDIR(found.st_mode):
                (links if entry.is_symlink() else inner).append(name)
            elif found and stat.S_ISREG(found.st_mode):
                yield _Entry(name, found.st_size, partial(open, entry.path, "rb"))
            else:
                yield _Entry(name, why=why or "not a file")
        todo += reversed(inner)
