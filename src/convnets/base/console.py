"""What a person sees of a stage: one-line errors, progress, no framework noise."""

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

# The failures of a disk that its owner can mend; any other is a defect of ours.
REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "use a disk that can be written to",
    errno.EACCES: "allow it to be read and written",
    errno.EPERM: "allow it to be read and written",
    errno.ENOTDIR: "a folder must be there; move the file away",
    errno.EEXIST: "a folder must be there; move the file away",
    errno.EISDIR: "a file must be there; move the folder away",
}


class InputError(ValueError):
    """Something given from outside cannot be used; the message says what, why and the remedy."""


def say(message: str) -> None:
    """Print one plain line at once, also into a pipe."""
    print(message, flush=True)


def hush() -> None:
    """Keep off the terminal what TensorFlow says when it is imported, until `unhush` or `run`.

    Its libraries log to file descriptor 2 while they are loaded, before they heed any setting, so
    until then that leads nowhere. Python's own `sys.stderr` is kept.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for what they log later
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    _hushed.callback(os.dup2, sys.stderr.fileno(), 2)
    with Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), 2)


def unhush() -> None:
    """End what `hush` began, if it did."""
    _hushed.close()


def printable(text: str) -> str:
    """Return a text from outside in one line, without codes that would command a terminal."""
    return text if text.isprintable() else ascii(text)


def run(main: Callable[[], None]) -> None:
    """Run a program's `main`, turning what a person can mend into one line and an exit status.

    Exits with 1 after an `InputError` or where the disk is full or may not be written to, and 130
    after Ctrl-C or SIGTERM; any other exception is a defect of ours and keeps its traceback.
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
        print("stopped; run it again to go on", file=sys.stderr)
        sys.exit(130)


@contextmanager
def bar(what: str, total: int, done: int, console: Console) -> Iterator[Callable[[], None]]:
    """Show a bar with the time left while the block runs, and give it a function to advance it.

    Args:
        what: the work's name, such as "decode".
        total: how many steps there are.
        done: how many of them were done before.
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
    """Yield `items`, showing a bar with the time left on a terminal and some plain lines elsewhere.

    Args:
        items: what to go through.
        what: the work's name, such as "decode".
        total: how many items there will be.
        beside_output: stdout is for results: show the bar on stderr, and elsewhere nothing.
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
