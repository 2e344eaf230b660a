"""Terminal output of a stage: one-line errors, progress, no framework noise."""

import errno
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")
_hushed = ExitStack()

# Disk errors that the user can fix. Any other OSError is a bug.
REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "use a writable disk",
    errno.EACCES: "make it readable and writable",
    errno.EPERM: "make it readable and writable",
    errno.ENOTDIR: "expected a folder there; move the file away",
    errno.EEXIST: "expected a folder there; move the file away",
    errno.EISDIR: "expected a file there; move the folder away",
}


class InputError(ValueError):
    """Unusable input from outside. The message says what is wrong, why, and how to fix it."""


def say(message: str) -> None:
    """Print one plain line and flush it, so that a pipe gets it at once."""
    print(message, flush=True)


def hush() -> None:
    """Prepare for the import of Keras: silence TensorFlow until `unhush` or `run`.

    Keras takes TensorFlow, whatever backend the user has set. TensorFlow's libraries log to file
    descriptor 2 while they load, before any setting takes effect. Until then the descriptor points
    to the null device. Python's own `sys.stderr` still works.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for messages logged later
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    _hushed.callback(os.dup2, sys.stderr.fileno(), 2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def unhush() -> None:
    """Undo `hush`, if it was called."""
    _hushed.close()


def printable(text: str) -> str:
    """Return external text on one line, without terminal control codes."""
    return text if text.isprintable() else ascii(text)


def run(main: Callable[[], None]) -> None:
    """Run a program's `main`. Turn errors that the user can fix into one line and an exit status.

    Exits with 1 after an `InputError`, or if the disk is full or not writable. Exits with 130 after
    Ctrl-C or SIGTERM. Any other exception is a bug and keeps its traceback.
    """
    unhush()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        if error.errno not in REMEDIES:
            raise
        problem, remedy = os.strerror(error.errno), REMEDIES[error.errno]
        print(f"error: {error.filename or Path.cwd()}: {problem}; {remedy}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("stopped; run it again to resume", file=sys.stderr)
        sys.exit(130)


@contextmanager
def bar(what: str, total: int, done: int, console: Console) -> Iterator[Callable[[], None]]:
    """Show a progress bar with the time left, and yield a function that advances it.

    Args:
        what: the task's name, such as "decode".
        total: number of steps.
        done: number of steps already done.
        console: a terminal.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(escape(what), total=total, completed=done)
        yield lambda: shown.advance(task)


def progress(items: Iterable[T], what: str, total: int, beside_output: bool = False) -> Iterator[T]:
    """Yield `items` with a progress bar on a terminal, or with a few plain lines elsewhere.

    Args:
        items: the items to yield.
        what: the task's name, such as "decode".
        total: number of items.
        beside_output: stdout is for results. Show the bar on stderr, and no plain lines.
    """
    console = Console(stderr=beside_output)
    if console.is_terminal:
        with bar(what, total, 0, console) as advance:
            for item in items:
                yield item
                advance()
        return
    marks = {max(1, total * quarter // 4) for quarter in range(1, 5)}
    for count, item in enumerate(items, start=1):
        yield item
        if count in marks and not beside_output:
            say(f"{what}: {count}/{total}")
