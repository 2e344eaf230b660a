"""A page and an API that classify pictures, by default for this machine only."""

import asyncio
import base64
import errno
import hashlib
import io
import ipaddress
import logging
import re
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import IO, Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse
from numpy.typing import NDArray
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from convnets.base import files
from convnets.base.console import InputError
from convnets.listing.kinds import FORMATS, ImageError, kind
from convnets.serving import predict, runtime, server
from convnets.serving.decoder import Decoder
from convnets.serving.runtime import Classifier

REQUEST = 256_000_000  # bytes of a request's body
# Requests at a time. More would fill the disk, or memory, with their bodies.
WAITING = min(32, server.CONNECTIONS // 2)
PAGE = resources.files("convnets.serving").joinpath("serve.html").read_text("utf-8")
FILES = {
    "type": "array",
    "maxItems": predict.BATCH,
    "items": {"type": "string", "format": "binary"},
}
SCHEMA = {"type": "object", "required": ["files"], "properties": {"files": FILES}}
FORM = {"required": True, "content": {"multipart/form-data": {"schema": SCHEMA}}}

logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # the client gets the reasons


class _Form(MultiPartParser):
    """A form's files. What is in other fields is not kept."""

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._current_part.file is not None:
            super().on_part_data(data, start, end)


Pictures = list[tuple[str, NDArray[np.uint8] | ImageError]]  # names, and the pixels or the error
Rows = list[dict[str, Any]]


def answer(model: Classifier, pictures: Pictures) -> Rows:
    """Return for each picture its prediction, or the error why it cannot be read."""
    rows: Rows = [{"file": name, "error": str(found)} for name, found in pictures]
    if decoded := _pixels(pictures):
        names = [pictures[place][0] for place in decoded]
        made = predict.predictions(names, model(np.stack(list(decoded.values()))))
        for place, one in zip(decoded, made, strict=True):
            rows[place] = predict.row(one, model.classes)
    return rows


def add_evidence(model: Classifier, pictures: Pictures, rows: Rows) -> None:
    """Add to `answer` each picture with its evidence in colours, as the data URI of a PNG."""
    if decoded := _pixels(pictures):
        shares = np.array([list(rows[place]["probabilities"].values()) for place in decoded])
        shown = predict.overlays(model.model, np.stack(list(decoded.values())), shares)
        for place, picture in zip(decoded, shown, strict=True):
            png = io.BytesIO()
            picture.save(png, "PNG")
            content = base64.b64encode(png.getvalue()).decode()
            rows[place]["evidence"] = f"data:image/png;base64,{content}"


def _pixels(pictures: Pictures) -> dict[int, NDArray[np.uint8]]:
    return {n: found for n, (_, found) in enumerate(pictures) if isinstance(found, np.ndarray)}


def keep(file: IO[bytes], label: str, classes: list[str], folder: Path) -> str:
    """Store a picture that a person has given a class, once, and return its place.

    Args:
        file: which the decoder has read.
        label: its class.
        classes: all of the model. The picture leaves another one in which it was stored.
        folder: gets `train/CLASS/SHA256.ENDING`.

    Raises:
        InputError: the class is none of the model's or cannot be a folder, or the disk is full.
    """
    from convnets.serving.sort import folders  # which the first answer does not need

    places = dict(zip(classes, folders(classes), strict=True))
    if places.get(label) != label:
        raise InputError(f"{label!r}: no class, or its name cannot be a folder's")
    file.seek(0)
    content = predict.content(file)
    ending = FORMATS[kind(content) or ""][1].split()[0]
    name = f"{hashlib.sha256(content).hexdigest()}.{ending}"
    place = folder / "train" / label / name
    for old in (folder / "train" / each / name for each in classes if places[each] == each):
        if old != place and old.exists():
            place.parent.mkdir(exist_ok=True)
            old.replace(place)
    if not place.exists():
        files.room(place, len(content))
        with files.atomic(place) as part:
            part.write_bytes(content)
    return str(place)


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
        async with asyncio.timeout(server.PATIENCE):
            found = (await form.parse()).getlist("files")
    except TimeoutError as error:
        raise HTTPException(408, f"not sent within {server.PATIENCE} seconds; try again") from error
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
    model: Classifier,
    worker: ThreadPoolExecutor,
    slow: ThreadPoolExecutor,
    decoder: Decoder,
    names: list[str],
    sites: list[str],
    collect: Path | None = None,
) -> FastAPI:
    """Return the page and the API.

    Args:
        model: from `runtime.load`.
        worker: of one thread: neither decoding nor Keras is for several.
        slow: for the evidence: another, unless Keras computes all.
        decoder: to the model's size.
        names: what requests may call this server, such as localhost.
        sites: names whose pages may send pictures, as a proxy gives them to this server's page.
        collect: a folder for pictures with the classes that people give them; None: none is stored.
    """
    # FastAPI's own pages of documentation load scripts from the network. Ours needs none.
    app = FastAPI(title="convnets", docs_url=None, redoc_url=None)
    # A page on the web may give its name this machine's address. Then the name is still the page's.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=names)
    slots = asyncio.Semaphore(WAITING)

    @app.get("/", response_class=HTMLResponse)
    async def shown() -> str:
        """A page to try pictures on."""
        return PAGE if collect is None else PAGE.replace("<body>", "<body data-collect>", 1)

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
        async with received(request) as uploads:
            pictures = []
            for upload in uploads:  # one at a time, so that requests take turns
                pictures.append((_name(upload), await run(worker, _decoded, decoder, upload)))
                await upload.close()
            rows = await run(worker, answer, model, pictures)
            if evidence:
                await run(slow, add_evidence, model, pictures, rows)
        status = 200 if any("class" in row for row in rows) else 422
        return JSONResponse(rows, status)

    @asynccontextmanager
    async def received(request: Request) -> AsyncGenerator[list[UploadFile], None]:
        """Yield a form's files, of this server's page or of no page."""
        server.refuse_other_pages(request, sites)
        kind = request.headers.get("content-type", "").partition(";")[0]
        if kind.strip().lower() != "multipart/form-data":
            raise HTTPException(415, "not multipart/form-data; send files as the form's `files`")
        if slots.locked():
            raise HTTPException(503, "busy; try again", headers={"Retry-After": "1"})
        async with slots:
            try:
                yield await _uploads(request)
            except asyncio.CancelledError as error:  # after `GRACE`; Uvicorn would print it
                raise HTTPException(503, "the server was stopped; start it again") from error

    async def run(pool: ThreadPoolExecutor, function: Callable[..., Any], *given: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(pool, function, *given)

    if collect is not None:

        @app.post("/collect", openapi_extra={"requestBody": FORM})
        async def correct(request: Request, label: Annotated[str, Query(alias="class")]) -> Any:
            """Store the picture of a form in the folder of its class, for the next training."""
            async with received(request) as uploads:
                if len(uploads) > 1:
                    raise HTTPException(422, "more than one file; send one")
                found = await run(worker, _decoded, decoder, uploads[0])
                if isinstance(found, ImageError):
                    raise HTTPException(422, str(found))
                given = (uploads[0].file, label, model.classes, collect)
                return {"stored": await run(worker, keep, *given)}

    @app.exception_handler(InputError)
    async def unusable(_: Request, error: InputError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.exception_handler(OSError)
    async def full(_: Request, error: OSError) -> JSONResponse:
        """Tell what is missing for a request: descriptors, or a place for its files."""
        status, remedy = 507, "free some space in the temporary folder, or set TMPDIR"
        if collect is not None and str(error.filename).startswith(str(collect)):
            remedy = f"make room in {collect}, and let it be written"
        if error.errno in (errno.EMFILE, errno.ENFILE):
            status, remedy = 503, "raise the limit with `ulimit -n`"
        told = f"{error.strerror or error}; {remedy}"
        server.warn(told)
        return JSONResponse({"detail": told}, status, {"Retry-After": "1"})

    @app.get("/docs", response_class=HTMLResponse, include_in_schema=False)
    async def interface(request: Request) -> str:
        return _interface(app.openapi(), request.url.port)

    return app


def _interface(schema: dict[str, Any], port: int | None) -> str:
    from convnets.pages import page  # which the first answer does not need

    return page.render("convnets.serving", "interface.html", {"schema": schema, "port": port})


def _name(upload: UploadFile) -> str:
    """Return a file's name, which may be anything, as text that UTF-8 has."""
    return (upload.filename or "").encode(errors="replace").decode()


def serve(name: str, port: int, host: str, sites: list[str], collect: Path | None = None) -> None:
    """Serve a model until Ctrl-C or SIGTERM.

    Args:
        name: see `runtime.load`.
        port: 0 takes any free one.
        host: the address to listen at, or its name. `HOST` is for this machine only.
        sites: see `application`.
        collect: see `application`.

    Raises:
        InputError: the address or the port cannot be used, or the model, see `runtime.load`.
    """
    listening = server.listen(host, port)
    for site in sites:
        if not re.fullmatch(r"[\w.-]+|\[[\da-fA-F:.]+\]", site):
            raise InputError(f"--allow-host {site}: not a name; leave out http:// and the port")
        server.warn(f"--allow-host {site}: pages of {site} can send pictures to this server")
    bound = ipaddress.ip_address(listening.getsockname()[0].partition("%")[0])
    if not bound.is_loopback:
        server.warn(
            f"--host {host}: whoever reaches it can send pictures; no password, no encryption"
        )
    own = {"0.0.0.0": server.HOST, "::": "::1"}.get(str(bound), host)  # noqa: S104
    own = f"[{own}]" if ":" in own else own
    with listening:
        model = runtime.load(name)
        with (
            ThreadPoolExecutor(1) as worker,
            ThreadPoolExecutor(1) as another,
            Decoder(model.size) as decoder,
        ):
            blank = np.zeros((2, model.size, model.size, 3), np.uint8)
            for count in (1, 1, 2):  # Keras compiles for the second, then for any number
                worker.submit(model, blank[:count]).result()
            slow = another if model.without_keras else worker
            known = [*server.NAMES, own, *sites]
            app = application(model, worker, slow, decoder, known, sites, collect)
            place = f"http://{own}:{listening.getsockname()[1]}"
            told = f"{place} classifies pictures; Ctrl-C stops it"
            server.run(app, listening, told, PAGE, _interface({"paths": {}}, None))
