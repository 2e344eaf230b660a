"""Get the images as one archive: drawn, from Kaggle, from a local zip or from a folder."""

from pathlib import Path

from convnets import archive, console, files, params, sources, tracking


def main() -> None:
    p = params.load()
    out = Path("data/images.zip")
    with tracking.run("download") as run:
        path = Path(p.data.path or "").expanduser()
        with files.whole(out) as part:
            match p.data.source:
                case "sample":
                    count = p.subset.train + p.subset.validation + p.subset.test
                    sources.write_sample(part, count, p.seed)
                case "archive":
                    sources.copy_archive(path, part)
                case "folder":
                    sources.pack_folder(path, part)
                case "kaggle":
                    sources.download_from_kaggle(part)
            with archive.open_images(part) as (_, images):
                summary = {
                    "source": p.data.source,
                    "images": len(images),
                    "bytes": part.stat().st_size,
                }
        files.write_json(Path("metrics/download.json"), summary)
        run.artifact(Path("metrics/download.json"))
    console.say(f"{out}: {summary['images']:,} images")


if __name__ == "__main__":
    console.run(main)
