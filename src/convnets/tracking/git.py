"""What git says about this folder."""

import re
import subprocess
from pathlib import Path

from convnets.tracking import declared


def ask(*arguments: str, given: str = "") -> str:
    """Return what git prints, without the last line break; nothing if git fails or is not there."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            input=given,
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except OSError:
        return ""
    return "" if done.returncode else done.stdout.rstrip("\n")


def has(paths: list[Path]) -> set[Path]:
    """Return the files whose content git has, in whatever commit."""
    files = [path for path in paths if path.is_file() and "\n" not in str(path)]
    hashes = ask("hash-object", "--stdin-paths", given="".join(f"{path}\n" for path in files))
    kinds = ask("cat-file", "--batch-check=%(objecttype)", given=f"{hashes}\n").splitlines()
    return {path for path, kind in zip(files, kinds, strict=False) if kind == "blob"}


def no_branch() -> str:
    """Return what to do if an experiment was interrupted, and left git on no branch; or nothing.

    `dvc exp run` takes git off its branch, and puts it back at its end. If it is killed, nothing
    does, not even the next one: commits then belong to no branch. Git's reflog has the branch.
    """
    if ask("symbolic-ref", "--quiet", "HEAD"):
        return ""
    entries = ask("reflog", "HEAD", "--date=unix", "--format=%gd %gs").splitlines()
    newest = next((entry for entry in entries if " checkout: " in entry), "")
    # Git itself writes the name that it was given, and DVC the whole hash.
    left = re.fullmatch(r"HEAD@\{(\d+)\} checkout: moving from (.+) to [0-9a-f]{40}", newest)
    if left is None or int(left[1]) >= int(declared.command().create_time()):
        return ""  # this experiment's own
    name = left[2]
    if not ask("rev-parse", "--verify", "--quiet", f"refs/heads/{name}"):
        return ""
    ahead = ask("rev-list", "--count", f"HEAD..refs/heads/{name}") == "0"
    here = ask("rev-parse", "--short", "HEAD")
    remedy = f"git switch -C {name}" if ahead else f"git switch {name} && git merge {here}"
    return (
        f"warning: an experiment was interrupted and left git on no branch, so that new commits "
        f"belong to none; to return to {name} with all that you have done since: {remedy}"
    )
