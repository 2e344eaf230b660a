"""The arrays of decoded images, whatever an interrupted process has left of them."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convnets.base import params
from convnets.listing.subset import SPLITS
from convnets.pictures import arrays
from convnets.sources import sample
from tests.commands import recognised
from tests.test_sources import encoded, packed

HOW = params.Subset(train=6, validation=3, test=3, max_rejected=0.2, duplicates="drop")
SIZE = 40


class Whole(NamedTuple):
    """What a process that was not interrupted has made."""

    archive: Path
    contents: dict[str, bytes]
    summary: dict[str, Any]
    left: dict[str, bytes]  # its unfinished files: the arrays, and what was found


def write(path: Path, unfinished: Path, out: Path) -> tuple[dict[str, bytes], dict[str, Any], int]:
    """The files and the summary, and the number of images that were not decoded again."""
    with redirect_stdout(io.StringIO()) as told:
        summary = arrays.write(path, recognised(path), unfinished, out, HOW, SIZE, 0)
    resumed = re.search(r"resuming after (\d+) of 24", told.getvalue())
    contents = {file.name: file.read_bytes() for file in out.iterdir()}
    return contents, summary, int(resumed[1]) if resumed else 0


@pytest.fixture(scope="module")
def whole(module_path) -> Whole:
    members = {
        f"{label}/{number}.jpg": encoded(sample.draw(label, number, 0))
        for label in sample.CLASSES
        for number in range(12)
    }
    members["cat/3.jpg"] = members["cat/8.jpg"] = b"no picture"
    members["dog/5.jpg"] = members["dog/1.jpg"]
    path = packed(module_path / "x.zip", members)
    unfinished = module_path / "unfinished"
    unfinished.mkdir()
    contents, summary, resumed = write(path, unfinished, module_path / "out")
    assert (summary["rejected"], summary["duplicates_dropped"], resumed) == (2, 1, 0)
    left = {file.name: file.read_bytes() for file in sorted(unfinished.iterdir(), reverse=True)}
    assert list(left) == ["validation.npy", "train.npy", "test.npy", "found.jsonl"]
    return Whole(path, contents, summary, left)


@settings(max_examples=60)
@given(shares=st.tuples(*[st.floats(0, 1)] * 4), complete=st.sets(st.sampled_from(SPLITS)))
@example(shares=(1, 1, 1, 1), complete=set(SPLITS))  # stopped in the search for duplicates
@example(shares=(1, 1, 1, 1), complete=set())
@example(shares=(0, 1, 1, 1), complete={"test"})
@example(shares=(1, 1, 1, 0), complete={"train"})
@example(shares=(1, 1, 1, 0.5), complete=set(SPLITS))
def test_wherever_its_files_end_the_next_process_makes_the_same(whole, shares, complete):
    with TemporaryDirectory() as folder:
        unfinished = Path(folder, "unfinished")
        unfinished.mkdir()
        for share, (name, content) in zip(shares, whole.left.items(), strict=True):
            if name.removesuffix(".npy") in complete:
                (unfinished / name).write_bytes(content)
            else:
                path = unfinished / (f"{name}.part" if name.endswith(".npy") else name)
                path.write_bytes(content[: round(share * len(content))])
        *made, resumed = write(whole.archive, unfinished, Path(folder, "out"))
    assert made == [whole.contents, whole.summary]
    if set(shares) == {1}:
        assert resumed == 24


@pytest.mark.parametrize("name", ["train.npy", "found.jsonl"])
def test_zeros_in_a_file_are_not_taken_for_what_was_written(whole, tmp_path, name):
    """As some file systems have them after a power cut."""
    middle = len(whole.left[name]) // 2
    for other, content in whole.left.items():
        (tmp_path / other).write_bytes(content)
    with (tmp_path / name).open("r+b") as file:
        file.seek(middle)
        file.write(bytes(400))
    *made, resumed = write(whole.archive, tmp_path, tmp_path / "out")
    assert made == [whole.contents, whole.summary]
    assert 0 < resumed < 24


def test_what_fails_after_the_decoding_loses_nothing(whole, tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        write(whole.archive, unfinished, tmp_path / "file/out")
    *made, resumed = write(whole.archive, unfinished, tmp_path / "out")
    assert made == [whole.contents, whole.summary]
    assert resumed == 24
