"""Download an archive from a web server: resumable, bounded, checked by its SHA-256."""

import hashlib
import json
import re
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError
from urllib3.util import Retry

from convnets.base import files
from convnets.base.console import InputError, progress, public

MAX_BYTES = 2**40  # as of an archive's content
MEGABYTE = 1_000_000
ATTEMPTS = 5  # to go on after a connection that broke
TIMEOUT = 60  # seconds without a byte
WRONG = (  # the address can never work
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.TooManyRedirects,
)
REMEDIES = {
    401: "it needs a password; put it into ~/.netrc, not into the address",
    403: "access is refused; check the address, which may have expired",
    404: "there is no such file; correct data.path",
    410: "the file is gone; correct data.path",
    416: "the file has changed; run again",
}


def download(
    address: str, folder: Path, sha256: str | None, beside_output: bool = False
) -> tuple[Path, str]:
    """Download a file into a folder; return its path there and its SHA-256.

    An interrupted download resumes, also in a later run, if the file on the server is unchanged. A
    complete file stays and is not asked for again.

    Args:
        address: http or https.
        folder: the folder.
        sha256: the file's expected hash, if it is known.
        beside_output: stdout is for results, see `progress`.

    Raises:
        InputError: the server refuses or fails, the disk is too small, or the file is another one.
    """
    try:
        parts = urlsplit(address)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
    except ValueError:
        usable = False
    if not usable:
        raise InputError(f"{public(address)}: not an http or https address; correct data.path")
    if parts.username or parts.password:
        raise InputError(f"{public(address)}: has a password in it; put that into ~/.netrc")
    base = re.sub(r"[^A-Za-z0-9.-]", "_", unquote(PurePosixPath(parts.path).name)) or "file"
    known = hashlib.sha256(address.encode()).hexdigest()[:8]
    kept = folder / f"{known}-{base[-100:]}"
    if not kept.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = kept.with_name(f"{kept.name}.unfinished")
        _complete(address, unfinished, beside_output)
        unfinished.replace(kept)
        _state(unfinished).unlink(missing_ok=True)
    with kept.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != (sha256 or found):
        kept.unlink()
        raise InputError(
            f"{public(address)}: the file's sha256 is {found}, not data.sha256; it is another file "
            "or was damaged on the way: run again, or correct data.sha256"
        )
    if sha256 is None and not (zipfile.is_zipfile(kept) or tarfile.is_tarfile(kept)):
        kept.unlink()  # such as a page to sign in
        raise InputError(f"{public(address)}: sent no zip or tar file; correct data.path")
    return kept, found


def _state(unfinished: Path) -> Path:
    """Return the file that says of which version of the server's file the bytes are."""
    return unfinished.with_name(f"{unfinished.name}.json")


def _complete(address: str, unfinished: Path, beside_output: bool) -> None:
    """Download what is missing, over as many connections as that takes."""
    # A server may not tell us to wait for hours.
    retry = Retry(
        3,
        backoff_factor=1,
        status_forcelist=(429, 500, 502, 503, 504),
        raise_on_status=False,
        respect_retry_after_header=False,
    )
    with requests.Session() as session:
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        try:
            for _ in range(ATTEMPTS - 1):
                try:
                    return _go_on(session, address, unfinished, beside_output)
                except HTTPError:
                    print(f"{public(address)}: the connection broke; resuming", file=sys.stderr)
            return _go_on(session, address, unfinished, beside_output)
        except WRONG as error:
            raise InputError(
                f"{public(address)}: {type(error).__name__}; correct data.path"
            ) from error
        except (requests.RequestException, HTTPError) as error:
            raise InputError(
                f"{public(address)}: the connection failed ({type(error).__name__}); run again "
                "to resume"
            ) from error


def _go_on(session: requests.Session, address: str, unfinished: Path, beside_output: bool) -> None:
    """Ask for the bytes after those that are there, and append them."""
    state = _state(unfinished)
    done = unfinished.stat().st_size if unfinished.exists() and state.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # the file as it is, and its true size
    if done:
        headers |= {"Range": f"bytes={done}-", **json.loads(state.read_text())}
    with session.get(address, headers=headers, stream=True, timeout=TIMEOUT) as response:
        given = response.headers.get("Content-Range", "")
        if done and given == f"bytes */{done}":  # status 416: it was complete
            return
        if not response.ok:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                unfinished.unlink()
            remedy = REMEDIES.get(response.status_code, "the server failed; run again later")
            raise InputError(f"{public(address)}: {remedy} (status {response.status_code})")
        if not (
            response.status_code == requests.codes.partial and given.startswith(f"bytes {done}-")
        ):
            done = 0
        if not done:
            unfinished.unlink(missing_ok=True)
            state.unlink(missing_ok=True)
            # Without either, a later request could mix the bytes of two files: it starts over.
            sent = [response.headers.get(name) for name in ("ETag", "Last-Modified")]
            versions = [version for version in sent if version and not version.startswith("W/")]
            if versions:
                files.write_json(state, {"If-Range": versions[0]})
        whole = given.rpartition("/")[2] or response.headers.get("Content-Length", "")
        left = int(whole) - done if whole.isdecimal() else None
        free = shutil.disk_usage(unfinished.parent).free
        if (left or 0) > min(MAX_BYTES, free):
            raise InputError(
                f"{public(address)}: has {(left or 0) / 1e9:,.1f} GB, but {free / 1e9:,.1f} GB are "
                "free; free some space"
            )
        with unfinished.open("ab") as out:
            # As it is sent: nothing is unpacked here.
            chunks = response.raw.stream(MEGABYTE, decode_content=False)
            total = None if left is None else -(-left // MEGABYTE)
            for chunk in progress(chunks, "download (MB)", total, beside_output):
                if out.tell() + len(chunk) > MAX_BYTES:
                    raise InputError(f"{public(address)}: does not end; correct data.path")
                out.write(chunk)
            if left is not None and out.tell() < done + left:
                raise HTTPError("the answer ended early")
