"""Compare experiments over their seeds: which models and which settings differ beyond chance."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import pandas as pd

from convnets.base.console import InputError, printable, progress
from convnets.evaluation import chance

PREDICTIONS = PurePosixPath("metrics/predictions.csv")
Tell = Callable[[str], None]


class Experiment(NamedTuple):
    """The results of one revision."""

    name: str
    params: dict[str, Any]  # by dotted key, without the seed
    seed: int
    right: pd.DataFrame  # by data, file and class: whether each model is right; NA: of other data


Setting = dict[int, Experiment]  # experiments that differ in the seed alone, by seed


def read(revisions: list[str], tell: Tell) -> list[Experiment]:
    """Read the predictions and params of revisions, the newest first.

    Args:
        revisions: commits, experiments of DVC or `workspace`. None stands for the workspace,
            HEAD and all experiments that are based on it.
        tell: gets one line for each that is skipped.

    Raises:
        InputError: this is no clone of the project, a revision is unknown, or none has predictions.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import resolve_rev

    logging.getLogger("dvc").setLevel(logging.CRITICAL)  # and no bars
    found: list[tuple[float, Experiment]] = []
    try:
        with Repo() as repo:
            named = {revision: revision for revision in revisions}
            if not named:
                named = {"workspace": "workspace", "HEAD": "HEAD"}
                for experiments in repo.experiments.ls().values():
                    named |= dict(experiments)
            for name in progress(named, "read", len(named), beside_output=True):
                time = math.inf
                if name != "workspace":
                    sha = resolve_rev(repo.scm, named[name])
                    time = repo.scm.resolve_commit(sha).commit_time
                with repo.switch(named[name]):
                    try:
                        found.append((time, _read(repo, name)))
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
    return [experiment for _, experiment in found]


def _read(repo: Any, name: str) -> Experiment:
    from dvc.dependency.param import read_param_file
    from dvc.exceptions import DvcException
    from dvc.utils.flatten import flatten

    try:
        with repo.dvcfs.open(f"/{PREDICTIONS}") as file:
            # All is text: a class may be named `001`, `NA` or `TRUE`.
            table = pd.read_csv(file, dtype=str, keep_default_na=False)
        predicted = table.set_index(["data", "file", "class"])
    except (DvcException, FileNotFoundError) as error:
        raise InputError(f"{name}: has no {PREDICTIONS} here") from error
    except KeyError as error:
        raise InputError(f"{name}: its {PREDICTIONS} is of another version") from error
    if not _current(repo):
        raise InputError(f"{name}: its {PREDICTIONS} is older than its params or models")
    params = flatten(read_param_file(repo.fs, repo.fs.join(repo.root_dir, "params.yaml")))
    right = predicted.eq(predicted.index.get_level_values("class"), axis=0)
    right = right.astype("boolean").mask(predicted == "")
    return Experiment(name, params, params.pop("seed"), right)


def _current(repo: Any) -> bool:
    """Return whether dvc.lock has all deps as they are: no stage ran, or is due, since.

    This reads no data: of a revision, only git has the files.
    """
    from dvc.dependency import ParamsDependency
    from dvc_data.hashfile.tree import Tree

    for dep in (dep for stage in repo.index.stages for dep in stage.deps):
        if isinstance(dep, ParamsDependency):
            if dep.status():
                return False
            continue
        made = [out for out in repo.index.outs if out.fs.isin_or_eq(out.fs_path, dep.fs_path)]
        # Such as models/trained, of which each stage makes one file.
        whole = Tree()  # type: ignore[no-untyped-call]
        for out in made:
            whole.add(out.fs.relparts(out.fs_path, dep.fs_path), None, out.hash_info)
        whole.digest()
        single = made and made[0].fs_path == dep.fs_path
        if made and dep.hash_info != (made[0] if single else whole).hash_info:
            return False
    return True


def settings(found: list[Experiment], tell: Tell) -> dict[str, Setting]:
    """Group experiments whose params are equal apart from the seed.

    A group's name has the params in which the groups differ. A seed counts once in a group.

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
    return {
        ", ".join(f"{key}={params.get(key)!r}" for key in differing): group
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
        for seed, experiment in by_seed.items():
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
    rows.sort(key=lambda row: (row["data"] == "digits", -row["mean"]))
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
    for names, group in accuracies.groupby(["setting", "data"], sort=False):
        pairs = rows[(rows["kind"] == "models") & (rows[["setting", "data"]] == names).all(axis=1)]
        heading = ": ".join(printable(str(group[side].iloc[0])) for side in several)
        parts.append((f"{heading}\n" if heading else "") + _block(group, pairs, "model"))
    alike = []
    for model, group in accuracies.groupby("model", sort=False):
        pairs = rows[(rows["kind"] == "settings") & (rows["model"] == model)]
        if len(pairs) and ((pairs["mean"] == 0) & (pairs["p"] == 1)).all():
            alike.append(printable(str(model)))
        elif len(group) > 1:
            parts.append(f"{printable(str(model))}\n{_block(group, pairs, 'setting')}")
    if alike:
        parts.append(f"no difference between settings: {', '.join(alike)}")
    parts.append(
        "Accuracy is in percent, its difference from the first row in points. More than chance: p\n"
        f"is below {chance.LEVEL}, by a paired t test over the seeds; with one seed, by McNemar's "
        "exact\ntest on the test images. Of 20 pairs that do not differ, one is below by luck."
    )
    return "\n\n".join(parts)


def _block(group: pd.DataFrame, pairs: pd.DataFrame, by: str) -> str:
    """Return a table of accuracies with their differences from the first, the highest."""
    best = pairs[pairs[by] == group[by].iloc[0]].set_index("against")

    def number(value: float, form: str) -> str:
        return "–" if math.isnan(value) else format(value + 0, form)  # never -0

    lines = []
    for row in group.to_dict("records"):
        line = {
            by: printable(row[by]),
            "seeds": str(row["seeds"]),
            "accuracy": number(100 * row["mean"], ".2f"),
            "sd": number(100 * row["sd"], ".2f"),
        }
        if row[by] in best.index:
            pair = best.loc[row[by]]
            low, high = (number(-100 * pair[end], "+.2f") for end in ("high", "low"))
            line |= {
                "difference": number(-100 * pair["mean"], "+.2f"),
                "95 % interval": low if low == "–" else f"{low} to {high}",
                "p": "< 0.001" if pair["p"] < 0.001 else number(pair["p"], ".3f"),
                "more than chance": {True: "yes", False: "no"}.get(pair["more_than_chance"], "–"),
            }
        lines.append(line)
    with pd.option_context("display.unicode.east_asian_width", True):
        return pd.DataFrame(lines).fillna("").to_string(index=False)
