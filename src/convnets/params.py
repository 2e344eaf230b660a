"""The typed schema of `params.yaml`: unknown keys and impossible values are refused by name."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from convnets.console import InputError

Count = Annotated[int, Field(ge=1, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A mapping of `params.yaml` in which every key is known and every value of its own type."""

    # Numbers such as 1e-05, as DVC writes them, are text to YAML 1.1: floats are parsed from it.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(Section):
    """Where the images come from."""

    source: Literal["sample", "kaggle", "archive", "folder"]
    path: str | None

    @model_validator(mode="after")
    def _path_where_needed(self) -> "Data":
        if self.source in ("archive", "folder") and not self.path:
            raise ValueError(f"path must name the {self.source} when source is {self.source}")
        return self


class Subset(Section):
    """Images per class, as in the book's `make_subset` (listing 8.6)."""

    train: Count
    validation: Count
    test: Count
    max_rejected: Share


class Backbone(Section):
    """The pretrained convolutional base."""

    name: str
    weights: str
    fine_tune_from: Count | Annotated[str, Field(min_length=1)]


class Augmentation(Section):
    """The book's random flip, rotation and zoom (listing 8.14)."""

    rotation: Annotated[float, Field(ge=0, le=0.5)]
    zoom: Share


class Views(Section):
    """The cache of augmented views, each pushed through the frozen layers once."""

    count: Count
    max_gigabytes: Annotated[float, Field(gt=0)]


class Training(Section):
    """What every training stage has."""

    epochs: Count
    batch_size: Count
    optimizer: Literal["rmsprop", "adam", "adamw", "sgd"]
    learning_rate: Annotated[float, Field(gt=0, le=1)]


class AugmentedTraining(Training):
    """From scratch, with augmentation and dropout (listing 8.16)."""

    dropout: Share


class HeadTraining(Training):
    """A dense head on a frozen backbone's features (listings 8.21 and 8.24)."""

    units: Count
    dropout: Share


class Mnist(Section):
    """Where the digits come from."""

    source: Literal["digits", "keras", "file"]
    path: str | None

    @model_validator(mode="after")
    def _path_where_needed(self) -> "Mnist":
        if self.source == "file" and not self.path:
            raise ValueError("path must name an mnist.npz when source is file")
        return self


class MnistTraining(Training):
    """The first convnets of the chapter (listings 8.1 to 8.5)."""

    validation_share: Annotated[float, Field(gt=0, lt=1)]


class Params(Section):
    """All of `params.yaml`."""

    epochs: Count | None
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)]
    precision: Literal["auto", "float32", "bfloat16"]
    image_size: Annotated[int, Field(ge=78, le=1024, strict=True)]  # the convnet pools four times
    data: Data
    subset: Subset
    backbone: Backbone
    augmentation: Augmentation
    views: Views
    train_scratch: Training
    train_augmented: AugmentedTraining
    train_feature_head: HeadTraining
    train_augmented_head: HeadTraining
    train_mirrored_head: HeadTraining
    fine_tune: Training
    mnist: Mnist
    train_mnist: MnistTraining


def load(path: str | Path = "params.yaml") -> Params:
    """Read and check a parameter file.

    Raises:
        InputError: the file is missing or no YAML, or has unknown, missing or impossible values;
            the message names each key and what would be right.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; run from the project's root") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        detail = " ".join(str(error).split())
        raise InputError(f"{path}: not valid YAML ({detail}); correct it") from error
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        problems = "; ".join(_explain(dict(problem)) for problem in error.errors())
        raise InputError(f"{path}: {problems}") from error


def _explain(problem: dict[str, Any]) -> str:
    """One clause on one key: `train_scratch.epochs: input should be … (got 0)`."""
    *parents, key = problem["loc"] or ("(the whole file)",)
    name = ".".join(map(str, problem["loc"])) or key
    if problem["type"] == "extra_forbidden":
        section: Any = Params
        for parent in parents:
            section = section.model_fields[parent].annotation
        known = list(section.model_fields)
        near = difflib.get_close_matches(str(key), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(known)}"
        return f"{name}: unknown key; {hint}"
    message = problem["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    if problem["type"] == "missing":
        return f"{name}: {message}; add it"
    return f"{name}: {message}, not {problem['input']!r}"
