"""Get pictures from a bucket, or from any other address that fsspec knows."""

import errno
import hashlib
import json
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from convnets.base import files
from convnets.base.console import InputError, is_address, progress, public
from convnets.data import layout, web

AT_ONCE = 16  # downloads
# What tells the versions of a file apart, as Amazon, Google, Hugging Face and others call it.
VERSION = ("size", "ETag", "etag", "md5Hash", "blob_id", "oid", "LastModified", "mtime", "modified")


def serves(address: str | None) -> bool:
    """Tell whether an address is for fsspec. `web` is for those of http."""
    return is_address(address or "") and not (address or "").lstrip().lower().startswith("http")


def stamp(address: str) -> str:
    """Return a hash of the names and versions of what would be downloaded."""
    _, _, found = _listed(address)
    return hashlib.sha256(
        repr({name: _version(found[name]) for name in found}).encode()
    ).hexdigest()


def download(address: str, folder: Path, sha256: str | None, beside_output: bool = False) -> Path:
    """Download an archive, or the pictures and tables of a folder; return its path here.

    What is there in the same version is not downloaded again, also in a later run.

    Args:
        address: such as `s3://bucket/photos`.
        folder: gets a folder for the address.
        sha256: the archive's expected hash, if it is known.
        beside_output: stdout is for results, see `progress`.

    Raises:
        InputError: a package or a right is missing, there is nothing, or the connection failed.
    """
    source, root, found = _listed(address)
    place = folder / f"{hashlib.sha256(address.encode()).hexdigest()[:8]}-{Path(root).name}"
    listing = place.with_name(f"{place.name}.json")
    versions = {name: _version(found[name]) for name in found}
    known = json.loads(listing.read_text(encoding="utf-8")) if listing.exists() else {}
    for name in known:
        if versions.get(name) != known[name]:
            (place / name).unlink(missing_ok=True)
    files.write_json(listing, versions)  # before the files: one that is there is of its version
    left = [name for name in found if not (place / name).exists()]
    files.room(place, sum(found[name].get("size") or 0 for name in left))

    def get(name: str) -> None:
        with files.atomic(place / name) as part, _boundary(address):
            source.get_file(found[name]["name"], str(part))

    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        for _ in progress(pool.map(get, left), "download (files)", len(left), beside_output):
            pass
    finally:
        pool.shutdown(cancel_futures=True)
    path = next((place / name for name in found if found[name]["name"] == root), None)
    if sha256 and (path is None or files.sha256(path) != sha256):
        raise InputError(f"{public(address)}: is no file with data.sha256; correct one of them")
    return path or place


def _version(info: dict[str, Any]) -> str:
    return " ".join(str(info[key]) for key in VERSION if info.get(key) is not None)


def _listed(address: str) -> tuple[Any, str, dict[str, dict[str, Any]]]:
    """Return the file system, the path there, and what is known of each picture and table below.

    Of an archive, that is only the archive.
    """
    address = web.filled(address.strip())
    if re.match(r"[^/]*//[^/]*:(?!\d+(/|$))[^@]*@", address):
        raise InputError(
            f"{public(address)}: has a password in it; put that where its package looks for it, "
            "such as AWS_SECRET_ACCESS_KEY"
        )
    with _boundary(address):
        from fsspec.core import url_to_fs

        scheme, mark, path = address.partition(":")
        source, root = url_to_fs(scheme.lower() + mark + path, skip_instance_cache=True)
        root = source._strip_protocol(root).rstrip("/")
        found = source.find(root, detail=True)
        if not found:
            raise FileNotFoundError
    if set(found) == {root}:
        return source, root, {PurePosixPath(root).name: found[root] | {"name": root}}
    inside = {path.removeprefix(f"{root}/"): info | {"name": path} for path, info in found.items()}
    safe = [name for name in inside if not {"", ".", ".."}.intersection(name.split("/"))]
    pictures, tables, _ = layout.sort_out(safe)
    if len(pictures) + len(tables) < len(found):
        count = len(found) - len(pictures) - len(tables)
        print(f"{public(address)}: {count:,} files are no pictures or tables", file=sys.stderr)
    if not pictures:
        raise InputError(f"{public(address)}: no pictures in it; for an archive, give its address")
    return source, root, {name: inside[name] for name in sorted([*pictures, *tables])}


@contextmanager
def _boundary(address: str) -> Iterator[None]:
    """Turn whatever fsspec and the packages under it raise into one line."""
    try:
        yield
    except Exception as error:
        full = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)
        if isinstance(error, OSError) and error.errno in full:
            raise
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if isinstance(error, ImportError):
            from fsspec.registry import known_implementations

            known = known_implementations[address.partition(":")[0].lower()]["class"]
            why = f"{error}; run `pip install {known.partition('.')[0]}`"
        elif isinstance(error, FileNotFoundError):
            why = "no such bucket, folder or file, or nothing in it; correct data.path"
        elif isinstance(error, PermissionError) or "Credentials" in said:
            why = (
                f"access is refused ({said}); give its package the credentials, such as with "
                "AWS_PROFILE, or check the address"
            )
        elif isinstance(error, ValueError):
            why = f"is not usable ({said}); correct data.path"
        else:
            why = f"the connection failed ({said}); run again to resume"
        raise InputError(f"{public(address)}: {why}") from error
