"""Score every model on the test images, compare with the book, and register the champion."""

from pathlib import Path

from convnets.base import console, params
from convnets.data import npy, page
from convnets.data.examples import IMAGES
from convnets.evaluation import figures, report, scores
from convnets.tracking import git
from convnets.tracking.run import recorded
from convnets.training import augmentation
from convnets.training.fit import MODELS

METRICS = Path("metrics")
CHAMPION = Path("models/champion.keras")


def main() -> None:
    p = params.load()
    with recorded("evaluate") as run:
        run.dataset(IMAGES / "test.npy", "test")
        trained = scores.load(MODELS, frozenset(run.declared.outs))
        results = scores.compare(trained)
        scores.write(results, METRICS)
        scores.keep(results, CHAMPION)

        images = npy.read(IMAGES / "test.npy")
        views = augmentation.preview(npy.read(IMAGES / "train.npy")[0], 8, p.seed, p.augmentation)
        drawn = figures.of_results(results, images, views)
        figures.save(drawn["comparison"], METRICS / "comparison.png")
        shown = report.content(results, drawn, images, views)
        page.write(report.html(shown), METRICS / "report.html")

        run.metrics(scores.by_name(results))
        run.figures(drawn)
        run.text(report.html(shown, run.durations()), "report.html")
        run.artifact(METRICS / "comparison.csv")
        run.artifact(METRICS / "recall.csv")
        run.artifact(METRICS / "calibration.csv")
        of_models = scores.of_models(results)
        run.score_models({MODELS / f"{name}.keras": of_models[name] for name in of_models})
        run.register(
            CHAMPION,
            results.best.record.classes,
            results.champion,
            results.why(),
            results.validated(),
        )
    console.say(results.table.round(4).to_string())
    console.say(f"champion, by validation: {results.champion}; see metrics/report.html")
    if told := git.no_branch():  # at the end too, where it is read
        console.say(told)


if __name__ == "__main__":
    console.run(main)
