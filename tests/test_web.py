"""Archives from a web server: a real one on loopback, which may misbehave."""

import collections
import contextlib
import gzip
import hashlib
import http.server
import io
import json
import random
import re
import shutil
import socketserver
import ssl
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from convnets.base import console, params
from convnets.base.console import InputError
from convnets.commands import inspection
from convnets.listing import subset
from convnets.sources import sample, sources, web
from tests.commands import Clone, decoded, noise_archive, serving
from tests.test_disks import mount

MEGABYTE = web.MEGABYTE


class Server:
    """What the server has, how it misbehaves, and what it was asked."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.sha256 = hashlib.sha256(content).hexdigest()
        self.headers = {"ETag": '"one"'}
        self.statuses: list[int] = []  # of the next answers; then 200 or 206
        self.cuts: list[int] = []  # the number of bytes after which the next answers are cut
        self.chunked = False  # without a length
        self.ranged = True
        self.lie = 0  # how many bytes more than there are, in the length
        self.ranges: list[str | None] = []  # as asked
        self.paths: list[str] = []
        self.sent = 0  # bytes
        self.address = ""


def handler(has: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            has.ranges.append(asked := self.headers.get("Range"))
            has.paths.append(self.path)
            if has.statuses:
                self.send_response(has.statuses.pop(0))
                self.send_header("Location", f"{has.address}/elsewhere.zip")
                self.send_header("Retry-After", "100000")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            start, size = 0, len(has.content)
            if asked and has.ranged and self.headers.get("If-Range") == has.headers.get("ETag"):
                start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            body = has.content[start:]
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            for name, value in has.headers.items():
                self.send_header(name, value)
            if not has.chunked:
                self.send_header("Content-Length", str(len(body) + has.lie))
            else:
                self.send_header("Connection", "close")
            self.end_headers()
            end = has.cuts.pop(0) if has.cuts else len(body)
            with contextlib.suppress(ConnectionError):  # the client may stop early
                for place in range(0, end, MEGABYTE // 10):
                    self.wfile.write(part := body[place : min(end, place + MEGABYTE // 10)])
                    has.sent += len(part)
            self.close_connection = (
                self.close_connection or end < len(body) or has.chunked or has.lie > 0
            )

    return Handler


@pytest.fixture(scope="module")
def archive_bytes() -> bytes:
    return noise_archive(90)


@pytest.fixture
def server(archive_bytes):
    has = Server(archive_bytes)
    with serving(handler(has)) as has.address:
        yield has


def test_the_file_comes_whole_once_and_with_progress(server, tmp_path, capsys):
    address = f"{server.address}/data/my%20photos.zip?key=secret"
    path, sha256 = web.download(address, tmp_path, server.sha256)
    assert path.read_bytes() == server.content
    assert sha256 == server.sha256
    assert path.name.endswith("-my_photos.zip")
    output = "".join(capsys.readouterr())
    size = -(-len(server.content) // MEGABYTE)
    assert f"download (MB): {size}/{size}" in output
    assert "secret" not in output
    assert web.download(address, tmp_path, None) == (path, sha256)
    assert len(server.ranges) == 1  # the second time, nothing was asked
    assert list(tmp_path.iterdir()) == [path]


def test_a_connection_that_breaks_goes_on_where_it_was(server, tmp_path, capsys):
    server.cuts = [5 * MEGABYTE // 2, 100]
    path, _ = web.download(f"{server.address}/x.zip", tmp_path, server.sha256)
    assert path.read_bytes() == server.content
    assert len(server.ranges) == 3
    starts = [int(asked.removeprefix("bytes=").rstrip("-")) for asked in server.ranges[1:]]
    assert starts[0] >= 2 * MEGABYTE
    assert starts[1] == starts[0] + 100
    assert "the connection broke; resuming" in capsys.readouterr().err


@pytest.mark.parametrize("changed", ["nothing", "the file", "no ranges", "no version"])
def test_another_run_goes_on_unless_the_file_is_another(server, tmp_path, changed):
    if changed == "no version":
        server.headers = {}
    server.cuts = [3 * MEGABYTE // 2] + [0] * 20
    with pytest.raises(InputError, match=r"/x\.zip: the connection failed .*run again to resume"):
        web.download(f"{server.address}/x.zip", tmp_path, server.sha256)
    assert not list(tmp_path.glob("*.zip"))
    server.cuts, server.ranges = [], []
    if changed == "the file":
        server.headers = {"ETag": '"two"'}
        server.content = b"another " + server.content[:-8]
        server.sha256 = hashlib.sha256(server.content).hexdigest()
    server.ranged = changed != "no ranges"
    path, _ = web.download(f"{server.address}/x.zip", tmp_path, server.sha256)
    assert path.read_bytes() == server.content
    assert list(tmp_path.iterdir()) == [path]
    resumed = changed not in ("no version",)
    assert (server.ranges[0] is not None) == resumed
    assert len(server.ranges) == 1


def test_a_complete_file_that_was_not_renamed_is_not_asked_for_again(server, tmp_path):
    server.cuts = [len(server.content) - 1] + [0] * 20
    with pytest.raises(InputError):
        web.download(f"{server.address}/x.zip", tmp_path, None)
    (unfinished,) = tmp_path.glob("*.unfinished")
    unfinished.write_bytes(server.content)
    server.cuts = []
    path, _ = web.download(f"{server.address}/x.zip", tmp_path, server.sha256)
    assert path.read_bytes() == server.content


def test_an_answer_without_a_length(server, tmp_path, capsys):
    server.chunked = True
    path, _ = web.download(f"{server.address}/x.zip", tmp_path, server.sha256)
    assert path.read_bytes() == server.content
    # If it is cut, only the hash can tell.
    path.unlink()
    server.cuts = [MEGABYTE]
    with pytest.raises(InputError, match=r"not data\.sha256; it is another file or was damaged"):
        web.download(f"{server.address}/x.zip", tmp_path, server.sha256)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (401, "it needs a password"),
        (403, "access is refused"),
        (404, r"no such file; correct data\.path"),
        (418, "the server failed; run again later"),
    ],
)
def test_refusals_name_the_remedy(server, tmp_path, status, remedy):
    server.statuses = [status]
    with pytest.raises(InputError, match=rf"{remedy}.*\(status {status}\)$") as caught:
        web.download(f"{server.address}/x.zip?key=secret", tmp_path, None)
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_busy_server_is_asked_again_and_a_redirect_is_followed(server, tmp_path):
    server.statuses = [503, 302]
    path, _ = web.download(f"{server.address}/x.zip", tmp_path, server.sha256)
    assert path.read_bytes() == server.content


def test_a_server_that_stays_busy_and_one_that_is_not_there(server, tmp_path, monkeypatch):
    monkeypatch.setattr("urllib3.util.retry.time.sleep", lambda seconds: None)
    server.statuses = [503] * 9
    with pytest.raises(InputError, match=r"the server failed; run again later \(status 503\)"):
        web.download(f"{server.address}/x.zip", tmp_path, None)
    with pytest.raises(InputError, match="the connection failed"):
        web.download("http://127.0.0.1:9/x.zip", tmp_path, None)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_reserve_stays_free_and_the_rest_resumes(server, tmp_path, chunked):
    """On a small disk, with and without a length."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount(disk, "size=2m")
    try:
        server.chunked = chunked
        with pytest.raises(InputError, match=r"disk: .* MB are needed, .*; free some space"):
            web.download(f"{server.address}/x.zip", disk, None)
        usage = shutil.disk_usage(disk)
        assert usage.free > usage.total // 20
        assert len(list(disk.glob("*.unfinished"))) == chunked
        subprocess.run(["mount", "-o", "remount,size=9m", disk], check=True)
        web.download(f"{server.address}/x.zip", disk, server.sha256)
        assert (server.ranges[1] is not None) == chunked
    finally:
        subprocess.run(["umount", disk], check=True)


@pytest.fixture
def signed(tmp_path) -> Iterator[str]:
    """The address of a server whose certificate no authority has signed."""
    key, certificate = str(tmp_path / "key"), str(tmp_path / "certificate")
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=x"]
    files = ["-keyout", key, "-out", certificate]
    subprocess.run([*command, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with http.server.HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.handle_error = lambda *_: None  # the client hangs up
        server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("ALL_PROXY", "socks5h://127.0.0.1:9", "ALL_PROXY"),
        ("HTTPS_PROXY", "http://127.0.0.1:9", "correct or unset ALL_PROXY, HTTPS_PROXY"),
        ("HTTPS_PROXY", f"http://somebody:p@{'s3cr3t'}@127.0.0.1:9", "HTTPS_PROXY"),
        ("ALL_PROXY", "nonsense", "ALL_PROXY"),
        ("REQUESTS_CA_BUNDLE", "/nowhere", "REQUESTS_CA_BUNDLE .* correct or unset it"),
        ("REQUESTS_CA_BUNDLE", __file__, "REQUESTS_CA_BUNDLE .* correct or unset it"),
        ("LANG", "C", "certificate is not trusted .*; .* set REQUESTS_CA_BUNDLE"),
    ],
)
def test_what_is_between_us_and_the_server(signed, tmp_path, monkeypatch, variable, value, remedy):
    monkeypatch.setattr("urllib3.util.retry.time.sleep", lambda seconds: None)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"^{signed}/x.zip: .*{remedy}") as caught:
        web.download(f"{signed}/x.zip", tmp_path / "out", None)
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_usable_tmpdir_is_one_line(tmp_path, monkeypatch, capsys):
    full = tmp_path / "full"
    full.mkdir()
    mount(full, "size=4k,nr_inodes=1")
    try:
        monkeypatch.setattr(tempfile, "tempdir", None)
        monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(full)])
        with pytest.raises(SystemExit):
            console.run(lambda: inspection.inspect("http://127.0.0.1:9/x.zip"))
    finally:
        subprocess.run(["umount", full], check=True)
    assert "set TMPDIR" in capsys.readouterr().err


def stopped(server: Server, folder: Path, address: str) -> None:
    """Download the first half of the file."""
    server.cuts = [3 * MEGABYTE // 2] + [0] * 20
    with pytest.raises(InputError):
        web.download(address, folder, None)
    server.cuts, server.ranges = [], []


def test_a_renewed_signature_goes_on_and_a_complete_file_stays(server, tmp_path, monkeypatch):
    stopped(server, tmp_path, f"{server.address}/x.zip?signature=1")
    monkeypatch.setenv("SIGNATURE", "2")
    path, _ = web.download(f"{server.address}/x.zip?signature=$SIGNATURE", tmp_path, server.sha256)
    assert path.read_bytes() == server.content
    (asked,) = server.ranges
    assert asked is not None
    assert server.paths[-1] == "/x.zip?signature=2"
    # Its hash says that it is the file, or else the server's headers do.
    path, _ = web.download(f"{server.address}/x.zip?signature=3", tmp_path, server.sha256)
    assert len(server.ranges) == 1
    sent = server.sent
    path, _ = web.download(f"{server.address}/x.zip?signature=4", tmp_path, None)
    assert len(server.ranges) == 2
    assert server.sent == sent
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("complete", [False, True])
def test_another_query_may_be_another_file(server, tmp_path, complete):
    first = f"{server.address}/download?id=1"
    if complete:
        web.download(first, tmp_path, None)
    else:
        stopped(server, tmp_path, first)
    server.headers = {"ETag": '"two"'}
    server.content = server.content[:-1000] + 1000 * b"?" + server.content[-1000:]
    path, _ = web.download(f"{server.address}/download?id=2", tmp_path, None)
    assert path.read_bytes() == server.content
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("headers", [{"ETag": '"one"'}, {}])
def test_a_wrong_length_costs_one_download(server, tmp_path, headers, capsys):
    server.headers, server.lie = headers, 5 * MEGABYTE
    with contextlib.suppress(InputError):
        path, _ = web.download(f"{server.address}/x.zip", tmp_path, None)
        assert path.read_bytes() == server.content
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(set(told)) > 1  # no megabyte comes twice


def test_what_is_sent_as_gzip_costs_one_download(server, tmp_path, capsys):
    server.sha256, server.content = server.sha256, gzip.compress(server.content)
    server.headers |= {"Content-Encoding": "gzip"}
    with pytest.raises(InputError, match="sent as gzip, although not asked for"):
        web.download(f"{server.address}/x.zip", tmp_path, server.sha256)
    assert list(tmp_path.iterdir()) == []
    server.lie = 5 * MEGABYTE
    capsys.readouterr()
    with pytest.raises(InputError, match="the server does not go on there"):
        web.download(f"{server.address}/x.zip", tmp_path, server.sha256)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == len(set(told)) > 1  # no megabyte comes twice


def test_parts_that_nothing_will_use_are_removed_and_told(server, tmp_path, capsys):
    stopped(server, tmp_path, f"{server.address}/old.zip")
    (tmp_path / "my.unfinished").write_text("the user's own")
    path, _ = web.download(f"{server.address}/x.zip", tmp_path, None)
    assert sorted(tmp_path.iterdir()) == sorted([path, tmp_path / "my.unfinished"])
    assert "removed 2 MB of unfinished downloads" in capsys.readouterr().err


VALUES = (
    *(5000 * "9", "-1", "0x10", "", "\0", "é", 70_000 * "a", "99999999999999999999"),
    *("bytes 5-2/1", "bytes 0-0/*", "bytes */*", f"bytes 9-{5000 * '9'}/10", "bytes"),
    *("http://[", "http://", "//", "http://a..b/", f"http://{300 * 'a'}.test/", "x://y"),
    *("http://u:p@s3cr3t@h:99999/?q", "http://127.0.0.1:0/", "chunked", "gzip", "close"),
)


class Mutated(socketserver.StreamRequestHandler):
    """Sends a real server's answer with one or two of its lines changed."""

    def handle(self) -> None:
        dice, content = self.server.dice, self.server.content
        asked = self.rfile.readline()
        for line in iter(self.rfile.readline, b"\r\n"):
            asked += line
        start = len(content) // 2 if b"range: bytes=" in asked.lower() else 0
        status = dice.choice(("200 OK", "206 Partial Content", "302 Found", "416 Range", "304 N"))
        lines = [
            f"HTTP/1.1 {status}",
            f"Content-Length: {len(content) - start}",
            f"Content-Range: bytes {start}-{len(content) - 1}/{len(content)}",
            'ETag: "one"',
            "Location: /elsewhere.zip",
            "Content-Encoding: identity",
        ]
        for _ in range(dice.randint(1, 2)):
            row = dice.randrange(len(lines))
            name = lines[row].partition(":")[0]
            lines[row] = dice.choice((f"{name}: {dice.choice(VALUES)}", dice.choice(VALUES), name))
        head = bytearray("\r\n".join([*lines, "", ""]).encode("latin-1", "replace"))
        if dice.random() < 0.3:
            head[dice.randrange(len(head))] = dice.randrange(256)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(head + content[start:])


def test_whatever_a_server_answers_is_the_file_or_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib3.util.retry.time.sleep", lambda seconds: None)
    monkeypatch.setattr(web, "TIMEOUT", 2)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        packed.writestr("cat/1.jpg", random.Random(0).randbytes(5000))
    sha256 = hashlib.sha256(content.getvalue()).hexdigest()
    ended = collections.Counter()
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mutated) as server:
        server.daemon_threads, server.content = True, content.getvalue()
        server.dice = random.Random(33)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/x.zip"
        for number in range(200):
            folder = tmp_path / str(number)
            try:
                path, _ = web.download(address, folder, sha256)
            except InputError as error:
                assert str(error).startswith(f"{address}: ")
                assert "\n" not in str(error)
                assert len(str(error)) < 500
                assert "s3cr3t" not in str(error)
                ended["refused"] += 1
            else:
                assert path.read_bytes() == server.content
                ended["whole"] += 1
        server.shutdown()
    assert min(ended["refused"], ended["whole"]) > 10, ended


@pytest.mark.parametrize("address", ["ftp://x/y.zip", "file:///etc/passwd", "https:///y.zip"])
def test_other_addresses_are_refused(address, tmp_path):
    with pytest.raises(InputError, match="not an http or https address"):
        web.download(address, tmp_path, None)


def test_no_password_is_taken_or_shown(tmp_path):
    with pytest.raises(InputError, match=r"^http://x/y\.zip: has a password") as caught:
        web.download("http://somebody:hunter2@x/y.zip?key=hunter3", tmp_path, None)
    assert "hunter" not in str(caught.value)
    assert console.public("https://a:b@h:1/p?q#f") == "https://h:1/p"


def test_what_is_no_archive_is_one_line(server, tmp_path):
    server.content = b"<html>sign in</html>"
    how = params.Data(source="url", path=f"{server.address}/x.zip")
    some = params.Subset(train=1, validation=1, test=1, max_rejected=0)
    with pytest.raises(InputError, match=r"/x\.zip: sent no zip or tar file; correct data\.path"):
        sources.write(how, some, 0, tmp_path / "out.zip")
    assert list(tmp_path.iterdir()) == []  # so that the next run asks again
    with pytest.raises(ValueError, match="needs source url"):
        params.Data(source="archive", path=how.path)
    with pytest.raises(ValueError, match="sha256 is of a url's file"):
        params.Data(source="sample", path=None, sha256=64 * "0")


def test_inspect_looks_at_an_address_and_keeps_nothing(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    seen = inspection.inspect(f"{server.address}/x.zip")
    assert seen["classes"] == {"cat": {"all": 90}, "dog": {"all": 90}}
    assert f"-S 'data.path=\"{server.address}/x.zip\"'" in seen["command"]
    assert server.sha256 in seen["command"]
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().out == ""
    json.dumps(seen)


def test_inspect_shows_no_key_and_its_command_works_with_one(server, tmp_path, monkeypatch, capsys):
    seen = inspection.inspect(f"{server.address}/x.zip?key=planted#planted")
    assert "planted" not in json.dumps(seen) + "".join(capsys.readouterr())
    assert seen["path"] == f"{server.address}/x.zip"
    (given,) = re.findall(r"data\.path=\"([^\"]*)", seen["command"])
    assert "set the environment variable QUERY" in inspection.show(seen, "text")
    with pytest.raises(InputError, match=r"\$QUERY, which is not set"):
        web.download(given, tmp_path, None)
    monkeypatch.setenv("QUERY", "key=planted")
    web.download(given, tmp_path, server.sha256)
    assert server.paths == 2 * ["/x.zip?key=planted"]


def of_microsoft() -> bytes:
    """An archive of the shape and with the faults of kagglecatsanddogs_5340.zip."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("readme[1].txt", "about")
        target.writestr("MSR-LA - 3467.docx", b"PK")
        for label in ("Cat", "Dog"):
            target.writestr(f"PetImages/{label}/Thumbs.db", b"\xd0\xcf\x11\xe0")
            for number in range(30):
                kind = {3: "GIF", 5: "BMP", 7: "PNG"}.get(number, "JPEG")
                picture, content = sample.draw(label.lower(), number, 0), io.BytesIO()
                if number == 9:
                    picture = picture.convert("L")
                if number == 11:
                    picture = picture.convert("CMYK")
                picture.save(content, kind)
                target.writestr(f"PetImages/{label}/{number}.jpg", content.getvalue())
        target.writestr("PetImages/Cat/666.jpg", b"")
        target.writestr("PetImages/Dog/11702.jpg", b"\0" * 5000)
    return packed.getvalue()


def test_microsoft_s_copy_with_its_faults(server, tmp_path):
    """`presets/microsoft.yaml` on an archive of the same shape."""
    server.content = of_microsoft()
    how = params.Data(source="url", path=f"{server.address}/5340.zip")
    book = params.Subset(train="rest", validation=0.2, test=0.2, max_rejected=0.05)
    found = sources.write(how, book, 0, tmp_path / "images.zip")
    assert found.name == "classes"
    assert set(found.skipped.values()) == {"not an image", "hidden or a system's"}
    summary = decoded(tmp_path / "images.zip", tmp_path / "out", book)
    total = sum(sum(summary[split].values()) for split in subset.SPLITS)
    assert (total, summary["rejected"]) == (60, 2)
    assert summary["rejected_files"]["PetImages/Cat/666.jpg"] == "an empty file"


@pytest.mark.slow("downloads")
def test_the_stage_downloads_resumes_and_records_no_secret(server, empty_clone: Clone):
    address = f"{server.address}/x.zip?key=planted"
    settings = ["data.source=url", f'data.path="{address}"', f"data.sha256={server.sha256}"]
    flags = [word for setting in settings for word in ("-S", setting)]
    sizes = [f"-Ssubset.{split}=20" for split in subset.SPLITS]
    output = empty_clone.run("dvc", "exp", "run", *flags, *sizes, "subset")
    assert "planted" not in output
    summary = json.loads((empty_clone.folder / "metrics/subset.json").read_text())
    assert summary["train"] == {"cat": 20, "dog": 20}
    import mlflow

    mlflow.set_tracking_uri(f"sqlite:///{empty_clone.folder / 'mlflow.db'}")
    runs = mlflow.search_runs(search_all_experiments=True)
    (path,) = set(runs["params.data.path"].dropna())
    assert path == f"{server.address}/x.zip"
    # Other counts: nothing is downloaded again.
    asked = len(server.ranges)
    empty_clone.run("dvc", "exp", "run", "-S", "subset.train=21", "subset")
    assert len(server.ranges) == asked
