"""What the names of files say: which are pictures, of which class and split.

The same for a folder and for an archive. Every file that is not used has a reason.
"""

import json
import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain, pairwise, permutations, takewhile
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from convnets.base import files, params
from convnets.base.console import InputError, printable
from convnets.data import tables
from convnets.data.images import SUFFIXES as SUFFIXES
from convnets.data.images import TYPES, is_picture
from convnets.data.splits import listed, meanings, plain, remedy, split_of, splits_of

# Of pictures that belong to others of the same names.
MASKS = frozenset(("mask", "masks", "annotation", "annotations", "groundtruth", "gt", "labels"))
DEEPEST = 8  # folders below the common ones in which a class or a split is looked for
FEW = 4  # folders that are listed one by one where it is asked which is meant
JUNK = frozenset(("__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "__pycache__"))


_AFFIXES = (  # `_mask` of `1_mask`, `mask` of `1mask`, `_mask_2` of `1_mask_2`; `mask_` of `mask_1`
    re.compile(r"(?<=.)[\s_.(-]*(?<![^\W\d_])[^\W\d_]+(?:[\s_.-]*\d+)?\)?$"),
    re.compile(r"^[^\W\d_]+[\s_.-]*(?=.)(?![^\W\d_])"),
)
_NUMBERED = re.compile(r"(?P<label>[^.]+)\.(?P<number>\d{1,9})\.[^.]+")
Parts = tuple[str, ...]


class Files(NamedTuple):
    """The files of a folder or an archive, by their paths in it."""

    names: Collection[str]
    read: Callable[..., bytes]  # of a path, all bytes or at most so many
    empty: Collection[str] = ()  # the folders without any file
    skipped: Mapping[str, str] = {}  # what is not a file, and why


class Image(NamedTuple):
    """One labelled picture."""

    label: str
    number: int | None  # of a name such as `cat.12.jpg`: it gives the order
    member: str  # its path in the folder or archive
    split: str | None = None  # train, validation or test, where folders say so
    group: str | None = None  # where `data.pattern` says so; it stays in one split


LISTING = Path("dvc-outs/images.json")  # the layout of the pipeline's images


class Layout(NamedTuple):
    """How the pictures are laid out."""

    name: str  # classes, splits, numbered, table or pattern
    images: list[Image]  # by class, then by number or path
    skipped: dict[str, str]  # the path of each file that is not used, and why


class Reading(NamedTuple):
    """What the names of the files may mean."""

    name: str  # as of a `Layout`
    pattern: str | None  # which says the same; a table has none
    images: list[Image]


def recognise(
    source: Files,
    wanted: str = "auto",
    labels: Path | None = None,
    *,
    columns: params.Columns | None = None,
    pattern: str | None = None,
    splits: Mapping[str, str] | None = None,
) -> Layout:
    """Recognise the layout of a folder or an archive.

    - classes: `cat/1.jpg`, at any depth below the class; `cat/train/1.jpg` keeps the split.
    - splits: `train/cat/1.jpg`, where `train` is a word that `splits` knows, in any capitals.
    - numbered: `cat.1.jpg`, as Kaggle's, where all pictures are named so.
    - table: a table names the class of each picture, see `tables.read`.

    Folders around all of these do not matter. What has more than one reading is refused.

    Args:
        source: the folder or the archive.
        wanted: one of these layouts, or `auto`.
        labels: a table that stands elsewhere. Then the layout is `table`.
        columns: of the tables, where they are not found.
        pattern: what the parts of each path are, see `compiled`. Then nothing is guessed.
        splits: the split that a word stands for, besides those that `splits` knows.

    Raises:
        InputError: there are no pictures or no classes, there is more than one reading, the wanted
            layout or the pattern does not fit, a folder beside splits is none that is known, or a
            folder beside the classes has no pictures.
    """
    pictures, texts, skipped = sort_out(source.names, source.read)
    skipped |= source.skipped
    if not pictures:
        raise InputError("no images found; expected <class>/*.jpg, or <class>.<number>.jpg")
    tree = _tree(pictures, splits)
    if pattern is not None:
        reading = _said(pattern, tree)
        why = "does not match data.pattern"
        left = dict.fromkeys(texts, "not an image; with data.pattern, no table is read")
    else:
        read = source.read
        if labels is not None:
            wanted, texts = "table", [str(labels)]
            try:
                content = labels.read_bytes()
            except OSError as error:
                raise InputError(f"{labels}: {error.strerror}; correct data.labels") from error
            read = lambda _: content  # noqa: E731
        found = tables.read(texts, read, pictures, columns, splits)
        if not found.rows and not found.unclear and (labels or columns):
            raise InputError(
                f"{labels}: no table of labels; correct data.labels"
                if labels
                else "data.columns is set, but no table is there; set data.labels"
            )
        reading = _only(tree, found, wanted, bool(columns))
        why = "not in the table" if reading.name == "table" else "beside the class folders"
        unused = {name: f"a table that is not used: {why}" for name, why in found.unclear.items()}
        left = unused | found.left
    name, _, images = reading
    images.sort(key=lambda image: (image.label, image.number or 0, image.member))
    used = {image.member for image in images}
    skipped |= {path: why for path in pictures if path not in used}
    skipped |= {path: told for path, told in left.items() if path not in used}
    _check(name, images)
    if name not in ("numbered", "table"):
        _check_folders(images, source.empty, skipped)
    return Layout(name, images, skipped)


def save(found: Layout, path: Path) -> None:
    """Write a layout, for `load`."""
    files.write_json(path, found._asdict())


def load(path: Path) -> Layout:
    """Return a layout that `save` wrote."""
    found = json.loads(path.read_text(encoding="utf-8"))
    return Layout(**found | {"images": [Image(*row) for row in found["images"]]})


def sort_out(
    names: Iterable[str], read: Callable[..., bytes] | None = None
) -> tuple[list[str], list[str], dict[str, str]]:
    """Return the paths of pictures and of what may be tables, and why each other is skipped."""
    pictures, texts, skipped = [], [], {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if any(part.startswith(".") or part.lower() in JUNK for part in path.parts):
            skipped[name] = "hidden or a system's"
        elif any(character < " " for character in name):
            skipped[name] = "has a control character in its name"
        elif is_picture(name, read):
            pictures.append(name)
        elif path.suffix.lower() in tables.SUFFIXES:
            texts.append(name)
        else:
            skipped[name] = "not an image"
    return pictures, texts, skipped


class _Tree(NamedTuple):
    """The folders of pictures, level by level below the common ones, and what words mean."""

    inside: dict[Parts, str]
    around: Parts
    splits: Mapping[str, str] | None
    levels: list[dict[str, str | None]]  # the folders' names, and the splits that they stand for


def _tree(pictures: Iterable[str], splits: Mapping[str, str] | None) -> _Tree:
    inside, around = _unwrap(pictures)
    depth = min(DEEPEST, max(map(len, inside)) - 1)
    names = [{path[level] for path in inside if len(path) > level + 1} for level in range(depth)]
    return _Tree(inside, around, splits, [meanings(each, splits) for each in names])


def _unwrap(pictures: Iterable[str]) -> tuple[dict[Parts, str], Parts]:
    """Return the paths by their parts below the folders that are around everything, and these."""
    inside = {PurePosixPath(name).parts: name for name in pictures}
    around: Parts = ()
    while len(tops := {path[0] for path in inside if len(path) > 1}) == 1:
        below = {path[1:]: name for path, name in inside.items() if len(path) > 1}
        deeper = {path[0] for path in below if len(path) > 1}
        # With pictures in the folder itself or beside it, it may be a class of its own.
        alone = len(below) == len(inside) and all(len(path) > 1 for path in below)
        if len(deeper) < (1 if alone else 2):
            break
        inside, around = below, (*around, *tops)
    return inside, around


def compiled(pattern: str) -> re.Pattern[str]:
    """Return the regular expression of a pattern such as `{split}/{class}/**`.

    `*` is anything within a folder's or a file's name, and a last `**` any file at any depth.
    Elsewhere `**/` is any number of folders. `{class}` takes as much of a name as it can, and
    `{split}` and `{group}` as little; in the file's name, `{class}` ends before a dot.
    """
    *folders, file = pattern.split("/")
    found = ["(?:[^/]+/)*" if part == "**" else f"{_part(part, '[^/]+')}/" for part in folders]
    last = ".+" if file == "**" else _part(file, "[^/.]+")
    return re.compile("".join(found) + last, re.IGNORECASE | re.DOTALL)


def _part(part: str, label: str) -> str:
    forms = {"*": "[^/]*", "{class}": f"(?P<class>{label})"}
    forms |= {f"{{{name}}}": f"(?P<{name}>[^/]+?)" for name in ("split", "group")}
    for piece in set(re.split(r"(\*|\{\w+\})", part)) - forms.keys():
        written = {unicodedata.normalize(form, piece) for form in ("NFC", "NFD")}
        forms[piece] = f"(?:{'|'.join(map(re.escape, sorted(written)))})"
    return "".join(forms[piece] for piece in re.split(r"(\*|\{\w+\})", part))


def _apply(pattern: str, names: Mapping[str, str], splits: Mapping[str, str] | None) -> list[Image]:
    """Return the pictures whose paths match a pattern.

    Args:
        pattern: see `compiled`.
        names: the path of each picture, by what of it is to match.
        splits: what words mean.

    Raises:
        InputError: a word where a split is expected is none that is known.
    """
    fullmatch = compiled(pattern).fullmatch
    found = [
        (name, match.groupdict()) for path, name in names.items() if (match := fullmatch(path))
    ]
    meant = splits_of({parts["split"] for _, parts in found if "split" in parts}, splits)
    return [
        Image(
            parts["class"],
            _number(name.rpartition("/")[2], parts["class"]),
            name,
            meant.get(parts.get("split", "")),
            parts.get("group"),
        )
        for name, parts in found
    ]


def _said(pattern: str, tree: _Tree) -> Reading:
    """Return what a pattern says, whether or not it begins with the folders around everything."""
    below = {"/".join(path): name for path, name in tree.inside.items()}
    whole = {name: name for name in tree.inside.values()}
    for form, names in ((pattern, below), (pattern, whole), (f"**/{pattern}", whole)):
        if images := _apply(form, names, tree.splits):
            return Reading("pattern", pattern, images)
    raise InputError(
        f"data.pattern {pattern!r} matches none of the {len(whole):,} images, such as "
        f"{min(whole)!r}; correct it"
    )


def _only(tree: _Tree, found: tables.Labels, wanted: str, columns: bool) -> Reading:
    """Return the only reading of folders and tables; refuse none, or more than one.

    Args:
        tree: the folders.
        found: what tables say.
        wanted: a layout, or `auto`.
        columns: whether the user names columns, so that there must be a table.
    """
    possible, parts, doubt = _readings(tree)
    # Folders of one class are none: `images/1.jpg` beside a table.
    several = [each for each in possible if len(_labels(each.images)) > 1]
    rows = found.rows
    if several and not found.sure and wanted != "table":
        rows = {member: row._replace(label="") for member, row in rows.items()}
    table, unknown = _by_table(rows, tree)
    unclear = "; ".join(f"{name}: {why}" for name, why in list(found.unclear.items())[:3])
    if unclear and not table and (wanted == "table" or not several or (columns and not rows)):
        raise InputError(f"no classes found: {unclear}")
    possible = several if several or table else possible
    if wanted != "auto":
        names = {each.name: each for each in possible} | ({"table": table} if table else {})
        if names and wanted not in names:
            raise InputError(f"data.layout {wanted} does not fit; possible: {', '.join(names)}")
        possible = [each for each in possible if each.name == wanted]
        table = table if wanted == "table" else []
        doubt = doubt if len(possible) > 1 else ""
    if len(possible) == 1 and not doubt:
        parts, doubt = _pairs(possible[0], tree)
    if rows:
        agreeing = [done for each in possible if (done := _completed(each, table, rows))]
        if agreeing and len(possible) == 1 and not doubt:
            possible = agreeing
        elif table:
            possible = agreeing or [each for each in possible if not _one_stem(each.images)]
            if not unknown and (agreeing or not possible):  # what is in doubt, the table decides
                possible, parts, doubt = [], [], ""
            possible.append(Reading("table", None, _one_split(table)))
    if unknown and not doubt:
        splits_of(unknown, tree.splits)
    if not possible:
        without = [name for path, name in tree.inside.items() if not _NUMBERED.fullmatch(path[-1])]
        raise InputError(
            f"no classes found: nothing names the class of "
            f"{min(without or tree.inside.values())!r}; {doubt}put each class into a folder of its "
            "own, add a labels.csv with the columns file_name and label, or set data.pattern "
            "(--pattern), such as to '{class}_*'"
        )
    if len(possible) == 1 and not doubt:
        return possible[0]
    told = " or ".join(
        f"{_classes(each.images)} "
        f"({f'pattern {shlex.quote(each.pattern)}' if each.pattern else 'layout table'})"
        for each in (*possible, *parts)
    )
    raise InputError(
        f"ambiguous, {doubt}the classes may be {told}; set data.pattern or data.layout (--pattern, "
        "--layout) to what is meant, or data.splits (--splits) if folders are splits"
    )


def _by_table(rows: Mapping[str, tables.Row], tree: _Tree) -> tuple[list[Image], dict[str, None]]:
    """Return the pictures of which tables say the class.

    Returns:
        The pictures; and the folders beside those of splits, in which some are, of which nothing
        says what they are.
    """
    at = next((at for at, meant in enumerate(tree.levels) if any(meant.values())), 0)
    meant = tree.levels[at] if tree.levels else {}
    images: list[Image] = []
    unknown: dict[str, None] = {}
    for path, name in tree.inside.items():
        row = rows.get(name, tables.Row())
        folder = path[at] if len(path) > at + 1 else ""
        split = row.split or meant.get(folder) or row.of_table
        if row.label:
            images.append(Image(row.label, None, name, split))
            if not split and folder and any(meant.values()):
                unknown[folder] = None
    return images, unknown


def _one_split(images: list[Image]) -> list[Image]:
    """Return pictures; what all of them are in is no split."""
    keep = len({image.split or "train" for image in images}) > 1
    return [image if keep else image._replace(split=None) for image in images]


def _one_stem(images: list[Image]) -> bool:
    """Whether the classes differ by numbers alone: `part_1`, `part_2`, `patient3`."""
    stems = {re.sub(r"\d+", "", image.label) for image in images}
    return len(stems) == 1 and stems != {""}


def _completed(
    reading: Reading, table: list[Image], rows: Mapping[str, tables.Row]
) -> Reading | None:
    """Return a reading with what tables add to it, if they agree with it.

    They add splits, and pictures of the same classes that are elsewhere.
    """
    images = []
    for image in reading.images:
        row = rows.get(image.member, tables.Row())
        if row.label not in ("", image.label):
            return None
        if row.split and image.split and row.split != image.split:
            raise InputError(
                f"{image.member!r} is in a folder for {image.split}, and in a table for "
                f"{row.split}; correct one of them"
            )
        images.append(image._replace(split=row.split or image.split or row.of_table))
    used = {image.member for image in images}
    more = [image for image in table if image.member not in used]
    if not _labels(more) <= _labels(images):
        return None
    return reading._replace(images=_one_split([*images, *more]))


def _readings(tree: _Tree) -> tuple[list[Reading], list[Reading], str]:
    """Return what the folders and names may mean.

    Returns:
        The readings; others that take a part of the pictures; and a clause that says why it must be
        asked, even if there is only one, or nothing.
    """
    at = next((at for at, meant in enumerate(tree.levels) if any(meant.values())), None)
    found, parts = _by_folder(tree, at)
    found += _by_number(tree, at, found)
    if at is None:
        return found, parts, ""
    unknown = [word for word, split in tree.levels[at].items() if split is None]
    if not found:  # `train/cat/1.jpg`, `set/train/cat/2.jpg`
        deep = _read("/".join((*map(_literal, tree.around), "**/{split}/{class}/*")), tree)
        found = [each for each in deep if len(each.images) == len(tree.inside)]
    if found and len(unknown) <= 1:  # whose pictures have no class: `seg_pred`
        return found, parts, ""
    doubt = f"there are splits ({listed(tree.levels[at].keys() - unknown)}) "
    if unknown:
        doubt += f"beside {listed(unknown)}; if these are splits, too, {remedy(unknown)}, else "
    elif at == 0:
        pattern = shlex.quote(_pattern(tree, {0: "{class}"}))
        doubt += (
            f"without classes; if they are classes, set data.pattern (--pattern) to {pattern}, "
        )
        return found, parts, f"{doubt}else "
    else:
        doubt += "beside images that are in none; "
    return found + _by_folder(tree, None, () if unknown else (at,))[0], parts, doubt


def _by_folder(
    tree: _Tree, split: int | None, never: Collection[int] = ()
) -> tuple[list[Reading], list[Reading]]:
    """Return the readings in which the folders of one level are the classes; and parts of them."""
    told = {} if split is None else {split: "{split}"}
    found: dict[int, Reading] = {}
    for level, names in enumerate(tree.levels):
        if level in (split, *never) or (told and all(names.values())):
            continue  # `seg_train/seg_train/sea`: a folder around the classes
        if not _covers(tree, level, split):
            break
        for read in _read(_pattern(tree, told | {level: "{class}"}), tree):
            if read.images not in [other.images for other in found.values()]:
                found[level] = read
    several = {level: each for level, each in found.items() if len(_labels(each.images)) > 1}
    possible = list(several.values()) or list(found.values())[:1]
    if split is not None:  # `cat_train`, `cat_test`, `dog_train`, …
        marks = [mark for mark in "_-. " if all(mark in name for name in tree.levels[split])]
        both = [(f"{{class}}{mark}{{split}}", f"{{split}}{mark}{{class}}") for mark in marks]
        fused = [each for one in chain(*both) for each in _read(_pattern(tree, {split: one}), tree)]
        possible += [each for each in fused if len(_labels(each.images)) > 1]
    first, second, *_ = (*several, 0, 0)
    pairs = {(path[first], path[second]) for path in tree.inside if len(path) > second + 1}
    if len(several) < 2 or len(pairs) == len(tree.levels[second]):
        return possible, []
    # `color/apple`, `grayscale/apple`: the same folders below several, so one may be enough.
    return possible, [
        each
        for one, other in ((first, second), (second, first))
        for folder in (sorted(tree.levels[one]) if len(tree.levels[one]) <= FEW else ())
        for each in _read(_pattern(tree, told | {one: _literal(folder), other: "{class}"}), tree)
        if len(_labels(each.images)) > 1
    ]


def _covers(tree: _Tree, level: int, split: int | None) -> bool:
    """Whether no folder is left out if the classes are at a level: only stray pictures are."""
    deepest = max(level, split or 0)
    deep = [path for path in tree.inside if len(path) > deepest + 1]
    above = {path[:depth] for path in deep for depth in range(deepest + 1)}
    strays = 0
    for path in tree.inside:
        if len(path) > deepest + 1 or (split is not None and split < len(path) - 1):
            continue  # of a split's pictures, some may have no class
        if path[:-1] not in above:
            return False
        strays += len(path) > 1
    if split is None:
        return 2 * strays <= len(deep)
    # Beside `test` alone, the others are no strays.
    return strays <= len(deep) and (not strays or len({*tree.levels[split].values()}) > 1)


def _pattern(tree: _Tree, roles: Mapping[int, str]) -> str:
    """Return the pattern in which some levels of the folders have a role."""
    parts = [_literal(folder) for folder in tree.around]
    for level, names in enumerate(tree.levels[: max(roles) + 1]):
        parts.append(roles.get(level) or (_literal(*names) if len(names) == 1 else "*"))
    return "/".join((*parts, "**"))


def _literal(folder: str) -> str:
    """Return a folder's name for a pattern, in which `{`, `}` and `*` have a meaning."""
    return re.sub("[{}*]+", "*", folder)


def _read(pattern: str, tree: _Tree) -> list[Reading]:
    """Return what a pattern finds, if there is anything to learn from and no unknown split."""
    try:
        images = _apply(pattern, {name: name for name in tree.inside.values()}, tree.splits)
    except InputError:
        return []
    classes: dict[str | None, set[str]] = defaultdict(set)
    for image in images:
        classes[image.split].add(image.label)
    learned = classes[None] | classes["train"]
    # `val/images`: one folder, which is no class of those to learn.
    without = {split for split, of in classes.items() if len(of) == 1 and of.isdisjoint(learned)}
    images = [image for image in images if image.split not in without]
    splits_first = pattern.find("{split}") in range(pattern.find("{class}"))
    return [Reading("splits" if splits_first else "classes", pattern, images)] if learned else []


def _by_number(tree: _Tree, split: int | None, by_folder: list[Reading]) -> list[Reading]:
    """Return the pictures named `<class>.<number>.jpg`, if all with a class are named so."""
    meant = tree.levels[0] if split == 0 else {}
    images = []
    for path, name in tree.inside.items():
        match = _NUMBERED.fullmatch(path[-1])
        known = meant.get(path[0]) if len(path) > 1 else None
        if match:
            images.append(Image(match["label"], int(match["number"]), name, known))
        elif known != "test":  # Kaggle's test images have no class
            return []
    labels: dict[str, set[str]] = defaultdict(set)
    for image in images:
        labels[image.member.rpartition("/")[0]].add(image.label)
    if by_folder and max(map(len, labels.values())) == 1:
        return []  # cat/frame.0001.jpg: the folders say more
    if any(each.name == "splits" for each in by_folder):
        return []  # train/cat/frame.0001.jpg
    if len({image.split for image in images}) == 1:
        images = [image._replace(split=None) for image in images]
    elif None in meant.values():
        return []  # train/cat.0.jpg, holdout/cat.1.jpg
    return [Reading("numbered", "**/{class}.*", images)]


def _pairs(reading: Reading, tree: _Tree) -> tuple[list[Reading], str]:
    """Return the readings of pictures that come in pairs by their names, as with masks, and why.

    `images/1.jpg` and `masks/1.png`, `1.jpg` and `1_mask.png`, or `1.jpg` and `1.png`.
    """
    # Of each kind of name, the picture for each name without what makes it of this kind.
    whole: dict[str, dict[Any, str]] = defaultdict(dict)
    cut: dict[str, dict[Any, str]] = defaultdict(dict)
    masked = any(plain(label) in MASKS for label in _labels(reading.images))
    for image in reading.images:
        *above, file = image.member.split("/")
        folders, (stem, _, ending) = tuple(above), file.rpartition(".")
        places = {"*": folders}
        if folders and (masked or image.label in folders[:-1]):
            places[f"{_literal(folders[-1])}/*"] = folders[:-1]
        affixes = [each for pattern in _AFFIXES if (each := pattern.search(stem))]
        for kind, place in places.items():
            whole[kind][place, image.split, stem] = image.member
            for each in affixes:
                core = stem[: each.start()] + stem[each.end() :]
                form = (
                    f"{_literal(each[0])}*" if each.end() < len(stem) else f"*{_literal(each[0])}.*"
                )
                cut[kind[:-1] + form][place, image.split, core] = image.member
        whole[f"*.{ending}"][folders, image.split, stem] = image.member
    for one, other in permutations((*whole, *cut), 2):
        first, second = ((whole | cut)[kind] for kind in (one, other))
        same = one in whole and other in whole and "*" in (one, other) and "/" not in one + other
        mask = any(plain(word) in MASKS for word in re.findall(r"[^\W\d_]+", other))
        enough = len(second) > 1 and 5 * min(len(first), len(second)) >= len(reading.images)
        if same or not enough or (one in cut and not mask) or not reading.pattern:
            continue
        both = first.keys() & second.keys()
        if len(both) * 10 < len(second) * 9 or any(first[key] == second[key] for key in both):
            continue
        if one == "*":  # what all but the second end with
            rest = [name[::-1] for name in {*first.values()} - {*second.values()}]
            ends = takewhile(lambda two: two[0] == two[1], zip(min(rest), max(rest), strict=False))
            one = f"*{_literal(''.join(end for end, _ in ends)[::-1])}"  # noqa: PLW2901
        begin = reading.pattern.removesuffix("**")
        found = [each for kind in (one, other) for each in _read(begin + kind, tree)]
        found = [each for each in found if each.images != reading.images]
        told = " and ".join(repr(of[min(both)]) for of in (first, second))
        more = "" if len(found) > 1 else "move one of each pair away, or else "
        return found, f"{told} are a pair by their names; {more}"
    return [], ""


def _number(name: str, label: str) -> int | None:
    """Return the number of a name such as `cat.12.jpg` in the class `cats`; a date is none."""
    match = _NUMBERED.fullmatch(name)
    if match is None or not label.casefold().startswith(match["label"].casefold()):
        return None
    return int(match["number"])


def _labels(images: Iterable[Image]) -> set[str]:
    return {image.label for image in images}


def _classes(images: list[Image]) -> str:
    names = sorted(_labels(images))
    return printable(", ".join(names[:3]) + (", …" if len(names) > 3 else ""))


def _check(name: str, images: list[Image]) -> None:
    """Refuse names of classes that look the same, and a number that a class has twice."""
    alike: dict[str, str] = {}
    for label in sorted({image.label for image in images}):
        if any(character < " " for character in label):
            raise InputError(f"the class {label!r} has a control character; rename it")
        other = alike.setdefault(unicodedata.normalize("NFC", label).casefold().strip(), label)
        if other != label:
            raise InputError(
                f"classes {other!r} and {label!r} differ only by capitals or Unicode form, or by a "
                "space; rename one"
            )
    if name == "numbered":
        for one, next_one in pairwise(images):
            same = one.number is not None and one[:2] == next_one[:2]
            if same and one.split == next_one.split:
                raise InputError(
                    f"{one.member!r} and {next_one.member!r} are both number {one.number} of "
                    f"{one.label!r}; remove one"
                )


def _check_folders(images: list[Image], empty: Iterable[str], skipped: Mapping[str, str]) -> None:
    """Refuse a class whose folder is empty, or has files of other formats alone."""
    above = {(image.member.rpartition("/")[0], image.label) for image in images}
    classes = {
        folder
        for path, label in above
        for folder in PurePosixPath(path, "x").parents
        if folder.name == label
    }
    beside = {folder.parent for folder in classes}
    without: dict[PurePosixPath, Counter[str]] = {PurePosixPath(each): Counter() for each in empty}
    for name, why in skipped.items():
        kind = TYPES.guess_type(name)[0] or ""
        if why == "not an image" and not kind.startswith(("text/", "application/")):
            for folder in PurePosixPath(name).parents:
                ending = PurePosixPath(name).suffix.lower()
                without.setdefault(folder, Counter())[ending or "without an ending"] += 1
    for folder, endings in sorted(without.items()):
        hidden = not folder.name or folder.name.startswith(".") or folder.name.lower() in JUNK
        if folder.parent not in beside or folder in classes or hidden or split_of(folder.name):
            continue
        told = ", ".join(f"{count:,} {ending}" for ending, count in endings.most_common())
        raise InputError(
            f"class {folder.name!r} has no images"
            + (f" that can be read, but {told}; convert them" if told else "; add some")
            + " or move the folder elsewhere"
        )
