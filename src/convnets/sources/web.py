"""Download an archive from a web server: resumable, bounded, checked by its SHA-256."""

import errno
import hashlib
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from urllib.parse import quote, unquote, urlsplit

import requests
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
PROXY = "correct or unset ALL_PROXY, HTTPS_PROXY and HTTP_PROXY"
CAUSES = {  # by words in what requests, urllib3, fsspec and its packages say
    r"ImportError: .*(?:nstall|requires) \W?(\w+)": "its package is missing; run `pip install {}`",
    "dependencies for SOCKS": f"a SOCKS proxy needs `pip install pysocks`; or {PROXY}",
    "[Pp]roxy|SOCKS": f"the proxy fails; {PROXY}",
    r"CERTIFICATE_VERIFY_FAILED\].*?: ([^(]*) \(": "its certificate is not trusted ({}); if you "
    "trust it, set REQUESTS_CA_BUNDLE to the file of its authority",
    "TLS CA certificate|X509": "REQUESTS_CA_BUNDLE or CURL_CA_BUNDLE names no file of "
    "certificates; correct or unset it",
    "((?:PermissionError|.*Credential).{,150})": "access is refused ({}); give its package the "
    "credentials, such as with AWS_PROFILE, or check the address",
    "FileNotFoundError": "no such bucket, folder or file, or nothing in it; correct data.path",
    "((?:InvalidURL|InvalidSchema|Location|TooManyRedirects|UnicodeError|ValueError).{,150})": (
        "the address, or one to which it leads, is of no use ({}); correct data.path"
    ),
}
RANGE = re.compile(r"bytes (?:(\d{1,18})-\d{1,18}|\*)/(\d{1,18}|\*)")  # an answer's


class _BrokenError(InputError):
    """The connection broke. What came stays."""


def why(error: Exception, server: str = "") -> str:
    """Return why a request failed, and the remedy.

    Args:
        error: from requests or urllib3.
        server: such as " to Kaggle".
    """
    said = f"{type(error).__name__}: {' '.join(str(error).split())}"
    for words, cause in CAUSES.items():
        if found := re.search(words, said):
            return cause.format(*found.groups())
    return f"the connection{server} failed ({type(error).__name__}); run again to resume"


@contextmanager
def boundary(address: str, broken: type[InputError] = InputError) -> Iterator[None]:
    """Turn whatever the libraries raise into one line, unless the disk fails."""
    try:
        yield
    except Exception as error:
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
            raise
        raise broken(f"{public(address)}: {why(error)}") from error


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
    # In the name of a complete file are its address, its query and its version; see `_Download`.
    key, query = _digest(public(address)), _digest(parts.query)
    kept = next(folder.glob(f"{key}-*-*-{base}"), None)
    encoding = ""
    if kept is None or not (f"-{query}-" in kept.name or (sha256 and files.sha256(kept) == sha256)):
        asked = _Download(filled(address), folder, key, base)
        if kept:  # the server says whether it still is the file
            kept.replace(asked.named(kept.name.split("-")[2]))
        encoding = asked.complete(beside_output)
        part = asked.part()
        kept = folder / f"{key}-{query}-{part.name.split('-')[1]}-{base}"
        part.replace(kept)
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
    """A download into a part, over as many connections as that takes.

    The part's name has the version of the server's file. Without one, nothing can resume.
    """

    def __init__(self, address: str, folder: Path, key: str, base: str) -> None:
        self.address, self.folder, self.key, self.base = address, folder, key, base
        folder.mkdir(parents=True, exist_ok=True)

    def named(self, tag: str) -> Path:
        """Return the path of the part of a version."""
        return self.folder / f"{self.key}-{tag}-{self.base}.unfinished"

    def part(self) -> Path:
        """Return the path of the part that is there, or of one without a version."""
        return next(self.folder.glob(self.named("*").name), self.named(""))

    def complete(self, beside_output: bool) -> str:
        """Download what is missing; return how it was encoded, if it was."""
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
                for attempt in range(ATTEMPTS - 1):
                    try:
                        return self._go_on(session, attempt == 0, beside_output)
                    except _BrokenError:
                        told = "the connection broke; resuming"
                        print(f"{public(self.address)}: {told}", file=sys.stderr)
                return self._go_on(session, False, beside_output)
            except BaseException:
                self.named("").unlink(missing_ok=True)
                raise

    def _go_on(self, session: requests.Session, first: bool, beside_output: bool) -> str:
        """Ask for the bytes after those that are there, and append them."""
        part, place = self.part(), public(self.address)
        known = unquote(part.name.split("-")[1])
        there = part.stat().st_size if part.exists() else 0
        done = there if known else 0
        headers = {"Accept-Encoding": "identity"}  # the file as it is, and its true size
        if done:
            headers |= {"Range": f"bytes={done}-", "If-Range": known}
        with boundary(self.address):
            response = session.get(self.address, headers=headers, stream=True, timeout=TIMEOUT)
        with response:
            status, answer = response.status_code, response.headers
            given = RANGE.fullmatch(answer.get("Content-Range", ""))
            start, total = given.groups() if given else (None, None)
            if done and status == 416 and total == str(done):  # it was complete
                return ""
            if status == 416:
                part.unlink(missing_ok=True)
            if status not in (200, 206):
                remedy = REMEDIES.get(status, "the server failed; run again later")
                raise InputError(f"{place}: {remedy} (status {status})")
            encoding = answer.get("Content-Encoding", "").removeprefix("identity")
            sent = [answer.get(name, "") for name in ("ETag", "Last-Modified")]
            tag = next((each for each in sent if re.fullmatch("(?!W/)[ -~]{1,60}", each)), "")
            tag = "" if encoding else tag
            length = (total if status == 206 else answer.get("Content-Length")) or ""
            size = int(length) if re.fullmatch("[0-9]{1,18}", length) else None
            if status == 200:
                if done and done == size and tag == known:  # complete, without ranges
                    return ""
                if there and not first:
                    raise InputError(
                        f"{place}: the connection failed after {there:,} bytes, and the server "
                        "does not go on there; run again to resume or start over, or get the file "
                        "in another way and set data.source to archive"
                    )
                part.unlink(missing_ok=True)
                part, done = self.named(quote(tag, safe="").replace("-", "%2D")), 0
            elif not done or start != str(done) or tag not in ("", known):
                part.unlink(missing_ok=True)
                raise InputError(f"{place}: sent other bytes than asked for; run again")
            left = None if size is None else size - done
            files.room(part, left or 0)
            with part.open("ab") as out:
                total_mb = None if left is None else -(-left // MEGABYTE)
                chunks = self._chunks(response)
                for chunk in progress(chunks, "download (MB)", total_mb, beside_output):
                    files.room(part, len(chunk))
                    out.write(chunk)
                if size is not None and out.tell() != size:
                    raise _BrokenError(f"{place}: the connection failed; run again to resume")
        return encoding

    def _chunks(self, response: requests.Response) -> Iterator[bytes]:
        with boundary(self.address, _BrokenError):  # as it is sent: nothing is unpacked here
            yield from response.raw.stream(MEGABYTE, decode_content=False)
