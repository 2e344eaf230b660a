"""The recipes of CONTRIBUTING.md, carried out in a clone, where the gates pass afterwards."""

import re
from pathlib import Path

import pytest

from tests.commands import ROOT, Clone, block

pytestmark = pytest.mark.slow
FAST = ("rooms", "dvc_yaml", "params", "presets", "evaluation", "batches", "sources", "untrained")
HEAD = '''

@head
def mean(features: keras.KerasTensor, how: HeadTraining) -> keras.KerasTensor:
    """The means over all places."""
    return layers.GlobalAveragePooling2D(dtype="float32")(features)
'''
CONVNET = '''

@convnet
def tiny(size: int, classes: int, dropout: float) -> keras.Model:
    """A single convolution."""
    inputs = keras.Input((size, size, 3), name="image")
    x = layers.Conv2D(8, 3, activation="relu")(layers.Rescaling(1 / 255)(inputs))
    return keras.Model(inputs, classifier(layers.GlobalAveragePooling2D()(x), classes))
'''
METRIC = """    Metric("errors", "errors", "{:,}", lambda tested, _: int((~tested.right).sum())),
)
"""
INVERTED = '''

def inversion(images: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    """Move each image's pixels towards their negative, by up to a share."""
    if not how.inversion:
        return images
    share = how.inversion * (_draw(images, seed) + 1) / 2
    return images + share * (255.0 - 2.0 * images)

'''


DRAWN = """            path = folder / "drawn.zip"
            write_sample(path, 100, seed + 1)
"""


def change(path: Path, *edits: tuple[str, str]) -> None:
    """Replace texts that are there once."""
    text = path.read_text()
    for before, after in edits:
        assert text.count(before) == 1, (path, before)
        text = text.replace(before, after)
    path.write_text(text)


@pytest.fixture
def clone(tmp_path) -> Clone:
    (tmp_path / "shared").symlink_to(ROOT.parent / "shared")
    return Clone.of_commit(tmp_path / "convnets")


def copied(path: Path, before: str, after: str, *edits: tuple[str, str], at: str = "") -> None:
    """Copy the block of a stage or a section under another name: before a key, or to the end."""
    text = path.read_text()
    made = block(text, before)
    for old, new in ((before, after), *edits):
        assert old in made
        made = made.replace(old, new)
    start, key, end = text.partition(at) if at else (text, "", "")
    path.write_text(f"{start}{made.rstrip()}\n{key}{end}")


def not_for_photos(root: Path, stage: str) -> None:
    with (root / "presets/photos.yaml").open("a") as file:
        file.write(f"{stage}: {{epochs: 0}}\n")


def add_a_head(root: Path) -> None:
    stage = ("train_feature_head", "train_mean")
    copied(root / "dvc.yaml", *stage, ("head on features", "mean"), at="\n  fine_tune:")
    copied(root / "presets/book.yaml", *stage, ("dense #", "mean #"))
    not_for_photos(root, stage[1])
    heads = root / "src/convnets/heads/architectures.py"
    heads.write_text(heads.read_text() + HEAD)


def add_a_convnet(root: Path) -> None:
    stage = ("train_scratch", "train_tiny")
    copied(root / "dvc.yaml", *stage, ("from scratch", "tiny"), at="\n  train_augmented:")
    copied(root / "presets/book.yaml", *stage, ("plain #", "tiny #"))
    not_for_photos(root, stage[1])
    convnets = root / "src/convnets/networks/architectures.py"
    convnets.write_text(convnets.read_text() + CONVNET)


def add_a_metric(root: Path) -> None:
    path = root / "src/convnets/evaluation/metrics.py"
    start, table, end = path.read_text().partition("METRICS = (")
    path.write_text(start + table + end.replace("\n)\n", f"\n{METRIC}", 1))


def add_an_augmentation(root: Path) -> None:
    key = "\n    brightness: Share"
    change(root / "src/convnets/base/params.py", (key, f"{key}\n    inversion: Share"))
    path = root / "presets/book.yaml"
    text = re.sub(r"(\n *)(brightness:.*)", r"\1\2\1inversion: 0", path.read_text())
    assert text.count("inversion: 0") == 2
    path.write_text(text)
    steps = "STEPS = (geometry, contrast, brightness"
    edit = (f"\n\n{steps}", f"{INVERTED}\n{steps}, inversion")
    change(root / "src/convnets/augmentation/augment.py", edit)


def add_a_source(root: Path) -> None:
    names = 'Literal["sample", "kaggle",'
    change(root / "src/convnets/base/params.py", (names, f'{names} "drawn",'))
    case = '        case "kaggle":'
    drawn = f"{case.replace('kaggle', 'drawn')}\n{DRAWN}{case}"
    change(root / "src/convnets/sources/sources.py", (case, drawn))


RECIPES = {
    "Add a head or a convnet": (add_a_head, add_a_convnet),
    "Add a metric": (add_a_metric,),
    "Add an augmentation": (add_an_augmentation,),
    "Add a source of images": (add_a_source,),
}


def test_each_recipe_is_carried_out():
    headings = re.findall(r"^## (Add .*)$", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert headings == list(RECIPES)


@pytest.mark.parametrize("recipe", [each for several in RECIPES.values() for each in several])
def test_the_gates_pass_after_a_recipe(clone, recipe):
    recipe(clone.folder)
    clone.run("env", "PYTHONPATH=src", "python", "-m", "convnets", "preset", "sample")
    clone.run("ruff", "check", "src", "stages")
    clone.run("ruff", "format", "--check", "src", "stages")
    clone.run("mypy", "--cache-dir", str(ROOT / ".mypy_cache"))
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    clone.run("git", *identity, "commit", "-qam", "recipe")
    tests = [f"tests/test_{name}.py" for name in FAST]
    clone.run("pytest", "-q", "-x", "-m", "not slow", *tests)
