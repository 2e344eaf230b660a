"""What is not trained: such a stage leaves a note alone, within a second and without Keras."""

from pathlib import Path
from typing import Any

import yaml

from convnets.base import files
from convnets.base.params import Params, Training

NOTE = "not-trained.txt"  # DVC warns of each empty folder, again and again


def made(path: Path) -> bool:
    """Return whether a stage made its out. An empty folder, or a note, is for what it did not."""
    return path.is_file() or (path.is_dir() and any(file.name != NOTE for file in path.iterdir()))


def reason(stage: str, p: Params) -> str:
    """Return why a stage is not trained, or an empty text.

    What a stage learns from may be missing, too: the views, the digits, or another model.

    Args:
        stage: its name in `dvc.yaml`, also of one of several.
        p: all params.
    """
    name = stage.partition("@")[0]
    section = getattr(p, name, None)
    if name == "extract_views" and not p.views.count:
        return "views.count is 0"
    if name == "download_mnist" and p.mnist.source == "none":
        return "mnist.source is none"
    if name == "fine_tune" and p.backbone.fine_tune_from is None:
        return "backbone.fine_tune_from is null"
    if not isinstance(section, Training):
        return ""
    if not section.epochs:
        return f"{name}.epochs is 0"
    deps = {Path(dep) for dep in _declared(stage).get("deps", [])}
    if getattr(section, "features", "views") != "views":
        deps.discard(Path("dvc-outs/views"))  # that other heads learn from
    missing = sorted(str(dep) for dep in deps if dep.is_dir() and not made(dep))
    return f"{missing[0]} is empty" if missing else ""


def not_trained(stage: str, why: str) -> None:
    """Make the outs that `dvc.yaml` declares for a stage, as folders with a note."""
    for out in _declared(stage)["outs"]:
        with files.atomic(Path(out)) as part:
            part.mkdir()
            (part / NOTE).write_text(f"{why}\n", encoding="utf-8")


def _declared(stage: str) -> dict[str, Any]:
    """Return a stage as `dvc.yaml` has it. To ask DVC would take a second."""
    name, _, key = stage.partition("@")
    text = Path("dvc.yaml").read_text(encoding="utf-8").replace("${key}", key)
    known = yaml.safe_load(text)["stages"].get(name, {})
    return dict(known.get("do", known))
