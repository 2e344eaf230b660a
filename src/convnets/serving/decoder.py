"""Pictures decoded in a process of its own: it imports little, and can be ended at any time."""

import multiprocessing
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from convnets.listing.kinds import ImageError
from convnets.pictures import images

SECONDS = 10  # of computing, for one picture


class Decoder:
    """Decodes pictures to a size, as `images.decode`. One that takes too long costs only itself."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __enter__(self) -> Self:
        spawn = multiprocessing.get_context("spawn")  # TensorFlow's threads allow no fork
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_decode, args=(theirs, self.size, SECONDS), daemon=True)
        self.process.start()
        theirs.close()  # so that this end sees the process end
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()

    def __call__(self, content: bytes) -> NDArray[np.uint8]:
        if not self.process.is_alive():
            self.__enter__()
        try:
            self.pipe.send_bytes(content)
            found: Any = self.pipe.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            limit = f"more than {SECONDS} seconds, or too much memory"
            raise ImageError(f"takes {limit}; make it smaller") from error
        if isinstance(found, ImageError):
            raise found
        return np.asarray(found)


def _decode(pipe: Connection, size: int, seconds: float) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # what is sent to all is for the server
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, OSError):  # the server has ended
        while True:
            content = pipe.recv_bytes()
            signal.setitimer(signal.ITIMER_PROF, seconds)  # the system ends the process then
            try:
                found: Any = images.decode(content, size)
            except ImageError as error:
                found = error
            signal.setitimer(signal.ITIMER_PROF, 0)
            pipe.send(found)
