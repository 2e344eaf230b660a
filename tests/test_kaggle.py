"""The real Kaggle client against a loopback server that answers like Kaggle's."""

import contextlib
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from convnets.base import params
from convnets.base.console import InputError
from convnets.sources import sources
from tests.commands import Clone, noise_archive, serving

SECRET = f"KGAT_{secrets.token_hex()}"
MEGABYTE = 2**20  # the client's unit of writing; an incomplete one is lost
SIGNATURE = secrets.token_hex()  # in the storage's address; as secret as a password


class Kaggle:
    """What the server has, how it misbehaves, and what it was asked."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag = '"one"'
        self.statuses: list[int] = []  # for the next requests for the competition; then 302
        self.cuts: list[int] = []  # the number of bytes after which the next downloads are cut
        self.ranges: list[str | None] = []  # in the requests for the file
        self.asked: list[str] = []  # the API's methods that were called
        self.stalled = threading.Event()  # set once a download has been cut with `stall`
        self.stall = False  # keep a cut download's connection open
        self.address = ""


def handler(kaggle: Kaggle) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            given = json.loads(self.rfile.read(int(self.headers["Content-Length"])) or b"{}")
            method = self.path.rsplit("/", 1)[1]
            kaggle.asked.append(method)
            if method == "IntrospectToken":
                active = given["token"] == SECRET
                self.answer(200, {"active": active, "username": "somebody" if active else ""})
            elif self.headers["Authorization"] not in (
                f"Bearer {SECRET}",
                "Basic c29tZWJvZHk6a2V5",  # somebody:key
            ):
                self.answer(401, {"code": 401, "message": "Unauthorized"})
            elif status := kaggle.statuses.pop(0) if kaggle.statuses else 0:
                self.answer(status, {"code": status, "message": "You must accept the rules"})
            else:
                assert given["competitionName"] == sources.COMPETITION
                self.send_response(302)
                address = f"{kaggle.address}/storage/archive.zip?X-Signature={SIGNATURE}"
                self.send_header("Location", address)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def answer(self, status: int, body: dict[str, object]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_GET(self) -> None:
            kaggle.ranges.append(asked := self.headers.get("Range"))
            start = 0
            if asked and self.headers.get("If-Range") == kaggle.etag:
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            body = kaggle.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", kaggle.etag)
            self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            end = kaggle.cuts.pop(0) if kaggle.cuts else len(body)
            with contextlib.suppress(ConnectionError):  # the client may stop early
                self.wfile.write(body[:end])
            if end == len(body):
                return
            while kaggle.stall:
                kaggle.stalled.set()
                time.sleep(0.05)
            self.close_connection = True

    return Handler


@pytest.fixture(scope="module")
def archive_bytes() -> bytes:
    return noise_archive(90)


@pytest.fixture
def kaggle(archive_bytes):
    answers = Kaggle(archive_bytes)
    with serving(handler(answers)) as answers.address:
        yield answers
        answers.stall = False


@pytest.fixture
def client(kaggle, monkeypatch, tmp_path):
    """The client in this process, with a token, the server's address and short waits."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    from kaggle.api import kaggle_api_extended
    from kagglesdk import kaggle_env

    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, kaggle.address)
    # Its five waits add up to a minute.
    monkeypatch.setattr(kaggle_api_extended.time, "sleep", lambda seconds: None)
    return kaggle


def test_the_archive_comes_whole_and_once(client, tmp_path, capfd):
    out = tmp_path / "dvc-outs/images.zip.part"
    out.parent.mkdir()
    kaggle = params.Data(source="kaggle", path=None)
    few = params.Subset(train=1, validation=1, test=1, max_rejected=0)
    sources.write(kaggle, few, 0, out)
    assert (out.parent / "dogs-vs-cats.zip").read_bytes() == client.content
    taken = zipfile.ZipFile(out).namelist()
    assert len(taken) == 6
    out.unlink()
    client.asked.clear()
    sources.write(kaggle, few, 0, out)
    assert zipfile.ZipFile(out).namelist() == taken
    assert client.asked == []
    assert sorted(path.name for path in out.parent.iterdir()) == ["dogs-vs-cats.zip", out.name]
    output = "".join(capfd.readouterr())
    assert "100%" in output
    assert "180 labelled images" in output
    assert "Authentication required" not in output


def test_the_key_of_a_kaggle_json_does_as_well(client, tmp_path, monkeypatch):
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    monkeypatch.setenv("KAGGLE_USERNAME", "somebody")
    monkeypatch.setenv("KAGGLE_KEY", "key")
    sources.download_from_kaggle(tmp_path)
    assert client.asked == ["DownloadDataFiles"]


def test_a_connection_that_breaks_goes_on_where_it_was(client, tmp_path, capfd):
    client.cuts = [5 * MEGABYTE // 2, 3 * MEGABYTE // 2]
    sources.download_from_kaggle(tmp_path)
    assert (tmp_path / "dogs-vs-cats.zip").read_bytes() == client.content
    assert client.ranges == [None, f"bytes={2 * MEGABYTE}-", f"bytes={3 * MEGABYTE}-"]
    assert SIGNATURE not in "".join(capfd.readouterr())


@pytest.mark.parametrize("etag", ['"one"', '"two"'])
def test_another_run_goes_on_unless_the_file_is_another(client, tmp_path, etag):
    client.cuts = [3 * MEGABYTE // 2] + 5 * [0]
    with pytest.raises(InputError, match="the connection to Kaggle failed") as caught:
        sources.download_from_kaggle(tmp_path)
    assert SIGNATURE not in str(caught.value)
    assert not (tmp_path / "dogs-vs-cats.zip").exists()
    client.ranges.clear()
    client.etag = etag
    sources.download_from_kaggle(tmp_path)
    assert (tmp_path / "dogs-vs-cats.zip").read_bytes() == client.content
    # The client asks for the whole file first. Its headers say whether it can resume.
    assert client.ranges == ([None, f"bytes={MEGABYTE}-"] if etag == '"one"' else [None])


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "refused the token"),
        (403, "accept the rules of the competition dogs-vs-cats"),
        (429, "limits the request rate"),
        (500, "Kaggle failed"),
    ],
)
def test_refusals_name_the_remedy(client, tmp_path, status, remedy):
    client.statuses = [status]
    with pytest.raises(InputError, match=remedy) as caught:
        sources.download_from_kaggle(tmp_path)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.glob("*.zip*")) == []


def test_a_wrong_token_is_told_from_none(client, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("KAGGLE_API_TOKEN", "wrong-token")
    with pytest.raises(InputError, match="Kaggle refused the token") as caught:
        sources.download_from_kaggle(tmp_path)
    monkeypatch.delenv("KAGGLE_API_TOKEN")
    with pytest.raises(InputError, match="no Kaggle token; create one"):
        sources.download_from_kaggle(tmp_path)
    output = str(caught.value) + "".join(capfd.readouterr())
    assert "wrong-token" not in output
    assert "Authentication required" not in output


def test_no_network(client, tmp_path, monkeypatch):
    from kagglesdk import kaggle_env

    nowhere = "http://127.0.0.1:9"
    monkeypatch.setitem(kaggle_env._env_to_endpoint, kaggle_env.KaggleEnv.PROD, nowhere)
    with pytest.raises(InputError, match="the connection to Kaggle failed"):
        sources.download_from_kaggle(tmp_path)


@pytest.mark.parametrize("content", [b"<html>sign in</html>", b""])
def test_what_is_no_archive_is_thrown_away(client, tmp_path, content):
    whole, client.content = client.content, content
    with pytest.raises(InputError, match=r"dogs-vs-cats\.zip.*not an archive of images"):
        sources.download_from_kaggle(tmp_path)
    client.content = whole
    sources.download_from_kaggle(tmp_path)
    assert (tmp_path / "dogs-vs-cats.zip").read_bytes() == whole


def test_a_truncated_archive_is_thrown_away(client, tmp_path):
    whole, client.content = client.content, client.content[:-1000]
    with pytest.raises(InputError, match="run again to start over"):
        sources.download_from_kaggle(tmp_path)
    client.content, client.etag = whole, '"two"'
    sources.download_from_kaggle(tmp_path)
    with zipfile.ZipFile(tmp_path / "dogs-vs-cats.zip") as archive:
        assert archive.testzip() is None


@pytest.mark.slow("downloads")
def test_a_killed_stage_goes_on_and_no_secret_is_left(kaggle, empty_clone: Clone, tmp_path):
    path = empty_clone.folder / "params.yaml"
    text = re.sub(r"source: sample", "source: kaggle", path.read_text())
    path.write_text(re.sub(r"(?m)^  (train|validation|test): \d+", r"  \1: 20", text))
    # The real stage; only Kaggle's address differs.
    launch = (
        "import runpy; from kagglesdk import kaggle_env as e; "
        f"e._env_to_endpoint[e.KaggleEnv.PROD] = {kaggle.address!r}; "
        "runpy.run_module('stages.download', run_name='__main__')"
    )
    environment = empty_clone.environment() | {
        "KAGGLE_API_TOKEN": SECRET,
        "HOME": str(tmp_path),
    }

    def start() -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-c", launch, "download"],
            cwd=empty_clone.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    kaggle.cuts, kaggle.stall = [3 * MEGABYTE // 2], True
    process = start()
    assert kaggle.stalled.wait(120)
    part = empty_clone.folder / "dvc-outs/kaggle/dogs-vs-cats.zip"
    while not part.exists() or part.stat().st_size < MEGABYTE:
        time.sleep(0.05)
    process.kill()
    first, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL
    kaggle.stall = False
    kaggle.ranges.clear()
    process = start()
    second, _ = process.communicate()
    assert process.returncode == 0, second
    assert kaggle.ranges == [None, f"bytes={MEGABYTE}-"]
    assert (empty_clone.folder / "dvc-outs/dogs-vs-cats.zip").read_bytes() == kaggle.content
    summary = json.loads((empty_clone.folder / "metrics/download.json").read_text())
    assert summary["source"] == "kaggle"
    assert list(empty_clone.runs()["status"]) == ["FINISHED"]

    assert SECRET not in first + second
    assert SIGNATURE not in first + second
    for folder, _, files in os.walk(empty_clone.folder):
        for file in files:
            content = (Path(folder) / file).read_bytes()
            assert SECRET.encode() not in content, file
            assert SIGNATURE.encode() not in content, file
