"""Tables of labels: which file is of which class and split."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath

from charset_normalizer import from_bytes

from convnets.base.console import InputError

# Hugging Face's ImageFolder has file_name and label, Kaggle's competitions id and breed.
FILE_COLUMNS = ("file_name", "file", "filename", "image", "image_id", "path", "id")
LABEL_COLUMNS = ("label", "class", "breed", "category", "species")
# How systems without UTF-8 write: Korean, Japanese, Chinese, Western.
ENCODINGS = ["cp949", "cp932", "gb18030", "big5", "cp1252", "cp437"]


def rows(
    table: str, content: bytes, left: dict[str, str], split_of: Callable[[str], str | None]
) -> Iterator[tuple[str, str, str | None]]:
    """Yield the file, the class and the split of each row, if the table has such columns."""
    text = content.decode(encoding_of(content), "replace")
    header = text.partition("\n")[0]
    delimiter = max(",;\t", key=header.count)  # spreadsheets write any of them
    found = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = {str(column).strip().lower(): column for column in found.fieldnames or ()}
        file, label = (
            next((columns[key] for key in keys if key in columns), None)
            for keys in (FILE_COLUMNS, LABEL_COLUMNS)
        )
        if file is None or label is None:
            left[table] = "a table without the columns file_name and label"
            return
        for row in found:
            given = (row[file] or "").strip().replace("\\", "/")  # as Windows writes paths
            split = split_of(row.get(columns.get("split", "")) or "")
            yield given, (row[label] or "").strip(), split
    except csv.Error as error:
        raise InputError(f"{table}: not a table ({error}); correct it") from error


def ending(given: str, names: list[str]) -> list[str]:
    """Return the names that end with a path, with or without a suffix; any, if it is absolute."""
    if given.startswith("/") or re.match("[A-Za-z]:/", given):
        return names
    path = f"/{given}"
    return [
        name
        for name in names
        if f"/{name}".endswith(path) or f"/{PurePosixPath(name).with_suffix('')}".endswith(path)
    ]


def encoding_of(raw: bytes) -> str:
    """Return the encoding of text that does not say which it is."""
    if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    try:
        raw.decode()
    except UnicodeDecodeError:
        best = from_bytes(raw, cp_isolation=ENCODINGS).best()
        return best.encoding if best else "cp437"  # which has a character for each byte
    return "utf-8-sig"
