"""Score every model on the test images, compare with the book, and register the champion."""

from pathlib import Path

from convnets.base import console, params
from convnets.data import npy
from convnets.data.examples import IMAGES
from convnets.evaluation import figures, report, scores
from convnets.tracking.run import recorded
from convnets.training import augmentation
from convnets.training.fit import MODELS

METRICS = Path("metrics")


def main() -> None:
    p = params.load()
    with recorded("evaluate") as run:
        run.dataset(IMAGES / "test.npy", "test")
        trained = scores.load(MODELS, run.declared.outs)
        results = scores.compare(trained)
        scores.write(results, METRICS)
        scores.keep(results, MODELS, Path("models/champion.keras"))

        images = npy.read(IMAGES / "test.npy")
        views = augmentation.preview(npy.read(IMAGES / "train.npy")[0], 8, p.seed, p.augmentation)
        drawn = figures.of_results(results, images, views)
        figures.save(drawn["comparison"], METRICS / "comparison.png")
        page = report.content(results, drawn, images, views)
        report.write(page, METRICS / "report.html")

        run.metrics(scores.by_name(results))
        run.figures(drawn)
        run.text(report.render(page, run.durations()), "report.html")
        run.artifact(METRICS / "comparison.csv")
        run.register(
            results.best.model,
            images[:2],
            results.best.record.classes,
            results.champion,
            results.why(),
        )
    console.say(results.table.round(4).to_string())
    console.say(f"champion, by validation: {results.champion}; see metrics/report.html")


if __name__ == "__main__":
    console.run(main)
