"""What stands at the outs' places: what the pipeline made, or something of the user's.

DVC removes whatever stands there. So `inputs`, which it runs first, asks before that is lost.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from convnets.base import files
from convnets.base.console import InputError
from convnets.tracking import git

FOLDER = Path("dvc-outs")  # of all outs but the metrics and the champion
# Where outs stood until they got a folder of their own. `data` and `models` are the user's.
BEFORE = (
    *("data/backbone.keras", "data/features", "data/images", "data/images.json"),
    *("data/images.zip", "data/mnist.npz", "data/views", "models/trained"),
)
PARTS = (".part.*", ".old.*", "*.unfinished", "*.unfinished.json", "kaggle/*")  # of a killed stage


def refuse(*paths: Path) -> None:
    """Refuse a path at, in or above an out: DVC would remove what is there.

    Args:
        paths: as a person gave them. Links are followed.

    Raises:
        InputError: it is such a path.
    """
    with _repository() as repo:
        places = [FOLDER, *(Path(out.def_path) for out in repo.index.outs)] if repo else []
    for path, place in product(paths, places):
        given = path.resolve()
        for whole in {(base / place).resolve() for base in (Path.cwd(), files.root())}:
            if whole.is_relative_to(given) or given.is_relative_to(whole):
                relation = "contains" if given in whole.parents else "is at or in"
                raise InputError(
                    f"{path}: {relation} {place}, where DVC removes what it finds; keep your files "
                    "in another folder, such as data/photos, and give that"
                )


def check() -> str:
    """Refuse to go on while a file that is not the pipeline's stands at an out's place.

    A file is the pipeline's if the pipeline wrote it here, or if `dvc.lock`, DVC's cache or git has
    the same content, so that nothing would be lost.

    Returns:
        What an earlier version of the project left where outs once stood, and the command that
        removes it; or an empty text.

    Raises:
        InputError: there is such a file.
    """
    with _repository() as repo:
        if repo is None:
            return ""
        journal = files.journal()
        places = [out for out in repo.index.outs if out.use_cache or not out.persist]
        strange: dict[str, list[Path]] = {}
        known: list[Path] = []
        for out in places:
            own, others = _sorted(repo, out, journal)
            known += own
            if others:
                strange[out.def_path] = others
        files.remember(known)
        if strange:
            place, (example, *_) = next(iter(strange.items()))
            more = sum(map(len, strange.values())) - 1
            raise InputError(
                f"{example}{f' and {more:,} more files' if more else ''}: not made by the "
                f"pipeline, but in the place of its {place}, where DVC removes what it finds; move "
                "your files to another folder, such as data/photos"
            )
        left = [place for place in BEFORE if _is_left(repo, Path(place))]
    if not left:
        return ""
    return f"left by an earlier version of the project; to remove it: rm -r {' '.join(left)}"


def clean() -> tuple[list[Path], list[Path]]:
    """Remove all outs that are not in git, and what killed stages left beside them.

    Returns:
        The files that are left in `FOLDER`, since the pipeline did not make them; and the files
        that were removed.
    """
    journal = files.journal()
    with _repository() as repo:
        found = [out for out in repo.index.outs if out.use_cache] if repo else []
        removed = [file for out in found for file in _sorted(repo, out, journal)[0]]
    removed += [file for file in _files(FOLDER) if files.stamp(file) in journal]
    removed += [file for part in PARTS for file in FOLDER.rglob(part) if file.is_file()]
    for file in removed:
        file.unlink(missing_ok=True)
    for folder in sorted((path for path in FOLDER.rglob("*") if path.is_dir()), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    left = list(_files(FOLDER))
    if FOLDER.is_dir() and not left:
        FOLDER.rmdir()
    return left, removed


@contextmanager
def _repository() -> Iterator[Any]:
    """Open the project of this folder; yield None elsewhere."""
    from dvc.exceptions import NotDvcRepoError
    from dvc.repo import Repo

    try:
        repo = Repo(".")
    except NotDvcRepoError:
        yield None
        return
    with repo:
        yield repo if Path(repo.root_dir) == Path.cwd() else None


def _files(place: Path) -> Iterator[Path]:
    """Yield the files at or in a place. A link is a file."""
    if place.is_symlink() or not place.is_dir():
        if place.is_symlink() or place.exists():
            yield place
        return
    for path in sorted(place.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            yield path


def _sorted(repo: Any, out: Any, journal: frozenset[str]) -> tuple[list[Path], list[Path]]:
    """Return the files at an out's place that are the pipeline's, and the others."""
    place = Path(out.def_path)
    found = [file for file in _files(place) if not repo.dvcignore.is_ignored_file(str(file))]
    others = [file for file in found if files.stamp(file) not in journal]
    if others and out.hash_info and not place.is_symlink() and not out.changed_checksum():
        others = []
    others = [file for file in others if not _in_cache(repo, file)]
    in_git = git.has(others)
    others = [file for file in others if file not in in_git]
    return [file for file in found if file not in set(others)], others


def _in_cache(repo: Any, file: Path) -> bool:
    from dvc_data.hashfile.hash import hash_file

    cache = repo.cache.local
    if file.is_symlink() and file.readlink().is_relative_to(cache.path):
        return True  # DVC's own link, even if what it is for has not been pulled
    if not file.is_file():  # a link to a folder, or one that leads nowhere
        return False
    path = str(file.absolute())
    _, found = hash_file(path, repo.fs, "md5", state=repo.state)
    return bool(cache.exists(found.value))


def _is_left(repo: Any, place: Path) -> bool:
    """Whether all files at a place are copies of what is in DVC's cache."""
    found = list(_files(place))
    return bool(found) and all(_in_cache(repo, file) for file in found)
