"""Files and folders outside the project: a stamp of each, so that DVC notices a change."""

import hashlib
import json
from pathlib import Path

from convnets.base import files, params
from convnets.base.console import InputError, public, say
from convnets.sources import archive, bucket

FOLDER = Path("metrics/inputs")  # in git: a clone without the files keeps their stamps


def outside(p: params.Params) -> dict[str, list[str]]:
    """Return the paths that the params give, by the name of what they are for."""
    watched = p.data.source in ("archive", "folder") or bucket.serves(p.data.path)
    images = p.data.path if watched else None
    known = ("imagenet", "random", "sample")
    weights = None if p.backbone.weights in known else p.backbone.weights
    own = p.backbone.name if p.backbone.name.endswith(".keras") else None
    digits = p.mnist.path if p.mnist.source == "file" else None
    given = {"images": [images, p.data.labels], "weights": [weights, own], "mnist": [digits]}
    return {what: [path for path in paths if path] for what, paths in given.items()}


def write(paths: list[str], out: Path) -> None:
    """Write the stamps of files and folders. A known one that is not on this machine keeps its own.

    Args:
        paths: as given in the params.
        out: the JSON file.
    """
    known = json.loads(out.read_text(encoding="utf-8")) if out.exists() else {}
    stamps = {}
    for path in paths:
        remote = bucket.serves(path)
        name = public(path) if remote else path  # the file is in git
        try:
            stamps[name] = bucket.stamp(path) if remote else stamp(files.given(path))
        except InputError as error:
            if not remote or name not in known:
                raise
            say(str(error))
            stamps[name] = None
        if stamps[name] is None and known.get(name):
            say(f"{name}: is not here; what was made from it before is used")
            stamps[name] = known[name]
    files.write_json(out, stamps)


def stamp(path: Path) -> str | None:
    """Return a hash of the size and the time of a file, or of all files in a folder, if it exists.

    Reading the contents would take longer than everything else in a `dvc repro` without a change.
    """
    if not path.exists():
        return None
    found = [path]
    if path.is_dir():
        found = [path / name for name in sorted(archive.names(path))]
    digest = hashlib.sha256()
    for file in found:
        seen = file.stat()
        name = file.relative_to(path).as_posix()
        digest.update(f"{name} {seen.st_size} {seen.st_mtime_ns}\n".encode())
    return digest.hexdigest()
