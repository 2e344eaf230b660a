"""What a person sees of a stage: one-line errors, progress, no framework noise."""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

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


def run(main: Callable[[], None]) -> None:
    """Run a program's `main`, turning what a person can mend into one line and an exit status.

    Exits with 1 after an `InputError` or where the disk is full or may not be written to, and 130
    after Ctrl-C or SIGTERM; any other exception is a defect of ours and keeps its traceback.
    """
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


def progress(items: Iterable[T], what: str, total: int) -> Iterator[T]:
    """Yield `items`, showing a bar with the time left on a terminal and some plain lines elsewhere.

    Args:
        items: what to go through.
        what: the work's name, such as "decode".
        total: how many items there will be.
    """
    if Console().is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, transient=True) as bar:
            yield from bar.track(items, total=total)
        return
    marks = {max(1, total * quarter // 4) for quarter in range(1, 5)}
    for count, item in enumerate(items, start=1):
        yield item
        if count in marks:
            say(f"{what}: {count}/{total}")
