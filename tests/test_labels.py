"""Labels, and the corrections that a person made: data, keyed by content, in git."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convnets.base.console import InputError
from convnets.examples import examples
from convnets.listing import labels
from tests.commands import ROOT

CLASSES = ("cat", "dog", "owl")
SPLITS = {"train": 9, "validation": 6, "test": 6}
HEADER = ",".join(labels.COLUMNS)


def sha256(split: str, row: int) -> str:
    return f"{split[:2]}{row:02d}".encode().hex().ljust(64, "0")


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    for split, count in SPLITS.items():
        rows = [
            (f"{CLASSES[row % 3]}/{split}{row}.jpg", CLASSES[row % 3], sha256(split, row))
            for row in range(count)
        ]
        table = pd.DataFrame(rows, columns=["file", "class", "sha256"])
        table.to_csv(folder / f"{split}.csv", index=False)
    return folder


def written(images: Path, corrected: dict[str, str]) -> labels.Labelled:
    rows = {name: dict.fromkeys(labels.COLUMNS, "") | {"after": a} for name, a in corrected.items()}
    with TemporaryDirectory() as folder:
        return labels.write(images, Path(folder) / "labels", rows)


def test_the_project_s_own_file_is_empty():
    assert (ROOT / labels.CORRECTIONS).read_text().strip() == HEADER
    assert labels.corrections(ROOT / labels.CORRECTIONS) == {}


CORRECTED = st.dictionaries(
    st.tuples(st.sampled_from(list(SPLITS)), st.integers(0, 5)),
    st.sampled_from([*CLASSES, labels.DROP]),
    max_size=6,
)


@given(CORRECTED)
def test_a_correction_moves_no_row_and_concerns_its_picture_alone(images, corrected):
    left = {
        split: {corrected.get((split, row), CLASSES[row % 3]) for row in range(count)}
        for split, count in SPLITS.items()
    }
    after = {sha256(*place): label for place, label in corrected.items()}
    if any(not set(CLASSES) <= of_split for of_split in left.values()):
        with pytest.raises(InputError, match=r"no image of .* is left for"):
            written(images, after)
        return
    found = written(images, after)
    for split, count in SPLITS.items():
        table = found.tables[split].set_index("row")
        for row in range(count):
            label = corrected.get((split, row), CLASSES[row % 3])
            if label == labels.DROP:
                assert row not in table.index
            else:
                assert tuple(table.loc[row, ["class", "label"]]) == (label, CLASSES.index(label))
    assert found.counts["dropped"] == list(corrected.values()).count(labels.DROP)
    assert not found.told


def test_what_cannot_be_used_is_told(images):
    found = written(images, {sha256("train", 0): "cow", "f" * 64: "cat"})
    assert found.counts == {"corrected": 0, "dropped": 0}
    assert "1 corrections are of pictures that are not here" in found.told[0]
    assert "no such class: 'cow'" in found.told[1]


def test_a_picture_that_its_owner_has_moved_meanwhile_is_told(images, tmp_path):
    one = {"file": "x.jpg", "before": "owl", "after": "dog"}
    found = labels.write(images, tmp_path / "labels", {sha256("train", 0): one})
    assert found.counts["corrected"] == 1
    assert "another class now" in found.told[0]


ROW = f"{sha256('train', 0)},cat/0.jpg,cat"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"{HEADER}\n{ROW},dog,\n{ROW},owl,\n", "cat/0.jpg is 'dog' in one line and 'owl'"),
        (f"{HEADER}\n<<<<<<< HEAD\n{ROW},dog,\n=======\n{ROW},owl,\n>>>>>>> b\n", "conflict"),
        ("picture,label\n1,cat\n", "its first line must be"),
        ("", "its first line must be"),
        (f'{HEADER}\n"{ROW}', "cannot be read"),
        ("\ufffe\0", "cannot be read"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, text, told):
    path = tmp_path / "corrections.csv"
    path.write_text(text, "utf-16" if "\0" in text else "utf-8")
    with pytest.raises(InputError, match=told) as raised:
        labels.corrections(path)
    assert "\n" not in str(raised.value)


def test_what_an_editor_or_a_merge_leaves_does_no_harm(tmp_path):
    """A byte order mark, Windows' line ends, capitals, empty lines, a line that is there twice."""
    path = tmp_path / "corrections.csv"
    lines = [f"\ufeff{HEADER}", f"{ROW.replace('a', 'A')}, dog ,", "", ",,,,", f"{ROW},dog,why", ""]
    path.write_bytes("\r\n".join(lines).encode())
    ((name, one),) = labels.corrections(path).items()
    assert (name, one["after"]) == (sha256("train", 0), "dog")


@pytest.mark.parametrize("views", [1, 2])
def test_after_a_drop_each_label_has_its_own_picture(images, tmp_path, monkeypatch, views):
    dropped = {sha256("test", 1): {"before": "", "after": labels.DROP}}
    labels.write(images, tmp_path / examples.LABELS, dropped)
    monkeypatch.chdir(tmp_path)
    rows = np.arange(SPLITS["test"] * views)  # row i·K + k is view k of image i
    np.save("test.npy", rows)
    kept = [row for row in range(SPLITS["test"]) if row != 1]
    found = examples.load(Path("test.npy"), "test", views)
    assert found.at(slice(None), views - 1).tolist() == [row * views + views - 1 for row in kept]
    assert found.at(np.array([1]), 0).tolist() == [2 * views]
