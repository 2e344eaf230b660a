"""Amazon's S3, as moto's server on loopback has it: pictures, DVC's remote, MLflow's artifacts."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from convnets.base import params
from convnets.base.console import InputError
from convnets.commands import inspection
from convnets.sources import bucket, inputs, sample, sources
from tests.commands import Clone, answers, executed, free_port

boto3 = pytest.importorskip("boto3", reason="boto3, moto or s3fs is missing")
moto = pytest.importorskip("moto.server", reason="boto3, moto or s3fs is missing")
pytest.importorskip("s3fs", reason="boto3, moto or s3fs is missing")

ADDRESS = "s3://photos/set"
SECRET = "planted-" + "key"
SOME = params.Subset(train=1, validation=1, test=1, max_rejected=0)


def picture(label: str, number: int) -> bytes:
    content = io.BytesIO()
    sample.draw(label, number, 0).save(content, "JPEG")
    return content.getvalue()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    yield "http://{}:{}".format(*server.get_host_and_port())
    server.stop()


@pytest.fixture
def s3(endpoint, monkeypatch):
    """A client of a server with a bucket of four cats, four dogs and what is no picture."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "user")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    client.create_bucket(Bucket="photos")
    for label in ("cat", "dog"):
        for number in range(4):
            put(client, f"set/{label}/{number}.jpg", picture(label, number))
    for odd in ("set/", "empty/", "set/notes.pdf", "set//cat/9.jpg", "set/a/../../9.jpg"):
        put(client, odd, b"?")
    yield client
    for found in client.list_objects_v2(Bucket="photos").get("Contents", []):
        client.delete_object(Bucket="photos", Key=found["Key"])


def put(client, key: str, content: bytes) -> None:
    client.put_object(Bucket="photos", Key=key, Body=content)


def written(folder: Path, address: str = ADDRESS, sha256: str | None = None) -> list[str]:
    """The pictures that the stage finds."""
    how = params.Data(source="url", path=address, sha256=sha256)
    (folder / "images.zip").unlink(missing_ok=True)
    found = sources.write(how, SOME, 0, folder / "images.zip")
    return [image.member for image in found.images]


def stamped(out: Path) -> str:
    inputs.write([ADDRESS], out)
    (value,) = json.loads(out.read_text()).values()
    return value


def test_a_folder_comes_once_and_a_change_is_noticed(s3, tmp_path):
    names = [f"{label}/{number}.jpg" for label in ("cat", "dog") for number in range(4)]
    assert written(tmp_path) == names
    (place,) = tmp_path.glob("*-set")
    kept = {path: path.stat().st_mtime_ns for path in place.iterdir()}
    assert len(kept) == 8
    before = stamped(tmp_path / "stamps.json")
    assert stamped(tmp_path / "stamps.json") == before
    # What is there stays, and what is missing, as after a kill, comes.
    gone = min(kept)
    gone.unlink()
    assert written(tmp_path) == names
    assert [path for path in kept if path.stat().st_mtime_ns != kept[path]] == [gone]
    # A new, a changed and a removed picture.
    put(s3, "set/cat/0.jpg", picture("cat", 20))
    put(s3, "set/cat/8.jpg", picture("cat", 8))
    s3.delete_object(Bucket="photos", Key="set/dog/0.jpg")
    assert stamped(tmp_path / "stamps.json") != before
    assert written(tmp_path) == [*names[:4], "cat/8.jpg", *names[5:]]
    assert len(kept.keys() - place.iterdir()) == 2


def test_an_archive_and_its_hash(s3, tmp_path):
    for _ in sample.write_archive(tmp_path / "a.zip", 8, 0):
        pass
    content = (tmp_path / "a.zip").read_bytes()
    put(s3, "packed/a.zip", content)
    address = "S3://photos/packed/a.zip"
    assert len(written(tmp_path, address)) == 16
    with pytest.raises(InputError, match=r"of data\.sha256"):
        written(tmp_path, address, 64 * "0")
    with pytest.raises(InputError, match="s3://photos/packed: no images found"):
        written(tmp_path, "s3://photos/packed")


def test_inspect_prints_the_command_that_uses_it(s3, capsys):
    seen = inspection.inspect(f"{ADDRESS}/")
    assert seen["classes"] == {"cat": {"all": 4}, "dog": {"all": 4}}
    assert f"-S data.source=url -S 'data.path=\"{ADDRESS}/\"'" in seen["command"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("address", "line"),
    [
        ("s3://nowhere/set", "no such bucket"),
        ("s3://photos/none", "no such bucket"),
        ("s3://photos/empty", "nothing in it"),
        ("s3://user:se/c@ret@photos/set", "has a password in it"),
        ("nothing://photos/set", "Protocol not known"),
        ("gs://photos/set", "pip install gcsfs"),
    ],
)
def test_what_does_not_work_is_one_line(s3, tmp_path, address, line):
    with pytest.raises(InputError, match=line) as caught:
        written(tmp_path, address)
    assert "\n" not in str(caught.value)
    assert "ret@" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_without_rights_or_a_network_the_known_stamp_stays(s3, tmp_path, monkeypatch, capsys):
    known = stamped(tmp_path / "stamps.json")
    with monkeypatch.context() as patch:
        patch.delenv("AWS_SECRET_ACCESS_KEY")
        patch.delenv("AWS_ACCESS_KEY_ID")
        patch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        patch.setenv("HOME", str(tmp_path))
        with pytest.raises(InputError, match="Unable to locate credentials"):
            stamped(tmp_path / "none.json")
        assert stamped(tmp_path / "stamps.json") == known
        assert "what was made from it before is used" in capsys.readouterr().out
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(InputError, match="the connection failed"):
        bucket.stamp(ADDRESS)


@pytest.mark.slow("downloads")
def test_dvc_keeps_what_it_makes_of_a_bucket_in_another(s3, empty_clone: Clone, tmp_path):
    """DVC's remote is on S3, and MLflow's server keeps the artifacts there."""
    pytest.importorskip("dvc_s3")
    clone, port = empty_clone, free_port()
    settings = ["data.source=url", f"data.path={ADDRESS}", "subset.train=2"]
    settings += ["subset.validation=1", "subset.test=1"]
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    command += ["--artifacts-destination", "s3://photos/mlflow"]
    environment = clone.environment() | {"MLFLOW_S3_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"]}
    environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"

    def dvc(*arguments: str) -> str:
        return subprocess.run(
            ["dvc", *arguments],
            cwd=clone.folder,
            env=clone.environment() | {"MLFLOW_TRACKING_URI": f"http://127.0.0.1:{port}"},
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        ).stdout

    with subprocess.Popen(command, env=environment, cwd=tmp_path) as server:
        try:
            assert answers(server, port)
            flags = [f"-S{setting}" for setting in settings]
            output = dvc("exp", "run", *flags, "subset")
            assert executed(output) == ["download", "subset"]
            assert SECRET not in output
            dvc("remote", "add", "-d", "storage", "s3://photos/dvc")
            dvc("push", "subset", "download")
            shutil.rmtree(clone.folder / ".dvc/cache")
            shutil.rmtree(clone.folder / "dvc-outs")
            dvc("pull", "subset", "download")
            assert executed(dvc("repro", "subset")) == []
        finally:
            server.terminate()
    kept = s3.list_objects_v2(Bucket="photos", Prefix="mlflow/")["Contents"]
    assert any(re.search(r"artifacts/download\.json$", found["Key"]) for found in kept)
