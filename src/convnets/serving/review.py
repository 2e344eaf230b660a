"""A page on which a person decides about doubtful labels, with a key for each decision."""

import csv
import io
import os
import secrets
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse
from filelock import FileLock
from starlette.middleware.trustedhost import TrustedHostMiddleware

from convnets.base import files
from convnets.base.console import REMEDIES, InputError, printable
from convnets.examples import npy
from convnets.examples.examples import IMAGES, read_text
from convnets.listing import labels
from convnets.listing.labels import CORRECTIONS, DROP
from convnets.listing.subset import SPLITS
from convnets.pages import page
from convnets.serving import server

AUDIT = Path("dvc-outs/audit")  # from `audit`: `pictures.csv` and `neighbours.csv`
LOCK = files.JOURNAL.parent / "corrections.lock"
PAGE = resources.files("convnets.serving").joinpath("review.html").read_text("utf-8")
Rows = list[dict[str, str]]  # of a picture in `corrections.csv`, by column, without empty cells


def change(sha256: str, made: Callable[[Rows], Rows]) -> tuple[Rows, Rows]:
    """Change a picture's rows in `corrections.csv`. At the end they are on the disk.

    The file is read anew, as an editor or another window may have written it. All other rows stay
    as they are, byte for byte.

    Args:
        sha256: the picture's.
        made: from the picture's rows, those that it gets.

    Returns:
        The rows that it had, and those that it has.

    Raises:
        InputError: the file is damaged, or would be. Nothing is written.
    """
    path = CORRECTIONS.resolve()  # a link stays one
    part = path.with_name(f".part.{path.name}")
    LOCK.parent.mkdir(exist_ok=True)
    with FileLock(LOCK, timeout=server.PATIENCE):
        while True:
            labels.corrections()
            before = path.read_bytes() if path.exists() else b""
            text, had, got = _replaced(before.decode(), sha256, made)
            try:
                with part.open("w", encoding="utf-8", newline="") as file:
                    file.write(text)
                    file.flush()
                    os.fsync(file.fileno())
                labels.corrections(part)
                if path.exists():
                    part.chmod(path.stat().st_mode)
                if before != (path.read_bytes() if path.exists() else b""):
                    continue  # by an editor, which knows no lock
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
            return had, got


def _replaced(text: str, sha256: str, made: Callable[[Rows], Rows]) -> tuple[str, Rows, Rows]:
    """Return a table with other rows of a picture, and the rows that it had and has."""
    text = text or ",".join(labels.COLUMNS) + "\n"
    bare = text.removeprefix("\ufeff")
    lines = io.StringIO(bare, newline="").readlines()
    ending = "\r\n" if lines[0].endswith("\r\n") else "\n"
    if not lines[-1].endswith(("\n", "\r")):
        lines[-1] += ending
    reader = csv.reader(lines, strict=True)
    header, start = next(reader), reader.line_num
    kept, had, place = lines[:start], [], None
    for cells in reader:
        row = {name: cell for name, cell in zip(header, cells, strict=False) if cell}
        if row.get("sha256", "").strip().lower() == sha256:
            place = len(kept) if place is None else place
            had.append(row)
        else:
            kept += lines[start : reader.line_num]
        start = reader.line_num
    got = [{name: row[name] for name in header if row.get(name)} for row in made(had)]
    place = len(kept) if place is None else place
    for one in reversed(got):
        new = io.StringIO(newline="")
        csv.DictWriter(new, header).writerow(one)
        kept.insert(place, new.getvalue().removesuffix("\r\n") + ending)
    return text[: len(text) - len(bare)] + "".join(kept), had, got


class Review:
    """Doubtful labels, and what a person decides about them."""

    def __init__(self) -> None:
        """Read what the stages `subset` and `audit` wrote.

        Raises:
            InputError: a file is missing or damaged.
        """
        try:
            seen, near = (read_text(AUDIT / f"{name}.csv") for name in ("pictures", "neighbours"))
            tables = {split: read_text(IMAGES / f"{split}.csv") for split in SPLITS}
            self._pixels = {split: npy.read(IMAGES / f"{split}.npy") for split in SPLITS}
            there = pd.concat(tables, names=["split", "row"]).reset_index().astype(str)
            there = there.rename(columns={"class": "source"}).drop(columns="file")
            found = seen.merge(there, on=["split", "row", "sha256"])
            found["test"] = found["sha256"].isin(seen.loc[seen["split"] == "test", "sha256"])
            doubtful = found[found["suspect"] != ""]
            doubtful = doubtful.astype({"suspect": int, "sure": float, "own": float})
            once = doubtful.sort_values("suspect").drop_duplicates("sha256")
            places = found[["split", "row"]].add_prefix("near_")
            self._near = near.merge(places, on=["near_split", "near_row"])[[*near]]
        except FileNotFoundError as error:
            raise InputError(f"{error.filename}: not found; run `dvc repro`") from error
        except (ValueError, KeyError) as error:  # pandas' errors are such, too
            raise InputError(f"{AUDIT}: damaged ({error}); run `dvc repro -f audit`") from error
        self._gone = int((seen["suspect"] != "").sum()) - len(doubtful)
        self.classes = set(tables["train"]["class"])
        # If a class has the name that means to leave a picture out, it can mean neither.
        self.choices = self.classes ^ {DROP}
        self._named = int((~once["class"].isin(self.choices)).sum())
        asked: Any = once[once["class"].isin(self.choices)].to_dict("records")
        self.suspects: dict[str, dict[str, Any]] = {one["sha256"]: one for one in asked}
        self._made: dict[str, tuple[str, Rows, Rows]] = {}
        self._own: set[str] = set()  # the pictures that were decided here

    def state(self, test: bool) -> dict[str, Any]:
        """Return what the page shows: the next doubtful picture, and what is done so far.

        Args:
            test: of the list of test pictures, or else of the others.

        Raises:
            InputError: `corrections.csv` is damaged.
        """
        known = labels.corrections()
        decided = {name for name, one in known.items() if one["after"] in self.choices}
        # The label is another one than the audit saw if its correction has been removed.
        asked = [
            one
            for name, one in self.suspects.items()
            if name in decided or one["class"] == one["source"]
        ]
        left = [one for one in asked if one["sha256"] not in decided]
        listed = [one for one in left if one["test"] == test]
        kept = sum(one["before"] == one["after"] for one in known.values())
        dropped = sum(one["after"] == DROP for one in known.values())
        return {
            "test": test,
            "drop": DROP in self.choices,
            "left": len(listed),
            "total": sum(one["test"] == test for one in asked),
            "other": len(left) - len(listed),
            "done": {"corrected": len(known) - kept - dropped, "dropped": dropped, "kept": kept},
            "told": {
                "gone": self._gone + len(self.suspects) - len(asked),
                "named": self._named,
                "lost": len(self._own - decided),
            },
            "suspect": self._shown(listed[0]) if listed else None,
        }

    def decide(self, sha256: str, after: str) -> dict[str, Any]:
        """Write a decision; return the next state, and in `undo` what `undo` takes.

        Args:
            sha256: of a doubtful picture.
            after: its class, another one or `DROP`.

        Raises:
            InputError: there is no such picture or choice, or `corrections.csv` is damaged.
        """
        one = self.suspects.get(sha256)
        if one is None or after not in self.choices:
            raise InputError(f"{after!r}: cannot be chosen for this picture; load the page again")
        verb = {one["source"]: "kept", DROP: "dropped"}.get(after, "corrected")
        values = (sha256, printable(one["file"]), one["source"], after, f"{verb} by review")
        row = dict(zip(labels.COLUMNS, values, strict=True))
        had, got = change(sha256, lambda had: [{**(had[0] if had else {}), **row}])
        self._own.add(sha256)
        token = secrets.token_hex(8)
        self._made[token] = (sha256, had, got)
        return self.state(one["test"]) | {"undo": token}

    def undo(self, token: str) -> dict[str, Any]:
        """Give a picture the rows back that it had before a decision; return the next state.

        Raises:
            InputError: `corrections.csv` is damaged.
            HTTPException: the picture has another decision since, or the server was started anew.
        """
        sha256, before, after = self._made.get(token, ("", [], []))

        def back(had: Rows) -> Rows:
            if had != after or not sha256:
                raise HTTPException(410, "decided elsewhere since, or before the start of review")
            return before

        change(sha256, back)
        self._own.discard(sha256)
        return self.state(self.suspects[sha256]["test"])

    def _shown(self, one: dict[str, Any]) -> dict[str, Any]:
        near: dict[str, list[str]] = {one["class"]: [], one["suggested"]: []}
        rows = self._near[(self._near["split"] == one["split"]) & (self._near["row"] == one["row"])]
        for row in rows.to_dict("records"):
            near.setdefault(row["class"], []).append(
                self._picture(row["near_split"], row["near_row"])
            )
        can = one["suggested"] in self.classes - {DROP, one["class"]}
        return {
            **{name: one[name] for name in ("sha256", "file", "class", "sure", "own")},
            "suggested": one["suggested"] if can else None,
            "picture": self._picture(one["split"], one["row"]),
            "near": [{"class": name, "pictures": found} for name, found in near.items() if found],
        }

    def _picture(self, split: str, row: str) -> str:
        pixels = self._pixels[split][int(row)]
        return page.picture(pixels, len(pixels))


def application(review: Review) -> FastAPI:
    """Return the page and what it asks."""
    app = FastAPI(title="convnets", openapi_url=None)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=server.NAMES)

    @app.get("/", response_class=HTMLResponse)
    async def shown() -> str:
        return PAGE

    @app.get("/classes")
    async def classes() -> list[str]:
        return sorted(review.classes - {DROP})

    @app.get("/state")
    def state(test: bool = False) -> dict[str, Any]:
        return review.state(test)

    @app.post("/decide")
    def decide(request: Request, sha256: str, after: str) -> dict[str, Any]:
        server.refuse_other_pages(request)
        return review.decide(sha256, after)

    @app.post("/undo")
    def undo(request: Request, made: str) -> dict[str, Any]:
        server.refuse_other_pages(request)
        return review.undo(made)

    @app.exception_handler(InputError)
    @app.exception_handler(OSError)
    async def refused(_: Request, error: Exception) -> JSONResponse:
        remedy = REMEDIES.get(getattr(error, "errno", 0), "try again")
        told = error if isinstance(error, InputError) else f"{error}; {remedy}"
        return JSONResponse({"detail": printable(str(told))}, 409)

    return app


def review(port: int) -> None:
    """Ask about the doubtful labels, on a page of this machine, until Ctrl-C or SIGTERM.

    Args:
        port: 0 takes any free one.

    Raises:
        InputError: there is no audit, `corrections.csv` is damaged, or the port is taken.
    """
    made = Review()
    state = made.state(test=False)
    with server.listen(server.HOST, port) as listening:
        place = f"http://{server.HOST}:{listening.getsockname()[1]}"
        left = f"{state['left']:,} doubtful labels and {state['other']:,} of test pictures"
        told = f"{place} asks about {left}; Ctrl-C stops it"
        server.run(application(made), listening, told, PAGE)
