"""What the names of files say: which are pictures, of which class and split.

The same for a folder and for an archive. Every file that is not used has a reason.
"""

import re
import shlex
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import pairwise, permutations
from os.path import commonprefix
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from convnets.base import params
from convnets.base.console import InputError, printable
from convnets.listing.kinds import TYPES, is_picture
from convnets.listing.listing import Image, Layout
from convnets.sources import tables
from convnets.sources.splits import listed, meanings, plain, remedy, split_of, splits_of

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


class Reading(NamedTuple):
    """What the names of the files may mean."""

    name: str  # as of a `Layout`
    pattern: str  # which says the same; a table has none
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
    if pattern is not None:
        tree = _tree(pictures, splits)
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
        if (labels or columns) and not found.rows:
            raise InputError(
                found.told
                or (labels and f"{labels}: no table of labels; correct data.labels")
                or "data.columns is set, but no table is there; set data.labels"
            )
        tree = _tree(_with_class(pictures, found), splits)
        reading = _only(_readings(tree), found, tree, wanted)
        why = "not in the table" if reading.name == "table" else "beside the class folders"
        unused = {name: f"a table that is not used: {why}" for name, why in found.unclear.items()}
        left = unused | found.left
    name, _, images = reading
    images = [each._replace(split=None) if each.split == "any" else each for each in images]
    images.sort(key=lambda image: (image.label, image.number or 0, image.member))
    used = {image.member for image in images}
    skipped |= {path: why for path in pictures if path not in used}
    skipped |= {path: told for path, told in left.items() if path not in used}
    _check(name, images)
    if name not in ("numbered", "table"):
        _check_folders(images, source.empty, skipped)
    return Layout(name, images, skipped)


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


def _with_class(pictures: Collection[str], found: tables.Labels) -> list[str]:
    """Return the pictures without those of folders in which a table gives no picture a class.

    Such folders, as `sort` makes for doubtful pictures, are no classes.
    """
    without = {name for name in pictures if found.left.get(name) == tables.WITHOUT}
    known = {
        each for name in pictures if name not in without for each in PurePosixPath(name).parents
    }
    return [name for name in pictures if known.issuperset(PurePosixPath(name).parents)]


class _Tree(NamedTuple):
    """The folders of pictures, level by level below the common ones, and what words mean."""

    inside: dict[Parts, str]
    around: Parts
    said: Mapping[str, str] | None  # what words mean, by the user
    levels: list[dict[str, str | None]]  # the folders' names, and the splits that they stand for
    split: int | None  # the first level with a split


def _tree(pictures: Iterable[str], said: Mapping[str, str] | None) -> _Tree:
    inside, around = _unwrap(pictures)
    depth = min(DEEPEST, max(map(len, inside)) - 1)
    names = [{path[level] for path in inside if len(path) > level + 1} for level in range(depth)]
    levels = [meanings(each, said) for each in names]
    split = next((level for level, meant in enumerate(levels) if any(meant.values())), None)
    return _Tree(inside, around, said, levels, split)


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


def _apply(pattern: str, tree: _Tree) -> list[Image]:
    """Return the pictures whose paths match a pattern, see `compiled`.

    Raises:
        InputError: a word where a split is expected is none that is known.
    """
    match = compiled(pattern).fullmatch
    found = [(name, of.groupdict()) for name in tree.inside.values() if (of := match(name))]
    meant = splits_of({parts["split"] for _, parts in found if "split" in parts}, tree.said)
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
    for form in ("/".join((*map(_literal, tree.around), pattern)), pattern, f"**/{pattern}"):
        if images := _apply(form, tree):
            return Reading("pattern", pattern, images)
    names = tree.inside.values()
    raise InputError(
        f"data.pattern {pattern!r} matches none of the {len(names):,} images, such as "
        f"{min(names)!r}; correct it"
    )


def _readings(tree: _Tree) -> tuple[list[Reading], str]:
    """Return what the folders and names may mean.

    Returns:
        The readings; and a clause that says why it must be asked even if there is only one, or
        nothing.
    """
    found = _by_folder(tree, tree.split)
    found += _by_number(tree, found)
    if tree.split is None:
        return found, ""
    meant = tree.levels[tree.split]
    unknown = [word for word, split in meant.items() if split is None]
    if not found:  # `train/cat/1.jpg`, `set/train/cat/2.jpg`
        deep = _read("/".join((*map(_literal, tree.around), "**/{split}/{class}/*")), tree)
        found = [each for each in deep if len(each.images) == len(tree.inside)]
    if found and len(unknown) <= 1:  # whose pictures have no class: `seg_pred`
        return found, ""
    doubt = f"there are splits ({listed(meant.keys() - unknown)}) "
    if unknown:
        doubt += f"beside {listed(unknown)}; if these are splits, too, {remedy(unknown)}, else "
    elif tree.split == 0:
        pattern = shlex.quote(_pattern(tree, {0: "{class}"}))
        doubt += f"without classes; if they are classes, set data.pattern (--pattern) to {pattern}"
        return found, f"{doubt}, else "
    else:
        doubt += "beside images that are in none; "
    return found + _by_folder(tree, None), doubt


def _by_folder(tree: _Tree, split: int | None) -> list[Reading]:
    """Return the readings in which the folders of one level are the classes."""
    told = {} if split is None else {split: "{split}"}
    found: dict[int, Reading] = {}
    for level, names in enumerate(tree.levels):
        if level == split or (told and all(names.values())):
            continue  # `seg_train/seg_train/sea`: a folder around the classes
        if not _covers(tree, level, split):
            break
        for read in _read(_pattern(tree, told | {level: "{class}"}), tree):
            if read.images not in [other.images for other in found.values()]:
                found[level] = read
    several = {level: each for level, each in found.items() if len(_labels(each.images)) > 1}
    more: list[dict[int, str]] = []
    if split is not None:  # `cat_train`, `cat_test`, `dog_train`, …
        marks = [mark for mark in "_-. " if all(mark in name for name in tree.levels[split])]
        for mark in marks:
            more += [{split: f"{{class}}{mark}{{split}}"}, {split: f"{{split}}{mark}{{class}}"}]
    first, second, *_ = (*several, 0, 0)
    pairs = {(path[first], path[second]) for path in tree.inside if len(path) > second + 1}
    if len(several) > 1 and len(pairs) > len(tree.levels[second]):
        # `color/apple`, `grayscale/apple`: the same folders below several, so one may be enough.
        for one, other in ((first, second), (second, first)):
            folders = sorted(tree.levels[one]) if len(tree.levels[one]) <= FEW else []
            more += [told | {one: _literal(folder), other: "{class}"} for folder in folders]
    others = [each for roles in more for each in _read(_pattern(tree, roles), tree)]
    return [
        *(several or found).values(),
        *(each for each in others if len(_labels(each.images)) > 1),
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
        images = _apply(pattern, tree)
    except InputError:
        return []
    classes: dict[str | None, set[str]] = defaultdict(set)
    for image in images:
        classes[image.split].add(image.label)
    learned = classes[None] | classes["any"] | classes["train"]
    # `val/images`: one folder, which is no class of those to learn.
    without = {split for split, of in classes.items() if len(of) == 1 and of.isdisjoint(learned)}
    images = [image for image in images if image.split not in without]
    splits_first = pattern.find("{split}") in range(pattern.find("{class}"))
    return [Reading("splits" if splits_first else "classes", pattern, images)] if learned else []


def _by_number(tree: _Tree, by_folder: list[Reading]) -> list[Reading]:
    """Return the pictures named `<class>.<number>.jpg`, if all with a class are named so."""
    meant = tree.levels[0] if tree.split == 0 else {}
    images = []
    labels: dict[Parts, set[str]] = defaultdict(set)
    for path, name in tree.inside.items():
        split = meant.get(path[0])
        if match := _NUMBERED.fullmatch(path[-1]):
            images.append(Image(match["label"], int(match["number"]), name, split))
            labels[path[:-1]].add(match["label"])
        elif split != "test":  # Kaggle's test images have no class
            return []
    if by_folder and max(map(len, labels.values())) == 1:
        return []  # cat/frame.0001.jpg: the folders say more
    if any(each.name == "splits" for each in by_folder):
        return []  # train/cat/frame.0001.jpg
    if None in meant.values() and len({image.split for image in images}) > 1:
        return []  # train/cat.0.jpg, holdout/cat.1.jpg
    return [Reading("numbered", "**/{class}.*", _one_split(images))]


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
        folders, (stem, _, ending), split = tuple(above), file.rpartition("."), image.split or ""
        places: dict[str, Parts] = {"*": folders}
        if folders and (masked or image.label in folders[:-1]):
            places[f"{_literal(folders[-1])}/*"] = folders[:-1]
        affixes = [each for pattern in _AFFIXES if (each := pattern.search(stem))]
        for kind, place in places.items():
            whole[kind][place, split, stem] = image.member
            for each in affixes:
                core = stem[: each.start()] + stem[each.end() :]
                form = (
                    f"{_literal(each[0])}*" if each.end() < len(stem) else f"*{_literal(each[0])}.*"
                )
                cut[kind[:-1] + form][place, split, core] = image.member
        whole[f"*.{ending}"][folders, split, stem] = image.member
    least = max(2, len(reading.images) / 5)
    kinds = {kind: of for kind, of in (whole | cut).items() if len(of) >= least}
    for one, other in permutations(kinds, 2):
        first, second = kinds[one], kinds[other]
        same = one in whole and other in whole and "*" in (one, other) and "/" not in one + other
        mask = any(plain(word) in MASKS for word in re.findall(r"[^\W\d_]+", other))
        both = first.keys() & second.keys()
        few = len(both) * 10 < len(second) * 9
        if same or few or (one in cut and not mask) or any(first[k] == second[k] for k in both):
            continue
        if one == "*":  # what all but the second end with
            rest = [name[::-1] for name in {*first.values()} - {*second.values()}]
            one = f"*{_literal(commonprefix(rest)[::-1])}"  # noqa: PLW2901, RUF071
        begin = reading.pattern.removesuffix("**")
        found = [each for kind in (one, other) for each in _read(begin + kind, tree)]
        found = [each for each in found if each.images != reading.images]
        told = " and ".join(repr(of[min(both)]) for of in (first, second))
        more = "" if len(found) > 1 else "move one of each pair away, or else "
        return found, f"{told} are a pair by their names; {more}"
    return [], ""


def _only(
    readings: tuple[list[Reading], str], found: tables.Labels, tree: _Tree, wanted: str
) -> Reading:
    """Return the only reading of folders and tables; refuse none, or more than one.

    Args:
        readings: of the folders and names, and a doubt; see `_readings`.
        found: what tables say.
        tree: the folders.
        wanted: a layout, or `auto`.
    """
    possible, doubt = readings
    # Folders of one class are none: `images/1.jpg` beside a table.
    several = [each for each in possible if len(_labels(each.images)) > 1]
    rows = found.rows
    if several and not found.sure and wanted != "table":
        rows = {member: row._replace(label="") for member, row in rows.items()}
    table, unknown = _by_table(rows, tree)
    if found.told and not table and (wanted == "table" or not several):
        raise InputError(f"no classes found: {found.told}")
    possible = several if several or table else possible[:1]
    if wanted != "auto":
        names = dict.fromkeys([*(each.name for each in possible), *["table"] * bool(table)])
        if names and wanted not in names:
            raise InputError(f"data.layout {wanted} does not fit; possible: {', '.join(names)}")
        possible = [each for each in possible if each.name == wanted]
        table = table if wanted == "table" else []
        doubt = doubt if len(possible) > 1 else ""
    if len(possible) == 1 and not doubt:
        others, doubt = _pairs(possible[0], tree)
        possible += others
    agreeing = [done for each in possible if rows and (done := _completed(each, table, rows))]
    if agreeing and len(possible) == 1 and not doubt:
        possible = agreeing
    elif table:
        possible = agreeing or [each for each in possible if not _one_stem(each.images)]
        many = 2 * len(table) >= max((len(each.images) for each in possible), default=0)
        if many and not unknown and (agreeing or not possible):
            possible, doubt = [], ""  # what is in doubt, the table decides
        elif len(possible) == 1 and not agreeing:
            doubt += _contradiction(possible[0], rows)
        possible.append(Reading("table", "", _one_split(table)))
    if unknown and not doubt:
        splits_of(unknown, tree.said)
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
        for each in possible
    )
    raise InputError(
        f"ambiguous, {doubt}the classes may be {told}; set data.pattern or data.layout (--pattern, "
        "--layout) to what is meant, or data.splits (--splits) if folders are splits"
    )


def _by_table(rows: Mapping[str, tables.Row], tree: _Tree) -> tuple[list[Image], dict[str, None]]:
    """Return the pictures of which tables say the class.

    Returns:
        The pictures; and the folders beside those of splits in which some of them are, where
        nothing says which split that is.
    """
    meant = {} if tree.split is None else tree.levels[tree.split]
    images: list[Image] = []
    unknown: dict[str, None] = {}
    for path, name in tree.inside.items():
        row = rows.get(name, tables.Row())
        folder = "".join(path[:-1][tree.split :][:1])
        split = row.split or meant.get(folder) or row.of_table
        if row.label:
            images.append(Image(row.label, None, name, split))
            if not split and folder in meant:
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


def _contradiction(reading: Reading, rows: Mapping[str, tables.Row]) -> str:
    """Return a clause about the first picture of which a table says another class, if any."""
    for member, label in ((image.member, image.label) for image in reading.images):
        other = rows.get(member, tables.Row()).label
        if other not in ("", label):
            return f"{member!r} is {label!r} by its path and {other!r} in a table; "
    return ""


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
