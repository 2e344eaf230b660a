"""`python -m convnets review`: a decision about a doubtful label is in the file at once."""

import csv
import io
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import requests
from fastapi import HTTPException
from hypothesis import given, settings
from hypothesis import strategies as st
from playwright.sync_api import expect

from convnets.base.console import InputError
from convnets.examples.examples import IMAGES
from convnets.listing import labels
from convnets.listing.labels import COLUMNS, CORRECTIONS, DROP
from convnets.serving.review import AUDIT, Review
from tests.commands import ROOT, opener, said

HOSTILE = "<img src=x onerror=alert(1)>"
CLASSES = ("cat", "=dog", "고양이", HOSTILE)
SPLITS = {"train": 12, "validation": 5, "test": 5}
# The suspects by rank. A content is there twice, and one that is a test picture elsewhere.
RANKED = (("test", 0), ("train", 3), ("validation", 1), ("train", 0), ("train", 7), ("test", 2))
COPIES = {("train", 7): ("train", 3), ("train", 0): ("test", 4)}
HEADER = ",".join(COLUMNS)
SEEN = ["split", "row", "file", "sha256", "class", "suggested", "sure", "own", "suspect", "unlike"]
NEAR = ["split", "row", "class", "near_split", "near_row"]


def content(split: str, row: int) -> str:
    split, row = COPIES.get((split, row), (split, row))
    return f"{split[:2]}{row:02d}".encode().hex().ljust(64, "0")


def label(row: int, classes: tuple[str, ...] = CLASSES) -> str:
    return classes[row % len(classes)]


def suggested(row: int, classes: tuple[str, ...] = CLASSES) -> str:
    return label(row + 1, classes)


def project(folder: Path, classes: tuple[str, ...] = CLASSES) -> None:
    """What `subset` and `audit` leave in a project."""
    images, audit = folder / IMAGES, folder / AUDIT
    images.mkdir(parents=True)
    audit.mkdir()
    seen, near = [], []
    for split, count in SPLITS.items():
        rows = [
            (f"{split}\n{row}.jpg", label(row, classes), content(split, row))
            for row in range(count)
        ]
        table = pd.DataFrame(rows, columns=["file", "class", "sha256"])
        table.to_csv(images / f"{split}.csv", index=False)
        shades = np.arange(1, count + 1, dtype=np.uint8).reshape(-1, 1, 1, 1) * 20
        np.save(images / f"{split}.npy", np.broadcast_to(shades, (count, 8, 8, 3)))
        for row, (file, own, sha256) in enumerate(rows):
            rank = RANKED.index((split, row)) + 1 if (split, row) in RANKED else ""
            seen.append(
                (split, row, file, sha256, own, suggested(row, classes), 0.9, 0.05, rank, 0.1)
            )
    for split, row in RANKED:
        near += [(split, row, label(row, classes), "train", n) for n in (1, 2)]
        near += [(split, row, suggested(row, classes), "train", n) for n in (4, 5, 99)]
    pd.DataFrame(seen, columns=SEEN).to_csv(audit / "pictures.csv", index=False)
    pd.DataFrame(near, columns=NEAR).to_csv(audit / "neighbours.csv", index=False)
    (folder / CORRECTIONS).write_text(f"{HEADER}\n")


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """A project, and this process in it."""
    project(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def saved() -> dict[str, dict[str, str]]:
    return labels.corrections()


def asked(test: bool = False) -> str | None:
    """The content about which a new window asks first."""
    shown = Review().state(test)["suspect"]
    return shown and shown["sha256"]


def test_each_decision_is_written_before_the_next_picture(here):
    made = Review()
    state = made.state(test=False)
    order = [("train", 3), ("validation", 1)]
    assert (state["left"], state["total"], state["other"]) == (2, 2, 3)
    shown = state["suspect"]
    assert shown["sha256"] == content(*order[0])
    assert (shown["class"], shown["suggested"]) == (label(3), suggested(3))
    assert (shown["sure"], shown["own"]) == (0.9, 0.05)
    assert [(near["class"], len(near["pictures"])) for near in shown["near"]] == [
        (label(3), 2),
        (suggested(3), 2),  # the third is not there
    ]
    state = made.decide(content(*order[0]), suggested(3))
    assert saved()[content(*order[0])] == dict(
        zip(
            COLUMNS,
            (content(*order[0]), r"train\n3.jpg", label(3), suggested(3), "corrected by review"),
            strict=True,
        )
    )
    assert state["suspect"]["sha256"] == asked() == content(*order[1])
    state = made.decide(content(*order[1]), label(1))
    assert (saved()[content(*order[1])]["after"], saved()[content(*order[1])]["why"]) == (
        label(1),
        "kept by review",
    )
    assert (state["suspect"], state["other"]) == (None, 3)
    assert asked() is None  # nor what was kept

    tests = [("test", 0), ("train", 0), ("test", 2)]  # one has a copy among the test pictures
    for place in tests:
        assert asked(test=True) == content(*place)
        state = made.decide(content(*place), DROP)
        assert state["test"]
    assert state["done"] == {"corrected": 1, "dropped": 3, "kept": 1}
    state = made.undo(state["undo"])
    assert state["suspect"]["sha256"] == asked(test=True) == content(*tests[-1])
    assert len(saved()) == 4


def test_undo_leaves_the_bytes_of_before(here):
    row = f'{content("train", 3)},"a, b",cat,cow,"who ""knows"""\n'
    for before in (f"{HEADER}\n", f"{HEADER}\n{row}{'f' * 64},x,cat,drop,\n"):
        CORRECTIONS.write_text(before)
        made = Review()
        state = made.decide(content("train", 3), DROP)
        assert saved()[content("train", 3)]["after"] == DROP
        made.undo(state["undo"])
        assert CORRECTIONS.read_text() == before
        made.decide(content("train", 3), "cat")
        with pytest.raises(HTTPException):  # it was another decision
            made.undo(state["undo"])
        assert saved()[content("train", 3)]["after"] == "cat"


def test_the_rows_of_others_stay_byte_for_byte(here):
    others = [
        f'{"e" * 64}, spaced ,cat,"=dog",by hand,"two\r\nlines"\r\n',
        "\r\n",
        f"{'F' * 64},고양이.jpg,cat,no such class,,\r\n",
        f"{'d' * 64},short,,cat",
    ]
    CORRECTIONS.write_bytes(f"\ufeff{HEADER},who\r\n{''.join(others)}".encode())
    made = Review()
    made.decide(content("train", 3), "cat")
    made.undo(made.decide(content("validation", 1), DROP)["undo"])
    text = CORRECTIONS.read_bytes().decode()
    assert text.startswith(f"\ufeff{HEADER},who\r\n{''.join(others)}\r\n{content('train', 3)},")
    assert text.endswith(
        ",kept by review,\r\n" if label(3) == "cat" else ",corrected by review,\r\n"
    )
    assert len(text.splitlines()) == 7
    assert len(saved()) == 4


def test_a_link_stays_a_link_and_a_mode_a_mode(here):
    (here / "elsewhere").mkdir()
    there = CORRECTIONS.rename(here / "elsewhere/mine.csv")
    there.chmod(0o640)
    CORRECTIONS.symlink_to(there)
    Review().decide(content("train", 3), DROP)
    assert CORRECTIONS.is_symlink()
    assert content("train", 3) in there.read_text()
    assert there.stat().st_mode & 0o777 == 0o640
    assert [path.name for path in there.parent.iterdir()] == ["mine.csv"]


def test_a_missing_file_is_made(here):
    CORRECTIONS.unlink()
    Review().decide(content("train", 3), DROP)
    assert CORRECTIONS.read_text().startswith(f"{HEADER}\n{content('train', 3)},")


SHAS = [content(*place) for place in RANKED[:4]]
ACTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("decide"),
            st.integers(0, 1),
            st.sampled_from(SHAS),
            st.sampled_from([*CLASSES, DROP]),
        ),
        st.tuples(st.just("undo"), st.integers(0, 1)),
        st.tuples(st.just("edit"), st.sampled_from(SHAS), st.sampled_from([*CLASSES, "cow", None])),
        st.tuples(st.just("other"), st.text("a,\"'\n =", max_size=5)),
        st.tuples(
            st.just("save"),
            st.sampled_from(["\n", "\r\n"]),
            st.sampled_from([b"", b"\xef\xbb\xbf"]),
        ),
        st.tuples(st.just("column")),
        st.tuples(st.just("start"), st.integers(0, 1)),
    ),
    max_size=12,
)


def edited(change) -> None:
    """What an editor saves: the table with a change."""
    rows = list(csv.reader(io.StringIO(CORRECTIONS.read_bytes().decode("utf-8-sig"), newline="")))
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(change(rows))
    CORRECTIONS.write_bytes(text.getvalue().encode())


@pytest.fixture(scope="module")
def two(module_path) -> tuple[Path, list[Review]]:
    """A project, and two windows of it."""
    project(module_path)
    with chdir(module_path):
        return module_path, [Review(), Review()]


@settings(max_examples=50)  # each writes to the disk a dozen times
@given(ACTS)
def test_whatever_happens_the_file_holds_the_last_decisions_and_all_rows_of_others(two, acts):
    folder, windows = two
    with chdir(folder):
        CORRECTIONS.write_text(f"{HEADER}\n")
        undos: list[list[tuple]] = [[], []]
        last: dict[str, str | None] = {}  # of each picture
        notes: list[str] = []  # of rows of others
        for act, *how in acts:
            if act == "decide":
                window, sha256, after = how
                undos[window].append(
                    (windows[window].decide(sha256, after)["undo"], sha256, last.get(sha256), after)
                )
                last[sha256] = after
            elif act == "undo" and undos[how[0]]:
                token, sha256, before, after = undos[how[0]].pop()
                try:
                    windows[how[0]].undo(token)
                    assert last[sha256] == after
                    last[sha256] = before
                except HTTPException:
                    pass  # the picture's row is another one: it stays
            elif act == "edit":
                sha256, after = how
                row = [sha256, "", "", after, "by hand"]
                edited(
                    lambda rows, sha256=sha256, row=row: [
                        *(one for one in rows if one and one[0] != sha256),
                        *([row] if row[3] else []),
                    ]
                )
                last[sha256] = after
            elif act == "other":
                notes.append(f"{len(notes)}{how[0]}")
                row = [f"{len(notes):064x}", "", "", "cat", notes[-1]]
                edited(lambda rows, row=row: [*rows, row])
            elif act == "save":
                ending, mark = how
                text, *notes = (
                    each.replace("\r\n", "\n").replace("\n", ending)
                    for each in (CORRECTIONS.read_bytes().decode("utf-8-sig"), *notes)
                )
                CORRECTIONS.write_bytes(mark + text.removesuffix(ending).encode())
            elif act == "column":
                edited(lambda rows: [[*rows[0], "who"], *([*row, "me"] for row in rows[1:])])
            elif act == "start":  # as after a kill
                windows[how[0]], undos[how[0]] = Review(), []
            known = saved()
            found = {name: known[name]["after"] for name in SHAS if name in known}
            assert found == {name: after for name, after in last.items() if after}
            rows = csv.DictReader(
                io.StringIO(CORRECTIONS.read_bytes().decode("utf-8-sig"), newline="")
            )
            why = [row["why"] for row in rows if row["sha256"] not in SHAS]
            assert why == notes
        assert list(folder.glob(".part*")) == []


def test_windows_and_programs_at_the_same_time_lose_nothing(here):
    """Each has its own pictures; an editor's row comes between."""

    def decide(mine: list[str]) -> None:
        made = Review()
        for sha256 in mine * 8:
            made.decide(sha256, CLASSES[0])
            made.undo(made.decide(sha256, DROP)["undo"])

    threads = [threading.Thread(target=decide, args=([sha256],)) for sha256 in SHAS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {name: one["after"] for name, one in saved().items()} == dict.fromkeys(SHAS, CLASSES[0])


def test_an_editor_that_saves_while_a_decision_is_written_loses_nothing(here, monkeypatch):
    """It knows no lock. It saves when the new file is whole, but does not have its name yet."""
    row, fsync = f"{'e' * 64},x,cat,=dog,by hand", os.fsync

    def saving(number: int) -> None:
        if row not in CORRECTIONS.read_text():
            CORRECTIONS.write_text(f"{HEADER}\n{row}\n")
        fsync(number)

    monkeypatch.setattr(os, "fsync", saving)
    Review().decide(SHAS[0], DROP)
    assert {name: one["after"] for name, one in saved().items()} == {
        "e" * 64: "=dog",
        SHAS[0]: DROP,
    }


def test_what_an_editor_has_saved_over_is_told_and_asked_again(here):
    made = Review()
    made.decide(content("train", 3), DROP)
    made.decide(content("validation", 1), DROP)
    CORRECTIONS.write_text(f"{HEADER}\n")
    state = made.state(test=False)
    assert (state["told"]["lost"], state["left"]) == (2, 2)


DAMAGED = [
    f"{HEADER}\n<<<<<<< HEAD\n",
    f"{HEADER}\n{'e' * 64},x,cat,cat,\n{'e' * 64},x,cat,drop,\n",
    "a,b\n",
    "",
    f'{HEADER}\n"',
    "\xff",
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_told_and_stays_as_it_is(here, text, monkeypatch, capsys):
    made = Review()
    undo = made.decide(content("train", 3), DROP)["undo"]
    CORRECTIONS.write_bytes(text.encode("latin-1"))
    for act in (
        lambda: made.decide(content("train", 3), "cat"),
        lambda: made.undo(undo),
        lambda: made.state(test=False),
    ):
        with pytest.raises(InputError, match=r"^(/.*/)?corrections.csv: "):
            act()
    assert CORRECTIONS.read_bytes() == text.encode("latin-1")
    status, out, error = said(capsys, monkeypatch, "review", "--port", "0")
    assert (status, out, error.count("\n")) == (1, "", 1)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        ((AUDIT / "pictures.csv").unlink, "pictures.csv: not found; run `dvc repro`"),
        ((IMAGES / "test.npy").unlink, "test.npy: not found; run `dvc repro`"),
        (lambda: (AUDIT / "pictures.csv").write_text(""), "damaged"),
        (lambda: (AUDIT / "neighbours.csv").write_text("split,row\n"), "damaged"),
        (lambda: (AUDIT / "pictures.csv").write_bytes(b"split,row\n\xff"), "damaged"),
    ],
    ids=range(5),
)
def test_an_audit_that_cannot_be_used_is_one_line(here, damage, why, monkeypatch, capsys):
    damage()
    status, out, error = said(capsys, monkeypatch, "review", "--port", "0")
    assert (status, out, error.count("\n"), why in error) == (1, "", 1, True), error
    assert "dvc repro" in error


def test_a_stale_audit_s_pictures_are_left_out_and_told(here):
    for split, column, row, value in (
        ("train", "sha256", 3, "f" * 64),  # another picture
        ("validation", "class", 1, "=dog2"),  # the owner has moved it
    ):
        path = IMAGES / f"{split}.csv"
        table = pd.read_csv(path, dtype=str)
        table.loc[row, column] = value
        table.to_csv(path, index=False)
    path = IMAGES / "test.csv"
    pd.read_csv(path, dtype=str).head(2).to_csv(path, index=False)  # the last suspect is gone
    state = Review().state(test=True)
    assert (state["told"]["gone"], state["left"], state["other"]) == (3, 2, 1)
    # The copy is still there.
    assert asked() == content("train", 7)
    assert Review().state(test=False)["suspect"]["class"] == label(7)


def test_a_label_whose_correction_was_removed_is_stale(here):
    """The audit saw the corrected label."""
    path = AUDIT / "pictures.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    mine = (table["split"] == "validation") & (table["row"] == "1")
    table.loc[mine, "class"] = "cat"
    table.to_csv(path, index=False)
    assert Review().state(test=False)["told"]["gone"] == 1
    row = f"{content('validation', 1)},x,{label(1)},cat,"
    CORRECTIONS.write_text(f"{HEADER}\n{row}\n")
    state = Review().state(test=False)
    assert (state["told"]["gone"], state["total"] - state["left"]) == (0, 1)  # it is decided


def test_a_class_of_the_name_drop_can_mean_neither(tmp_path, monkeypatch):
    project(tmp_path, ("cat", DROP, "owl"))
    monkeypatch.chdir(tmp_path)
    made, state = Review(), Review().state(test=False)
    assert state["told"]["named"] == 1
    for sha256 in made.suspects:
        with pytest.raises(InputError, match="cannot be chosen"):
            made.decide(sha256, DROP)
        made.decide(sha256, "owl")
    labels.write(IMAGES, tmp_path / "labels", saved())


def test_only_its_pictures_and_classes(here):
    for sha256, after in (
        ("f" * 64, "cat"),
        (SHAS[0], "cow"),
        (SHAS[0], ""),
        (content("train", 1), "cat"),
    ):
        with pytest.raises(InputError, match="cannot be chosen"):
            Review().decide(sha256, after)
    assert CORRECTIONS.read_text() == f"{HEADER}\n"


@contextmanager
def started(folder: Path) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    """A server's process and address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "convnets", "review", "--port", "0"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().split(" ")[0]
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def served(module_path) -> Iterator[tuple[Path, str]]:
    """A project and the address of its server, which ends with Ctrl-C and says nothing."""
    folder = module_path / "served"
    project(folder)
    with started(folder) as (process, address):
        yield folder, address
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
        assert process.returncode == 0


@pytest.fixture
def address(served) -> str:
    """The server's address, and nothing is decided."""
    folder, found = served
    (folder / CORRECTIONS).write_text(f"{HEADER}\n")
    return found


def post(
    address: str, sha256: str = SHAS[1], after: str = DROP, **headers: str
) -> requests.Response:
    asked = {"sha256": sha256, "after": after}
    return requests.post(f"{address}/decide", params=asked, headers=headers, timeout=60)


def test_only_this_machines_names_and_this_servers_page(served, address):
    port = address.rpartition(":")[2]
    before = (served[0] / CORRECTIONS).read_bytes()
    for host in ("example.com", f"example.com:{port}", "127.0.0.1.example.com", ""):
        for path in ("", "/state", "/classes"):
            assert (
                requests.get(address + path, headers={"Host": host}, timeout=60).status_code == 400
            )
        assert post(address, Host=host).status_code == 400
    for origin in ("http://example.com", "null", "http://127.0.0.1:1", f"https://localhost:{port}"):
        assert post(address, Origin=origin).status_code == 403
        headers = {"Origin": origin}
        answer = requests.post(f"{address}/undo?made=0", headers=headers, timeout=60)
        assert answer.status_code == 403
    assert (
        requests.get(f"{address}/decide?sha256={SHAS[1]}&after=drop", timeout=60).status_code == 405
    )
    assert (served[0] / CORRECTIONS).read_bytes() == before
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert post(address, Host=host, Origin=f"http://{host}").status_code == 200


def test_what_it_cannot_use_has_a_reason(address):
    for path in ("decide", f"decide?sha256={SHAS[1]}", "undo"):
        assert requests.post(f"{address}/{path}", timeout=60).status_code == 422
    assert requests.post(f"{address}/undo?made=0", timeout=60).status_code == 410
    answer = post(address, "f" * 64)
    assert (answer.status_code, "load the page again" in answer.json()["detail"]) == (409, True)
    answer = post(address, SHAS[1], "\ud800\0".encode("utf-8", "surrogatepass").decode("latin-1"))
    assert answer.status_code == 409


def test_the_headers(address):
    for path in ("", "/state", "/no"):
        headers = requests.get(address + path, timeout=60).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert "unsafe" not in headers["Content-Security-Policy"]
    for path in ("/docs", "/openapi.json"):  # FastAPI's load scripts from the network
        assert requests.get(address + path, timeout=60).status_code == 404


def test_a_disk_that_cannot_be_written_is_one_line(served, address):
    folder, _ = served
    (folder / f".part.{CORRECTIONS}").mkdir()  # so that not even root can write it
    answer = post(address)
    (folder / f".part.{CORRECTIONS}").rmdir()
    assert answer.status_code == 409
    assert "\n" not in answer.json()["detail"]
    assert (folder / CORRECTIONS).read_text() == f"{HEADER}\n"
    assert post(address).status_code == 200


@pytest.mark.slow
def test_a_kill_loses_no_decision(tmp_path):
    """After fifty, or in the middle of the next."""
    project(tmp_path)
    sent: dict[str, str] = {}
    answered: list[tuple[str, str]] = []

    def decide() -> None:
        for number in range(1000):
            sha256, after = SHAS[number % 4], CLASSES[number // 4 % 3]
            sent[sha256] = after
            try:
                assert post(address, sha256, after).status_code == 200
            except OSError:
                return
            answered.append((sha256, after))

    with started(tmp_path) as (process, address):
        thread = threading.Thread(target=decide)
        thread.start()
        while len(answered) < 50 and thread.is_alive():
            thread.join(0.01)
        process.send_signal(signal.SIGKILL)
        thread.join()
    found = labels.corrections(tmp_path / CORRECTIONS)
    assert set(found) == set(SHAS)
    for sha256, last in dict(answered).items():
        assert found[sha256]["after"] in (last, sent[sha256])


SIZES = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


@pytest.fixture
def opened(page, address):
    with opener(page, address, (f"{address}/", "data:"), noted="status of 4") as opened:
        yield opened


@pytest.mark.browser
def test_keys_decide_and_go_back(opened, served):
    path = served[0] / CORRECTIONS

    def after() -> list[str]:
        return [one["after"] for one in labels.corrections(path).values()]

    page = opened(viewport={"width": 1200, "height": 900})
    expect(page.locator("#label")).to_have_text(label(3))  # hostile: it is text
    expect(page.locator("#progress")).to_have_text("1 of 2")
    assert page.locator("main [onerror]").count() == 0
    assert page.evaluate("[...document.images].every(image => image.naturalWidth)")
    page.keyboard.press("s")
    expect(page.locator("#label")).to_have_text(label(1))
    assert after() == [suggested(3)]
    page.keyboard.press("o")
    page.keyboard.type("고양")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="No doubtful label")).to_be_visible()
    expect(page.get_by_text("dvc repro")).to_be_visible()
    expect(page.locator("#done")).to_contain_text("2 corrected, 0 dropped, 0 kept")
    assert after() == [suggested(3), "고양이"]
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#progress")).to_have_text("2 of 2")
    assert after() == [suggested(3)]
    page.reload()  # what can be undone is known to the window
    expect(page.locator("#label")).to_have_text(label(1))
    page.keyboard.press("b")
    expect(page.locator("#progress")).to_have_text("1 of 2")
    assert after() == []
    page.keyboard.press("b")
    expect(page.get_by_role("alert")).to_have_text("Nothing to undo in this window")

    path.write_text("damaged")
    page.keyboard.press("k")
    expect(page.get_by_role("alert")).to_contain_text("its first line must be")
    assert path.read_text() == "damaged"
    path.write_text(f"{HEADER}\n")
    for number, key in enumerate(("Enter", "d"), 1):
        page.keyboard.press(key)
        expect(page.locator("#progress")).to_have_text("2 of 2" if number == 1 else "")
    assert after() == [label(3), DROP]
    expect(page.locator("#test")).to_be_hidden()
    page.keyboard.press("Enter")
    expect(page.locator("#test")).to_contain_text("because the labels do")
    expect(page.locator("#progress")).to_have_text("1 of 3")


@pytest.mark.browser
def test_the_page_at_phone_size_in_korean(opened, served):
    phone = {"width": 390, "height": 844}
    page = opened(viewport=phone, locale="ko-KR", is_mobile=True, has_touch=True)
    assert page.evaluate("document.documentElement.lang") == "ko"
    expect(page.get_by_role("heading", level=1)).to_have_text("라벨이 맞나요?")
    page.get_by_role("button", name="다른 클래스").tap()
    page.get_by_role("option", name=HOSTILE).tap()
    expect(page.locator("#progress")).to_have_text("2장 중 2장째")
    # A Korean keyboard's letters.
    pressed = "new KeyboardEvent('keydown', {key: 'ㅇ', code: 'KeyD', bubbles: true})"
    page.evaluate(f"document.body.dispatchEvent({pressed})")
    expect(page.locator("#done")).to_have_text("corrections.csv: 수정 0건, 제외 1건, 유지 1건")
    assert page.evaluate(SIZES) == [390, 390]
