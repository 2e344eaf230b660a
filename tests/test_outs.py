"""Nothing of the user's is removed: not by DVC, not by make, and not by the stages."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from convnets.base import files, params
from convnets.base.console import InputError
from convnets.sources import inputs
from convnets.tracking import outs
from tests.commands import ROOT, Clone, said
from tests.test_pipeline import make_quick

IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@localhost")
with Repo(ROOT) as repo:
    OUTS = {Path(out.def_path): out for out in repo.index.outs}
# Where users keep things, and where outs stood before: DVC must not even look there.
USERS = ["data/cats/1.jpg", "data/labels.csv", "models/mine.keras", "models/runs/a.keras"]
USERS += [f"{place}/1.jpg" for place in outs.BEFORE]
TARGETS = ("subset", "download_mnist")


@pytest.fixture(scope="module")
def clone(module_path) -> Clone:
    """A clone with results, in which the user has files."""
    clone = Clone.of_commit(module_path / "convnets")
    make_quick(clone)
    clone.run("git", *IDENTITY, "commit", "-qam", "tiny")
    put(clone)
    clone.run("dvc", "repro", *TARGETS)
    clone.run("git", *IDENTITY, "commit", "-qam", "results")
    return clone


def put(clone: Clone) -> None:
    for place in USERS:
        path = clone.folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(place)


def kept(clone: Clone) -> bool:
    return all((clone.folder / place).read_text() == place for place in USERS)


def test_outs_stand_where_nobody_keeps_photographs():
    for place in OUTS:
        assert place.parts[0] in ("dvc-outs", "metrics") or place == Path("models/champion.keras")


@pytest.mark.slow("ways")
def test_the_users_files_outlive_every_way_to_run(clone):
    assert kept(clone)  # of `dvc repro`
    clone.run("dvc", "exp", "run", "-S", "seed=1", *TARGETS)
    assert kept(clone)
    clone.run("dvc", "exp", "run", "--temp", "-S", "seed=2", "inputs")
    assert kept(clone)
    clone.run("dvc", "exp", "run", "--queue", "-S", "seed=3", "inputs")
    clone.run("dvc", "exp", "run", "--run-all")
    assert kept(clone)
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "checkout", "--force", "download", *TARGETS)
    assert kept(clone)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["a file", "a folder"])
def test_a_file_at_an_outs_place_stops_the_run(clone, kind, monkeypatch):
    """All places at once would show only the first; so each in turn, by the check itself."""
    monkeypatch.chdir(clone.folder)
    for place, out in OUTS.items():
        if out.persist and not out.use_cache:
            continue  # DVC does not remove it
        before = place.with_name("before")
        if place.exists():
            place.rename(before)
        mine = place if kind == "a file" else place / "deep/mine.jpg"
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("mine")
        with pytest.raises(InputError, match=f"{mine}: not made by the pipeline"):
            outs.check()
        assert mine.read_text() == "mine"
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        if before.exists():
            before.rename(place)
    assert "rm -r" not in outs.check()


@pytest.mark.slow
def test_dvc_repro_ends_before_it_removes_anything(clone):
    mine = clone.folder / "dvc-outs/images/mine.jpg"
    mine.write_text("mine")
    for command in (("repro", "-f"), ("exp", "run", "--queue", "-S", "seed=7")):
        output = clone.run("dvc", *command, "subset", status="queue" not in str(command) and 255)
        assert mine.read_text() == "mine", output
    mine.unlink()
    clone.run("dvc", "queue", "remove", "--all")


@pytest.mark.slow
def test_what_the_pipeline_made_is_known_in_every_state(clone, monkeypatch):
    """By the journal; by dvc.lock; by DVC's cache alone; and by git."""
    monkeypatch.chdir(clone.folder)
    assert outs.check() == ""
    assert files.stamp(Path("dvc-outs/images/test.npy")) in files.journal()
    shutil.rmtree(".unfinished")
    assert outs.check() == ""
    shutil.rmtree(".unfinished")
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text("schema: '2.0'\nstages: {}\n")
    assert outs.check() == ""
    Path("dvc.lock").write_text(lock)
    shutil.rmtree(".unfinished")
    cache = Path(".dvc/cache").rename("../cache")
    assert outs.check() == ""
    cache.rename(".dvc/cache")


@pytest.mark.slow
def test_what_an_update_leaves_is_told_and_kept(clone):
    shutil.rmtree(clone.folder / "data")
    shutil.copytree(clone.folder / "dvc-outs/images", clone.folder / "data/images")
    shutil.copy(clone.folder / "dvc-outs/mnist.npz", clone.folder / "data/mnist.npz")
    output = clone.run("dvc", "repro", "subset")
    assert "rm -r data/images data/mnist.npz" in output
    (clone.folder / "data/images/mine.jpg").write_text("mine")
    assert "rm -r data/mnist.npz\n" in clone.run("dvc", "repro", "subset")
    assert (clone.folder / "data/images/test.npy").exists()
    shutil.rmtree(clone.folder / "data")
    put(clone)


@pytest.mark.slow
def test_a_killed_stage_leaves_nothing_that_stops_the_next_run(clone):
    """Its outs are there, but neither dvc.lock nor DVC's cache has heard of them."""
    path = clone.folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(values | {"seed": 99}))
    clone.run("python", "-m", "stages.download", "download")  # as DVC would, but no more
    clone.run("dvc", "repro", "inputs")
    clone.run("git", "checkout", "-q", ".")
    clone.run("dvc", "checkout", "-q", "--force", "download")


@pytest.mark.slow
def test_make_clean_removes_what_the_pipeline_made(clone, module_path):
    copy = Clone(module_path / "copy")
    shutil.copytree(clone.folder, copy.folder, symlinks=True)
    (copy.folder / "dvc-outs/mine.jpg").write_text("mine")
    (copy.folder / "dvc-outs/images/.part.test.npy").write_text("of a killed stage")
    output = copy.run("make", "clean")
    assert kept(copy)
    assert "dvc-outs/mine.jpg" in output
    assert [path.name for path in (copy.folder / "dvc-outs").iterdir()] == ["mine.jpg"]
    assert (copy.folder / "metrics/report.html").exists()  # in git
    (copy.folder / "dvc-outs/mine.jpg").unlink()
    copy.run("make", "clean")
    assert not (copy.folder / "dvc-outs").exists()


@pytest.mark.parametrize(
    "path", ["dvc-outs", "dvc-outs/images", "dvc-outs/mine/photos", ".", "..", "models", "metrics"]
)
def test_inspect_refuses_a_path_where_outs_are(path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    status, out, error = said(capsys, monkeypatch, "inspect", path)
    assert status == 1
    assert not out
    assert "where DVC removes what it finds" in error
    assert error.count("\n") == 1


def test_inspect_refuses_a_link_to_an_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    (tmp_path / "photos").symlink_to(ROOT / "dvc-outs")
    assert said(capsys, monkeypatch, "inspect", str(tmp_path / "photos"))[0] == 1


@pytest.mark.slow
def test_the_params_may_not_name_an_out(clone, monkeypatch):
    make_quick(clone, data={"source": "folder", "path": "dvc-outs/images"})
    output = clone.run("dvc", "repro", "subset", status=255)
    assert "dvc-outs/images: is at or in dvc-outs, where DVC removes what it finds" in output
    monkeypatch.chdir(clone.folder)
    for section, given in (
        ("data", {"source": "archive", "path": "dvc-outs/images.zip"}),
        ("data", {"source": "folder", "path": "."}),
        ("data", {"source": "folder", "path": "data", "labels": "metrics/curves.csv"}),
        ("mnist", {"source": "file", "path": "dvc-outs/mnist.npz"}),
        ("backbone", {"name": "models/champion.keras", "weights": None}),
    ):
        clone.run("git", "checkout", "-q", "params.yaml")
        make_quick(clone, **{section: given})
        with pytest.raises(InputError, match="where DVC removes what it finds"):
            for paths in inputs.outside(params.load()).values():
                for path in paths:
                    outs.refuse(files.given(path))
    clone.run("git", "checkout", "-q", "params.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    "kill", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda kill: kill.name
)
def test_the_branch_of_an_interrupted_experiment_is_told(tmp_path, kill):
    """DVC takes git off the branch, and a killed one does not put it back."""
    folder = tmp_path / "project"
    folder.mkdir()
    small = Clone(folder)
    small.run("git", "init", "-q", "-b", "main")
    small.run("dvc", "init", "-q")
    stage = {"cmd": "touch begun && sleep 60", "params": ["a"], "always_changed": True}
    (folder / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"long": stage}}))
    (folder / "params.yaml").write_text("a: 1\n")
    (folder / ".gitignore").write_text("begun\n")
    small.run("git", "add", ".")
    small.run("git", *IDENTITY, "commit", "-qm", "start")
    ask = [sys.executable, "-c", "from convnets.tracking import git; print(git.no_branch())"]

    def told() -> str:
        return small.run("env", f"PYTHONPATH={ROOT / 'src'}", *ask).strip()

    assert told() == ""
    program = subprocess.Popen(
        ["dvc", "exp", "run", "-S", "a=2"],
        cwd=folder,
        env=small.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not (folder / "begun").exists():
        assert program.poll() is None
        time.sleep(0.1)
    os.killpg(program.pid, kill)
    program.wait()
    small.run("git", "add", ".")
    small.run("git", *IDENTITY, "commit", "-q", "--allow-empty", "-m", "on no branch")
    time.sleep(1)  # git's reflog has whole seconds
    line = told()
    assert line.endswith("git switch -C main")
    small.run(*line.rpartition(": ")[2].split())
    assert small.run("git", "log", "-1", "--format=%s", "main") == "on no branch\n"
    assert told() == ""
    small.run("git", "switch", "-q", "--detach", "HEAD~1")  # on purpose
    assert told() == ""
