"""The arrays of decoded images, whatever an interrupted process has left of them."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from convnets.base import params
from convnets.data import arrays, sample
from convnets.data.subset import SPLITS
from tests.commands import recognised
from tests.test_sources import encoded, packed

HOW = params.Subset(train=6, validation=3, test=3, max_rejected=0.2, duplicates="report")
SIZE = 40


class Whole(NamedTuple):
    """What a process that was not interrupted has made."""

    archive: Path
    contents: dict[str, bytes]
    summary: dict[str, Any]
    left: dict[str, bytes]  # its own files, as they are before the arrays get their place


def write(path: Path, unfinished: Path, out: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    summary = arrays.write(path, recognised(path), unfinished, out, HOW, SIZE, 0).summary
    return {file.name: file.read_bytes() for file in out.iterdir()}, summary


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
    contents, summary = write(path, unfinished, module_path / "out")
    assert (summary["rejected"], summary["duplicates"]) == (2, 1)
    assert not list(unfinished.glob("*.npy*"))
    left = {f"{split}.npy": contents[f"{split}.npy"] for split in SPLITS}
    left |= {file.name: file.read_bytes() for file in unfinished.iterdir()}
    return Whole(path, contents, summary, left)


@settings(max_examples=60, deadline=None)
@given(shares=st.tuples(*[st.floats(0, 1)] * 4), complete=st.sets(st.sampled_from(SPLITS)))
@example(shares=(1, 1, 1, 1), complete=set(SPLITS))  # stopped in the search for duplicates
@example(shares=(1, 1, 1, 1), complete=set())
@example(shares=(0, 1, 1, 1), complete={"test"})
@example(shares=(1, 1, 1, 0), complete={"train"})
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
        again = write(whole.archive, unfinished, Path(folder, "out"))
    assert again == (whole.contents, whole.summary)


def test_a_rejected_image_is_looked_at_again(whole, tmp_path):
    """As if its decoder had been installed since."""
    for name, content in whole.left.items():
        (tmp_path / name).write_bytes(content)
    journal = tmp_path / "found.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    (place, *_) = [place for place, line in enumerate(lines) if line.startswith(b'"')]
    lines[place] = b'"not decoded: install a decoder"\n'
    journal.write_bytes(b"".join(lines))
    assert write(whole.archive, tmp_path, tmp_path / "out") == (whole.contents, whole.summary)
