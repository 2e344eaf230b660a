"""Shared fixtures: the project's root, and the real data if available."""

import math
import os
import random
import shutil
import signal
from pathlib import Path

import hypothesis
import pytest
from playwright.sync_api import Page, expect, sync_playwright

from tests.commands import ROOT, Clone

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# A script's background job ignores Ctrl-C, and so would the programs that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# No test fails because the machine is slow.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")


# What takes longest, in this order: both processes of `make test` are at work to its end.
LONG = (
    "test_pipeline.py",
    "test_models.py",
    "test_tracking.py",
    "test_report.py",
    "test_export.py",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--turn", type=int, help="of the slow tests, run those of this turn alone")


def part(item: pytest.Item) -> str | None:
    """The part of the slow tests that has a test: what its marker names, or else its file."""
    marker = item.get_closest_marker("slow")
    return (marker.args or (item.path.name,))[0] if marker else None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the turn, and put what is long first.

    A turn is two parts, one for each of two processes: `--dist loadfile` gives a process a file.
    The turns begin anew after the last.
    """
    turn = config.getoption("turn")
    if turn is not None:
        parts = sorted(filter(None, {part(item) for item in items}))
        count = math.ceil(len(parts) / 2)
        chosen = parts[turn % count :: count]
        config.hook.pytest_deselected(items=[item for item in items if part(item) not in chosen])
        items[:] = [item for item in items if part(item) in chosen]
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONG)))


@pytest.fixture(autouse=True)
def _same_start() -> None:
    """A test's models start from the same weights each time: Keras draws its seeds from here."""
    random.seed(0)


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the real images and weights; the test is skipped without it."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("no ../shared/data")
    return folder


@pytest.fixture(scope="module")
def module_path(tmp_path_factory):
    """A folder for what a module's tests share; a clone after a `dvc repro` has a gigabyte."""
    folder: Path = tmp_path_factory.mktemp("module")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def empty_clone(module_path) -> Clone:
    """A fresh clone of the last commit."""
    return Clone.of_commit(module_path / "convnets")


@pytest.fixture
def page():
    """A page in this machine's Chromium; the test is skipped without it."""
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, names)), None)
    if program is None:
        pytest.skip("no Chromium on the PATH")
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    expect.set_options(timeout=60_000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=sandbox)
        page: Page = browser.new_page(viewport={"width": 1500, "height": 1000})
        page.set_default_timeout(60_000)
        yield page
        browser.close()
