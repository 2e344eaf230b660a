"""What DVC knows about a stage: its description, its param values and its dep hashes."""

import hashlib
import os
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import psutil

from convnets.base.cluster import installed
from convnets.base.console import InputError


def command() -> psutil.Process:
    """Return the `dvc` command above this process, or else this process."""
    for above in psutil.Process().parents():
        words = above.as_dict(["cmdline"], ad_value=[])["cmdline"]
        if any(Path(word).stem == "dvc" for word in words[:3]):  # the script, or python -m dvc
            return above
    return psutil.Process()


class Declared(NamedTuple):
    """A stage as `dvc.yaml` declares it."""

    description: str
    command: str
    params: dict[str, Any]  # by dotted key, with sections flattened
    hashes: dict[str, str]  # of the deps, by path
    outs: dict[str, str]  # of all stages, with the stage's name

    def digest(self, path: Path) -> str | None:
        """Return the hash of the dep that is, or contains, a file; None if there is none."""
        places = (path.as_posix(), *map(str, PurePosixPath(path.as_posix()).parents))
        dep = next((place for place in places if place in self.hashes), None)
        return self.hashes[dep].removesuffix(".dir") if dep else None

    def key(self) -> str:
        """Return a hash of the stage's command, code, data, params and libraries."""
        packages = ("imagehash", "keras", "numpy", "pillow", "pillow-heif", "tensorflow")
        given = [
            self.command,
            *sorted(self.params.items()),
            *installed(packages).items(),
            *sorted(self.hashes.items()),
        ]
        return hashlib.sha256(repr(given).encode()).hexdigest()[:16]


def of(stage: str) -> Declared:
    """Ask DVC about a stage.

    DVC resolves the templates in `dvc.yaml`, and remembers the hashes of unchanged files. Reading
    gigabytes again would take longer than everything else before the first step.

    Args:
        stage: its name, also of one of several: `train_mnist@max_pooling`.
    """
    from dvc.dependency import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.utils.flatten import flatten

    try:
        with Repo(os.curdir) as repo:
            (found,) = repo.stage.collect(stage)
            params: dict[str, Any] = {}
            hashes = {}
            for dep in found.deps:
                if isinstance(dep, ParamsDependency):
                    params |= flatten(dep.read_params())
                else:
                    hashes[dep.def_path] = str(dep.get_hash().value)
            outs = {out.def_path: out.stage.addressing for out in repo.index.outs}
    except FileNotFoundError as error:
        raise InputError(f"{error.filename}: does not exist; run `dvc repro {stage}`") from error
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{stage}: {reason}; run it in a git clone of the project") from error
    return Declared(found.desc or "", str(found.cmd), params, hashes, outs)


def changed(*stages: str) -> list[str]:
    """Return the params whose values are not those that these stages ran with last."""
    from dvc.dependency import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        repo = Repo(os.curdir)
    except DvcException as error:
        raise InputError(f"{error}; run it in a git clone of the project") from error
    with repo:
        deps = [dep for stage in stages for dep in repo.stage.collect(stage)[0].deps]
        params = [dep.status() for dep in deps if isinstance(dep, ParamsDependency)]
    return sorted({key for found in params for of_file in found.values() for key in of_file})
