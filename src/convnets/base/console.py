"""Terminal output of a stage: one-line errors, progress, no framework noise."""

import ctypes
import difflib
import errno
import gc
import getpass
import logging
import os
import re
import select
import signal
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from rich.console import Console

T = TypeVar("T")
_SCHEME = r"(?i:https?:[/\\]+|[a-z][a-z0-9+.-]+:[/\\]{2,})"  # of an address
_hushed = ExitStack()
# Figures go into files. A notebook's setting may name a backend that is not installed here.
os.environ["MPLBACKEND"] = "Agg"
try:
    getpass.getuser()
except (KeyError, OSError):  # as in a container with `--user 12345`: libraries ask for a name
    os.environ["USER"] = "user"
# Keras and TensorFlow import these if they are there, for parts that nothing here uses. They are a
# third of the time that Keras takes. Who needs one imports it: later, or before.
OPTIONAL = ("matplotlib", "pandas", "scipy", "sklearn")
# glibc gives large blocks back to the system at once. Then the system clears as many new pages for
# the next tensor, which takes up to a fifth of a training's time. So it keeps them. Of each
# variable, what `mallopt` calls it, and the value.
KEEP_MEMORY = {
    "MALLOC_MMAP_MAX_": (-4, 0),
    "MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1),
    "MALLOC_ARENA_MAX": (-8, 1),
}

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
    errno.EIO: "the disk fails; check it",
    errno.ESTALE: "the network disk is gone; mount it again",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "raise the limit with `ulimit -n`",
    errno.ENOMEM: "close programs, or take fewer, smaller images",
}


class InputError(ValueError):
    """Unusable input from outside. The message says what is wrong, why, and how to fix it."""


class _WithoutOptional(MetaPathFinder):
    """Says to Keras, while it is imported, that the optional libraries are not installed."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        keras = sys.modules.get("keras")
        if name in OPTIONAL and keras and not hasattr(keras, "__version__"):  # set at its end
            raise ModuleNotFoundError(f"{name}: not needed", name=name)


def say(message: str) -> None:
    """Print one plain line and flush it, so that a pipe gets it at once."""
    print(message, flush=True)


def shorten_import() -> None:
    """Prepare for the import of Keras, until `unhush`.

    Keras takes TensorFlow, whatever backend the user has set, and does without other libraries.
    """
    os.environ["KERAS_BACKEND"] = "tensorflow"
    sys.meta_path.insert(0, _WithoutOptional())
    # The import makes half a million objects that stay. To look for garbage among them time and
    # again takes a fifth of the import.
    gc.disable()
    _hushed.callback(gc.enable)
    _hushed.callback(gc.freeze)


def hush() -> None:
    """Shorten the import of Keras, keep memory, and silence TensorFlow until `unhush` or `run`.

    TensorFlow's libraries log to file descriptor 2 while they load, before any setting takes
    effect. Until then a process of its own reads what they write. It shows all of that if this
    process dies, such as without AVX. Python's own `sys.stderr` still works.
    """
    shorten_import()
    with suppress(OSError):  # another system
        glibc = ctypes.CDLL("libc.so.6")
        for param, value in KEEP_MEMORY.values():
            glibc.mallopt(param, value)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # for messages logged later
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if not hasattr(os, "fork"):  # Windows
        return
    screen = os.dup(2)
    said, written = os.pipe()
    ended, done = os.pipe()
    keeper = os.fork()
    if not keeper:
        os.close(written)
        os.close(done)
        _keep(said, ended, screen)
    for end in (said, ended):
        os.close(end)
    os.dup2(written, 2)
    os.close(written)
    sys.stderr = os.fdopen(screen, "w", buffering=1, errors="backslashreplace")

    def undo() -> None:
        os.write(done, b"alive")
        os.close(done)
        os.dup2(screen, 2)
        os.waitpid(keeper, 0)

    _hushed.callback(undo)


def _keep(said: int, ended: int, screen: int) -> NoReturn:
    """Read all that is said until the other process ends it. If it dies instead, show all that."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the other process
    kept, more = b"", b"?"
    while more and ended not in select.select([said, ended], [], [])[0]:
        more = os.read(said, 2**16)
        kept += more
    if not os.read(ended, 1):
        while more and select.select([said], [], [], 0)[0]:
            more = os.read(said, 2**16)
            kept += more
        os.write(screen, kept)
    os._exit(0)


def unhush() -> None:
    """Undo `hush`, if it was called."""
    _hushed.close()


def printable(text: str) -> str:
    """Return external text on one line, with line breaks and terminal control codes escaped."""
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def hint(name: str, known: Iterable[str]) -> str:
    """Return what may be meant by a name that is not known."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else f"one of {', '.join(known)}"


def named(name: str, known: Mapping[str, T], what: str) -> T:
    """Return what has a name, or raise an `InputError` that says what may be meant."""
    if name not in known:
        raise InputError(f"{what} {name!r}; {hint(name, known)}")
    return known[name]


def is_address(text: str) -> bool:
    """Tell whether a text is the address of something elsewhere, such as `s3://bucket/photos`."""
    return bool(re.match(_SCHEME, text.lstrip()))


def public(address: str) -> str:
    """Return an address without what may be secret: its user, password, query and fragment.

    It need not be a valid one: in doubt, more is hidden. A password may have any character.
    """
    scheme, rest = re.fullmatch(rf"({_SCHEME}|//)?(.*)", address.strip(), re.DOTALL).groups("")  # type: ignore[union-attr]
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in host:
        rest = host.rpartition("@")[2] + rest[len(host) :]
    elif scheme and not all(re.fullmatch(r"(\[[^]]*\]|[^:]*)(:\d*)?", a) for a in host.split(",")):
        # The port is none: `user:pass/word@host`.
        rest = rest.rpartition("@")[2] if "@" in rest else "…" + rest[len(host) :]
    return scheme + re.split("[?#]", rest, maxsplit=1)[0]


def without_secrets(text: str) -> str:
    """Return a text in which each address is `public`."""
    known = rf"""(?:{_SCHEME}|//)(?:[^/?#\n]*@)?(?:[^\s'"<>]*[^\s'"<>:;,.)])?"""
    text = re.sub(known, lambda found: public(found[0]), text)
    return re.sub(r"""(?<=[\w/])\?[^\s'"=]+=[^\s'"]*""", "", text)  # of an address's path alone


def run(main: Callable[[], None]) -> None:
    """Run a program's `main`. Turn errors that the user can fix into one line and an exit status.

    Exits with 1 after an `InputError`, or if the disk is full or not writable. Exits with 130 after
    Ctrl-C or SIGTERM. Any other exception is a bug and keeps its traceback.
    """
    unhush()
    for stream in (sys.stdout, sys.stderr):  # neither a terminal nor a pipe need be UTF-8
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except InputError as error:
        _fail(str(error))
    except BrokenPipeError:  # such as `| head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if str(error.strerror).startswith("No usable temporary directory"):
            _fail(f"{error.strerror}; free some space there, or set TMPDIR to a folder on a disk")
        if error.errno not in REMEDIES:
            raise
        problem, remedy = os.strerror(error.errno), REMEDIES[error.errno]
        places = filter(None, (str(Path.cwd()), tempfile.tempdir))  # it is not said which is meant
        _fail(f"{error.filename or ' or '.join(places)}: {problem}; {remedy}")
    except MemoryError:
        _fail("not enough memory; close programs or take fewer, smaller images")
    except KeyboardInterrupt:
        print("stopped; run it again to resume", file=sys.stderr)
        sys.exit(130)


def _fail(why: str) -> NoReturn:
    print(f"error: {printable(without_secrets(why))}", file=sys.stderr)
    sys.exit(1)


@contextmanager
def bar(
    what: str, total: int | None, done: int, console: "Console"
) -> Iterator[Callable[[], None]]:
    """Show a progress bar with the time left, and yield a function that advances it.

    Args:
        what: the task's name, such as "decode".
        total: number of steps, if it is known.
        done: number of steps already done.
        console: a terminal.
    """
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(escape(what), total=total, completed=done)
        yield lambda: shown.advance(task)


def progress(
    items: Iterable[T], what: str, total: int | None, beside_output: bool = False
) -> Iterator[T]:
    """Yield `items` with a progress bar on a terminal, or with a few plain lines elsewhere.

    Args:
        items: the items to yield.
        what: the task's name, such as "decode".
        total: number of items, if it is known.
        beside_output: stdout is for results. Show the bar on stderr, and no plain lines.
    """
    from rich.console import Console

    console = Console(stderr=beside_output)
    if console.is_terminal:
        with bar(what, total, 0, console) as advance:
            for item in items:
                yield item
                advance()
        return
    if total is None:
        marks = {2**power for power in range(4, 64)}
    else:
        marks = {max(1, total * quarter // 4) for quarter in range(1, 5)}
    for count, item in enumerate(items, start=1):
        yield item
        if count in marks and not beside_output:
            say(f"{what}: {count}/{total or '?'}")
