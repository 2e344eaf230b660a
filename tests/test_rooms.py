"""The rooms of `src/convnets`: each states its content, and imports run one way."""

import ast
from pathlib import Path

import pytest

from tests.commands import ROOT

# From below.
ROOMS = ["base", "tracking", "data", "models", "training", "audit", "evaluation", "serving"]
PACKAGE = ROOT / "src/convnets"
MODULES = sorted(path for room in ROOMS for path in (PACKAGE / room).glob("*.py"))


def name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def imported(path: Path) -> set[str]:
    """The project's modules, as room.module, that a file imports anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith("convnets") for alias in node.names)
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("convnets"):
            continue
        assert node.level == 0
        place = str(node.module).removeprefix("convnets").strip(".")
        if "." in place:
            found.add(place)
        else:
            found |= {f"{place}.{alias.name}".strip(".") for alias in node.names}
    return found


def test_there_are_no_other_rooms_and_no_module_stands_outside():
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir()} - {"__pycache__"}
    assert folders == set(ROOMS)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("room", ["", *ROOMS])
def test_a_room_says_in_one_sentence_what_belongs_there_and_holds_no_code(room):
    """Every stage imports the package itself, but none declares it as a dep."""
    tree = ast.parse((PACKAGE / room / "__init__.py").read_text())
    assert [type(node) for node in tree.body] == [ast.Expr]
    said = ast.get_docstring(tree) or ""
    assert said.count(". ") <= (1 if not room else 0), said  # "2nd ed." is no end
    assert said.endswith(".")


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_run_down(path):
    own = path.parent.name
    for target in imported(path):
        room, _, module = target.partition(".")
        assert ROOMS.index(room) <= ROOMS.index(own), f"{name(path)} imports {target}"
        assert module, f"{name(path)} imports the room {room}, which holds no code"


def test_no_module_imports_itself_by_way_of_others():
    arrows = {name(path): imported(path) for path in MODULES}
    done: set[str] = set()

    def walk(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, f"a circle: {' -> '.join((*above, module))}"
        if module not in done:
            for target in arrows.get(module, ()):
                walk(target, (*above, module))
            done.add(module)

    for module in arrows:
        walk(module, ())


def test_only_stages_read_the_params():
    for path in MODULES:
        assert "params.load()" not in path.read_text(), path
