"""A page and an API that classify pictures, for this machine only."""

import asyncio
import base64
import hashlib
import io
import logging
import re
import socket
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import resources
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
from convnets.data import images, page
from convnets.models import answers
from convnets.serving import predict

HOST = "127.0.0.1"
NAMES = ["localhost", HOST, "[::1]"]  # a tunnel such as SSH's may end at the last one
REQUEST = 256_000_000  # bytes of a request's body
WAITING = 32  # requests at a time. More would fill the disk, or memory, with their bodies
PATIENCE = 30  # seconds for a request to arrive, then its body, and for a client to take its answer
GRACE = 10  # seconds to end the running requests after Ctrl-C
PAGE = resources.files("convnets.serving").joinpath("serve.html").read_text("utf-8")
FILES = {
    "type": "array",
    "maxItems": predict.BATCH,
    "items": {"type": "string", "format": "binary"},
}
SCHEMA = {"type": "object", "required": ["files"], "properties": {"files": FILES}}
FORM = {"required": True, "content": {"multipart/form-data": {"schema": SCHEMA}}}

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the client gets the reason


class _Connection(H11Protocol):
    """Uvicorn's connection, closed if the next request does not arrive, whole, within `PATIENCE`.

    Uvicorn stops the clock at any byte: a client that sends one a minute could stay for ever. So
    could one that does not read its answer.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(PATIENCE, transport.abort)

    def data_received(self, data: bytes) -> None:
        self.conn.receive_data(data)
        self.handle_events()  # stops the clock at a request

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()


def answer(
    model: keras.Model, classes: list[str], files: list[tuple[str, Any]], evidence: bool
) -> list[dict[str, Any]]:
    """Return for each picture its prediction, or the error why it cannot be read.

    Args:
        model: from `predict.load`.
        classes: the class names.
        files: names and open binary files.
        evidence: add each picture with its evidence in colours, as the data URI of a PNG.
    """
    rows: dict[int, dict[str, Any]] = {}
    decoded: dict[int, NDArray[np.uint8]] = {}
    for place, (name, file) in enumerate(files):
        try:
            decoded[place] = images.decode(predict.content(file), model.input_shape[1])
        except (OSError, ValueError) as error:
            rows[place] = {"file": name, "error": str(error)}
    if decoded:
        pixels = np.stack(list(decoded.values()))
        outputs = answers.by_class(model.predict_on_batch(pixels))
        for place, row in zip(decoded, outputs, strict=True):
            rows[place] = predict.row(predict.Prediction(files[place][0], row), classes)
        if evidence:
            shown = predict.overlays(model, pixels, outputs)
            for place, picture in zip(decoded, shown, strict=True):
                png = io.BytesIO()
                picture.save(png, "PNG")
                content = base64.b64encode(png.getvalue()).decode()
                rows[place]["evidence"] = f"data:image/png;base64,{content}"
    return [rows[place] for place in range(len(files))]


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
    form = MultiPartParser(
        request.headers, _limited(request), max_files=predict.BATCH, max_fields=0
    )
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
    if not found:
        raise HTTPException(422, "no files; send image files as the form's `files`")
    return cast(list[UploadFile], found)  # a form without fields has nothing else


def application(model: keras.Model, classes: list[str], worker: ThreadPoolExecutor) -> FastAPI:
    """Return the page and the API.

    Args:
        model: from `predict.load`.
        classes: the class names.
        worker: of one thread: neither decoding nor Keras is for several.
    """
    # FastAPI's own pages of documentation load scripts from the network. Ours needs none.
    app = FastAPI(title="convnets", docs_url=None, redoc_url=None)
    # A page on the web may give its name this machine's address. Then the name is still the page's.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=NAMES)
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
        if origin not in (None, f"http://{request.headers['host']}"):
            raise HTTPException(403, "another site's page; use this server's own")
        if not request.headers.get("content-type", "").startswith("multipart/form-data"):
            raise HTTPException(415, "not multipart/form-data; send files as the form's `files`")
        if slots.locked():
            raise HTTPException(503, "busy; try again", headers={"Retry-After": "1"})
        async with slots:
            try:
                uploads = await _uploads(request)
                files = [(_name(upload), upload.file) for upload in uploads]
                loop = asyncio.get_running_loop()
                rows = await loop.run_in_executor(worker, answer, model, classes, files, evidence)
                for upload in uploads:
                    await upload.close()
            except asyncio.CancelledError as error:  # after `GRACE`; Uvicorn would print it
                raise HTTPException(503, "the server was stopped; start it again") from error
        status = 200 if any("class" in row for row in rows) else 422
        return JSONResponse(rows, status)

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


def serve(name: str, port: int) -> None:
    """Serve a model on this machine's own address until Ctrl-C or SIGTERM.

    Args:
        name: see `predict.load`.
        port: 0 takes any free one.

    Raises:
        InputError: the port cannot be used, or the model, see `predict.load`.
    """
    try:
        listening = socket.create_server((HOST, port))
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(f"port {port}: {reason}; choose another with --port") from error
    with listening, ThreadPoolExecutor(1) as worker:
        model, classes = predict.load(name)
        blank = np.zeros(model.input_shape[1:], np.uint8)
        for count in (1, 2):  # Keras compiles for one picture, then for any number
            worker.submit(model.predict_on_batch, np.stack([blank] * count)).result()
        worker.submit(predict.overlays, model, blank[None], np.eye(1, len(classes))).result()
        config = uvicorn.Config(
            application(model, classes, worker),
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
            timeout_keep_alive=PATIENCE,
            timeout_graceful_shutdown=GRACE,
        )
        with suppress(KeyboardInterrupt):  # Uvicorn sends it again after it has stopped
            say(f"http://{HOST}:{listening.getsockname()[1]} classifies pictures; Ctrl-C stops it")
            uvicorn.Server(config).run(sockets=[listening])
