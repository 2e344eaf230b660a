"""Getting the images, from wherever they are, as one archive."""

import shutil
import zipfile
from pathlib import Path

from convnets import archive, sample
from convnets.console import InputError, progress, say

COMPETITION = "dogs-vs-cats"


def write_sample(out: Path, count: int, seed: int) -> None:
    """Draw `count` cats and as many dogs; see `convnets.sample`."""
    for _ in progress(sample.write_archive(out, count, seed), "draw", 2 * count):
        pass


def copy_archive(path: Path, out: Path) -> None:
    """Copy a local archive, checked.

    Raises:
        InputError: it is no archive of images that we can use.
    """
    with archive.open_images(path) as (_, images):
        say(f"{path.name}: {len(images):,} labelled images")
    shutil.copyfile(path, out)


def pack_folder(path: Path, out: Path) -> None:
    """Pack `<class>/*.jpg` (or .jpeg, .png) under `path` into an archive, class folders kept.

    Raises:
        InputError: there is no such folder, it holds no class with images or one without, or a
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

    Raises:
        InputError: no token, a refused one, terms not accepted, or no network.
    """
    import requests

    try:
        # Importing the client signs in, and without a token ends the program.
        from kaggle import api

        api.authenticate()
    except (OSError, SystemExit, ValueError) as error:
        raise InputError(
            "no Kaggle token; create one in your Kaggle account's settings and set "
            "KAGGLE_API_TOKEN, or use data.source=archive with a downloaded dogs-vs-cats.zip"
        ) from error
    folder = out.parent / "kaggle"
    try:
        api.competition_download_files(COMPETITION, path=str(folder), quiet=False)
    except requests.HTTPError as error:
        status = error.response.status_code if error.response is not None else None
        remedy = {
            401: "Kaggle refused the token; create a new one in your account's settings",
            403: "accept the competition's rules on its Kaggle page, then run again",
        }.get(status or 0, "Kaggle answered with an error; run again later")
        raise InputError(f"{COMPETITION}.zip: status {status}: {remedy}") from error
    except (requests.RequestException, OSError) as error:
        raise InputError(
            f"{COMPETITION}.zip: no connection to Kaggle ({type(error).__name__}); run again, or "
            "use data.source=archive with a copy of the file"
        ) from error
    (folder / f"{COMPETITION}.zip").replace(out)
    shutil.rmtree(folder)
