"""Get the images from any source as one archive."""

import contextlib
import io
import os
import shutil
import sys
import tarfile
from pathlib import Path, PurePosixPath

from convnets.base import params
from convnets.base.console import InputError, progress, say
from convnets.data import archive, layout, sample
from convnets.data.layout import Layout
from convnets.data.subset import choose

COMPETITION = "dogs-vs-cats"


def write(how: params.Data, subset: params.Subset, seed: int, out: Path) -> Layout:
    """Write the images as one zip, from where the params say; return how they are laid out.

    Args:
        how: the source, and its path if it has one.
        subset: how many images of each class are needed.
        seed: of the drawn sample, and of the choice among a folder's images.
        out: the zip.

    Raises:
        InputError: the source cannot be used.
    """
    path = Path(how.path or "").expanduser()
    match how.source:
        case "sample":
            amounts = (subset.train, subset.validation, subset.test)
            counts = [amount for amount in amounts if isinstance(amount, int)]
            if len(counts) < len(amounts):
                raise InputError("subset: the drawn sample takes numbers, not shares or rest")
            write_sample(out, sum(counts), seed)
        case "archive":
            copy_archive(path, out)
        case "folder":
            return pack_folder(path, subset, seed, out)
        case "kaggle":
            download_from_kaggle(out)
    with archive.open_images(out) as pictures:
        return pictures.layout


def write_sample(out: Path, count: int, seed: int) -> None:
    """Draw `count` cats and as many dogs; see `convnets.data.sample`."""
    for _ in progress(sample.write_archive(out, count, seed), "draw", 2 * count):
        pass


def copy_archive(path: Path, out: Path) -> None:
    """Copy a local archive, checked: a zip, or a tar archive of any compression as a zip.

    Raises:
        InputError: it is not an archive, or not of images that we can use.
    """
    if path.is_file() and tarfile.is_tarfile(path):
        archive.repack(path, out)
        return
    with archive.open_images(path):
        pass
    shutil.copyfile(path, out)


def pack_folder(path: Path, subset: params.Subset, seed: int, out: Path) -> Layout:
    """Pack those of a folder's images that the subset takes, with their paths kept.

    Args:
        path: the folder; `layout.recognise` says how it may be laid out.
        subset: how many images of each class are needed.
        seed: of the choice.
        out: the zip.

    Raises:
        InputError: there is no such folder, it holds no class with images or one without, or a
            name that is not UTF-8.
    """
    if not path.is_dir():
        raise InputError(f"{path}: no such folder; correct data.path")
    (found, _), files = archive.look_into(path)
    try:
        chosen = choose(found.images, subset, seed)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    used = [image.member for images in chosen.values() for image in images]
    if found.name == "table":
        used += [name for name in files if PurePosixPath(name).name.lower() in layout.TABLES]
    archive.pack({name: files[name] for name in sorted(used)}, out)
    return found


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
            with archive.open_images(file) as pictures:
                say(f"{name}: {len(pictures.layout.images):,} labelled images")
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
