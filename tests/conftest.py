"""What tests share: the project's root, and the real data where there is some."""

import os
from pathlib import Path

import pytest

from tests.commands import ROOT, Clone

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


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
def empty_clone(tmp_path_factory) -> Clone:
    """A fresh clone of what is committed."""
    return Clone.of_commit(tmp_path_factory.mktemp("clone") / "convnets")
