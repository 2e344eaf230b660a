"""Download an archive from a web server: resumable, bounded, checked by its SHA-256."""

import hashlib
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Annotated, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import requests
from pydantic import Field, TypeAdapter
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from convnets.base import files
from convnets.base.console import InputError, progress, public

MEGABYTE = 1_000_000
ATTEMPTS = 5  # to go on after a connection that broke
TIMEOUT = 60  # seconds without a byte
REMEDIES = {
    401: "it needs a password; put it into ~/.netrc, not into the address",
    403: "access is refused; check the address, which may have expired",
    404: "there is no such file; correct data.path",
    410: "the file is gone; correct data.path",
    416: "the file has changed; run again",
}
CAUSES = {  # by words in what requests says
    "dependencies for SOCKS": "a SOCKS proxy needs a package; run `pip install pysocks`, or unset "
    "ALL_PROXY, HTTPS_PROXY and HTTP_PROXY",
    "[Pp]roxy|SOCKS": "the proxy fails; correct or unset ALL_PROXY, HTTPS_PROXY and HTTP_PROXY",
    r"CERTIFICATE_VERIFY_FAILED\].*?: ([^(]*) \(": "its certificate is not trusted ({}); if you "
    "trust it, set REQUESTS_CA_BUNDLE to the file of its authority",
    "TLS CA certificate|X509": "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names no file of "
    "certificates; correct or unset it",
    "InvalidURL|InvalidSchema|Location|TooManyRedirects|UnicodeError|ValueError": "the address, or "
    "one to which it leads, is of no use; correct data.path",
}
RANGE = re.compile(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18}|\*)")  # an answer's


class Version(NamedTuple):
    """Which version of a file a server has."""

    tag: Annotated[str, Field(pattern="^[ -~]*$")]  # an ETag or a date; without one: no resuming
    size: int | None  # in bytes


class _BrokenError(InputError):
    """The connection broke. What came stays."""


def why(error: Exception, server: str = "") -> str:
    """Return why a request failed, and the remedy.

    Args:
        error: from requests or urllib3.
        server: such as " to Kaggle".
    """
    said = f"{type(error).__name__}: {error}"
    for words, cause in CAUSES.items():
        if found := re.search(words, said):
            return cause.format(*found.groups())
    return f"the connection{server} failed ({type(error).__name__}); run again to resume"


def download(
    address: str, folder: Path, sha256: str | None, beside_output: bool = False
) -> tuple[Path, str]:
    """Download a file into a folder; return its path there and its SHA-256.

    If the file on the server is unchanged, an interrupted download resumes, and a complete one
    stays, also in a later run and with another query, such as a renewed signature. In one run, no
    byte comes twice. Parts of other downloads are removed.

    Args:
        address: http or https. `$TOKEN` in its query is an environment variable.
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
    if "@" in parts.netloc:
        raise InputError(f"{public(address)}: has a password in it; put that into ~/.netrc")
    base = re.sub(r"[^A-Za-z0-9.-]", "_", unquote(PurePosixPath(parts.path).name))[-100:] or "file"
    # A complete file has in its name of which address, which query and which version it is.
    key, query = _digest(public(address)), _digest(parts.query)
    kept = next(folder.glob(f"{key}-*-{base}"), None)
    encoding = None
    if kept is None or not (f"-{query}-" in kept.name or (sha256 and files.sha256(kept) == sha256)):
        folder.mkdir(parents=True, exist_ok=True)
        asked = _Download(filled(address), folder / f"{key}-{base}.unfinished")
        if kept:
            asked.begin_with(kept, unquote(kept.name[len(f"{key}-{query}-") : -len(f"-{base}")]))
        asked.complete(beside_output)
        encoding = asked.encoding
        kept = folder / f"{key}-{query}-{quote(asked.version.tag, safe='')[:99]}-{base}"
        asked.part.replace(kept)
        asked.state.unlink(missing_ok=True)
    tidy(folder)
    found = files.sha256(kept)
    sent = f" (it was sent as {encoding}, although not asked for)" if encoding else ""
    if found != (sha256 or found):
        kept.unlink()
        raise InputError(
            f"{public(address)}: the file's sha256 is {found}, not data.sha256{sent}; "
            "it is another file or was damaged on the way: run again, or correct data.sha256"
        )
    if sha256 is None and not (zipfile.is_zipfile(kept) or tarfile.is_tarfile(kept)):
        kept.unlink()  # such as a page to sign in
        raise InputError(f"{public(address)}: sent no zip or tar file{sent}; correct data.path")
    return kept, found


def filled(address: str) -> str:
    """Return an address with the environment variables that its query names, in capitals."""
    place, mark, query = address.partition("?")

    def value(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            raise InputError(f"{public(address)}: its query names ${found[1]}, which is not set")
        return os.environ[found[1]]

    return place + mark + re.sub(r"\$([A-Z_][A-Z0-9_]*)", value, query)


def tidy(folder: Path) -> None:
    """Remove the parts of downloads that nothing will use, once the one that is needed is there."""
    parts = [*folder.glob(f"{8 * '[0-9a-f]'}-*.unfinished*")]
    if parts:
        size = sum(part.stat().st_size for part in parts) / 1e6
        print(f"{folder}: removed {size:,.0f} MB of unfinished downloads", file=sys.stderr)
    for part in parts:
        part.unlink()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class _Download:
    """A download into a part, over as many connections as that takes."""

    def __init__(self, address: str, part: Path) -> None:
        self.address = address
        self.part = part
        self.state = part.with_name(f"{part.name}.json")  # of which version the part is
        self.version = Version("", None)
        self.encoding: str | None = None  # of the bytes that the server sent

    def begin_with(self, kept: Path, tag: str) -> None:
        """Take a complete file as the part. The server says whether it still is the file."""
        kept.replace(self.part)
        files.write_json(self.state, Version(tag, self.part.stat().st_size))

    @contextmanager
    def boundary(self, broken: type[InputError] = InputError) -> Iterator[None]:
        """Turn whatever the libraries raise into one line."""
        try:
            yield
        except Exception as error:
            raise broken(f"{public(self.address)}: {why(error)}") from error

    def complete(self, beside_output: bool) -> None:
        """Download what is missing. Nothing is left of what cannot resume."""
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
                for left in reversed(range(ATTEMPTS)):
                    try:
                        return self._go_on(session, left == ATTEMPTS - 1, beside_output)
                    except _BrokenError:
                        if not left:
                            raise
                        print(
                            f"{public(self.address)}: the connection broke; resuming",
                            file=sys.stderr,
                        )
            except BaseException:
                if not self.state.exists():
                    self.part.unlink(missing_ok=True)
                raise

    def _known(self) -> Version | None:
        """Return of which version the part is, if it can resume."""
        try:
            known = TypeAdapter(Version).validate_json(self.state.read_bytes())
        except (FileNotFoundError, ValueError):  # or a damaged file
            return None
        return known if known.tag and self.part.exists() else None

    def _drop(self) -> None:
        for path in (self.part, self.state):
            path.unlink(missing_ok=True)

    def _go_on(self, session: requests.Session, first: bool, beside_output: bool) -> None:
        """Ask for the bytes after those that are there, and append them."""
        known = self._known()
        done = self.part.stat().st_size if known else 0
        headers = {"Accept-Encoding": "identity"}  # the file as it is, and its true size
        if known and done:
            headers |= {"Range": f"bytes={done}-", "If-Range": known.tag}
        with self.boundary():
            response = session.get(self.address, headers=headers, stream=True, timeout=TIMEOUT)
        with response:
            status, answer = response.status_code, response.headers
            given = RANGE.fullmatch(answer.get("Content-Range", ""))
            start, total = given.groups() if given else (None, None)
            if known and done and status == 416 and total == str(done):  # it was complete
                self.version = known
                return
            if status not in (200, 206):
                if status == 416:
                    self._drop()
                remedy = REMEDIES.get(status, "the server failed; run again later")
                raise InputError(f"{public(self.address)}: {remedy} (status {status})")
            length = (total if status == 206 else answer.get("Content-Length")) or ""
            size = int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None
            sent = [answer.get(name, "") for name in ("ETag", "Last-Modified")]
            tag = next((each for each in sent if each and not each.startswith("W/")), "")
            encoding = answer.get("Content-Encoding", "identity")
            self.encoding = None if encoding == "identity" else encoding
            if self.encoding or not re.fullmatch("[ -~]*", tag):
                tag = ""
            self.version = Version(tag, size)
            if status == 206:
                same = known and tag in ("", known.tag) and known.size in (None, size)
                if not same or not done or start != str(done):
                    self._drop()
                    raise InputError(
                        f"{public(self.address)}: sent other bytes than asked for; run again"
                    )
            else:
                if known == self.version and done == size:  # it is, and the server has no ranges
                    return
                if not first and self.part.exists() and self.part.stat().st_size:
                    raise InputError(
                        f"{public(self.address)}: the connection failed after "
                        f"{self.part.stat().st_size:,} bytes, and the server does not go on there; "
                        "run again to resume or start over, or get the file in another way and set "
                        "data.source to archive"
                    )
                self._drop()
                done = 0
                if tag:
                    files.write_json(self.state, self.version)
            left = None if size is None else size - done
            files.room(self.part, left or 0)
            with self.part.open("ab") as out:
                total_mb = None if left is None else -(-left // MEGABYTE)
                chunks = self._chunks(response)
                for chunk in progress(chunks, "download (MB)", total_mb, beside_output):
                    files.room(self.part, len(chunk))
                    out.write(chunk)
                if size is not None and out.tell() != size:
                    raise _BrokenError(
                        f"{public(self.address)}: the connection failed; run again to resume"
                    )

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        with self.boundary(_BrokenError):  # as it is sent: nothing is unpacked here
            yield from response.raw.stream(MEGABYTE, decode_content=False)
