"""The typed schema of `params.yaml`. Errors name each unknown key and invalid value."""

import re
import reprlib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    ValidationError,
    model_validator,
)

from convnets.base.console import InputError, hint, is_address

LONGEST, PROBLEMS = 200, 20  # characters of a value, and problems, that a message has at most
_quote = reprlib.Repr()
_quote.maxstring, _quote.maxother, _quote.maxlevel = LONGEST, LONGEST, 2
Count = Annotated[int, Field(ge=1, strict=True)]
Whole = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1)]


def _amount(value: Any) -> Any:
    number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if number or (isinstance(value, float) and 0 < value < 1) or value == "rest":
        return value
    raise ValueError("input should be a number of images, a share such as 0.7, or rest")


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression ({error})") from error
    return value


def _path_pattern(value: str) -> str:
    names = re.findall(r"\{([^{}]*)\}", value)
    unknown = [name for name in names if name not in PLACES]
    parts = value.split("/")
    if unknown:
        problem = (
            f"unknown {{{unknown[0]}}}; known are {', '.join(f'{{{each}}}' for each in PLACES)}"
        )
    elif re.search("[{}]", re.sub(r"\{[^{}]*\}", "", value)):
        problem = "a brace without its partner"
    elif len(set(names)) < len(names):
        problem = "a name in braces occurs twice"
    elif "class" not in names:
        problem = "no {class}; where a table names the classes, there is no pattern"
    elif not all(parts):
        problem = "no part between two slashes, or before the first or after the last"
    elif any("**" in part and part != "**" for part in parts):
        problem = "** stands for whole folders; within a name, write *"
    else:
        return value
    raise ValueError(f"not a pattern of paths such as {{split}}/{{class}}/**: {problem}")


def _mapping(value: Any) -> Any:
    """Read what `-S` or the command line can only give as text: `{holdout: test}`."""
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError("not a mapping such as {holdout: test}") from error


PLACES = ("class", "split", "group")  # what a pattern of paths can name
Amount = Annotated[int | float | Literal["rest"], PlainValidator(_amount)]
Stage = TypeVar("Stage", bound="Training")


class Section(BaseModel):
    """A section of `params.yaml`: every key is known and every value is typed."""

    # DVC writes numbers such as 1e-05. YAML 1.1 reads them as text, so floats may be text.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


Kind = TypeVar("Kind", bound=Section)
Split = Literal["train", "validation", "test", "any"]


class Columns(Section):
    """The columns of a table of labels, by their names in its first row."""

    file: str | None = None
    label: str | None = None
    split: str | None = None


class Data(Section):
    """Where the images come from, and how they are laid out."""

    source: Literal["sample", "kaggle", "archive", "folder", "url"]
    path: str | None  # an address if the source is a url
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None
    layout: Literal["auto", "classes", "splits", "numbered", "table"] = "auto"
    labels: str | None = None
    columns: Annotated[Columns | None, BeforeValidator(_mapping)] = None  # of the table
    # The parts of a path, such as {split}/{class}/**.
    pattern: Annotated[str, AfterValidator(_path_pattern)] | None = None
    # Which words mean which split. Of `any`, the splits are drawn, and `train` only learns.
    splits: Annotated[dict[str, Split] | None, BeforeValidator(_mapping)] = None

    @model_validator(mode="after")
    def _keys_fit_the_source(self) -> "Data":
        if self.source in ("archive", "folder", "url") and not self.path:
            raise ValueError(f"path must name the {self.source} when source is {self.source}")
        if self.path and self.source in ("sample", "kaggle"):
            archive = re.search(r"\.(zip|tar|tgz|tar\.\w+)$", self.path, re.IGNORECASE)
            meant = "url" if is_address(self.path) else "archive" if archive else "folder"
            raise ValueError(
                f"path is given, but source is {self.source}, which would be used instead; add "
                f"-S data.source={meant}, or set path to null"
            )
        if (self.source == "url") != is_address(self.path or ""):
            raise ValueError("a path such as https:// or s3:// needs source url, others do not")
        if self.sha256 and self.source != "url":
            raise ValueError("sha256 is of a url's file; set it to null or source to url")
        if self.labels and self.source in ("sample", "kaggle"):
            raise ValueError(f"the {self.source} has its labels in its names; set labels to null")
        if self.labels and self.layout not in ("auto", "table"):
            raise ValueError(f"labels is a table, but layout is {self.layout}; correct one of them")
        if self.pattern and (self.labels or self.columns or self.layout != "auto"):
            raise ValueError(
                "pattern says all of the layout; set labels and columns to null and layout to auto"
            )
        return self


class Subset(Section):
    """Images per class, as in the book's `make_subset` (listing 8.6): a number of each class, a
    share of each class, or `rest`.
    """

    train: Amount
    validation: Amount
    test: Amount
    group: Annotated[str, AfterValidator(_pattern)] | None = None
    minimum: Count | None = None  # of a class; rarer classes are left out
    duplicates: Literal["report", "drop"] = "report"
    max_rejected: Share


class Backbone(Section):
    """The pretrained convolutional base."""

    name: str
    weights: str | None
    preprocessing: str
    pooling: Literal["none", "mean"] = "none"
    fine_tune_from: Count | Annotated[str, Field(min_length=1)] | None


class Augmentation(Section):
    """The book's random flip, rotation and zoom (listing 8.14), contrast and brightness."""

    flip: Literal["horizontal", "none"]
    rotation: Annotated[float, Field(ge=0, le=0.5)]
    zoom: Share
    contrast: Share
    brightness: Share


class Unlike(Section):
    """What the champion calls unlike the training pictures."""

    false_alarms: Annotated[float, Field(gt=0, lt=1)]  # share of the validation pictures


Monitor = Literal["val_loss", "val_accuracy"]  # by which the best epoch is chosen


class Views(Section):
    """The cache of augmented views. Each view passes through the frozen layers once. With 0 views,
    what learns from them is not trained.
    """

    count: Whole
    max_gigabytes: Annotated[float, Field(gt=0)]


class Training(Section):
    """The params of every training stage. With 0 epochs, it is not trained.

    With `patience`, it stops after so many epochs without a better one.
    """

    epochs: Whole
    patience: Count | None = None
    batch_size: Count
    optimizer: Literal["rmsprop", "adam", "adamw", "sgd"]
    learning_rate: Annotated[float, Field(gt=0, le=1)]
    schedule: Literal["constant", "cosine"]
    weight_decay: Share


class ConvnetTraining(Training):
    """A convnet from scratch (listings 8.7 and 8.16). It may have its own augmentation.

    If it is mirrored, the model returns the mean for an image and its mirror image. Its epochs are
    validated on the images alone.
    """

    architecture: str
    augmentation: Augmentation | None
    mirrored: bool
    dropout: Share


class HeadTraining(Training):
    """A head on a frozen backbone's cached features (listings 8.21 and 8.24).

    If it is mirrored, its epochs are validated on the images and on their mirror images.
    """

    features: Literal["images", "views"]
    mirrored: bool = False
    architecture: str
    units: Count | None
    dropout: Share


class MnistTraining(Training):
    """The first convnets of the chapter (listings 8.1 to 8.5)."""

    validation_share: Annotated[float, Field(gt=0, lt=1)]


class Mnist(Section):
    """Where the digits come from. From none, the convnets of digits are not trained."""

    source: Literal["digits", "keras", "file", "none"]
    path: str | None

    @model_validator(mode="after")
    def _path_where_needed(self) -> "Mnist":
        if self.source == "file" and not self.path:
            raise ValueError("path must name an mnist.npz when source is file")
        if self.source != "file" and self.path:
            raise ValueError(f"path is given, but source is {self.source}; set source to file")
        return self


def _kind(section: Any) -> str:
    """Return the kind of a section, "head" or "convnet", by the keys that only a head has."""
    named = section if isinstance(section, dict) else dir(section)
    only_heads = HeadTraining.model_fields.keys() - ConvnetTraining.model_fields.keys()
    return "convnet" if only_heads.isdisjoint(named) else "head"


class Params(Section):
    """All of `params.yaml`. An extra section `train_…` configures the stage of the same name, which
    trains a head or a convnet.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[
        str,
        Annotated[
            Annotated[HeadTraining, Tag("head")] | Annotated[ConvnetTraining, Tag("convnet")],
            Discriminator(_kind),
        ],
    ]

    epochs: Count | None
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)]
    precision: Literal["auto", "float32", "bfloat16"]
    image_size: Annotated[int, Field(ge=78, le=1024, strict=True)]  # the convnet pools four times
    class_weight: Literal["none", "balanced"]
    monitor: Monitor
    data: Data
    subset: Subset
    backbone: Backbone
    augmentation: Augmentation
    views: Views
    unlike: Unlike
    fine_tune: Training
    mnist: Mnist
    train_mnist: MnistTraining

    @model_validator(mode="before")
    @classmethod
    def _only_stages_are_added(cls, values: Any) -> Any:
        if isinstance(values, dict):
            known = cls.model_fields
            for key in values.keys() - known.keys():
                if not str(key).startswith("train_"):
                    raise ValueError(f"{key}: unknown key; {hint(key, known)}")
        return values

    @model_validator(mode="after")
    def _no_mirror_image_where_left_and_right_differ(self) -> "Params":
        to_set = []
        for stage, how in (self.model_extra or {}).items():
            own = getattr(how, "augmentation", None) or self.augmentation
            if how.epochs and how.mirrored and "none" in (self.augmentation.flip, own.flip):
                to_set.append(f"{stage}.mirrored to false")
                to_set += [f"{stage}.augmentation.flip to none"] * (own.flip != "none")
        if to_set:
            raise ValueError(
                "augmentation.flip none says that a mirror image is another picture, but models "
                f"use mirror images; set {', '.join(to_set)}"
            )
        return self

    def of(self, stage: str, kind: type[Stage]) -> Stage:
        """Return a training stage's section. The top-level `epochs`, if set, overrides its own,
        unless that is 0.

        Args:
            stage: the section's name.
            kind: the expected subclass of `Training`.

        Raises:
            InputError: the section is missing or of another kind.
        """
        section = getattr(self, stage, None)
        if not isinstance(section, kind):
            known = self.model_extra or {}
            what = f"no such section; {hint(stage, known)}"
            what = what if section is None else "not the section of such a stage"
            keys = ", ".join(kind.model_fields)
            raise InputError(f"params.yaml: {stage}: {what}; it needs {keys}")
        epochs = section.epochs and (self.epochs or section.epochs)
        return section.model_copy(update={"epochs": epochs})


def load(path: str | Path = "params.yaml", name: str = "") -> Params:
    """Read and check a parameter file.

    Args:
        path: the file.
        name: what messages call it.

    Raises:
        InputError: the file is missing, is not YAML, or has unknown, missing or invalid values;
            the message names each key and the fix.
    """
    name = name or str(path)
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{name}: {error.strerror}; run from the project's root") from error
    except Exception as error:  # a date such as 2026-99-99 or deep nesting has its own kind
        detail = " ".join(str(error).split())[:LONGEST]
        raise InputError(f"{name}: not valid YAML ({detail}); correct it") from error
    return checked(Params, values, str(name))


def checked(kind: type[Kind], values: Any, where: str) -> Kind:
    """Return all params, or a section, of these values.

    Raises:
        InputError: there are unknown, missing or invalid values. The message begins with `where`.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = error.errors()
        problems = [_explain(dict(problem), kind) for problem in found[:PROBLEMS]]
        if len(found) > PROBLEMS:
            problems.append(f"and {len(found) - PROBLEMS:,} more")
        raise InputError(f"{where}: {'; '.join(problems)}") from error


def _explain(problem: dict[str, Any], section: Any) -> str:
    """Return one clause for one key: `train_scratch.epochs: input should be …, not 0`."""
    kinds: dict[str, type[Training]] = {"head": HeadTraining, "convnet": ConvnetTraining}
    loc = [str(part) for part in problem["loc"] if part not in kinds]
    name = ".".join(loc)
    message = problem["msg"].removeprefix("Value error, ")
    if not name:  # an error of the whole file
        return message if problem["type"] == "value_error" else f"(the whole file): {message}"
    if problem["type"] == "extra_forbidden":
        for part in problem["loc"][:-1]:
            if part in kinds:
                section = kinds[part]
            elif part in section.model_fields:  # of a section, or of a section or None
                kind = section.model_fields[part].annotation
                section = (*get_args(kind), kind)[0]
        return f"{name}: unknown key; {hint(str(loc[-1]), section.model_fields)}"
    message = message[0].lower() + message[1:]
    if problem["type"] == "missing":
        return f"{name}: {message}; add it"
    given = problem["input"]
    # A section may hold an address with a password in it.
    return f"{name}: {message}" + ("" if isinstance(given, dict) else f", not {_quote.repr(given)}")
