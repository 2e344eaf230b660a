"""Get the images as one archive: drawn, from Kaggle, from a local zip or from a folder."""

import json
from pathlib import Path

from convnets import archive, console, params, sources, tracking


def main() -> None:
    p = params.load()
    out = Path("data/images.zip")
    unfinished = out.with_suffix(".zip.part")
    out.parent.mkdir(exist_ok=True)
    with tracking.run("download") as run:
        path = Path(p.data.path or "").expanduser()
        try:
            match p.data.source:
                case "sample":
                    count = p.subset.train + p.subset.validation + p.subset.test
                    sources.write_sample(unfinished, count, p.seed)
                case "archive":
                    sources.copy_archive(path, unfinished)
                case "folder":
                    sources.pack_folder(path, unfinished)
                case "kaggle":
                    sources.download_from_kaggle(unfinished)
            with archive.open_images(unfinished) as (_, images):
                summary = {
                    "source": p.data.source,
                    "images": len(images),
                    "bytes": unfinished.stat().st_size,
                }
            unfinished.replace(out)
        finally:
            unfinished.unlink(missing_ok=True)
        Path("metrics/download.json").write_text(json.dumps(summary, indent=2) + "\n")
        run.artifact(Path("metrics/download.json"))
    console.say(f"{out}: {summary['images']:,} images")


if __name__ == "__main__":
    console.run(main)
