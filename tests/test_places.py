"""The project in other places: moved, copied, oddly named, on other disks, on other machines."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import mlflow
import numpy as np
import pytest

from convnets.base import console, files, params
from convnets.base.console import InputError
from convnets.models import internals, precision, saved
from convnets.sources import inputs
from convnets.tracking import store, sync
from tests.commands import ROOT, Clone, some_slow
from tests.test_pipeline import make_quick

ODD = ["with space", "#1 & 100% 50%25 a?b=c;d+e", 'it\'s "quoted" $HOME', "[x]{y}*\\z", "고양이"]

# Begin a run in the project's own store and log a text; print where the text is.
RECORD = """
import mlflow, sys
from convnets.tracking import store, sync
store.quieten()
mlflow.set_tracking_uri(store.uri())
mlflow.set_experiment(store.experiment())
with mlflow.start_run() as run:
    mlflow.log_text(sys.argv[1], "note.txt")
print(run.info.run_id, run.info.experiment_id)
"""
READ = """
import mlflow, sys
from convnets.tracking import store, sync
store.quieten()
mlflow.set_tracking_uri(store.uri())
print(mlflow.artifacts.load_text(f"runs:/{sys.argv[1]}/note.txt"))
"""


def python(folder: Path, code: str, *arguments: str, **environment: str) -> str:
    """Run Python in a folder, with this checkout's library; return what it prints."""
    known = {"PYTHONPATH": str(ROOT / "src"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    unset = ("MLFLOW_TRACKING_URI", "DVC_ROOT", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_EXPERIMENT_ID")
    inherited = {name: value for name, value in os.environ.items() if name not in unset}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=inherited | known | environment,
        text=True,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def noted(folder: Path) -> list[str]:
    return sorted(path.read_text() for path in folder.rglob("note.txt"))


@pytest.mark.parametrize("name", some_slow(ODD, {*ODD} - {ODD[1]}))
def test_a_project_path_may_have_any_character(tmp_path, name):
    here = tmp_path / name
    here.mkdir()
    run, _ = python(here, RECORD, "first").split()
    assert python(here, READ, run) == "first"
    assert noted(here / "mlruns") == ["first"]
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["moved", "copied"])
def test_a_project_that_was_moved_or_copied_has_its_own_artifacts(tmp_path, way):
    old, new = tmp_path / "old", tmp_path / "a new place"
    old.mkdir()
    first, _ = python(old, RECORD, "first").split()
    if way == "moved":
        old.rename(new)
    else:
        shutil.copytree(old, new)
    assert python(new, READ, first) == "first"
    if way == "copied":
        shutil.rmtree(old / "mlruns")  # so it was not read there
        assert python(new, READ, first) == "first"
    second, _ = python(new, RECORD, "second").split()
    assert python(new, READ, second) == "second"
    assert noted(new / "mlruns") == ["first", "second"]
    assert noted(old) == []
    assert old.exists() == (way == "copied")


def test_a_file_system_without_links_records(tmp_path, monkeypatch):
    def no_links(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    uri = store.database(tmp_path)
    assert mlflow.MlflowClient(uri).get_experiment_by_name("convnets")
    assert [path.name for path in tmp_path.iterdir()] == ["mlflow.db"]
    # A process was killed after it had claimed the name.
    (tmp_path / "b").mkdir()
    (tmp_path / "b/mlflow.db").touch()
    monkeypatch.undo()
    assert mlflow.MlflowClient(store.database(tmp_path / "b")).get_experiment_by_name("convnets")


def test_the_experiment_s_name_is_heeded(tmp_path):
    name = "/Users/somebody/pictures"  # as Databricks wants it
    _, experiment = python(tmp_path, RECORD, "x", MLFLOW_EXPERIMENT_NAME=name).split()
    client = mlflow.MlflowClient(store.database(tmp_path))
    assert client.get_experiment(experiment).name == name


@pytest.mark.slow
def test_a_notebook_s_run_is_left_alone(tmp_path):
    """Jupyter, Colab and MLflow's own jobs set these for all programs that they start."""
    first, _ = python(tmp_path, RECORD, "first").split()
    second, _ = python(tmp_path, RECORD, "second", MLFLOW_RUN_ID=first).split()
    assert first != second
    assert python(tmp_path, READ, first) == "first"


def test_a_notebook_s_backend_is_not_asked_for(tmp_path):
    code = "from convnets.base import console; from matplotlib import pyplot; pyplot.figure()"
    python(tmp_path, code, MPLBACKEND="module://backend_of_a_notebook")


@pytest.mark.parametrize("command", [("-m", "stages.download", "--help"), ("-c", "import stages")])
def test_stages_are_found_where_python_does_not_look_into_this_folder(command):
    known = {"PYTHONSAFEPATH": "1", "PYTHONPATH": str(ROOT / "src")}
    subprocess.run([sys.executable, *command], cwd=ROOT, env=os.environ | known, check=True)


def test_the_project_is_found_from_a_folder_in_it(tmp_path, monkeypatch):
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(ROOT / "docs/images")
    assert files.root() == ROOT
    monkeypatch.chdir(tmp_path)
    assert files.root() == tmp_path
    with pytest.raises(InputError, match="not in the project"):
        sync.sync()


def test_a_user_without_a_name(tmp_path):
    """As in a container with `--user 12345`."""
    user = ["unshare", "--user", "--map-user=12345", "--map-group=12345"]
    code = "from convnets.base import console; import getpass; print(getpass.getuser())"
    known = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src"), "HOME": "/"}
    command = [*user, sys.executable, "-c", code]
    if subprocess.run([*user, "true"], capture_output=True).returncode:
        pytest.skip("no permission for a user of one's own")
    done = subprocess.run(command, env=known, cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "user\n", done.stderr


def test_no_temporary_folder(capsys, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
    with pytest.raises(SystemExit):
        console.run(lambda: tempfile.TemporaryFile().close())
    assert capsys.readouterr().err.startswith("error: No usable temporary directory")


def test_a_relative_path_starts_at_the_main_checkout(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/somebody")
    assert files.given("photos") == tmp_path / "photos"
    assert files.given("~/photos") == Path("/home/somebody/photos")
    assert files.given("/photos") == Path("/photos")


@pytest.fixture
def disk(tmp_path):
    """A folder that is a disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True)
    if done.returncode:
        pytest.skip("no permission to mount a disk")
    yield folder
    subprocess.run(["umount", "--recursive", str(folder)], check=True)


def test_a_file_moves_to_another_disk(tmp_path, disk):
    """`dvc-outs` may be a mounted disk: `.unfinished` is on another one."""
    (tmp_path / "x.npy").write_bytes(b"new")
    (disk / "x.npy").write_bytes(b"old")
    with pytest.raises(OSError, match="cross-device"):
        (tmp_path / "x.npy").replace(disk / "x.npy")
    files.move(tmp_path / "x.npy", disk / "x.npy")
    assert [path.read_bytes() for path in disk.iterdir()] == [b"new"]
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.slow("disk")
def test_outs_on_another_disk_beside_files_of_the_system(tmp_path, disk):
    clone = Clone.of_commit(tmp_path / "convnets")
    make_quick(clone)
    for name in ("dvc-outs", "models"):
        for place in (clone.folder / name, disk / name):
            place.mkdir()
        bind = ["mount", "--bind", str(disk / name), str(clone.folder / name)]
        subprocess.run(bind, check=True)
    try:
        clone.run("dvc", "repro", "train_feature_head")
        assert len(np.load(disk / "dvc-outs/features/train.npy")) == 16
        assert (disk / "dvc-outs/trained/train_feature_head/model.keras").exists()
        for stray in (".DS_Store", "Thumbs.db", "._train.npy", "desktop.ini"):
            (clone.folder / "dvc-outs/images" / stray).write_bytes(b"\0")
        status = json.loads(clone.run("dvc", "status", "--json", "train_feature_head"))
        assert set(status) <= {"inputs"}
    finally:
        for name in ("dvc-outs", "models"):
            subprocess.run(["umount", str(clone.folder / name)], check=True)


def test_stamps_notice_each_change_and_forgive_a_file_that_is_elsewhere(tmp_path, capsys):
    folder = tmp_path / "photos"
    (folder / "cat").mkdir(parents=True)
    first = folder / "cat/1.jpg"
    first.write_bytes(b"one")
    out = tmp_path / "inputs/images.json"

    def stamped() -> str:
        inputs.write([str(folder)], out)
        return out.read_text()

    seen = [stamped()]
    assert stamped() == seen[0]
    first.write_bytes(b"two")
    os.utime(first, ns=(1, 2))
    seen.append(stamped())
    (folder / "cat/2.jpg").symlink_to("nowhere")  # as a download that broke: passed over
    assert stamped() == seen[-1]
    (folder / "cat/3.jpg").write_bytes(b"three")
    seen.append(stamped())
    (folder / "cat/3.jpg").rename(folder / "cat/4.jpg")
    seen.append(stamped())
    assert len(set(seen)) == 4
    folder.rename(tmp_path / "elsewhere")
    assert stamped() == seen[-1]
    assert "is not here; what was made from it before is used" in capsys.readouterr().out
    inputs.write([], out)
    assert json.loads(out.read_text()) == {}


@pytest.mark.slow
def test_a_changed_file_is_noticed_and_not_answered_from_the_run_cache(empty_clone: Clone):
    """A relative path, too, in a temporary directory of DVC's."""
    folder, rng = empty_clone.folder, np.random.default_rng(0)

    def write_digits(first: int) -> None:
        arrays = {
            f"{kind}_{split}": values
            for split, count in (("train", 30), ("test", 20))
            for kind, values in (
                ("x", rng.integers(0, 256, (count, 28, 28), "uint8")),
                ("y", np.full(count, first, "uint8")),
            )
        }
        np.savez(folder / "own.npz", **arrays)

    def labels() -> set[int]:
        with np.load(folder / "dvc-outs/mnist.npz") as digits:
            return set(digits["y_test"].tolist())

    own = ("-S", "mnist.source=file", "-S", "mnist.path=own.npz")
    for first in (3, 7):
        write_digits(first)
        empty_clone.run("dvc", "exp", "run", *own, "download_mnist")
        assert labels() == {first}
    assert "Running stage 'download_mnist'" not in empty_clone.run("dvc", "repro", "download_mnist")
    output = empty_clone.run("dvc", "exp", "run", "--temp", "-S", "seed=5", *own, "download_mnist")
    assert "dvc-outs/mnist.npz: 20 test images" in output


@pytest.mark.slow("disk")
@pytest.mark.parametrize("name", ODD[1:3])
def test_a_stage_runs_in_a_project_with_an_odd_path(tmp_path, name):
    clone = Clone.of_commit(tmp_path / name / "convnets")
    (clone.folder / ".unfinished/download_mnist").mkdir(parents=True)
    (clone.folder / ".unfinished/download_mnist/.DS_Store").write_bytes(b"\0")  # macOS was here
    clone.run("dvc", "repro", "download_mnist")
    found = python(
        clone.folder,
        "import mlflow; from convnets.tracking import store; store.quieten();"
        "mlflow.set_tracking_uri(store.uri());"
        "print(len(mlflow.search_runs(search_all_experiments=True)))",
    )
    assert found == "1"


@pytest.mark.slow
def test_outs_may_be_links_into_the_cache(tmp_path):
    clone = Clone.of_commit(tmp_path / "first")
    clone.run("dvc", "config", "cache.type", "symlink")
    clone.run("dvc", "remote", "add", "-d", "storage", str(tmp_path / "storage"))
    few = [f"-Ssubset.{split}=4" for split in ("train", "validation", "test")]
    clone.run("dvc", "exp", "run", *few, "subset", "download_mnist")
    assert (clone.folder / "dvc-outs/images.zip").is_symlink()
    clone.run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qam", "few")
    clone.run("dvc", "push", "--with-deps", "subset", "download_mnist")
    second = Clone(tmp_path / "second")
    subprocess.run(["git", "clone", "-q", clone.folder, second.folder], check=True)
    second.run("dvc", "pull", "--with-deps", "subset", "download_mnist")
    assert (second.folder / "dvc-outs/images.zip").is_symlink()
    assert "Running stage 'subset'" not in second.run("dvc", "repro", "subset")
    # Written anew where links into the cache are.
    second.run(
        "dvc", "exp", "run", "-S", "subset.train=5", "-S", "seed=2", "subset", "download_mnist"
    )
    assert len(np.load(second.folder / "dvc-outs/images/train.npy")) == 10
    clone.run("dvc", "checkout", "subset")
    assert len(np.load(clone.folder / "dvc-outs/images/train.npy")) == 8


def test_make_says_what_a_folder_without_git_needs(tmp_path):
    shutil.copy(ROOT / "Makefile", tmp_path)
    done = subprocess.run(["make", "repro"], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode != 0
    assert done.stderr.startswith("error: there is no .git here, and DVC needs one; clone the proj")
    assert not (tmp_path / ".venv").exists()


def test_make_renews_the_environment_of_a_project_that_was_moved(tmp_path):
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv").mkdir()

    def planned() -> str:
        command = ["make", "--dry-run", ".venv/installed"]
        return subprocess.run(command, cwd=tmp_path, text=True, capture_output=True).stdout

    (tmp_path / ".venv/installed").write_text("/elsewhere\n")
    assert "-m venv --clear .venv" in planned()
    (tmp_path / ".venv/installed").write_text(f"{tmp_path.resolve()}\n")
    assert "-m venv" not in planned()


def test_a_user_s_keras_settings_change_nothing(tmp_path):
    settings = {"backend": "torch", "image_data_format": "channels_first", "floatx": "float16"}
    (tmp_path / "keras.json").write_text(json.dumps(settings | {"epsilon": 1e-3}))
    code = (
        "from convnets.base import console; console.hush()\n"
        "import keras\nfrom convnets.models import saved\n"
        "from convnets.networks import architectures\nconsole.unhush()\n"
        "model = architectures.plain(90, 2, 0)\n"
        "print(keras.backend.backend(), model.input_shape, model.weights[0].dtype,"
        " keras.config.epsilon())"
    )
    environment = {"KERAS_HOME": str(tmp_path), "KERAS_BACKEND": "torch"}
    found = python(tmp_path, code, **environment)
    assert found == "tensorflow (None, 90, 90, 3) float32 1e-07"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp949", "utf-8"])
def test_any_text_reaches_a_pipe_of_any_encoding(tmp_path, encoding):
    code = (
        "from convnets.base import console\n"
        "def main():\n    console.say('고양이 – ☃')\n    raise console.InputError('고양이 ☃')\n"
        "console.run(main)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert done.returncode == 1
    assert b"Traceback" not in done.stderr
    assert done.stderr.startswith(b"error: ")
    assert "고양이".encode(encoding, "backslashreplace") in done.stdout


DIES = """
import gc, os, sys
from convnets.base import console
console.hush()
os.write(2, b"native: no AVX here" + os.linesep.encode())
os.write(2, b"x" * int(sys.argv[2]))
if sys.argv[1] == "aborts":
    os.abort()
if sys.argv[1] == "raises":
    raise ImportError("no such library")
console.unhush()
assert gc.isenabled()
os.write(2, b"heard")
"""


@pytest.mark.parametrize("noise", [0, 300_000])
@pytest.mark.parametrize("end", ["aborts", "raises", "lives"])
def test_what_kills_a_hushed_process_is_seen(end, noise):
    done = subprocess.run(
        [sys.executable, "-c", DIES, end, str(noise)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == {"aborts": -signal.SIGABRT, "raises": 1, "lives": 0}[end]
    assert (b"native: no AVX here" in done.stderr) == (end != "lives")
    assert (b"ImportError: no such library" in done.stderr) == (end == "raises")
    assert (done.stderr == b"heard") == (end == "lives")


@pytest.mark.parametrize("odd", ["\n", "\r", "\x1b[2J", "\u2028", "\udcff"])
def test_an_error_is_one_line_whatever_a_path_has(tmp_path, capsys, odd):
    path = tmp_path / f"고양이{odd}2"
    for main in (lambda: saved.load(path), path.read_bytes):
        with pytest.raises(SystemExit):
            console.run(main)
        line = capsys.readouterr().err
        assert line.rstrip("\n").isprintable()
        assert "고양이\\" in line  # what can be read, can still be read
        path.mkdir(exist_ok=True)


def test_too_little_memory_is_one_line(capsys):
    def main() -> None:
        np.zeros(2**57, "uint8")

    with pytest.raises(SystemExit):
        console.run(main)
    line = capsys.readouterr().err
    assert line.startswith("error: not enough memory")
    assert line.count("\n") == 1


def test_the_training_says_what_it_computes_on():
    # No GPU where the tests run: only the CPU's line is seen.
    assert precision.told("mixed_bfloat16").endswith(", bfloat16")
    assert precision.told("float32").endswith(", float32")
    assert internals.keras.config.image_data_format() == "channels_last"
    assert precision.policy("float32") == "float32"
    assert params.load(ROOT / "params.yaml").precision == "auto"
