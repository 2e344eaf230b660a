"""A server for a browser, by default on this machine: bounded, of one origin, and it ends."""

import asyncio
import base64
import hashlib
import logging
import math
import multiprocessing
import os
import re
import resource
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from uvicorn.protocols.http.h11_impl import H11Protocol

from convnets.base.console import InputError, say

HOST = "127.0.0.1"
NAMES = ["localhost", HOST, "[::1]"]  # a tunnel such as SSH's may end at the last one
PATIENCE = 30  # seconds for a request to arrive, then its body, and for a client to take its answer
GRACE = 5  # seconds to end the running requests after Ctrl-C
END = 7  # seconds after which the process ends in any case
# Of the files that the process may open, half are for connections, the others for what they need.
CONNECTIONS = min(256, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)

# It would tell of each connection that waits for a descriptor, a thousand times a second.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)


@cache
def warn(line: str) -> None:
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


def refuse_other_pages(request: Request, sites: Sequence[str] = ()) -> None:
    """Refuse what a page sends that is neither this server's own nor one of `sites`.

    Raises:
        HTTPException: it is another's.
    """
    origin = request.headers.get("origin")
    site = re.sub(r":\d+$", "", (origin or "").partition("://")[2])
    if origin not in (None, f"http://{request.headers['host']}") and site not in sites:
        raise HTTPException(403, "another site's page; use this server's own")


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Args:
        host: an address or its name. `HOST` is for this machine only.
        port: 0 takes any free one.

    Raises:
        InputError: the address or the port cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        where = "" if host == HOST else f"correct --host {host}, or "
        raise InputError(f"port {port}: {reason}; {where}choose another with --port") from error


def _headers(pages: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the headers of all answers. The pages run their own script only, and load nothing."""
    own: dict[str, str] = {}
    for html in pages:
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


def run(app: FastAPI, listening: socket.socket, told: str, *pages: str) -> None:
    """Serve until Ctrl-C or SIGTERM. Then the process ends.

    Args:
        app: the application.
        listening: from `listen`.
        told: the line that says where.
        pages: its pages, whose scripts may run.
    """
    config = uvicorn.Config(
        app,
        loop="asyncio",
        http=_Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        headers=_headers(pages),
        backlog=CONNECTIONS,
        timeout_keep_alive=PATIENCE,
        timeout_graceful_shutdown=GRACE,
    )
    with suppress(KeyboardInterrupt):  # Uvicorn sends it again after it has stopped
        say(told)
        _Server(config).run(sockets=[listening])
    _end()  # without Python's own end, which takes TensorFlow seconds
