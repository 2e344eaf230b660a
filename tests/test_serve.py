"""`python -m convnets serve`: the page and the API, of a real server."""

import base64
import hashlib
import io
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import psutil
import pytest
import requests
from PIL import Image
from playwright.sync_api import expect

from convnets.base import files
from convnets.base.console import InputError
from convnets.listing.kinds import ImageError
from convnets.models import saved
from convnets.networks import architectures
from convnets.pictures import images
from convnets.serving import decoder, runtime, serve, server
from convnets.serving import predict as prediction
from convnets.serving.decoder import Decoder
from convnets.sources import sample
from tests.commands import ROOT, opener, record, said, with_champion

CLASSES = ["<b>chat</b>", "chien", "고양이", "{{ 7 }}", "lynx", "loup", "\x1b[2J"]
HOSTILE = "<img src=x onerror=alert(1)>고양이.png"


def picture(number: int = 0, form: str = "PNG") -> bytes:
    content = io.BytesIO()
    sample.draw("cat", number, 0).save(content, form)
    return content.getvalue()


GOOD = picture()
FORM = "multipart/form-data; boundary=x"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path: Path = tmp_path_factory.mktemp("model") / "seven.keras"
    keras.utils.set_random_seed(0)
    saved.save(architectures.plain(78, len(CLASSES), 0), path, record(CLASSES))
    return path


@contextmanager
def started(
    model: Path, *options: str, limit: str = "true", folder: Path | None = None
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server's process and address. A shell command sets limits."""
    command = [sys.executable, "-m", "convnets", "serve", "--model", str(model), "--port", "0"]
    process = subprocess.Popen(
        ["sh", "-c", f'{limit}; exec "$@"', "sh", *command, *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split(" ")[0]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def address(model):
    """A server's address. Whatever the tests send, it prints nothing and ends as it should."""
    with started(model) as (process, address):
        yield address
        process.terminate()
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0


def post(address: str, *contents: bytes, query: str = "", **headers: str) -> requests.Response:
    files = [("files", (f"{place}.png", content)) for place, content in enumerate(contents)]
    return requests.post(f"{address}/predict{query}", files=files, headers=headers, timeout=120)


def form(address: str, body, kind: str = FORM) -> requests.Response:
    headers = {"Content-Type": kind}
    return requests.post(f"{address}/predict", data=body, headers=headers, timeout=120)


def part(content: bytes = GOOD, name: bytes = b"a.png") -> bytes:
    head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="' + name + b'"\r\n\r\n'
    return head + content + b"\r\n--x--\r\n"


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 10,000 megapixels."""
    head = b"IHDR" + struct.pack(">II5B", 10**5, 10**5, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head
    return start + struct.pack(">I", zlib.crc32(head)) + GOOD[33:]


def heavy() -> list[bytes]:
    """Pictures that take seconds."""
    content = io.BytesIO()
    Image.new("RGB", (4000, 4000)).save(content, "PNG", compress_level=1)
    return [content.getvalue()] * 6


def test_pictures_get_the_models_answers_in_their_order(address, model):
    contents = [picture(0), picture(1, "JPEG"), picture(2, "WebP")]
    answer = post(address, *contents)
    assert answer.status_code == 200
    pixels = np.stack([images.decode(content, 78) for content in contents])
    expected = saved.load(model).predict(pixels, verbose=0)
    for place, (row, probabilities) in enumerate(zip(answer.json(), expected, strict=True)):
        assert list(row) == ["file", "class", "unlike", "probabilities"]
        assert row["file"] == f"{place}.png"
        assert row["class"] == CLASSES[probabilities.argmax()]
        assert list(row["probabilities"]) == CLASSES
        np.testing.assert_allclose(list(row["probabilities"].values()), probabilities, atol=1e-6)

    (row,) = post(address, contents[0], query="?evidence=true").json()
    kind, _, content = row["evidence"].partition(",")
    assert kind == "data:image/png;base64"
    shown = images.decode(base64.b64decode(content), 78)
    assert (shown != pixels[0]).any()


def test_the_answers_are_those_of_predict(tmp_path):
    """Also of a model with one output, for two classes."""
    classes = ["cat", "dog"]
    saved.save(architectures.plain(78, 2, 0), tmp_path / "two.keras", record(classes))
    model = runtime.load(str(tmp_path / "two.keras"))
    (tmp_path / "a.png").write_bytes(GOOD)
    (made,) = prediction.predict(model, [str(tmp_path / "a.png")], lambda *_: None)
    pictures = [("a.png", images.decode(GOOD, 78))]
    (row,) = serve.answer(model, pictures)
    expected = prediction.row(made._replace(file="a.png"), classes)
    assert row["class"] == expected["class"]
    assert row["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)


def test_a_bad_picture_costs_the_others_nothing(address):
    large = bytes(prediction.LARGEST + 1)
    answer = post(address, GOOD, b"", b"nothing", large, bomb(), GOOD[:200], GOOD)
    assert answer.status_code == 200
    first, *bad, last = answer.json()
    assert first["class"] == last["class"]
    assert [row["file"] for row in bad] == ["1.png", "2.png", "3.png", "4.png", "5.png"]
    for row, reason in zip(
        bad, ("an empty file", "not a JPEG", "larger than", "too large", "PNG cannot"), strict=True
    ):
        assert list(row) == ["file", "error"]
        assert row["error"].startswith(reason)
    answer = post(address, b"nothing")
    assert answer.status_code == 422
    assert list(answer.json()[0]) == ["file", "error"]


def test_as_many_pictures_as_predict_takes_at_once(address):
    assert len(post(address, *[GOOD] * prediction.BATCH).json()) == prediction.BATCH
    answer = post(address, *[GOOD] * (prediction.BATCH + 1))
    assert answer.status_code == 400
    assert "Too many files" in answer.json()["detail"]


@pytest.mark.parametrize("charset", ["unicode_escape", "utf-7", "idna", "undefined", "no"])
def test_names_may_be_anything(address, charset):
    assert form(address, part(name=HOSTILE.encode())).json()[0]["file"] == HOSTILE
    for name in (HOSTILE.encode(), b"../../a", b"\\\\ud800", b"+2AA-", b"xn--a", b"\xff"):
        answer = form(address, part(name=name), f"{FORM}; charset={charset}")
        assert answer.status_code in (200, 400)


@pytest.mark.parametrize(
    ("body", "kind", "status", "reason"),
    [
        (b"{}", "application/json", 415, "not multipart/form-data"),
        (b"files=a", "application/x-www-form-urlencoded", 415, "not multipart/form-data"),
        (b"", FORM, 422, "no files"),
        (b"nothing", FORM, 400, "Invalid multipart data"),
        (part(), "multipart/form-data", 400, "Missing boundary"),
        (part()[:99], FORM, 422, "no files"),
        (part().replace(b"files", b"file"), FORM, 422, "no files"),
        (part(name=b"a" * 10**4), FORM, 400, "Invalid multipart"),
    ],
    ids=range(8),
)
def test_other_requests_are_refused_with_a_reason(address, body, kind, status, reason):
    answer = form(address, body, kind)
    assert (answer.status_code, reason in answer.json()["detail"]) == (status, True), answer.text


@pytest.mark.parametrize(
    "kind", ["Multipart/Form-Data; boundary=x", "MULTIPART/FORM-DATA;BOUNDARY=x"]
)
def test_media_types_are_in_any_capitals(address, kind):
    assert form(address, part(), kind).status_code == 200


def test_the_other_fields_of_a_form_are_ignored(address):
    head = b'--x\r\nContent-Disposition: form-data; name="'
    for more in (
        head + b'note"\r\n\r\n' + bytes(2 * 10**6) + b"\r\n",
        head + b'files"\r\n\r\na text\r\n',
        head + b'other"; filename="other.png"\r\n\r\n' + GOOD + b"\r\n",
    ):
        assert [row["file"] for row in form(address, more + part()).json()] == ["a.png"]
    answer = form(address, b"".join([head + b'a"\r\n\r\n\r\n'] * 10_000) + part())
    assert (answer.status_code, "Too many fields" in answer.text) == (400, True)


def test_a_costly_picture_costs_only_itself(monkeypatch):
    with Decoder(78) as decode:
        assert (decode(GOOD) == images.decode(GOOD, 78)).all()
        with pytest.raises(ImageError, match="an empty file"):
            decode(b"")
        decode.process.kill()
        decode.process.join()
        assert (decode(GOOD) == images.decode(GOOD, 78)).all()
    monkeypatch.setattr(decoder, "SECONDS", 0.05)
    with Decoder(78) as decode:
        with pytest.raises(ImageError, match="takes more than"):
            decode(heavy()[0])
        assert (decode(GOOD) == images.decode(GOOD, 78)).all()


def test_a_body_is_bounded_also_without_a_declared_length(address):
    def chunks(count: int) -> Iterator[bytes]:
        yield part()[:90]
        for _ in range(count):
            yield bytes(2**20)

    assert form(address, iter([part()[:99], part()[99:]])).status_code == 200
    answer = form(address, chunks(serve.REQUEST // 2**20 + 1))
    assert answer.status_code == 413
    assert answer.json()["detail"] == "more than 256 MB; send fewer files"


def test_only_this_machines_names_and_this_servers_page(address):
    port = address.rpartition(":")[2]
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert requests.get(address, headers={"Host": host}, timeout=60).status_code == 200
        assert post(address, GOOD, Host=host, Origin=f"http://{host}").status_code == 200
    for host in ("example.com", f"example.com:{port}", "127.0.0.1.example.com", ""):
        assert requests.get(address, headers={"Host": host}, timeout=60).status_code == 400
        assert post(address, GOOD, Host=host).status_code == 400
    for origin in ("http://example.com", "null", "http://127.0.0.1:1", f"https://localhost:{port}"):
        assert post(address, GOOD, Origin=origin).status_code == 403


def test_the_headers_and_the_schema(address):
    for path in ("", "/health", "/no"):
        headers = requests.get(address + path, timeout=60).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
    described = requests.get(f"{address}/docs", timeout=60).text
    assert "<code>POST /predict</code>" in described
    assert not re.findall(r"(?:src|href)=.https?:", described)
    paths = requests.get(f"{address}/openapi.json", timeout=60).json()["paths"]
    assert set(paths) == {"/", "/health", "/predict"}
    assert "multipart/form-data" in paths["/predict"]["post"]["requestBody"]["content"]


def stuck(address: str) -> socket.socket:
    """A client that sends the start of a request, and no more."""
    host, port = address.removeprefix("http://").split(":")
    client = socket.create_connection((host, int(port)))
    head = f"POST /predict HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 9999\r\n"
    client.sendall(head.encode() + b"Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n")
    return client


def test_a_busy_server_says_so_and_recovers(address):
    with ExitStack() as clients:
        for _ in range(serve.WAITING):
            clients.enter_context(stuck(address))
        until = time.monotonic() + 30
        while (answer := post(address, GOOD)).status_code == 200:
            assert time.monotonic() < until
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == "1"
        assert requests.get(f"{address}/health", timeout=60).json() == {"status": "ok"}
    while post(address, GOOD).status_code != 200:
        assert time.monotonic() < until


@pytest.mark.slow
def test_a_request_that_does_not_arrive_is_given_up(address):
    with socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2]))) as client:
        began = time.monotonic()
        client.settimeout(1)
        while time.monotonic() - began < 60:
            try:
                client.sendall(b"G")  # a method that never ends
                if not client.recv(100):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        assert server.PATIENCE - 1 < time.monotonic() - began < 50


@contextmanager
def working(address: str) -> Iterator[list[requests.Response]]:
    """A request that takes seconds; at the end, the answer to it."""
    answers: list[requests.Response] = []
    contents = heavy()
    thread = threading.Thread(target=lambda: answers.append(post(address, *contents)))
    thread.start()
    time.sleep(0.5)
    yield answers
    thread.join()


def test_it_answers_while_the_model_works(address):
    with working(address) as answers:
        for _ in range(3):
            assert requests.get(f"{address}/health", timeout=60).status_code == 200
        assert not answers
    assert answers[0].status_code == 200


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_stops_after_its_requests(model, number):
    with started(model) as (process, address):
        with ExitStack() as clients, working(address) as answers:
            if number == signal.SIGTERM:  # one that would never end
                clients.enter_context(stuck(address))
                time.sleep(0.2)
            process.send_signal(number)
            _, error = process.communicate(timeout=60)
        assert answers[0].status_code == 200
        assert process.returncode == 0
        assert error.splitlines() == (
            ["Cancel 1 running task(s), timeout graceful shutdown exceeded"]
            if number == signal.SIGTERM
            else []
        )


def test_a_taken_port_is_an_error_before_the_model_loads(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (str(taken.getsockname()[1]), "99999"):
            status, _, error = said(capsys, monkeypatch, "serve", "--port", port)
            assert status == 1
            (line,) = error.splitlines()
            assert line.startswith(f"error: port {port}: ")
            assert line.endswith("; choose another with --port")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--host", "192.0.2.1"), "correct --host 192.0.2.1"),
        (("--host", "no such name"), "correct --host no such name"),
        (("--allow-host", "https://hub.example"), "leave out http:// and the port"),
        (("--allow-host", "a*b"), "not a name"),
    ],
)
def test_a_host_that_cannot_be_is_an_error(options, why, monkeypatch, capsys):
    status, _, error = said(capsys, monkeypatch, "serve", "--port", "0", *options)
    (line,) = error.splitlines()
    assert (status, why in line) == (1, True), line


@pytest.mark.slow
def test_a_container_and_a_proxy(model):
    options = ("--host", "0.0.0.0", "--allow-host", "hub.example")
    with started(model, *options) as (process, address):
        port = address.rpartition(":")[2]
        for host in ("hub.example", f"hub.example:{port}", f"127.0.0.1:{port}"):
            for origin in (f"http://{host}", "https://hub.example"):
                assert post(address, GOOD, Host=host, Origin=origin).status_code == 200
        for origin in ("https://example.com", "https://xhub.example", "null"):
            assert post(address, GOOD, Origin=origin).status_code == 403
        assert post(address, GOOD, Host="example.com").status_code == 400
        process.terminate()
        _, error = process.communicate(timeout=60)
    first, second = error.splitlines()
    assert ("hub.example" in first, "0.0.0.0" in second) == (True, True)


@pytest.mark.slow
def test_too_few_descriptors_are_one_line(model):
    with started(model, limit="ulimit -n 40") as (process, address), ExitStack() as clients:
        place = ("127.0.0.1", int(address.rpartition(":")[2]))
        for _ in range(100):  # idle ones make room
            clients.enter_context(socket.create_connection(place))
        for _ in range(10):
            assert post(address, GOOD).status_code == 200
        no_room(process, address, 503)


@pytest.mark.slow
def test_a_full_temporary_folder_is_one_line(model):
    with started(model, limit="ulimit -f 1000") as (process, address):
        no_room(process, address, 507)


def no_room(process: "subprocess.Popen[str]", address: str, status: int) -> None:
    for _ in range(2):
        answer = post(address, *[bytes(2**21)] * 32)
        assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert post(address, GOOD).status_code == 200
    process.terminate()
    _, error = process.communicate(timeout=60)
    (line,) = error.splitlines()
    assert answer.json()["detail"] in line


@contextmanager
def flooding(address: str) -> Iterator[None]:
    """A client that sends requests again and again, and never reads."""
    host, port = address.removeprefix("http://").split(":")
    request = f"GET /docs HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode() * 100
    with socket.create_connection((host, int(port))) as client:
        client.settimeout(1)
        with suppress(TimeoutError):
            while True:
                client.sendall(request)
        yield


@pytest.mark.slow
def test_it_ends_whatever_its_clients_do(model):
    with started(model) as (process, address), ExitStack() as clients:
        for _ in range(8):
            clients.enter_context(flooding(address))
            clients.enter_context(stuck(address))
        threads = [threading.Thread(target=post, args=(address, *heavy() * 4)) for _ in range(4)]
        for thread in threads:
            thread.daemon = True  # some get no answer
            thread.start()
        time.sleep(1)
        assert requests.get(f"{address}/health", timeout=60).status_code == 200
        children = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(10) == 0
        assert psutil.wait_procs(children, 10)[1] == []


@pytest.mark.slow
def test_500_requests_16_at_a_time_are_all_answered(address):
    contents = [picture(number) for number in range(8)]
    alone = [post(address, content).json()[0]["probabilities"] for content in contents]

    def ask(number: int) -> bool:
        query = "?evidence=true" if number % 5 == 0 else ""
        answer = post(address, contents[number % 8], query=query)
        assert answer.status_code == 200
        (row,) = answer.json()
        return bool(row["probabilities"] == pytest.approx(alone[number % 8], abs=1e-6))

    with ThreadPoolExecutor(16) as clients:
        assert all(clients.map(ask, range(500)))


DROP = """([name, content]) => {
    const dropped = new DataTransfer();
    dropped.items.add(new File([new Uint8Array(content)], name));
    document.querySelector('main').dispatchEvent(
        new DragEvent('drop', {dataTransfer: dropped, bubbles: true, cancelable: true}));
}"""
SIZES = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


@pytest.fixture
def opened(page, address):
    places = (f"{address}/", "data:", f"blob:{address}/")
    with opener(page, address, places, noted="status of 422") as opened:
        yield opened


@pytest.mark.browser
def test_pictures_are_dropped_chosen_and_refused_on_the_page(opened):
    page = opened(viewport={"width": 1200, "height": 900})
    page.evaluate(DROP, [HOSTILE, list(GOOD)])
    card = page.locator("li.card").first
    expect(card.locator("h2")).to_have_text(HOSTILE)
    expect(card.locator("figure")).to_have_count(2)
    expect(card.locator(".class")).to_be_visible()
    expect(card.locator("ul li")).to_have_count(5)
    expect(card.locator(".rest")).to_have_text("2 more classes")
    expect(page.get_by_role("status")).to_contain_text(f"{HOSTILE}: ")
    assert page.locator("main b").count() == 0
    shares = [float(text.rstrip("%")) for text in card.locator("ul span + span").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)

    chosen = [("1.png", GOOD), ("wrong.txt", b"nothing"), ("3.png", picture(3))]
    page.get_by_label("Choose pictures").set_input_files(
        [{"name": name, "mimeType": "image/png", "buffer": content} for name, content in chosen]
    )
    expect(page.locator("li.card h2")).to_have_text(["1.png", "wrong.txt", "3.png", HOSTILE])
    expect(page.locator(".waiting")).to_have_count(0)
    expect(page.locator(".error")).to_have_text([re.compile("not a JPEG")])
    expect(page.locator("li.card ul")).to_have_count(3)
    assert page.evaluate("[...document.images].every(image => image.naturalWidth)")


@pytest.fixture(scope="module")
def collecting(tmp_path_factory):
    """A server without Keras that stores corrections: its address, its process, its folder."""
    folder = with_champion(tmp_path_factory.mktemp("champion") / "project", CLASSES)
    with started(Path("models/champion.keras"), "--collect", "kept", folder=folder) as (
        process,
        address,
    ):
        yield address, process, folder / "kept"


def plain_picture(grey: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (90, 60), (grey, grey, grey)).save(content, "PNG")
    return content.getvalue()


def correct(address: str, content: bytes, label: str, **headers: str) -> requests.Response:
    files, params = [("files", ("a.jpeg", content))], {"class": label}
    address = f"{address}/collect"
    return requests.post(address, files=files, params=params, headers=headers, timeout=60)


def test_what_is_unlike_is_said_and_keras_is_not_there_until_the_evidence(collecting):
    address, process, _ = collecting
    near, far = post(address, plain_picture(20), plain_picture(200)).json()
    assert (near["unlike"], far["unlike"]) == (0.2, 2.0)

    def loaded() -> bool:
        return "tensorflow" in Path(f"/proc/{process.pid}/maps").read_text()

    assert not loaded()
    assert "evidence" in post(address, GOOD, query="?evidence=true").json()[0]
    assert loaded()


def test_a_correction_is_stored_once_in_its_newest_class(collecting, address):
    address_, _, kept = collecting
    for label in ("chien", "chien", "lynx", "고양이"):
        answer = correct(address_, GOOD, label)
        assert answer.status_code == 200, answer.text
        (place,) = (path for path in kept.rglob("*") if path.is_file())
        assert place.read_bytes() == GOOD
        assert place.relative_to(kept).parts[:2] == ("train", label)
        assert place.name == f"{hashlib.sha256(GOOD).hexdigest()}.png"
    for label, content in (("cat", GOOD), (CLASSES[0], GOOD), ("", GOOD), ("chien", b"nothing")):
        assert correct(address_, content, label).status_code == 422
    assert correct(address_, bytes(prediction.LARGEST + 1), "chien").status_code == 422
    assert correct(address_, GOOD, "chien", Origin="http://example.com").status_code == 403
    assert len([path for path in kept.rglob("*") if path.is_file()]) == 1
    assert correct(address, GOOD, "chien").status_code == 404


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "RESERVE", 10**18)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1, total=10**20))
    with pytest.raises(InputError, match="MB are needed"):
        serve.keep(io.BytesIO(GOOD), "chien", CLASSES, tmp_path / "kept")
    assert not (tmp_path / "kept").exists()


@pytest.mark.browser
def test_unlike_pictures_and_corrections_on_the_page(collecting, page):
    address, _, kept = collecting
    places = (f"{address}/", "data:", f"blob:{address}/")
    with opener(page, address, places, noted="status of 422") as opened:
        for korean in (False, True):
            how = {"locale": "ko-KR"} if korean else {}
            page = opened(viewport={"width": 400, "height": 800}, **how)
            page.evaluate(DROP, ["far.png", list(plain_picture(220 + korean))])
            page.evaluate(DROP, ["near.png", list(plain_picture(20 + korean))])
            expect(page.locator("li.card figure")).to_have_count(4, timeout=60_000)
            said = page.locator("li.card", has_text="far.png").locator(".unlike")
            expect(said).to_contain_text("학습한 사진" if korean else "Unlike the training")
            expect(page.locator(".unlike")).to_have_count(1)
            card = page.locator("li.card", has_text="near.png")
            card.get_by_label("정답" if korean else "Wrong").select_option("lynx")
            expect(card).to_contain_text("저장했습니다: lynx" if korean else "training: lynx")
            assert page.evaluate(SIZES) == [400, 400]
    assert len(list((kept / "train/lynx").iterdir())) == 2


@pytest.mark.browser
def test_the_page_at_phone_size_in_korean(opened):
    phone = {"width": 390, "height": 844}
    page = opened(viewport=phone, locale="ko-KR", is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.lang") == "ko"
    expect(page.get_by_role("heading", level=1)).to_have_text("무슨 사진일까요?")
    expect(page.get_by_text("사진 찍기")).to_be_visible()
    page.get_by_label("사진 선택").set_input_files(
        [{"name": "긴 이름" * 40, "mimeType": "image/png", "buffer": GOOD}]
    )
    expect(page.locator(".rest")).to_have_text("그 밖의 클래스 2개")
    assert page.evaluate(SIZES) == [390, 390]


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_light_or_dark(opened, scheme):
    page = opened(color_scheme=scheme)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    dark = sum(map(int, ground.removeprefix("rgb(").removesuffix(")").split(","))) < 3 * 128
    assert dark == (scheme == "dark")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.type") == "file"
