"""A stage's deps are the truth: the modules that it imports and the params that it reads."""

import ast
from pathlib import Path

import pytest
import yaml

from convnets.evaluation import MODELS

ROOT = Path(__file__).parents[1]
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]


def imported(script: str) -> set[str]:
    """The project's modules that a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse((ROOT / script).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "convnets":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("convnets."):
            names.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("convnets") for alias in node.names)
    return {f"src/convnets/{name}.py" for name in names}


def closure(script: str) -> set[str]:
    seen, waiting = set(), [script]
    while waiting:
        current = waiting.pop()
        if current not in seen:
            seen.add(current)
            waiting += imported(current)
    return seen


def params_read(script: str) -> set[str]:
    """The dotted params that a script takes from `p = params.load()`."""
    tree = ast.parse((ROOT / script).read_text())
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    found = set()
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Name) and node.id == "p" and isinstance(node.ctx, ast.Load)):
            continue
        chain, link = [], parents[node]
        while isinstance(link, ast.Attribute):
            chain.append(link.attr)
            link = parents[link]
        assert chain, f"{script} passes all of the params on"
        found.add(".".join(chain))
    return found


@pytest.mark.parametrize("stage", STAGES)
def test_deps_are_the_import_closure(stage):
    declared = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert declared == closure(f"stages/{stage}.py")


@pytest.mark.parametrize("stage", STAGES)
def test_params_are_those_that_are_read(stage):
    read = params_read(f"stages/{stage}.py")
    declared = set(STAGES[stage].get("params", []))

    # A stage may read `subset` through one of its keys, or a section by way of its own keys.
    related = {
        (one, other)
        for one in read
        for other in declared
        if f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")
    }
    assert read == {one for one, _ in related}, "reads what is not declared"
    assert declared == {other for _, other in related}, "declares what is not read"


def test_only_stages_read_the_params():
    for module in (ROOT / "src/convnets").glob("*.py"):
        assert "params.load(" not in module.read_text(), module


def test_the_package_itself_holds_no_code():
    # It is imported by every stage and a dep of none.
    tree = ast.parse((ROOT / "src/convnets/__init__.py").read_text())
    assert [type(node) for node in tree.body] == [ast.Expr]


def test_every_stage_has_a_script_and_every_script_a_stage():
    scripts = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}
    assert scripts == set(STAGES)


def test_evaluation_depends_on_all_that_each_model_left():
    files = {f"models/{model}.keras" for model in MODELS}
    files |= {f"metrics/{model}.{kind}" for model in MODELS for kind in ("csv", "json")}
    assert files <= set(STAGES["evaluate"]["deps"])


def test_changing_the_figures_reruns_no_training():
    users = {name for name, stage in STAGES.items() if "src/convnets/figures.py" in stage["deps"]}
    assert users == {"evaluate"}


def test_a_fresh_clone_registers_a_champion():
    # All else of evaluate is in git: where no byte changes, DVC would find it done already.
    assert "models/champion.keras" in STAGES["evaluate"]["outs"]
