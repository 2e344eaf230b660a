"""Get the images from any source as one archive."""

import contextlib
import io
import os
import shutil
import sys
import zipfile
from pathlib import Path

from convnets.base import params
from convnets.base.console import InputError, progress, say
from convnets.data import archive, sample

COMPETITION = "dogs-vs-cats"


def write(how: params.Data, subset: params.Subset, seed: int, out: Path) -> None:
    """Write the images from the configured source as one archive.

    Args:
        how: the source, and its path if it has one.
        subset: images per class, which the drawn sample must provide.
        seed: seed of the drawn sample.
        out: the archive to write.

    Raises:
        InputError: the source is unavailable or unusable.
    """
    path = Path(how.path or "").expanduser()
    match how.source:
        case "sample":
            write_sample(out, subset.train + subset.validation + subset.test, seed)
        case "archive":
            copy_archive(path, out)
        case "folder":
            pack_folder(path, out)
        case "kaggle":
            download_from_kaggle(out)


def write_sample(out: Path, count: int, seed: int) -> None:
    """Draw `count` cats and `count` dogs; see `convnets.data.sample`."""
    for _ in progress(sample.write_archive(out, count, seed), "draw", 2 * count):
        pass


def copy_archive(path: Path, out: Path) -> None:
    """Check and copy a local archive.

    Raises:
        InputError: the file is not a usable archive of images.
    """
    with archive.open_images(path) as (_, images):
        say(f"{path.name}: {len(images):,} labelled images")
    shutil.copyfile(path, out)


def pack_folder(path: Path, out: Path) -> None:
    """Pack `<class>/*.jpg` (or .jpeg, .png) under `path` into an archive. Keep the class folders.

    Raises:
        InputError: the folder is missing, has no images, has a class without images, or has a
            name that is not UTF-8.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; correct data.path")
    files = sorted(
        file for file in path.glob("*/*") if file.suffix.lower() in archive.IMAGE_SUFFIXES
    )
    if not files:
        raise InputError(f"{path}: no images; expected <class>/*.jpg, .jpeg or .png in it")
    classes = {file.parent for file in files}
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and folder not in classes and not folder.name.startswith("."):
            raise InputError(
                f"{path}: class {folder.name!r} has no images; add some or remove the folder"
            )
    for file in files:
        try:
            file.relative_to(path).as_posix().encode()
        except UnicodeEncodeError as error:
            raise InputError(f"{path}: the name {file.name!r} is not UTF-8; rename it") from error
    with zipfile.ZipFile(out, "w") as packed:  # stored: photographs do not compress
        for file in progress(files, "pack", len(files)):
            info = zipfile.ZipInfo(file.relative_to(path).as_posix())
            with file.open("rb") as source, packed.open(info, "w") as target:
                shutil.copyfileobj(source, target, 2**20)


def download_from_kaggle(out: Path) -> None:
    """Download the competition's archive with the official client and the user's own token.

    An interrupted download resumes, also in a later run, if Kaggle's file is unchanged. The
    complete file stays beside `out`, so a run with other params downloads nothing.

    Raises:
        InputError: the token is missing or refused, the rules are not accepted, the connection
            failed, or the file is not an archive of images.
    """
    name = f"{COMPETITION}.zip"
    kept, unfinished = out.with_name(name), out.with_name("kaggle")
    if not kept.exists():
        say(f"{name}: downloading from Kaggle")
        _ask_kaggle(unfinished)
        try:
            (file,) = unfinished.glob(f"{COMPETITION}.*")
            with archive.open_images(file) as (_, images):
                say(f"{name}: {len(images):,} labelled images")
        except (InputError, ValueError) as error:
            shutil.rmtree(unfinished)
            raise InputError(
                f"{name}: Kaggle's file is not an archive of images; run again to start over"
            ) from error
        file.replace(kept)
        shutil.rmtree(unfinished)
    try:
        os.link(kept, out)
    except OSError:  # a file system without hard links
        shutil.copyfile(kept, out)


def _ask_kaggle(folder: Path) -> None:
    """Download into a folder with the official client, which also keeps unfinished files there."""
    import requests

    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # fewer lines of the client's bar
    refused = "Kaggle refused the token; create a new one in your account's settings"
    try:
        # The client prints pages of help, and the file's signed address in an error.
        with contextlib.redirect_stdout(io.StringIO()):
            from kaggle import api
            from kagglesdk.kaggle_env import get_access_token_from_env

            api.authenticate()
            api.competition_download_files(COMPETITION, path=str(folder), quiet=False)
    except SystemExit as error:  # raised without a token or with a refused token
        if get_access_token_from_env()[0]:
            raise InputError(refused) from error
        raise InputError(
            "no Kaggle token; create one in your account's settings and set KAGGLE_API_TOKEN to "
            f"it, or use data.source=archive with a copy of {COMPETITION}.zip"
        ) from error
    except requests.HTTPError as error:
        status = 0 if error.response is None else error.response.status_code
        remedies = {
            401: refused,
            403: f"accept the rules of the competition {COMPETITION} on its Kaggle page first",
            429: "Kaggle limits the request rate; run again in a few minutes",
        }
        remedy = remedies.get(status, "Kaggle failed; run again later")
        raise InputError(f"{COMPETITION}.zip: {remedy} (status {status})") from error
    except requests.RequestException as error:
        raise InputError(
            f"{COMPETITION}.zip: the connection to Kaggle failed ({type(error).__name__}); "
            "run again to resume, or use data.source=archive with a copy"
        ) from error
