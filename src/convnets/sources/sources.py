"""Get the images from any source as one archive."""

import io
import os
import shutil
import sys
from contextlib import AbstractContextManager, ExitStack, redirect_stdout
from pathlib import Path
from tempfile import TemporaryDirectory

from convnets.base import files, params
from convnets.base.console import REMEDIES, InputError, progress, say
from convnets.listing.listing import Layout
from convnets.listing.subset import choose, without_rare
from convnets.sources import archive, bucket, layout, sample, web

COMPETITION = "dogs-vs-cats"


def write(how: params.Data, subset: params.Subset, seed: int, out: Path) -> Layout:
    """Write the images as one zip, from where the params say; return how they are laid out.

    Only the images that the subset takes are packed, with their paths kept.

    Args:
        how: the source, and how it is laid out.
        subset: how many images of each class are needed.
        seed: of the drawn sample, and of the choice among the images.
        out: the zip. A download is kept in its folder.

    Raises:
        InputError: the source cannot be used.
    """
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(dir=out.parent, prefix=".part."))
        opened = stack.enter_context(_opened(how, subset, seed, out.parent, Path(folder)))
        found = without_rare(recognised(opened, how), subset.minimum)
        chosen = choose(found.images, subset, seed)
        names = [image.member for images in chosen.values() for image in images]
        archive.pack(opened, sorted(names), out)
    return found


def _opened(
    how: params.Data, subset: params.Subset, seed: int, kept: Path, folder: Path
) -> AbstractContextManager[layout.Files]:
    """Open the source. Downloads stay in the folder `kept`; `folder` is a temporary one."""
    match how.source:
        case "sample":
            amounts = (subset.train, subset.validation, subset.test)
            counts = [amount for amount in amounts if isinstance(amount, int)]
            if len(counts) < len(amounts):
                raise InputError("subset: the drawn sample takes numbers, not shares or rest")
            path = folder / "images.zip"
            write_sample(path, sum(counts), seed)
        case "kaggle":
            path = download_from_kaggle(kept)
        case "url" if bucket.serves(how.path):
            web.tidy(kept)
            return bucket.opened(how.path or "", kept, how.sha256)
        case "url":
            path, sha256 = web.download(how.path or "", kept, how.sha256)
            if how.sha256 is None:
                say(f"{path}: to get this file and no other, set data.sha256 to {sha256}")
        case _:
            path = files.given(how.path or "")
    web.tidy(kept)
    return archive.opened(path)


def recognised(opened: layout.Files, how: params.Data) -> Layout:
    """Return how the images of a folder or an archive are laid out, by what the params say."""
    labels = files.given(how.labels) if how.labels else None
    return layout.recognise(
        opened,
        how.layout,
        labels,
        columns=how.columns,
        pattern=how.pattern,
        splits=how.splits,
    )


def write_sample(out: Path, count: int, seed: int) -> None:
    """Draw `count` cats and as many dogs; see `convnets.sources.sample`."""
    for _ in progress(sample.write_archive(out, count, seed), "draw", 2 * count):
        pass


def download_from_kaggle(folder: Path) -> Path:
    """Download the competition's archive with the official client and the user's own token.

    An interrupted download resumes, also in a later run, if Kaggle's file is unchanged. The
    complete file stays in the folder, so a run with other params downloads nothing.

    Raises:
        InputError: the token is missing or refused, the rules are not accepted, the connection
            failed, or the file is not an archive of images.
    """
    name = f"{COMPETITION}.zip"
    kept, unfinished = folder / name, folder / "kaggle"
    if not kept.exists():
        say(f"{name}: downloading from Kaggle")
        _ask_kaggle(unfinished)
        try:
            (file,) = unfinished.glob(f"{COMPETITION}.*")
            with archive.opened(file) as opened:
                say(f"{name}: {len(layout.recognise(opened).images):,} labelled images")
        except (InputError, ValueError) as error:
            shutil.rmtree(unfinished)
            raise InputError(
                f"{name}: Kaggle's file is not an archive of images; run again to start over"
            ) from error
        file.replace(kept)
        shutil.rmtree(unfinished)
    return kept


def _ask_kaggle(folder: Path) -> None:
    """Download into a folder with the official client, which also keeps unfinished files there."""
    import requests

    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")  # fewer lines of the client's bar
    refused = "Kaggle refused the token; create a new one in your account's settings"
    try:
        # The client prints pages of help, and the file's signed address in an error.
        with redirect_stdout(io.StringIO()):
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
    except Exception as error:  # of any kind that the client, requests and urllib3 have
        if isinstance(error, OSError) and error.errno in REMEDIES:  # the disk fails
            raise
        raise InputError(
            f"{COMPETITION}.zip: {web.why(error, ' to Kaggle')}, or use data.source=archive with a "
            "copy"
        ) from error
