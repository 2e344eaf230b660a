"""Compare experiments over their seeds: which models and which settings differ beyond chance."""

import hashlib
import io
import json
import logging
import math
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pandas as pd

from convnets.base.console import InputError, printable, progress
from convnets.evaluation import chance
from convnets.listing.labels import CORRECTIONS

PREDICTIONS = PurePosixPath("metrics/predictions.csv")
LONG = 30  # characters of a setting, which is told by a number above that
Tell = Callable[[str], None]
Deps = list[tuple[Any, list[Any]]]  # each with the outs in it: none if it is code


class Experiment(NamedTuple):
    """The results of one revision."""

    name: str
    params: dict[str, Any]  # by dotted key, without the seed; and hashes of the code and inputs
    seed: int
    right: pd.DataFrame  # by data, file and class: whether each model is right; NA: of other data


Setting = dict[int, Experiment]  # experiments that differ in the seed alone, by seed


def read(revisions: list[str], tell: Tell) -> list[Experiment]:
    """Read the predictions and params of revisions, the newest first.

    Args:
        revisions: commits, experiments of DVC or `workspace`. None stands for the workspace,
            HEAD and all experiments that are based on it.
        tell: gets a line for what is skipped.

    Raises:
        InputError: this is no clone of the project, a revision is unknown, or none has predictions.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import resolve_rev

    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # and no bars
    found: list[tuple[float, Experiment]] = []
    outs: dict[str, set[str]] = {}  # which an earlier version of the project keeps elsewhere
    try:
        with Repo() as repo:
            named = {revision: revision for revision in revisions}
            if not named:
                named = {"workspace": "workspace", "HEAD": "HEAD"} | _experiments(repo, tell)
            for name in progress(named, "read", len(named), beside_output=True):
                time = math.inf
                if name != "workspace":
                    sha = resolve_rev(repo.scm, named[name])
                    time = repo.scm.resolve_commit(sha).commit_time
                with repo.switch(named[name]):
                    try:
                        found.append((time, _read(repo, name)))
                        outs[name] = {out.def_path for out in repo.index.outs}
                    except InputError as error:
                        tell(f"{error}; skipped")
    except DvcException as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{reason}; name commits or what `dvc exp list` shows, in a git clone of the project"
        ) from error
    if not found:
        raise InputError(
            f"{PREDICTIONS}: found nowhere; run `dvc repro`, or `dvc pull` what others ran"
        )
    found.sort(key=lambda each: -each[0])
    newest = found[0][1].name
    if others := [name for name in outs if outs[name] != outs[newest]]:
        tell(f"{', '.join(others)}: of another layout of the project than {newest}")
    return [experiment for _, experiment in found]


def _experiments(repo: Any, tell: Tell) -> dict[str, str]:
    """Return the experiments that are based on HEAD, and tell how many others there are."""
    every = repo.experiments.ls(all_commits=True)
    here = dict(every.pop(repo.scm.get_rev(), []))
    if others := [name for experiments in every.values() for name, _ in experiments]:
        example = f"{len(others)} experiments of other commits, such as {others[0]}"
        tell(f"{example}: skipped; name those that you want to compare")
    queue = repo.experiments.celery_queue
    for state in ("queued", "active", "failed"):
        if count := len(list(getattr(queue, f"iter_{state}")())):
            tell(f"{state} in DVC's queue: {count}, skipped; see `dvc queue status`")
    return here


def _read(repo: Any, name: str) -> Experiment:
    from dvc.dependency.param import read_param_file
    from dvc.exceptions import DvcException, OutputNotFoundError
    from dvc.utils.flatten import flatten

    try:
        (out,) = repo.find_outs_by_path(repo.fs.join(repo.root_dir, *PREDICTIONS.parts))
        with repo.dvcfs.open(f"/{PREDICTIONS}", "rb") as file:
            content = file.read()
        deps = _deps(repo)
        if not _current(repo, deps):
            reason = "is older than its params, code or models"
            raise InputError(f"{name}: its {PREDICTIONS} {reason}")
        origin = _origin(repo, deps)
        params = flatten(read_param_file(repo.fs, repo.fs.join(repo.root_dir, "params.yaml")))
    except (FileNotFoundError, OutputNotFoundError) as error:
        raise InputError(f"{name}: has no {PREDICTIONS} here") from error
    except (DvcException, ImportError) as error:  # such as a remote's missing package
        raise InputError(f"{name}: {' '.join(str(error).split())}") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != out.hash_info.value:
        raise InputError(f"{name}: its {PREDICTIONS} is not that of dvc.lock; try `dvc checkout`")
    try:
        # All is text: a class may be named `001`, `NA` or `TRUE`.
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
        predicted = table.set_index(["data", "file", "class"]).sort_index()
        seed = params.pop("seed")
    except (KeyError, ValueError) as error:
        raise InputError(f"{name}: its {PREDICTIONS} is of another version") from error
    right = predicted.eq(predicted.index.get_level_values("class"), axis=0)
    right = right.astype("boolean").mask(predicted == "").dropna(axis=1, how="all")
    if right.empty:
        raise InputError(f"{name}: its {PREDICTIONS} has no predictions")
    # An optional param is null or absent.
    given = {key: value for key, value in params.items() if value is not None}
    return Experiment(name, given | origin, seed, right)


def _deps(repo: Any) -> Deps:
    """Return the deps of all stages, apart from params."""
    from dvc.dependency import ParamsDependency

    outs = list(repo.index.outs)
    return [
        (dep, [out for out in outs if out.fs.isin_or_eq(out.fs_path, dep.fs_path)])
        for stage in repo.index.stages
        for dep in stage.deps
        if not isinstance(dep, ParamsDependency)
    ]


def _current(repo: Any, deps: Deps) -> bool:
    """Return whether dvc.lock has all commands, params and deps as they are: no stage is due.

    This reads no data but DVC's lists of folders: of a revision, only git has the files.
    """
    from dvc_data.hashfile.tree import Tree

    if any(
        stage.cmd_changed or any(p.status() for p in stage.params) for stage in repo.index.stages
    ):
        return False
    code: dict[str, Any] = {}  # stages share it
    for dep, made in deps:
        if not made:
            if dep.fs_path not in code:
                code[dep.fs_path] = dep.get_hash()
            now = code[dep.fs_path]
        elif made[0].fs_path == dep.fs_path:
            now = made[0].hash_info
        else:  # such as dvc-outs/trained, of which each training makes one folder
            whole = Tree()  # type: ignore[no-untyped-call]
            for out in made:
                place = out.fs.relparts(out.fs_path, dep.fs_path)
                if out.is_dir_checksum:
                    for inner, _, content in out.get_dir_cache() or ():
                        whole.add((*place, *inner), None, content)
                else:  # a file, as in earlier versions of the project
                    whole.add(place, None, out.hash_info)
            whole.digest()
            now = whole.hash_info
        if dep.hash_info != now:
            return False
    return True


def _origin(repo: Any, deps: Deps) -> dict[str, str]:
    """Return short hashes of the code, of the corrections and of the stamps of the files outside.

    The seed does not change them, so what differs in them is another setting.
    """

    def short(parts: Iterable[tuple[str, str]]) -> str:
        text = json.dumps(sorted(set(parts))).encode()
        return hashlib.md5(text, usedforsecurity=False).hexdigest()[:7]

    stages = repo.index.stages
    commands = [(stage.name, stage.cmd) for stage in stages]
    given = [(dep.def_path, dep.hash_info.value) for dep, made in deps if not made]
    data = [each for each in given if each[0] == CORRECTIONS.name]
    code = [each for each in given if each not in data]
    stamps = [stage.outs for stage in stages if stage.always_changed]
    inputs = [(out.def_path, out.hash_info.value) for outs in stamps for out in outs]
    return {"code": short(commands + code), "corrections": short(data), "inputs": short(inputs)}


def settings(found: list[Experiment], tell: Tell) -> dict[str, Setting]:
    """Group experiments with the same code, inputs and params, apart from the seed.

    A group's name has what the groups differ in. A seed counts once in a group.

    Args:
        found: the newest first.
        tell: gets one line for each experiment that a newer one replaces, with other results.
    """
    groups: list[tuple[dict[str, Any], Setting]] = []
    for one in found:
        group = next((group for params, group in groups if params == one.params), None)
        if group is None:
            groups.append((one.params, group := {}))
        kept = group.setdefault(one.seed, one)
        if not kept.right.equals(one.right):
            tell(f"{one.name}: has the params and seed of {kept.name}, which is newer; left out")
    given = [params for params, _ in groups]
    keys = sorted({key for params in given for key in params})
    differing = [key for key in keys if any(p.get(key) != given[0].get(key) for p in given)]

    def told(key: str, value: Any) -> str:
        if key not in ("code", "corrections", "inputs"):  # of which a hash says nothing
            return f"{key}={value!r}"
        return f"{key}={value} ({'newest' if value == given[0][key] else 'older'})"

    return {
        ", ".join(told(key, params.get(key)) for key in differing): group
        for params, group in groups
    }


def table(found: dict[str, Setting]) -> pd.DataFrame:
    """Return accuracies and their differences, the most accurate first.

    `kind` is accuracy, for the `mean` and `sd` of a model in a setting; models, for `model` minus
    `against` in a setting; or settings, for `setting` minus `against` of a model. `data` is images
    or digits: models are compared on the same data alone.
    """
    right: dict[str, dict[str, dict[int, Any]]] = {}
    for setting, by_seed in found.items():
        for seed, experiment in sorted(by_seed.items()):
            for model in experiment.right:
                of_model = right.setdefault(setting, {}).setdefault(str(model), {})
                of_model[seed] = experiment.right[model].dropna().astype(bool)
    rows: list[dict[Any, Any]] = []
    for setting, models in right.items():
        for model, of_model in models.items():
            shares = pd.Series([each.mean() for each in of_model.values()])
            data = next(iter(of_model.values())).index[0][0]
            row = {"kind": "accuracy", "setting": setting, "data": data, "model": model}
            rows.append(row | {"seeds": len(shares), "mean": shares.mean(), "sd": shares.std()})
    # Rounded, so that equal means keep their order.
    rows.sort(key=lambda row: (row["data"] == "digits", -round(row["mean"], 12)))
    accuracies = pd.DataFrame(rows)
    for sides, other in ((["setting", "data"], "model"), (["data", "model"], "setting")):
        for names, group in accuracies.groupby(sides, sort=False):
            ordered = group.to_dict("records")
            given = {row[other]: right[row["setting"]][row["model"]] for row in ordered}
            pairs = chance.pairs(given).rename(columns={"first": other, "second": "against"})
            known = {"kind": f"{other}s", **dict(zip(sides, names, strict=True))}
            rows += [row | known for row in pairs.to_dict("records")]
    values = ["seeds", "mean", "sd", "low", "high", "p"]
    whole = pd.DataFrame(rows, columns=["kind", "setting", "data", "model", "against", *values])
    different = (whole["p"] < chance.LEVEL).astype(object).where(whole["p"].notna(), None)
    return whole.assign(more_than_chance=different)


def show(rows: pd.DataFrame, form: str) -> str:
    """Return the comparison as text.

    Args:
        rows: from `table`.
        form: json or csv, with all pairs; or table, with those of the most accurate.
    """
    if form == "csv":
        return rows.to_csv(index=False).rstrip("\n")
    if form == "json":
        shown = rows.astype(object).where(rows.notna(), None)
        return json.dumps(shown.to_dict("records"), indent=2, ensure_ascii=False)
    accuracies = rows[rows["kind"] == "accuracy"]
    several = [side for side in ("setting", "data") if accuracies[side].nunique() > 1]
    parts = []
    known = accuracies["setting"].unique()
    if max(map(len, known)) > LONG:
        short = {name: f"#{place}" for place, name in enumerate(known, 1)}
        parts.append("\n".join(f"{short[name]}  {printable(name)}" for name in known))
        rows = rows.replace(dict.fromkeys(("setting", "model", "against"), short))
        accuracies = rows[rows["kind"] == "accuracy"]
    for names, group in accuracies.groupby(["setting", "data"], sort=False):
        pairs = rows[(rows["kind"] == "models") & (rows[["setting", "data"]] == names).all(axis=1)]
        heading = ": ".join(printable(str(group[side].iloc[0])) for side in several)
        parts.append((f"{heading}\n" if heading else "") + _block(group, pairs, "model"))
    alike = []
    for model, group in accuracies.groupby("model", sort=False):
        pairs = rows[(rows["kind"] == "settings") & (rows["model"] == model)]
        shared = pairs["seeds"].sum() == math.comb(len(group), 2) * group["seeds"].iloc[0]
        same = (pairs["mean"] == 0) & (pairs["p"] == 1) & pairs["low"].isna()
        if len(pairs) and shared and group["seeds"].nunique() == 1 and same.all():
            alike.append(printable(str(model)))
        elif len(group) > 1:
            parts.append(f"{printable(str(model))}\n{_block(group, pairs, 'setting')}")
    if alike:
        parts.append(f"no difference between settings: {', '.join(alike)}")
    parts.append(
        "Accuracy is in percent, its difference from the first row in points, by shared seeds.\n"
        f"More than chance: p is below {chance.LEVEL}, by a paired t test over the seeds. With\n"
        "one seed, or one difference in all, by McNemar's exact test on the test images.\n"
        "Of 20 pairs that do not differ, one is below by luck."
    )
    if rows[rows["kind"] != "accuracy"]["p"].isna().any():
        parts.append("No p-value: the two were scored on different test images or labels.")
    return "\n\n".join(parts)


def _block(group: pd.DataFrame, pairs: pd.DataFrame, by: str) -> str:
    """Return a table of accuracies with their differences from the first, the highest."""
    best = pairs[pairs[by] == group[by].iloc[0]].set_index("against")

    def number(value: float, form: str) -> str:
        return "–" if math.isnan(value) else format(value, form)

    lines = []
    for place, row in enumerate(group.to_dict("records")):
        line = {
            by: printable(row[by]),
            "seeds": str(row["seeds"]),
            "accuracy": number(100 * row["mean"], ".2f"),
            "sd": number(100 * row["sd"], ".2f"),
        }
        if row[by] in best.index:
            pair = best.loc[row[by]]
            low, high = (number(-100 * pair[end], "+z.2f") for end in ("high", "low"))
            line |= {
                "shared": str(pair["seeds"]),
                "difference": number(-100 * pair["mean"], "+z.2f"),
                "95 % interval": low if low == "–" else f"{low} to {high}",
                "p": "< 0.001" if pair["p"] < 0.001 else number(pair["p"], ".3f"),
                "more than chance": {True: "yes", False: "no"}.get(pair["more_than_chance"], "–"),
            }
        elif place:
            line |= {"shared": "0", "difference": "–"}
        lines.append(line)
    found = pd.DataFrame(lines).fillna("")
    if group["seeds"].nunique() == 1 and (found["seeds"] == found.get("shared"))[1:].all():
        found = found.drop(columns="shared", errors="ignore")
    with pd.option_context("display.unicode.east_asian_width", True):
        return found.to_string(index=False)
