"""Score every model on the test split, compare with the book, and register the champion."""

import shutil
from pathlib import Path

import pandas as pd

from convnets import (
    augmentation,
    console,
    evaluation,
    figures,
    files,
    models,
    npy,
    params,
    report,
    tracking,
)


def main() -> None:
    p = params.load()
    metrics = Path("metrics")
    with tracking.run("evaluate") as run:
        run.dataset(Path("data/images/test.npy"), "test")
        trained, tested = {}, {}
        for name in console.progress(evaluation.MODELS, "evaluate", len(evaluation.MODELS)):
            trained[name] = models.load(Path(f"models/{name}.keras"))
            tested[name] = evaluation.test(name, trained[name])
        results = evaluation.gather(tested, metrics)
        best = results.champion
        evaluation.write(results, metrics)
        with files.whole(Path("models/champion.keras")) as part:
            shutil.copyfile(f"models/{best}.keras", part)
        images = npy.read("data/images/test.npy")
        first = npy.read("data/images/train.npy")[0]
        views = augmentation.preview(first, 8, p.seed, p.augmentation.rotation, p.augmentation.zoom)
        drawn = figures.of_results(results, images, views)
        with files.whole(metrics / "comparison.png") as part:
            drawn["comparison.png"].savefig(part, dpi=120, metadata={"Software": None})
        for name, figure in drawn.items():
            run.figure(figure, name)
        histories = {
            name: pd.read_csv(metrics / f"{name}.csv", index_col="epoch") for name in trained
        }
        shown = report.content(results, histories, trained, images, views)
        with files.whole(metrics / "report.html") as part:
            part.write_text(report.render(shown), encoding="utf-8")
        run.text(report.render(shown, run.durations()), "report.html")
        run.artifact(metrics / "comparison.csv")
        accuracies = results.table["test_accuracy"].add_suffix(".test_accuracy")
        run.metrics(accuracies.to_dict())
        run.register(trained[best], images[:2], results.classes, best, results.why())
    console.say(results.table.round(4).to_string())
    console.say(f"champion, by validation: {best}; see metrics/report.html")


if __name__ == "__main__":
    console.run(main)
