"""Read pictures from a bucket, or from any other address that fsspec knows."""

import hashlib
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from convnets.base import files
from convnets.base.console import InputError, is_address, progress, public
from convnets.sources import archive, layout, web
from convnets.sources.layout import Files

AT_ONCE = 16  # downloads
# What tells the versions of a file apart, as Amazon, Google, Hugging Face and others call it.
VERSION = ("size", "ETag", "etag", "md5Hash", "blob_id", "oid", "LastModified", "mtime", "modified")


def serves(address: str | None) -> bool:
    """Tell whether an address is for fsspec. `web` is for those of http."""
    return is_address(address or "") and not (address or "").lstrip().lower().startswith("http")


def stamp(address: str) -> str:
    """Return a hash of the names and versions of all files there."""
    _, _, found = _listed(address)
    return _digest(*(_digest(name, found[name]) for name in sorted(found)))


@contextmanager
def opened(
    address: str, folder: Path, sha256: str | None, beside_output: bool = False
) -> Iterator[Files]:
    """Open a folder or an archive there, as `archive.opened` does here.

    Its pictures and tables are downloaded. What is here in the same version is not downloaded
    again, also in a later run.

    Args:
        address: such as `s3://bucket/photos`.
        folder: gets a folder for the address.
        sha256: the archive's expected hash, if it is known.
        beside_output: stdout is for results, see `progress`.

    Raises:
        InputError: a package or a right is missing, there is nothing, or the connection failed.
    """
    source, root, found = _listed(address)
    whole = [info["name"] for info in found.values()] == [root]  # an archive, named ""
    unsafe = [name for name in found if {"", ".", ".."}.intersection(name.split("/"))]
    pictures, tables, _ = layout.sort_out(found.keys() - unsafe)
    cache = folder / f"{_digest(address)[:8]}-{PurePosixPath(root).name}"
    wanted = found if whole else [*pictures, *tables]
    places = {name: cache / _digest(name, found[name]) for name in wanted}
    left = [name for name in wanted if not places[name].exists()]
    files.room(cache, sum(found[name].get("size") or 0 for name in left))

    def get(name: str) -> None:
        with files.atomic(places[name]) as part, web.boundary(address):
            source.get_file(found[name]["name"], str(part))

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for _ in progress(pool.map(get, left), "download (files)", len(left), beside_output):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    for old in set(cache.glob("*")) - set(places.values()):
        old.unlink()
    if sha256 and not (whole and files.sha256(places[""]) == sha256):
        raise InputError(f"{public(address)}: is not the file of data.sha256; correct one of them")
    try:
        if whole:
            with archive.opened(places[""]) as inside:
                yield inside
        else:
            skipped = dict.fromkeys(unsafe, "has an unsafe name")
            yield Files(found.keys() - unsafe, lambda name: places[name].read_bytes(), (), skipped)
    except InputError as error:
        raise InputError(f"{public(address)}: {error}") from error


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _listed(address: str) -> tuple[Any, str, dict[str, dict[str, Any]]]:
    """Return the file system, the path in there, and the files below it: their path and version.

    The name of an archive is empty.
    """
    address = web.filled(address.strip())
    if re.match(r"[^/]*//[^/]*:(?!\d+(/|$))[^@]*@", address):
        raise InputError(
            f"{public(address)}: has a password in it; put that where its package looks for it, "
            "such as AWS_SECRET_ACCESS_KEY"
        )
    with web.boundary(address):
        from fsspec.core import url_to_fs

        scheme, mark, path = address.partition(":")
        source, root = url_to_fs(scheme.lower() + mark + path, skip_instance_cache=True)
        root = source._strip_protocol(root).rstrip("/")
        found = source.find(root, detail=True)
        # Some systems have an empty file for a folder.
        found = {path: info for path, info in found.items() if not path.endswith("/")}
        if not found:
            raise FileNotFoundError
    listed = {}
    for path, info in found.items():
        version = {key: info[key] for key in VERSION if key in info}
        listed[path.removeprefix(root).removeprefix("/")] = {"name": path, **version}
    return source, root, listed
