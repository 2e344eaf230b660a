"""A page and an API that classify pictures, by default for this machine only."""

import asyncio
import base64
import errno
import hashlib
import io
import ipaddress
import logging
import math
import multiprocessing
import os
import re
import resource
import socket
import sys
import threading
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from importlib import resources
from types import FrameType
from typing import Any, cast

import keras
import numpy as np
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from uvicorn.protocols.http.h11_impl import H11Protocol

from convnets.base.console import InputError, say
from convnets.listing.kinds import ImageError
from convnets.models import answers
from convnets.pages import page
from convnets.serving import predict
from convnets.serving.decoder import Decoder

HOST = "127.0.0.1"
NAMES = ["localhost", HOST, "[::1]"]  # a tunnel such as SSH's may end at the last one
REQUEST = 256_000_000  # bytes of a request's body
PATIENCE = 30  # seconds for a request to arrive, then its body, and for a client to take its answer
GRACE = 5  # seconds to end the running requests after Ctrl-C
END = 7  # seconds after which the process ends in any case
# Of the files that the process may open, half are for connections, the others for their pictures.
CONNECTIONS = min(256, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
# Requests at a time. More would fill the disk, or memory, with their bodies.
WAITING = min(32, CONNECTIONS // 2)
PAGE = resources.files("convnets.serving").joinpath("serve.html").read_text("utf-8")
FILES = {
    "type": "array",
    "maxItems": predict.BATCH,
    "items": {"type": "string", "format": "binary"},
}
SCHEMA = {"type": "object", "required": ["files"], "properties": {"files": FILES}}
FORM = {"required": True, "content": {"multipart/form-data": {"schema": SCHEMA}}}

# The client gets the reasons of the first. The second would tell of each connection that waits for
# a descriptor, a thousand times a second.
for library in ("python_multipart", "asyncio"):
    logging.getLogger(library).setLevel(logging.CRITICAL)


@cache
def _warn(line: str) -> None:
    """Tell once what may happen a thousand times a second."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


class _Server(uvicorn.Server):
    """Uvicorn's server, but it ends. Uvicorn waits for clients that never read."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        last = threading.Timer(END, _end)
        last.daemon = True
        last.start()


def _end() -> None:
    for process in multiprocessing.active_children():
        process.kill()
    os._exit(0)  # nothing is half-written: a request's files have no names


class _Connection(H11Protocol):
    """Uvicorn's connection, closed if the next request does not arrive, whole, within `PATIENCE`.

    Uvicorn stops the clock at any byte: a client that sends one a minute could stay for ever. So
    could one that does not read its answer. Of too many, the one that is due first is closed.
    """

    unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that `pause_writing` tells of any unread byte
        self.timeout_keep_alive_task = self.loop.call_later(PATIENCE, transport.abort)
        if len(self.connections) > CONNECTIONS:
            first = min(cast(set[_Connection], self.connections), key=_Connection.due)
            self.connections.discard(first)
            first.transport.abort()

    def due(self) -> float:
        """Return when the connection is closed, if the client does nothing."""
        clock = self.timeout_keep_alive_task or self.unread
        return clock.when() if clock else math.inf

    def data_received(self, data: bytes) -> None:
        self.conn.receive_data(data)
        self.handle_events()  # stops the clock at a request

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()

    def shutdown(self) -> None:
        if self.unread is not None:
            self.transport.abort()
        super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self.unread = self.loop.call_later(PATIENCE, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.unread is not None:
            self.unread.cancel()
            self.unread = None


class _Form(MultiPartParser):
    """A form's files. What is in other fields is not kept."""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is not None:
            super().on_part_data(data, start, end)


def answer(
    model: keras.Model,
    classes: list[str],
    pictures: list[tuple[str, NDArray[np.uint8] | ImageError]],
    evidence: bool,
) -> list[dict[str, Any]]:
    """Return for each picture its prediction, or the error why it cannot be read.

    Args:
        model: from `predict.load`.
        classes: the class names.
        pictures: names, and the pixels or the error.
        evidence: add each picture with its evidence in colours, as the data URI of a PNG.
    """
    rows: list[dict[str, Any]] = [{"file": name, "error": str(found)} for name, found in pictures]
    decoded = {n: found for n, (_, found) in enumerate(pictures) if isinstance(found, np.ndarray)}
    if decoded:
        pixels = np.stack(list(decoded.values()))
        outputs = answers.by_class(model.predict_on_batch(pixels))
        for place, row in zip(decoded, outputs, strict=True):
            rows[place] = predict.row(predict.Prediction(pictures[place][0], row), classes)
        if evidence:
            shown = predict.overlays(model, pixels, outputs)
            for place, picture in zip(decoded, shown, strict=True):
                png = io.BytesIO()
                picture.save(png, "PNG")
                content = base64.b64encode(png.getvalue()).decode()
                rows[place]["evidence"] = f"data:image/png;base64,{content}"
    return rows


def _decoded(decoder: Decoder, upload: UploadFile) -> NDArray[np.uint8] | ImageError:
    try:
        return decoder(predict.content(upload.file))
    except ImageError as error:
        return error


async def _limited(request: Request) -> AsyncGenerator[bytes, None]:
    """Yield a request's body. It stays bounded without a declared length, too."""
    total = 0
    async for chunk in request.stream():
        total += len(chunk)
        if total > REQUEST:
            raise HTTPException(413, f"more than {REQUEST / 1e6:.0f} MB; send fewer files")
        yield chunk


async def _uploads(request: Request) -> list[UploadFile]:
    """Return the files of a form. Those of more than 1 MB are on the disk."""
    form = _Form(request.headers, _limited(request), max_files=predict.BATCH)
    try:
        async with asyncio.timeout(PATIENCE):
            found = (await form.parse()).getlist("files")
    except TimeoutError as error:
        raise HTTPException(408, f"not sent within {PATIENCE} seconds; try again") from error
    except ClientDisconnect as error:
        raise HTTPException(400, "the connection was lost") from error
    except (MultiPartException, ValueError) as error:  # the second: names in an odd encoding
        reason = getattr(error, "message", "Invalid multipart data.").rstrip(".")
        raise HTTPException(
            400, f"{reason}; send 1 to {predict.BATCH} image files as the form's `files`"
        ) from error
    uploads = [each for each in found if isinstance(each, UploadFile)]
    if not uploads:
        raise HTTPException(422, "no files; send image files as the form's `files`")
    return uploads


def application(
    model: keras.Model,
    classes: list[str],
    worker: ThreadPoolExecutor,
    decoder: Decoder,
    names: list[str],
    sites: list[str],
) -> FastAPI:
    """Return the page and the API.

    Args:
        model: from `predict.load`.
        classes: the class names.
        worker: of one thread: neither decoding nor Keras is for several.
        decoder: to the model's size.
        names: what requests may call this server, such as localhost.
        sites: names whose pages may send pictures, as a proxy gives them to this server's page.
    """
    # FastAPI's own pages of documentation load scripts from the network. Ours needs none.
    app = FastAPI(title="convnets", docs_url=None, redoc_url=None)
    # A page on the web may give its name this machine's address. Then the name is still the page's.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=names)
    slots = asyncio.Semaphore(WAITING)

    @app.get("/", response_class=HTMLResponse)
    async def shown() -> str:
        """A page to try pictures on."""
        return PAGE

    @app.get("/health")
    async def health() -> dict[str, str]:
        """Tell that the server answers."""
        return {"status": "ok"}

    @app.post("/predict", response_model=list[dict[str, Any]], openapi_extra={"requestBody": FORM})
    async def classify(request: Request, evidence: bool = False) -> JSONResponse:
        """Classify the pictures of a form. The answers are in the order of the files.

        An answer has the class, and the probability of each class by name. With `evidence`, it has
        also the picture with its evidence in colours (Grad-CAM). For a picture that cannot be read,
        it has the error. The status is 422 if there is no other.
        """
        origin = request.headers.get("origin")
        site = re.sub(r":\d+$", "", (origin or "").partition("://")[2])
        if origin not in (None, f"http://{request.headers['host']}") and site not in sites:
            raise HTTPException(403, "another site's page; use this server's own")
        kind = request.headers.get("content-type", "").partition(";")[0]
        if kind.strip().lower() != "multipart/form-data":
            raise HTTPException(415, "not multipart/form-data; send files as the form's `files`")
        if slots.locked():
            raise HTTPException(503, "busy; try again", headers={"Retry-After": "1"})
        async with slots:
            try:
                uploads = await _uploads(request)
                run = partial(asyncio.get_running_loop().run_in_executor, worker)
                pictures = []
                for upload in uploads:  # one at a time, so that requests take turns
                    pictures.append((_name(upload), await run(_decoded, decoder, upload)))
                    await upload.close()
                rows = await run(answer, model, classes, pictures, evidence)
            except asyncio.CancelledError as error:  # after `GRACE`; Uvicorn would print it
                raise HTTPException(503, "the server was stopped; start it again") from error
        status = 200 if any("class" in row for row in rows) else 422
        return JSONResponse(rows, status)

    @app.exception_handler(OSError)
    async def full(_: Request, error: OSError) -> JSONResponse:
        """Tell what is missing for a request: descriptors, or a place for its files."""
        status, remedy = 507, "free some space in the temporary folder, or set TMPDIR"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            status, remedy = 503, "raise the limit with `ulimit -n`"
        told = f"{error.strerror or error}; {remedy}"
        _warn(told)
        return JSONResponse({"detail": told}, status, {"Retry-After": "1"})

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def interface(request: Request) -> str:
        return _interface(app.openapi(), request.url.port)

    return app


def _interface(schema: dict[str, Any], port: int | None) -> str:
    return page.render("convnets.serving", "interface.html", {"schema": schema, "port": port})


def _name(upload: UploadFile) -> str:
    """Return a file's name, which may be anything, as text that UTF-8 has."""
    return (upload.filename or "").encode(errors="replace").decode()


def _headers() -> list[tuple[str, str]]:
    """Return the headers of all answers. The pages run their own script only, and load nothing."""
    own: dict[str, str] = {}
    for html in (PAGE, _interface({"paths": {}}, None)):
        for kind, text in re.findall(r"<(style|script)>(.*?)</\1>", html, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
            own[kind] = f"{own.get(kind, '')} 'sha256-{digest}'"
    policy = (
        "default-src 'none'; connect-src 'self'; img-src blob: data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; "
        + "; ".join(f"{kind}-src{digests}" for kind, digests in own.items())
    )
    return [
        ("Content-Security-Policy", policy),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "no-store"),
    ]


def serve(name: str, port: int, host: str, sites: list[str]) -> None:
    """Serve a model until Ctrl-C or SIGTERM.

    Args:
        name: see `predict.load`.
        port: 0 takes any free one.
        host: the address to listen at, or its name. `HOST` is for this machine only.
        sites: see `application`.

    Raises:
        InputError: the address or the port cannot be used, or the model, see `predict.load`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        where = "" if host == HOST else f"correct --host {host}, or "
        raise InputError(f"port {port}: {reason}; {where}choose another with --port") from error
    for site in sites:
        if not re.fullmatch(r"[\w.-]+|\[[\da-fA-F:.]+\]", site):
            raise InputError(f"--allow-host {site}: not a name; leave out http:// and the port")
        _warn(f"--allow-host {site}: pages of {site} can send pictures to this server")
    bound = ipaddress.ip_address(listening.getsockname()[0].partition("%")[0])
    if not bound.is_loopback:
        _warn(f"--host {host}: whoever reaches it can send pictures; no password, no encryption")
    own = {"0.0.0.0": HOST, "::": "::1"}.get(str(bound), host)  # noqa: S104
    own = f"[{own}]" if ":" in own else own
    with listening:
        model, classes = predict.load(name)
        with ThreadPoolExecutor(1) as worker, Decoder(model.input_shape[1]) as decoder:
            blank = np.zeros(model.input_shape[1:], np.uint8)
            for count in (1, 2):  # Keras compiles for one picture, then for any number
                worker.submit(model.predict_on_batch, np.stack([blank] * count)).result()
            worker.submit(predict.overlays, model, blank[None], np.eye(1, len(classes))).result()
            config = uvicorn.Config(
                application(model, classes, worker, decoder, [*NAMES, own, *sites], sites),
                loop="asyncio",
                http=_Connection,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                proxy_headers=False,
                server_header=False,
                headers=_headers(),
                backlog=CONNECTIONS,
                timeout_keep_alive=PATIENCE,
                timeout_graceful_shutdown=GRACE,
            )
            with suppress(KeyboardInterrupt):  # Uvicorn sends it again after it has stopped
                place = f"http://{own}:{listening.getsockname()[1]}"
                say(f"{place} classifies pictures; Ctrl-C stops it")
                _Server(config).run(sockets=[listening])
            _end()  # without Python's own end, which takes TensorFlow seconds
