"""Tables of labels: found by what is in them, whatever their names, columns and encoding."""

import codecs
import csv
import io
import json
import re
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cache, partial
from itertools import repeat, zip_longest
from os.path import commonprefix
from pathlib import PurePosixPath
from typing import Any, NamedTuple, TypeVar

from charset_normalizer import from_bytes

from convnets.base import params
from convnets.base.console import InputError
from convnets.sources import splits

SUFFIXES = frozenset(
    ("", ".csv", ".tsv", ".tab", ".psv", ".txt", ".dat", ".lst", ".json", ".jsonl", ".ndjson")
)
NAMES = ("labels.csv", "metadata.csv")  # these are tables for sure: a damaged one is refused
# Where several columns may have the classes, one of these has them.
LABELS = frozenset(
    ("label", "labels", "class", "class_name", "category", "breed", "species", "dx", "diagnosis")
)
# How systems without UTF-8 write: Korean, Japanese, Chinese, Western.
ENCODINGS = ["cp949", "cp932", "gb18030", "big5", "cp1252", "cp437"]
ONES, ZEROS = {"1", "1.0", "true"}, {"", "0", "0.0", "-1", "-1.0", "false"}
SMALL = 20  # a table of so few rows may name a class once
SHOWN = 40  # characters of a cell in a message
WITHOUT = "without a class in the table"
SAMPLE = 100  # rows that show how a table is written

_ENDING = re.compile(r"\.[a-z][a-z0-9]{1,4}$")
_NUMBER = re.compile(r"[-+]?\d+([.,]\d+)?(e[-+]?\d+)?", re.IGNORECASE)
_KINDS = re.compile("labels?|annotations?|metadata|list", re.IGNORECASE)
T = TypeVar("T")
Parts = tuple[str, ...]
Grid = list[list[str]]


class Row(NamedTuple):
    """What tables say of a picture."""

    label: str = ""
    split: str | None = None
    of_table: str | None = None  # the split in the table's own name, such as `train.csv`


class Labels(NamedTuple):
    """What all tables say."""

    rows: dict[str, Row]  # by the picture's path
    left: dict[str, str]  # why rows and files are left out
    unclear: dict[str, str]  # why tables are not used, and what makes them clear
    sure: bool  # the classes are not only the numbers in a column of any name

    @property
    def told(self) -> str:
        """Why tables are not used, for a message; or nothing."""
        return "; ".join(f"{name}: {why}" for name, why in list(self.unclear.items())[:3])


class UnclearError(Exception):
    """A table has no reading, or several. The message says what makes it clear."""


def read(
    names: Iterable[str],
    content: Callable[[str], bytes],
    pictures: Collection[str],
    columns: params.Columns | None,
    words: Mapping[str, str] | None,
) -> Labels:
    """Read those files that are tables in which pictures are named.

    Args:
        names: the files that may be tables.
        content: returns the bytes of one.
        pictures: the paths of all pictures.
        columns: of the tables, as the user says. What is not said is found.
        words: the split that each stands for, besides those that `splits` knows.

    Raises:
        InputError: a split is unknown, tables contradict each other, or one is damaged.
    """
    index = _Index(pictures)
    found: list[tuple[bool, str, dict[str, Row]]] = []
    left, unclear = {}, {}
    for name in names:
        path = PurePosixPath(name)
        about_one = path.suffix.lower() != ".csv" and index.ends.issuperset(_key(path.stem))
        try:
            other = about_one or "submission" in path.name.lower()
            grid = None if other else _grid(_parsed(content, name), index)
            if grid is None:
                left[name] = "not an image"
                continue
            table = _Table(name, grid, index, columns or params.Columns(), words)
            found.append((table.sure, name, table.rows))
            left |= table.left
        except UnclearError as error:
            if error.__cause__ and path.name.lower() in NAMES:
                raise InputError(f"{name}: {error}") from error
            unclear[name] = str(error)
    sure = any(row.label for certain, _, rows in found if certain for row in rows.values())
    said: dict[str, tuple[Row, str]] = {}
    for certain, name, rows in found:
        for picture, row in rows.items():
            new = row if certain or not sure else row._replace(label="")
            old, source = said.get(picture, (Row(), ""))
            for one, two in zip(old[:2], new[:2], strict=True):
                if one and two and one != two:
                    raise InputError(
                        f"{picture!r} is {one!r} in {source} and {two!r} in {name}; remove one of "
                        "these tables, or name the columns in data.columns"
                    )
            label, split, of_table = (one or two for one, two in zip(old, new, strict=True))
            said[picture] = Row(label or "", split, of_table), name
    return Labels({picture: row for picture, (row, _) in said.items()}, left, unclear, sure)


def encoding_of(raw: bytes) -> str:
    """Return the encoding of text that does not say which it is."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if b"\0" in raw[:4096]:  # half of a character such as a comma
        return "utf-16-be" if raw[:4096:2].count(0) > raw[1:4096:2].count(0) else "utf-16-le"
    try:
        raw.decode()
    except UnicodeDecodeError:
        best = from_bytes(raw, cp_isolation=ENCODINGS).best()
        return best.encoding if best else "cp437"  # which has a character for each byte
    return "utf-8-sig"


class _Index:
    """Finds the picture that a cell names, however it is written: by the longest common end."""

    def __init__(self, names: Iterable[str]) -> None:
        keys = [(_key(name), name) for name in names]
        self.names = {name for _, name in keys}
        self.whole = sorted(keys)
        self.stems = sorted(((_ENDING.sub("", key[0]), *key[1:]), name) for key, name in keys)
        self.ends = {key[0] for ordered in (self.whole, self.stems) for key, _ in ordered}
        self.folders = {part for key, _ in keys for part in key[1:]}
        self.endings = {_ending(key[0]) for key, _ in keys} - {""}

    def find(self, cell: str) -> tuple[list[str], Parts]:
        """Return the picture, or two that it may be, and the folders that only the cell has."""
        end, *folders = _key(cell) or ("",)
        ways = ((self.whole, end), (self.stems, end), (self.stems, _ENDING.sub("", end)))
        for ordered, last in ways if self.ends.intersection((end, ways[2][1])) else ():
            wanted = (last, *folders)
            place = bisect_left(ordered, (wanted,))
            near = ordered[max(place - 1, 0) : place + 1]
            common = max((commonprefix([wanted, key]) for key, _ in near), key=len)  # noqa: RUF071
            if common:
                first = bisect_left(ordered, (common,))
                found = [e for e in ordered[first : first + 2] if e[0][: len(common)] == common]
                if found[0][0] == wanted != found[-1][0]:
                    del found[1]  # the first is the whole path
                root = ("/",) if re.match(r"/|\\|\w+:", cell) else ()
                return [name for _, name in found], root + wanted[: len(common) - 1 : -1]
        return [], ()


def _key(path: str) -> Parts:
    """Return the parts of a path from its end, in one form of Unicode and of letters."""
    plain = unicodedata.normalize("NFC", path.replace("\\", "/")).casefold()
    return tuple(part for part in plain.split("/")[::-1] if part not in ("", ".", ".."))


def _ending(cell: str) -> str:
    found = _ENDING.search(cell.casefold())
    return found[0] if found else ""


def _parsed(parse: Callable[..., T], *given: Any) -> T:
    try:
        return parse(*given)
    except Exception as error:  # whatever a library makes of a file that is no table
        raise UnclearError(f"not a table ({error}); correct it or get it again") from error


def _grid(raw: bytes, index: _Index) -> Grid | None:
    """Return the rows of a table, split where most cells name a picture; None of other text."""
    text = _parsed(lambda: raw.decode(encoding_of(raw)))
    first = re.match(r'"?sep=(.)"?\s*\n', text, re.IGNORECASE)
    text = text[first.end() :] if first else text
    if text.lstrip()[:1] in ("{", "["):
        return _parsed(_from_json, text)
    sample = "\n".join(text.split("\n", SAMPLE)[:SAMPLE])
    ways = {
        by: _parsed(_from_text, sample, by) for by in [*",;\t|", *(first[1] if first else ""), " "]
    }

    def fits(by: str) -> tuple[int, bool]:
        columns = zip_longest(*(row[:SAMPLE] for row in ways[by]), fillvalue="")
        named = [sum(bool(index.find(cell)[0]) for cell in column) for column in columns]
        even = Counter(map(len, ways[by])).most_common(1) if len(named) > 1 and by != " " else []
        return max(named, default=0), any(rows > 0.9 * len(ways[by]) for _, rows in even)

    best = max(ways, key=fits)
    return None if fits(best) == (0, False) else _parsed(_from_text, text, best)


def _from_text(text: str, delimiter: str) -> Grid:
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    return [[cell.strip() for cell in row] for row in rows if any(row)]


def _from_json(text: str) -> Grid:
    """Return the rows of JSON, of a list or a mapping or with a line for each, as of a table."""
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = [json.loads(line) for line in text.split("\n") if line.strip()]
    if isinstance(found, dict):
        lists = [value for value in found.values() if isinstance(value, list)]
        found = (
            lists[0]
            if len(lists) == 1
            else [
                {"file": key} | value if isinstance(value, dict) else [key, value]
                for key, value in found.items()
            ]
        )
    uses = Counter(key for row in found if isinstance(row, dict) for key in row)
    keys = [key for key, count in uses.items() if count * 100 >= len(found)]
    rows = [[row.get(key) for key in keys] if isinstance(row, dict) else row for row in found]
    return [
        [
            cell.strip() if isinstance(cell, str) else "" if cell is None else json.dumps(cell)
            for cell in row
        ]
        for row in ([keys] if keys else []) + rows
        if isinstance(row, list) and row
    ]


class _Table:
    """The columns of one table, and which of them is what."""

    def __init__(
        self,
        name: str,
        grid: Grid,
        index: _Index,
        told: params.Columns,
        said: Mapping[str, str] | None,
    ) -> None:
        self.name, self.index, self.told, self.said = name, index, told, said
        self.split_of = cache(partial(splits.split_of, said=said))
        self.of_table = self.split_of(_KINDS.sub("", PurePosixPath(name).stem))
        self.sure = True
        self.left: dict[str, str] = {}
        rows = [row for row in grid if not row[0].startswith("#") or index.find(row[0])[0]]
        width = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
        self.cells = [[row[c] if c < len(row) else "" for row in rows] for c in range(width)]
        self.titles = [f"column {c + 1}" for c in range(width)]
        file, named = self._file()
        first, *more = self.cells[file]
        style = [_ending(cell) in index.endings for cell in (first, *more[:1])]
        if not style[0] and (any(style) or not named[first]):  # no picture's row, but the titles
            self.titles = [
                column.pop(0) or title
                for column, title in zip(self.cells, self.titles, strict=True)
            ]
        kept: dict[int, str] = {}
        for number, cell in enumerate(self.cells[file]):
            if len(named[cell]) > 1:
                raise UnclearError("{!r} may be {!r} or {!r}".format(cell, *named[cell]))
            if named[cell]:
                kept[number] = named[cell][0]
            elif cell:
                self.left[cell] = "in the table, but no such file"
        self.cells = [[column[number] for number in kept] for column in self.cells]
        self.titles.pop(file)
        self.rows = self._rows(self.cells.pop(file), list(kept.values()))

    def _rows(self, given: list[str], pictures: list[str]) -> dict[str, Row]:
        """Return what the table says of each picture."""
        of_rows = self._splits()
        labels = self._labels()
        if not (labels or of_rows or self.of_table):
            raise UnclearError(
                f"no column looks like labels, of {_listed(self.titles)}; if one has them, name it "
                "in data.columns, such as {label: kind}"
            )
        rows: dict[str, Row] = {}
        for cell, picture, label, split in zip(
            given, pictures, labels or repeat(""), of_rows or repeat(None), strict=False
        ):
            row = Row(label, split, self.of_table)
            if rows.setdefault(picture, row) != row:
                what = "splits" if rows[picture].label == label else "classes"
                raise UnclearError(f"{cell!r} has two {what}; remove one row")
            if labels and not label:
                self.left[picture] = WITHOUT
        return rows

    def _file(self) -> tuple[int, dict[str, list[str]]]:
        """Return the column of the files, and the pictures that each of its cells may name."""
        header = [column[0] or title for column, title in zip(self.cells, self.titles, strict=True)]
        columns = list(range(len(header)))
        if self.told.file is not None:
            titles = self.titles if self.told.file in self.titles else header
            columns = [_place(self.told.file, titles)]
        named = {c: self._named(self.cells[c]) for c in columns}
        counts = {c: len({names[0] for names in named[c].values() if names}) for c in columns}
        rows, pictures = len(self.cells[0]) if header else 0, len(self.index.names)
        least = max(max(counts.values(), default=0) / 2, 1)
        if self.told.file is None:  # else a number in another column may be a picture's name
            least = max(least, min(rows, pictures) / 10)
        possible = [c for c in columns if counts[c] >= least]
        complete = [
            c
            for c in possible
            if counts[c] == pictures
            or (counts[c] * 2 >= rows and all(named[c][cell] for cell in self.cells[c][1:]))
        ]
        same = {
            tuple(tuple(named[c][cell]) for cell in self.cells[c][1:]): c
            for c in reversed(complete or possible)
        }
        if not same:
            raise UnclearError(
                "names none of the images; it needs the columns of their names and their classes, "
                f"and has {_listed(header)}"
            )
        if len(same) > 1:
            raise _asked("file", [header[c] for c in sorted(same.values())])
        (file,) = same.values()
        return file, named[file]

    def _named(self, cells: list[str]) -> dict[str, list[str]]:
        """Return for each cell the picture that it names, or two that it may be."""
        folder = self.name.rpartition("/")[0]
        found: dict[str, tuple[list[str], Parts]] = {}
        for cell in dict.fromkeys(cells):
            beside = f"{folder}/{cell}" if folder else cell
            exact = [name for name in (beside, cell) if name in self.index.names][:1]
            found[cell] = (exact, ()) if exact else self.index.find(cell)
            if len(found[cell][0]) > 1:
                names, lead = self.index.find(beside)
                found[cell] = (names, lead) if len(names) == 1 and not lead else found[cell]
        several = [cell for cell, (names, _) in found.items() if len(names) > 1]
        if several:
            names = sorted(self.index.names)
            below = [name for name in names if folder and name.startswith(f"{folder}/")]
            of_split = [n for n in names if self.of_table in map(self.split_of, n.split("/")[:-1])]
            for index in map(_Index, (below, of_split if self.of_table else [])):
                for cell in several:
                    names, lead = index.find(cell)
                    if len(names) == 1 and lead == found[cell][1]:
                        found[cell] = names, lead
        # Where `photos/cat/1.jpg` is `cat/1.jpg`, `photos/dog/1.jpg` is not any other 1.jpg.
        leads = {lead for names, lead in found.values() if len(names) == 1}
        for cell, (_, lead) in found.items():
            if lead and any(lead[:end] in leads for end in range(lead[:1] == ("/",), len(lead))):
                found[cell] = [], lead
        return {cell: names for cell, (names, _) in found.items()}

    def _splits(self) -> list[str | None] | None:
        """Return the split in each row, if a column has words of different splits."""
        if self.told.split is not None:
            place = _place(self.told.split, self.titles)
        else:
            for place, column in enumerate(self.cells):
                words = {*column}
                meant = splits.meanings(words if len(words) <= SMALL else (), self.said)
                called = self.titles[place].casefold() in ("split", "partition")
                if called or len({*meant.values()} - {None}) > 1:
                    break
            else:
                return None
        column, title = self.cells.pop(place), self.titles.pop(place)
        known = splits.splits_of({*column} - {""}, self.said, f"{self.name}: column {title}: ")
        return [known.get(word) for word in column]

    def _labels(self) -> list[str] | None:
        """Return the class in each row, if a column or one column for each class has it."""
        several = self._join_marks() if self.told.label is None else ""
        words = dict(enumerate(set(column) - {""} for column in self.cells))
        numbers = {c for c in words if all(map(_NUMBER.fullmatch, words[c]))}  # or it is empty
        called = [c for c in words if self.titles[c].casefold() in LABELS and words[c]]
        if self.told.label is not None:
            called = [_place(self.told.label, self.titles)]
        folders = [
            c
            for c in words
            if words[c]
            and self.index.folders.issuperset(p for word in words[c] for p in _key(word))
        ]
        again = [c for c in words if _repeated(self.cells[c], words[c], c in numbers)]
        once = [c for c in words if 1 < len(words[c]) == len(self.cells[c]) <= SMALL]
        once = [c for c in once if c not in numbers]
        likely = called or folders or again or once[: len(once) == 1]
        # `0, 1, …` and `rose, lily, …` in two columns are the same classes: words name them.
        same = {}
        for c in sorted(likely, key=lambda c: c not in numbers):
            order = {word: place for place, word in enumerate(dict.fromkeys(self.cells[c]))}
            same[tuple(map(order.__getitem__, self.cells[c]))] = c
        if len(same) > 1 or (several and not called and not folders):
            raise _asked("label", [self.titles[c] for c in sorted(same.values())], several)
        for c in same.values():
            _refuse_lists(words[c])
            self.sure = c in called or c not in numbers
            return self.cells[c]
        return None

    def _join_marks(self) -> str:
        """Make one column of those for each class; return why, where a row has several marks."""
        marks = [{word.casefold() for word in column} for column in map(set, self.cells)]
        bits = [c for c, m in enumerate(marks) if m & ONES and m & ZEROS and m <= ONES | ZEROS]
        if len(bits) < 2:
            return ""
        joined = []
        for row in zip(*(self.cells[c] for c in bits), strict=True):
            found = [
                self.titles[c] for c, cell in zip(bits, row, strict=True) if cell.casefold() in ONES
            ]
            if len(found) > 1:
                return f"; several labels, as here {_listed(found)}, are not supported"
            joined += found or [""]
        if sum(map(bool, joined)) * 2 >= len(joined):
            self.cells = [column for c, column in enumerate(self.cells) if c not in bits] + [joined]
            self.titles = [t for c, t in enumerate(self.titles) if c not in bits] + ["each class"]
        return ""


def _repeated(column: list[str], words: set[str], are_numbers: bool) -> bool:
    """Whether the words of a column occur again and again, and are no measurements."""
    filled = sum(map(bool, column))
    found = {float(word.replace(",", ".")) for word in words} if are_numbers else set()
    if found and found not in ({*range(len(found))}, {*range(1, len(found) + 1)}):
        return False
    few = len(words) * 2 <= filled or len(words) < filled <= SMALL
    return few and len(words) > 1 and filled * 2 >= len(column)


def _refuse_lists(labels: set[str]) -> None:
    """Refuse several labels in a cell: their parts are in other cells, too."""
    for pattern in (r"\s*[|;,]\s*", r"\s+"):
        parts = {label: re.split(pattern, label) for label in labels}
        uses = Counter(part for each in parts.values() for part in set(each))
        for label, each in parts.items():
            known = labels if pattern == r"\s+" else {part for part in each if uses[part] > 1}
            if label[:1] == "[" or (len(each) > 1 and ("|" in label or known.issuperset(each))):
                raise UnclearError(
                    f"{label[:SHOWN]!r} is several labels for one picture, which is not supported; "
                    "keep one, or join the words of one class by a hyphen"
                )


def _place(title: str, titles: list[str]) -> int:
    if title in titles:
        return titles.index(title)
    raise UnclearError(f"there is no column {title!r}, but {_listed(titles)}; correct data.columns")


def _asked(what: str, titles: list[str], also: str = "") -> UnclearError:
    quoted = [t if t.isidentifier() else json.dumps(t, ensure_ascii=False) for t in titles[:SMALL]]
    ways = " or ".join(f"data.columns: {{{what}: {each}}}" for each in quoted)
    return UnclearError(f"the {what} may be in {_listed(titles)}; set {ways}{also}")


def _listed(titles: list[str]) -> str:
    return ", ".join(each[:SHOWN] for each in titles[:SMALL]) + ", …" * (len(titles) > SMALL)
