"""Presets: what differs from a base, written out as a whole `params.yaml`."""

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from convnets import __main__ as program
from convnets.base import params
from convnets.base.console import InputError
from convnets.tracking import presets
from tests.commands import ROOT

NAMES = ("book", "efficientnet", "full", "microsoft", "photos", "sample")
OWN = """# Our own.
base: photos
data:
  path: /pictures # of the lab
views: {count: 3}
train_probe:
  features: images
  mirrored: false
  architecture: dense
  epochs: 3
  batch_size: 32
  optimizer: adam
  learning_rate: 0.001
  schedule: cosine
  weight_decay: 0
  units: null
  dropout: 0
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with the presets, which is in no git repository."""
    (tmp_path / "presets").mkdir()
    for path in (ROOT / "presets").glob("*.yaml"):
        (tmp_path / f"presets/{path.name}").write_bytes(path.read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def values(text: str) -> dict[str, Any]:
    return dict(yaml.safe_load(text))


def refused(name: str, *settings: str) -> str:
    with pytest.raises(InputError) as caught:
        presets.write(name, list(settings))
    assert "\n" not in str(caught.value)
    assert not Path("params.yaml").exists()
    return str(caught.value)


def hidden(section: BaseModel, shown: dict[str, Any], above: str = "") -> list[str]:
    """The keys of the schema that a file does not show."""
    found = []
    for key in [*type(section).model_fields, *(section.model_extra or {})]:
        inner = getattr(section, key)
        if key not in shown:
            found.append(above + key)
        elif isinstance(inner, BaseModel):
            found += hidden(inner, shown[key], f"{above}{key}.")
    return found


def test_the_sample_is_what_is_committed(project):
    presets.write("sample", [])
    assert Path("params.yaml").read_bytes() == (ROOT / "params.yaml").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_each_is_valid_and_shows_every_key(project, name):
    text = presets.compose(name)
    presets.write(name, [])
    assert Path("params.yaml").read_text() == text
    assert not hidden(params.load(), values(text))
    assert text.startswith(Path(f"presets/{name}.yaml").read_text().splitlines()[0])
    assert list(values(text)) == list(values(presets.compose("book")))
    assert set(NAMES) == set(presets.names())


def test_only_the_book_is_whole(project):
    assert presets.compose("book") == Path("presets/book.yaml").read_text()
    for name in set(NAMES) - {"book"}:
        own = values(Path(f"presets/{name}.yaml").read_text())
        assert own.pop("base") == "book"

        def same(own: dict[str, Any], whole: dict[str, Any]) -> list[str]:
            found = []
            for key, value in own.items():
                if isinstance(value, dict) and isinstance(whole[key], dict):
                    found += same(value, whole[key])
                elif value == whole[key]:
                    found.append(key)
            return found

        assert same(own, values(presets.compose("book"))) == []


def test_settings_are_read_as_by_dvc_and_comments_stay(project):
    settings = [
        'data.path="/my pictures/(1) ü"',
        "views.count=3",
        "fine_tune.learning_rate=0.00002",
        "train_feature_head.features=views",
        "data.columns={file: name}",
    ]
    presets.write("photos", settings)
    written = Path("params.yaml").read_text(encoding="utf-8")
    p = params.load()
    assert (p.data.path, p.views.count, p.fine_tune.learning_rate) == (
        "/my pictures/(1) ü",
        3,
        2e-5,
    )
    assert p.data.columns == params.Columns(file="name")
    assert "  features: views # or views: of the augmented views" in written
    before = presets.compose("photos").splitlines()
    assert written.count("#") == "\n".join(before).count("#")
    assert len(set(written.splitlines()) - set(before)) == 5


def test_a_preset_of_one_s_own_has_bases_and_comments(project):
    (project / "lab").mkdir()
    Path("lab/own.yaml").write_text(OWN)
    Path("lab/other.yml").write_text("base: own.yaml\nseed: 7\n")
    presets.write("lab/other.yml", [])
    text = Path("params.yaml").read_text()
    assert text.startswith("# Our own.\n")
    assert "  path: /pictures # of the lab\n" in text
    assert "  count: 3 # augmented views" in text
    p = params.load()
    assert (p.seed, p.of("train_probe", params.HeadTraining).epochs) == (7, 3)
    assert p.data.source == "folder"


def test_unknown_names_list_what_there_is(project, capsys):
    assert "did you mean photos?" in refused("phtos")
    shown = capsys.readouterr().out
    for name in NAMES:
        comment = Path(f"presets/{name}.yaml").read_text().splitlines()[0].lstrip("# ")
        assert f"{name:12}  {comment}" in shown


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["epoch=3"], "did you mean epochs?"),
        (["seed=1", "train_scratch.epocs=3"], "did you mean train_scratch.epochs?"),
        (["epochs=x"], "epochs: input should be a valid integer"),
        (["epochs=0"], "epochs: input should be greater"),
        (["epochs=1,2"], "one value"),
        (["data.path=~/photos"], "put text in quotes"),
        (["data.path"], "key=value"),
        (["~views"], "key=value"),
        (["+train_probe.epochs=2"], "no such key"),
        (["data.source=sample"], "source is sample"),
    ],
)
def test_wrong_settings_are_one_line_and_nothing_is_written(project, settings, expected):
    assert expected in refused("photos", *settings)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("base: own.yaml\n", "base of its own base"),
        ("base: bok\n", "did you mean book?"),
        ("base: [a]\n", "does not exist"),
        ("base: none.yaml\n", "none.yaml: No such file"),
        ("base: book\nepoch: 3\n", "epoch: unknown key; did you mean epochs?"),
        ("base: book\ndata:\n", "data: input should be"),
        ("base: book\nseed: 1\nseed: 2\n", "not valid YAML"),
        ("seed: 1\n", "field required"),
        ("[", "not valid YAML"),
        ("\udcff", "not valid YAML"),
        ("", "has no keys"),
        ("- 1\n", "has no keys"),
    ],
)
def test_wrong_presets_are_one_line_and_nothing_is_written(project, content, expected):
    Path("own.yaml").write_bytes(content.encode("utf-8", "surrogateescape"))
    assert expected in refused("own.yaml")


def test_elsewhere_it_says_where_to_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "project's root" in refused("photos")


def test_a_person_s_edits_are_kept_beside(empty_clone, monkeypatch, capsys):
    monkeypatch.chdir(empty_clone.folder)
    file, before = Path("params.yaml"), Path("params.yaml.before")
    presets.write("photos", ["seed=3"])  # what git has is not kept
    presets.write("book", [])  # nor is what a preset wrote
    assert not before.exists()
    assert "kept" not in capsys.readouterr().out
    for number, place in ((1, before), (2, Path("params.yaml.before.before"))):
        edited = file.read_text() + f"# mine {number}\n"
        file.write_text(edited)
        presets.write("sample", [])
        assert place.read_text() == edited
        assert f"kept as {place.name}\n" in capsys.readouterr().out
    file.write_text(before.read_text())
    presets.write("sample", [])
    assert sorted(Path().glob("params.yaml*")) == [file, before, Path("params.yaml.before.before")]
    assert not empty_clone.run("git", "status", "--porcelain", "params*")


@pytest.mark.parametrize("path", ["/photos", "/my photos/ü (1)", "/a'b\"c", "/x/${y}\\", "C:\\a b"])
def test_the_printed_command_does_what_was_meant(project, monkeypatch, path):
    given = {"data.path": path, "subset.train": "rest", "image_size": 96}
    line, then = presets.command("photos", given).split(" && ")
    assert then == "dvc repro"
    python, _, package, *arguments = shlex.split(line)
    assert (python, package) == ("python", "convnets")
    monkeypatch.setattr("sys.argv", ["convnets", *arguments])
    program.main()
    assert params.load().data.path == path
    assert params.load().image_size == 96
