"""Presets: each holds what differs from its base, and is written out as a whole `params.yaml`."""

import io
import re
import shlex
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import CommentMark
from ruamel.yaml.tokens import CommentToken

from convnets.base import files, params
from convnets.base.console import InputError, hint, printable, say
from convnets.tracking import git

FOLDER, FILE = Path("presets"), Path("params.yaml")


def write(name: str, settings: list[str]) -> None:
    """Write `params.yaml` from a preset. What a person changed in the former file is kept beside.

    Args:
        name: one of `presets/`, or the path of a `.yaml` file of one's own.
        settings: `key=value`, as for `-S` of `dvc exp run`.

    Raises:
        InputError: there is no such preset or key, or the result is not valid.
    """
    text = compose(name, settings)
    with files.atomic(FILE) as part:
        part.write_text(text, encoding="utf-8", newline="\n")
        params.load(part, f"preset {printable(name)}")
        if FILE.exists():
            _keep(FILE.read_bytes())
    say(f"{FILE}: written; `dvc repro` runs it")


def _keep(before: bytes) -> None:
    """Copy the former file, unless a preset wrote it or git has it."""
    if files.stamp(FILE) in files.journal() or git.has([FILE]):
        return
    if before not in [compose(name).encode() for name in names()]:
        kept = Path(f"{FILE}.before")
        while kept.exists() and kept.read_bytes() != before:
            kept = Path(f"{kept}.before")
        kept.write_bytes(before)
        say(f"{FILE} had changes that are not in git; it is kept as {kept}")


def names() -> dict[str, str]:
    """Return the presets of the project, each with the first line of its comment."""
    found = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.yaml"))}
    if not found:
        raise InputError(f"{FOLDER}: has no presets here; run from the project's root")
    return {name: text.partition("\n")[0].lstrip("# ") for name, text in found.items()}


def compose(name: str, settings: list[str] | None = None) -> str:
    """Return what a preset writes: its base, with its own values and comments in their places.

    Raises:
        InputError: it, or a base of it, cannot be read; or a setting is wrong.
    """
    head, whole = _layered(_path(name, Path()), ())
    if settings:
        _merge(whole, _set(_dump(whole), settings))
    return head + _dump(whole)


def command(name: str, settings: dict[str, Any]) -> str:
    """Return the commands that run a preset with these settings, for a shell to read.

    DVC reads the value of `-S` as Hydra does: in quotes, any character stands for itself, and
    `2024` is a name.
    """
    quoted = [
        f"{key}={_quoted(str(value)) if key.startswith('data.') else value}"
        for key, value in settings.items()
    ]
    given = "".join(f" -S {shlex.quote(setting)}" for setting in quoted)
    return f"python -m convnets preset {shlex.quote(name)}{given} && dvc repro"


def _quoted(value: str) -> str:
    """Return a value in Hydra's quotes, if it is not a plain word."""
    if value.isidentifier():
        return value
    # A backslash counts only before a quote, or before `${`, which would ask for another value.
    name = re.sub(r'(\\*)"', r'\1\1\\"', value)
    name += "\\" * (len(value) - len(value.rstrip("\\")))
    return '"' + re.sub(r"(\\*)\$\{", r"\1\1\\${", name) + '"'


def _path(name: str, folder: Path) -> Path:
    """Return a preset's file: a path starts at `folder`, and a name is of the project."""
    if name.endswith((".yaml", ".yml")):
        return folder / Path(name).expanduser()
    known = names()
    if name not in known:
        for each, about in known.items():
            say(f"{each:12}  {about}")
        raise InputError(f"preset {printable(name)}: does not exist; {hint(name, known)}")
    return FOLDER / f"{name}.yaml"


def _layered(path: Path, above: tuple[Path, ...]) -> tuple[str, CommentedMap]:
    """Return a preset's leading comment, and its values with those of its bases."""
    if path in above:
        raise InputError(f"{path}: is a base of its own base; correct `base`")
    try:
        text = path.read_text(encoding="utf-8")
        head = "".join(re.findall(r"\A(?:[ \t]*(?:#.*)?\n)*", text))
        own = YAML().load(text[len(head) :])
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; correct the preset's name") from error
    except Exception as error:  # of YAML or of its encoding
        raise InputError(f"{path}: not valid YAML ({_short(error)}); correct it") from error
    if not isinstance(own, CommentedMap):
        raise InputError(f"{path}: has no keys; give it `base: book` and what differs")
    base = own.pop("base", None)
    if base is None:
        return head, own
    head_of_base, whole = _layered(_path(str(base), path.parent), (*above, path))
    _merge(whole, own)
    return head or head_of_base, whole


def _merge(whole: CommentedMap, own: dict[str, Any]) -> None:
    """Put values that differ, and the comments on their lines, into a base."""
    for key, value in own.items():
        if isinstance(value, dict) and isinstance(whole.get(key), dict):
            _merge(whole[key], value)
            continue
        if key not in whole and isinstance(value, dict):
            whole.yaml_set_comment_before_after_key(key, before="\n")
        if key not in whole or whole[key] != value:
            whole[key] = value
        line = _comment(own, key).partition("\n")[0] if isinstance(own, CommentedMap) else ""
        if line:
            after = _comment(whole, key).partition("\n")[2]  # such as a blank line
            token = CommentToken(f"{line}\n{after}", CommentMark(0))
            whole.ca.items[key] = [None, None, token, None]


def _comment(section: CommentedMap, key: str) -> str:
    token = (section.ca.items.get(key) or [None] * 3)[2]
    return str(token.value) if token else ""


def _set(text: str, settings: list[str]) -> dict[str, Any]:
    """Return the values of a file after `-S`, as `dvc exp run` sets them."""
    from dvc.utils.flatten import flatten
    from dvc.utils.hydra import apply_overrides

    leaves = flatten(YAML(typ="safe", pure=True).load(text))
    known = {key for leaf in leaves for key in accumulate(leaf.split("."), "{}.{}".format)}
    for setting in settings:
        key, equals, _ = setting.partition("=")
        if not equals or key not in known:
            remedy = hint(key, known) if equals else "write key=value"
            raise InputError(f"-S {printable(setting)}: no such key; {remedy}")
    with TemporaryDirectory() as folder:  # DVC's function wants a file, and would move comments
        path = Path(folder) / FILE
        path.write_text(text, encoding="utf-8")
        try:
            apply_overrides(path, settings)
        except Exception as error:  # Hydra, OmegaConf and DVC have their own
            why = _short(error.__cause__ or error).partition(" See http")[0]
            remedy = "give one value for each key, and put text in quotes: 'key=\"…\"'"
            raise InputError(f"-S {printable(' -S '.join(settings))}: {why}; {remedy}") from error
        return dict(YAML(typ="safe", pure=True).load(path))


def _dump(values: CommentedMap) -> str:
    """Return YAML with its comments, each one space after its value."""
    yaml, out, sections = YAML(), io.StringIO(), [values]
    for section in sections:
        for token in (items[2] for items in section.ca.items.values() if items[2]):
            token.start_mark = CommentMark(0)
        sections += [value for value in section.values() if isinstance(value, CommentedMap)]
    yaml.width, yaml.default_flow_style = 4096, None  # new lists in a line
    yaml.representer.add_representer(
        type(None), lambda self, _: self.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    yaml.dump(values, out)
    return out.getvalue()


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[: params.LONGEST]
