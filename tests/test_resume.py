"""A stage that is killed at any moment resumes, and gives the bytes of an undisturbed run."""

import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from tests.clusters import nodes
from tests.commands import TOKEN, Clone, command, holding

pytestmark = pytest.mark.slow

# What must be the same, and the line after which a stage is well under way.
STAGES = {
    "extract_features": (["dvc-outs/features"], "extract "),
    "extract_views": (["dvc-outs/views"], "extract "),
    "train_augmented": (["dvc-outs/trained/train_augmented"], "epoch"),
    "train_augmented_head": (["dvc-outs/trained/train_augmented_head"], "epoch"),
    "fine_tune": (["dvc-outs/trained/fine_tune"], "epoch"),
}
EPOCHS = 8
# What one of those needs.
BEFORE = (
    "download",
    "subset",
    "labels",
    "download_weights",
    "extract_features",
    "extract_views",
    "train_augmented_head",
)


@pytest.fixture(scope="module")
def clone(module_path) -> Clone:
    clone = Clone.of_commit(module_path / "convnets")
    path = clone.folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    values |= {"image_size": 78, "epochs": EPOCHS}
    values["subset"] |= {"train": 48, "validation": 40, "test": 40}
    values["views"] |= {"count": 2}
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    for stage in BEFORE:
        clone.run(*command(stage))
    return clone


def contents(clone: Clone, outs: list[str]) -> dict[str, bytes]:
    paths = [
        file
        for out in outs
        for file in ([clone.folder / out, *(clone.folder / out).glob("*")])
        if file.is_file()
    ]
    assert paths
    return {str(path.relative_to(clone.folder)): path.read_bytes() for path in paths}


def start(clone: Clone, stage: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        command(stage),
        cwd=clone.folder,
        env=clone.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextmanager
def epochs(clone: Clone, count: int) -> Iterator[None]:
    """Each training has so many epochs for a while."""
    path = clone.folder / "params.yaml"
    before = path.read_text()
    path.write_text(yaml.safe_dump(yaml.safe_load(before) | {"epochs": count}))
    yield
    path.write_text(before)


def unfinished(clone: Clone, stage: str) -> list[Path]:
    return list((clone.folder / ".unfinished" / stage).glob("*/*"))


@pytest.mark.parametrize(
    "stage",
    [pytest.param(name, marks=pytest.mark.slow(STAGES[name][1].strip())) for name in STAGES],
)
def test_killed_twice_it_ends_with_the_same_bytes(clone, stage):
    outs, mark = STAGES[stage]
    whole = clone.run(*command(stage))
    undisturbed = contents(clone, outs)
    runs_before = len(clone.runs())
    shutil.rmtree(clone.folder / ".features", ignore_errors=True)
    chance = random.Random(stage)
    for _ in range(2):
        process = start(clone, stage)
        lines = (line for line in process.stdout if line.startswith(mark))
        for _ in range(chance.randint(1, 2)):
            assert next(lines, None), "it ended before it could be killed"
        time.sleep(chance.uniform(0, 0.2))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert unfinished(clone, stage)
    output = clone.run(*command(stage))
    # Killed between two files, it resumes with the next file and prints nothing.
    assert re.search("resuming after|computed already", output) or len(output) < len(whole)
    assert contents(clone, outs) == undisturbed
    assert not unfinished(clone, stage)

    latest, before = clone.runs()[lambda runs: runs["tags.stage"] == stage].head(2).itertuples()
    assert latest.status == before.status == "FINISHED"
    assert len(clone.runs()) == runs_before + 1
    if mark == "epoch":
        assert clone.steps(latest.run_id) == clone.steps(before.run_id) == EPOCHS


def test_a_killed_subset_goes_on(clone):
    whole = contents(clone, ["dvc-outs/images"])
    process = start(clone, "subset")
    assert next((line for line in process.stdout if line.startswith("decode: ")), None)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert "decode: resuming after" in clone.run(*command("subset"))
    assert contents(clone, ["dvc-outs/images"]) == whole
    assert not unfinished(clone, "subset")


def test_an_edit_that_changes_no_byte_costs_no_epoch(clone):
    page = clone.folder / "src/convnets/pages/page.html"
    before = page.read_text()
    process = start(clone, "train_augmented")
    assert next((line for line in process.stdout if line.startswith("epoch 2")), None)
    process.kill()
    process.wait()
    page.write_text(before.replace("<style>", "<style>/* a comment */"))
    try:
        assert "resuming after epoch" in clone.run(*command("train_augmented"))
    finally:
        page.write_text(before)


def test_a_killed_driver_of_a_cluster_goes_on(clone, monkeypatch):
    outs, mark = STAGES["extract_views"]
    clone.run(*command("extract_views"))
    here = contents(clone, outs)
    with nodes(monkeypatch, 2):
        process = start(clone, "extract_views")
        assert next((line for line in process.stdout if line.startswith(mark)), None)
        process.kill()
        assert process.wait() == -signal.SIGKILL
        assert "resuming after" in clone.run(*command("extract_views"))
    assert contents(clone, outs) == here
    assert not unfinished(clone, "extract_views")


def test_a_kill_amid_the_writing_of_a_checkpoint_is_survived(clone):
    outs, _ = STAGES["fine_tune"]
    clone.run(*command("fine_tune"))
    undisturbed = contents(clone, outs)
    for _ in range(10):
        process = start(clone, "fine_tune")
        while process.poll() is None:
            if any(path.name == ".part.state.npz" for path in unfinished(clone, "fine_tune")):
                process.kill()
        process.stdout.close()
        if any(path.name == ".part.state.npz" for path in unfinished(clone, "fine_tune")):
            break
    else:
        pytest.fail("no kill hit the writing of a checkpoint")
    clone.run(*command("fine_tune"))
    assert contents(clone, outs) == undisturbed


def test_a_polite_stop_says_so_and_marks_the_run(clone):
    with epochs(clone, 300):  # enough to stop before the last, even on a busy machine
        process = start(clone, "train_scratch")
        next(line for line in process.stdout if line.startswith("epoch"))
        process.send_signal(signal.SIGINT)
        output = process.stdout.read()
    assert process.wait() == 130
    assert "stopped; run it again to resume" in output
    assert "Traceback" not in output
    stopped = clone.runs().iloc[0]
    assert (stopped["tags.stage"], stopped["status"]) == ("train_scratch", "KILLED")
    assert unfinished(clone, "train_scratch")
    assert not holding(TOKEN, clone.folder)

    # With other params, the unfinished state is useless and is removed.
    terminal = ("env", "TTY_COMPATIBLE=1")  # for rich
    with epochs(clone, 1):
        output = clone.run(*terminal, *command("train_scratch"))
    assert "resuming" not in output
    assert "train_scratch ━" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", output)
    assert "0:00:0" in output  # the time left
    assert not unfinished(clone, "train_scratch")


def test_a_stage_that_outlived_its_dvc_keeps_its_folder(clone):
    """`kill -9` of `dvc` alone leaves the stage at work: the next one says so, and ends."""
    with epochs(clone, 10_000):
        first = start(clone, "train_augmented")
        assert next((line for line in first.stdout if line.startswith("epoch")), None)
        output = clone.run(*command("train_augmented"), status=1)
    assert f"process {first.pid} is still at work on it" in output
    assert f"kill {first.pid}" in output
    assert "Traceback" not in output
    first.terminate()
    rest = first.communicate()[0]
    assert "stopped; run it again to resume" in rest
