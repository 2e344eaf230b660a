"""Every command of the README and of docs/ is run, in the order of each page, as a user would."""

import asyncio
import getpass
import json
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import asyncssh
import mlflow
import pytest

from convnets.models import saved
from convnets.sources import sample
from tests.commands import (
    ROOT,
    STAGES,
    TRAINING,
    Clone,
    executed,
    free_port,
    holding,
    postgresql,
    serving,
)
from tests.test_kaggle import SECRET, Kaggle, handler
from tests.test_pipeline import FEW, few, make_quick, reproduced
from tests.test_sweep import IDENTITY, mlflow_server, nodes

PAGES = [
    "README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
    "CONTRIBUTING.md",
]
OWN_DATA = "docs/own-data.md"
# The parts of the slow tests. What takes as long as all other pages is a part alone.
PARTS = {f"docs/{name}.md": f"docs: {name}" for name in ("scale", "shared", "sweep", "use")}
PARTS["docs/resume.md"] = "docs: use"
RUN = ("", "bash")  # the blocks that are run, by the word after the fence
SHOWN = ("json", "text", "yaml")
CLASSES = ["chat", "chien", "rien à voir"]

# The commands that cannot run here unchanged: their replacement, and the reason.
CI = "the CI runs it, as .ci/run and the Makefile say"
LONG = "it trains for hours, on photographs that are not here: it is only planned"
CLUSTER = "a cluster of the test's own, as `ray stop` would end those of others too"
OFFLINE = "Keras's server is out of reach: a local file, for the one stage that reads it"
TINY = "-S subset.train=10 -S subset.validation=5 -S subset.test=5"
STAND_INS = {
    "CONTRIBUTING.md": {
        "make check": ("grep -E '^test: .*check' Makefile", CI),
        "python -m pretraining": (
            "PYTHONPATH=src:. python -m pretraining --help",
            "ten minutes; test_sample.py runs a short one twice",
        ),
    },
    "README.md": {
        "make repro": ("grep -x 'make repro' .ci/run", CI),
        "make test": ("grep -x 'make test' .ci/run", CI),
        "python3 -m venv .venv && . .venv/bin/activate": (
            "grep -e '-m venv --clear .venv' Makefile",
            CI,
        ),
        "pip install --require-hashes --no-deps -r requirements.lock": (
            "grep -e '--require-hashes --no-deps -r requirements.lock' Makefile",
            CI,
        ),
        "pip install --no-build-isolation --no-deps -e .": (
            "grep -e '--no-build-isolation --no-deps -e .' Makefile",
            CI,
        ),
        "python -m convnets preset photos -S data.path=$HOME/photos && dvc repro": (
            "python -m convnets preset photos -S data.path=$HOME/photos && dvc repro download "
            "&& git checkout -q . && dvc checkout -q",
            "the stage that reads the photographs; docs/improve.md runs all of them",
        ),
        "dvc exp run -S epochs=50": (
            "dvc exp run --temp -S epochs=50 train_feature_head",
            "one of the training stages; test_pipeline.py runs them all, for two epochs",
        ),
    },
    "docs/improve.md": {
        "python -m convnets review": (
            "python -m convnets review --help",
            "it waits for a person; test_review.py presses the keys",
        ),
    },
    "docs/kaggle.md": {
        "python -m convnets preset book": (
            f"python -m convnets preset book {TINY}",
            "of Kaggle's photographs, forty are here",
        ),
        "dvc repro": ("dvc repro --dry", LONG),
        "dvc exp run -S epochs=1": ("dvc exp run -S epochs=1 download", LONG),
        "python -m convnets preset book -S data.source=archive "
        "-S data.path=$HOME/Downloads/dogs-vs-cats.zip": (
            "python -m convnets preset book -S data.source=archive "
            f"-S data.path=$HOME/Downloads/dogs-vs-cats.zip {TINY} && dvc repro download",
            "the one stage that reads the archive; the others see no difference",
        ),
    },
    "docs/own-data.md": {
        "dvc exp run -S data.source=folder -S data.path=$HOME/photos "
        "-S subset.train=100 -S subset.validation=30 -S subset.test=50": (
            "dvc exp run -S data.source=folder -S data.path=$HOME/photos "
            "-S subset.train=20 -S subset.validation=10 -S subset.test=10",
            "the same stages, with fewer images",
        ),
        """dvc exp run -S 'subset.group="IMG_\\d+"' subset""": (
            """dvc exp run --temp -S 'subset.group="/\\d+"' subset""",
            "the photographs' names have no IMG; and the next commands go on with all images",
        ),
        "dvc exp run -S subset.duplicates=drop subset": (
            "dvc exp run --temp -S subset.duplicates=drop subset",
            "the next commands go on with all images",
        ),
        "dvc exp run -S class_weight=balanced train_scratch": (
            "dvc exp run --temp -S class_weight=balanced -S epochs=1 train_scratch",
            LONG,
        ),
        "python -m convnets inspect https://example.org/photos.zip": (
            "python -m zipfile -c $HOME/photos.zip $HOME/photos && touch $HOME/health && "
            "python -m http.server 5009 --bind 127.0.0.1 --directory $HOME >/dev/null 2>&1 & "
            "listens 5009 $! && python -m convnets inspect http://127.0.0.1:5009/photos.zip",
            "a server on loopback",
        ),
        "dvc exp run -S data.source=url -S data.path=https://example.org/photos.zip download": (
            "dvc exp run --temp -S data.source=url "
            "-S data.path=http://127.0.0.1:5009/photos.zip download",
            "a server on loopback",
        ),
        "pip install s3fs": ("grep -F 's3 = [\"s3fs\"]' pyproject.toml", "it is in the group dev"),
        "python -m convnets inspect s3://bucket/photos": (
            "python -m convnets inspect file://$HOME/photos",
            "test_bucket.py has a bucket",
        ),
        "dvc exp run -S data.source=url -S data.path=s3://bucket/photos download": (
            "dvc exp run --temp -S data.source=url -S data.path=file://$HOME/photos download",
            "as above",
        ),
        "dvc exp run -S image_size=180 -S backbone.weights=imagenet": (
            'python -c "import keras; keras.applications.VGG16(weights=None, include_top=False, '
            "input_shape=(180, 180, 3)).save_weights('vgg16.weights.h5')\" "
            "&& dvc exp run -S image_size=180 "
            "-S backbone.weights=vgg16.weights.h5 download_weights",
            OFFLINE,
        ),
        "python -m convnets backbones EfficientNetLite2 MobileNetV2": (
            "python -m convnets backbones EfficientNetLite2 MobileNetV2=random",
            OFFLINE,
        ),
        "dvc exp run -S backbone.name=MobileNetV2 -S backbone.weights=imagenet "
        "-S backbone.fine_tune_from=Conv_1": (
            "dvc exp run -S backbone.name=MobileNetV2 -S backbone.fine_tune_from=Conv_1 "
            "-S backbone.weights=random download_weights",
            OFFLINE,
        ),
        "dvc exp run -S backbone.name=$HOME/own.keras -S backbone.weights=null "
        "-S backbone.fine_tune_from=1": (
            "cp dvc-outs/backbone.keras $HOME/own.keras && dvc exp run "
            "-S backbone.name=$HOME/own.keras -S backbone.weights=null "
            "-S backbone.fine_tune_from=1 download_weights",
            "the one stage that reads it; test_models.py builds and cuts such a backbone",
        ),
    },
    "docs/where.md": {
        "pip install 'tensorflow[and-cuda]>=2.21,<2.22'": (
            "grep -F 'tensorflow[and-cuda]>=2.21,<2.22' pyproject.toml",
            "no GPU is here: the extra `gpu` names the same package",
        ),
    },
    "docs/resume.md": {
        "dvc exp run -S epochs=30 train_augmented # interrupt it with Ctrl-C": (
            "killed_amid_epochs dvc exp run -S epochs=30 train_augmented",
            "nobody is there to press Ctrl-C: a power cut, which is worse",
        ),
    },
    "docs/shared.md": {
        "dvc remote add -d storage /srv/convnets": (
            "dvc remote add -d storage $HOME/storage",
            "a test writes to temporary folders alone",
        ),
        "pip install 'dvc[ssh]'": ("python -c 'import dvc_ssh'", "it is in the group dev"),
        "pip install psycopg2-binary": ("python -c 'import psycopg2'", "it is in the group dev"),
        "sudo apt-get install -y postgresql": ("psql --version", ".ci/run installs it"),
        'sudo -u postgres createuser "$USER"': (
            'PGUSER=postgres createuser "$USER"',
            "the test has a PostgreSQL of its own, which lets everybody be its superuser",
        ),
        'sudo -u postgres createdb --owner "$USER" mlflow': (
            'PGUSER=postgres createdb --owner "$USER" mlflow',
            "as above",
        ),
        "ssh -N -L 5000:127.0.0.1:5000 storage.example": (
            "true",
            "the server is on this machine: there is nothing to carry",
        ),
    },
    "docs/scale.md": {
        "ray start --head --port=6379": ("ray --version", CLUSTER),
        "ray start --address=head.example:6379": ("ray --version", CLUSTER),
        "export RAY_ADDRESS=head.example:6379": ('test "$RAY_ADDRESS"', CLUSTER),
        "export MLFLOW_TRACKING_URI=http://127.0.0.1:5000": (
            'test "$MLFLOW_TRACKING_URI"',
            "docs/shared.md starts one: this is a server of the test's own",
        ),
    },
    "docs/sweep.md": {
        "dvc exp run --queue -n seed -S seed=1337,1338,1339": (
            "dvc exp run --queue -n seed -S seed=1338 download_mnist",
            "each seed is a full run: the quickest stage",
        ),
    },
}

PRELUDE = """
listens() { # PORT PROCESS: wait until a server answers
    until curl --silent --fail --output /dev/null http://127.0.0.1:$1/health; do
        kill -0 $2
        sleep 0.5
    done
}
killed_amid_epochs() {
    setsid "$@" >$HOME/killed.log 2>&1 &
    until grep -q '^epoch' $HOME/killed.log; do
        kill -0 $!
        sleep 0.05
    done
    kill -KILL -- -$!
}
set -x
"""


def blocks(page: str) -> list[tuple[str, str]]:
    """The fenced blocks of a page: the word after the fence, and the content."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    assert {word for word, _ in found} <= {*RUN, *SHOWN}
    return found


def commands(page: str) -> list[list[str]]:
    """The lines of each block that is run, with continued lines joined."""
    return [
        re.sub(r"\s*\\\n\s*", " ", content).splitlines()
        for word, content in blocks(page)
        if word in RUN
    ]


def plain(line: str) -> str:
    return re.sub(r"  +# .*", "", line)


def elsewhere() -> set[str]:
    """The lines that the other pages run."""
    return {line for page in PAGES[1:] for block in commands(page) for line in block}


def script(page: str) -> str:
    """A page as one Bash script: servers in the background, each port replaced by a free one."""
    lines = [PRELUDE]
    # Commands of the other pages are not run again for the README.
    known = elsewhere() if page == "README.md" else set()
    for block in commands(page):
        given = [
            STAND_INS.get(page, {}).get(plain(line), (line,))[0]
            for line in block
            if not known.issuperset(plain(line).split(" && "))
        ]
        # `set -e` ignores failures before `&&`.
        text = "\n".join(given).replace(" && ", "\n")
        if re.search(r"\b(mlflow (ui|server|models serve)|convnets serve)\b", text):
            (port,) = re.findall(r"(?:--port|-p) (\d+)", text)
            text = f"(\n{text}\n) &\nlistens {port} $!"
        lines.append(text)
    whole = "\n".join(lines)
    for port in sorted(set(re.findall(r"\b500\d\b", whole))):
        whole = re.sub(rf"\b{port}\b", str(free_port()), whole)
    return whole


class User:
    """A user with a home and a clone of the project, who follows pages."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.clone = Clone.of_commit(home / "convnets")
        self.output = ""  # of the newest page

    def environment(self) -> dict[str, str]:
        environment = self.clone.environment() | {
            "HOME": str(self.home),
            "USER": getpass.getuser(),
            "PYTHONPATH": "src",  # of the clone in which a command is run
        }
        for name in ("KAGGLE_API_TOKEN", "KAGGLE_KEY"):
            del environment[name]
        return environment

    def follow(self, page: str, **variables: str) -> None:
        """Run a page's commands."""
        log = self.home / "page.log"
        with (
            log.open("wb") as out,
            subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script(page)],
                cwd=self.clone.folder,
                env=self.environment() | variables,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as shell,
        ):
            try:
                shell.communicate(f"{SECRET}\n".encode())  # the answer to the prompt: a token
            finally:
                with suppress(ProcessLookupError):  # where the page started none
                    os.killpg(shell.pid, signal.SIGTERM)  # the servers
        self.output = log.read_text()
        assert shell.returncode == 0, self.output
        assert SECRET not in self.output
        assert "Traceback" not in self.output


def with_files(home: Path) -> User:
    """A user with the files that the pages mention."""
    identity = "[user]\nname = user\nemail = user@localhost\n[init]\ndefaultBranch = main\n"
    (home / ".gitconfig").write_text(identity)
    user = User(home)
    for name in CLASSES:
        (home / "photos" / name).mkdir(parents=True)
    for number in range(1, 181):
        cat, dog = (sample.draw(kind, number, 0) for kind in ("cat", "dog"))
        cat.save(home / f"photos/{CLASSES[0]}/{number:03}.jpg")
        dog.save(home / f"photos/{CLASSES[1]}/{number}.PNG")
        dog.rotate(180).save(home / f"photos/{CLASSES[2]}/{number}.jpeg")
    (home / "Downloads").mkdir()
    for _ in sample.write_archive(home / "Downloads/dogs-vs-cats.zip", 20, 0):
        pass
    (user.clone.folder / "folder").mkdir()
    for file in ("cat.jpg", "folder/1.png"):
        sample.draw("cat", 1, 0).save(user.clone.folder / file)
    return user


@pytest.fixture(scope="module")
def user(module_path) -> User:
    """A user with a committed quick `dvc repro`."""
    user, home = with_files(module_path), module_path
    reproduced(user.clone, **few(*FEW))
    user.clone.run("git", "-c", f"include.path={home}/.gitconfig", "commit", "-qam", "results")
    return user


@contextmanager
def kaggle(user: User) -> Iterator[dict[str, str]]:
    """Kaggle on loopback, and the variable that points each Python's client to it."""
    answers = Kaggle((user.home / "Downloads/dogs-vs-cats.zip").read_bytes())
    with serving(handler(answers)) as answers.address:
        (user.home / "site").mkdir()
        (user.home / "site/sitecustomize.py").write_text(
            "from kagglesdk import kaggle_env as e\n"
            f"e._env_to_endpoint[e.KaggleEnv.PROD] = {answers.address!r}\n"
        )
        yield {"PYTHONPATH": f"src{os.pathsep}{user.home / 'site'}"}


@contextmanager
def storage_over_ssh(user: User) -> Iterator[None]:
    """An SSH server, `storage.example` to the user, who has its key; its / is a folder."""
    keys, root = user.home / ".ssh", user.home / "over_ssh"
    keys.mkdir(mode=0o700)
    (root / "srv").mkdir(parents=True)
    own, host = (asyncssh.generate_private_key("ssh-ed25519") for _ in range(2))
    own.write_private_key(keys / "id")
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()

    async def listen() -> asyncssh.SSHAcceptor:
        return await asyncssh.listen(
            "127.0.0.1",
            0,
            server_host_keys=[host],
            authorized_client_keys=asyncssh.import_authorized_keys(
                own.export_public_key().decode()
            ),
            sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=bytes(root)),
        )

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result()
    address = f"[127.0.0.1]:{server.get_port()}"
    (keys / "known_hosts").write_text(f"{address} {host.export_public_key().decode()}")
    (keys / "config").write_text(
        f"Host storage.example\n  HostName 127.0.0.1\n  Port {server.get_port()}\n"
        f"  IdentityFile {keys / 'id'}\n  UserKnownHostsFile {keys / 'known_hosts'}\n"
    )
    yield
    loop.call_soon_threadsafe(server.close)


@contextmanager
def shared_servers(user: User) -> Iterator[dict[str, str]]:
    with storage_over_ssh(user), postgresql() as variables:
        yield variables


@contextmanager
def cluster(user: User) -> Iterator[dict[str, str]]:
    """A node, an MLflow server and both remotes."""
    (user.home / "node").mkdir()
    clone, origin = user.clone, user.home / "origin.git"
    clone.run("git", "init", "--quiet", "--bare", str(origin))
    clone.run("git", "remote", "set-url", "origin", str(origin))
    clone.run("git", "switch", "--quiet", "-C", "main")  # a kill on another page leaves no branch
    clone.run("git", "push", "--quiet", "origin", "HEAD:refs/heads/main")
    clone.run("dvc", "remote", "add", "--local", "-d", "near", str(user.home / "near"))
    try:
        with mlflow_server(user.home) as uri, nodes(user.home / "node", "one") as started:
            yield {"MLFLOW_TRACKING_URI": uri, "RAY_ADDRESS": started.address}
    finally:
        clone.run("dvc", "remote", "remove", "--local", "near")


def check_kaggle(user: User) -> None:
    assert "dogs-vs-cats.zip: 40 labelled images" in user.output
    assert not holding(SECRET, user.home)


def check_own_data(user: User) -> None:
    """Every stage adapts to the number of classes, and the models keep the class names."""
    assert "set data.sha256 to" in user.output
    runs = user.clone.runs().drop_duplicates("tags.stage").set_index("tags.stage")
    for stage in TRAINING:
        if "mnist" in stage:
            continue
        path = user.clone.folder / f"dvc-outs/trained/{stage}/model.keras"
        assert saved.class_names(path) == CLASSES
        assert saved.load(path).output_shape == (None, 3)
    (output,) = mlflow.MlflowClient().get_run(runs.loc["fine_tune", "run_id"]).outputs.model_outputs
    assert mlflow.models.get_model_info(f"models:/{output.model_id}").metadata["classes"] == CLASSES
    apart = {stage for stage in STAGES if "mnist" in stage} | {"download_weights"}
    assert set(STAGES) - apart <= set(executed(user.output))


def check_use(user: User) -> None:
    """Both servers give the same answer as the local champion."""
    (said,) = re.findall(r'"probabilities": (\{[^}]*\})\n', user.output)
    ((answer,),) = (
        json.JSONDecoder().raw_decode(line)[0]["predictions"]  # curl ends it without a newline
        for line in user.output.splitlines()
        if line.startswith('{"predictions"')
    )
    assert answer["probabilities"] == pytest.approx(json.loads(said), abs=1e-6)
    assert answer["class"] == max(answer["probabilities"], key=answer["probabilities"].get)
    (by_page,) = (line for line in user.output.splitlines() if line.startswith('[{"file":'))
    first, second = json.JSONDecoder().raw_decode(by_page)[0]
    assert (first["file"], second["file"]) == ("cat.jpg", "1.png")
    assert first["probabilities"] == pytest.approx(json.loads(said), abs=1e-6)
    for file in ("champion.onnx", "champion-int8.tflite"):
        assert (user.clone.folder / "models" / file).stat().st_size > 1e5


def check_resume(user: User) -> None:
    assert "train_augmented: resuming after epoch" in user.output
    assert "nothing to record" in user.output


def check_scale(user: User) -> None:
    """The experiments are on the git remote, and compared without their data in the clone."""
    assert user.output.count(": done on one\n") == 2
    listed = user.output.rpartition("dvc exp list origin")[2]
    assert listed.count("sweep-") == 2
    compared = user.output.rpartition("convnets compare")[2]
    for rate in ("0.001", "0.0003"):  # in headings, beside what other pages have changed
        assert f"train_scratch.learning_rate={rate}" in compared


def check_shared(user: User) -> None:
    assert "Stage 'evaluate' didn't change, skipping" in user.output
    stored, over_ssh = (
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        for folder in (user.home / "storage", user.home / "over_ssh/srv/convnets")
    )
    assert len(stored) > len(STAGES)
    assert stored == over_ssh
    third = user.home / "third"
    for model in (user.clone.folder / "models").rglob("*.keras"):
        assert (third / model.relative_to(user.clone.folder)).exists()
    assert re.search(r"001\.jpg +(cat|dog) ", user.output)
    assert not (third / "mlflow.db").exists()
    assert not list((user.home / "second/.unrecorded").glob("*"))
    assert "continues without it" not in user.output
    listed = user.output.rpartition("mlflow runs list")[2]
    assert listed.count("train_feature_head") == listed.count("evaluate") == 2


SERVERS = {
    "docs/kaggle.md": kaggle,
    "docs/scale.md": cluster,
    "docs/shared.md": shared_servers,
}
CHECKS = {
    "docs/kaggle.md": check_kaggle,
    "docs/resume.md": check_resume,
    "docs/scale.md": check_scale,
    "docs/shared.md": check_shared,
    "docs/use.md": check_use,
}


def test_each_stand_in_stands_for_a_command():
    for page, stand_ins in STAND_INS.items():
        lines = [plain(line) for block in commands(page) for line in block]
        assert set(stand_ins) <= set(lines)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow(PARTS.get(page, "docs: others")))
        for page in PAGES
        if page != OWN_DATA
    ],
)
def test_commands(page, user):
    for command in (["git", "checkout", "-q", "."], ["dvc", "checkout", "-q"]):
        user.clone.run(*command)
    if page in SERVERS:
        with SERVERS[page](user) as variables:
            user.follow(page, **variables)
    else:
        user.follow(page)
    if page in CHECKS:
        CHECKS[page](user)


@pytest.mark.slow("docs: own data")
def test_all_is_trained_on_own_data(tmp_path):
    user = with_files(tmp_path)
    make_quick(user.clone)
    user.clone.run("git", *IDENTITY, "commit", "-qam", "tiny")
    user.follow(OWN_DATA)
    check_own_data(user)
