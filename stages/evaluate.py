"""Score every model on the test images, compare with the book, and register the champion."""

import json
from pathlib import Path

import numpy as np

from convnets.augmentation import augment as augmentation
from convnets.base import console, params
from convnets.evaluation import explain, scores, served, unlike
from convnets.examples import examples, npy
from convnets.examples.examples import IMAGES, fingerprint
from convnets.models import answers, saved
from convnets.models.trained import FOLDER, MODEL
from convnets.pages import figures, page, report
from convnets.pages.style import svg
from convnets.tracking import git
from convnets.tracking.run import recorded

METRICS = Path("metrics")
CHAMPION = Path("models/champion.keras")


def main() -> None:
    p = params.load()
    with recorded("evaluate") as run:
        run.dataset(IMAGES / "test.npy", "test")
        trained = scores.load(FOLDER, frozenset(run.declared.outs))
        results = scores.compare(trained, p.monitor)
        images = examples.load(IMAGES / "test.npy", "test").at(slice(None))  # without dropped ones

        # The one model that is needed, with Keras.
        champion = saved.load(FOLDER / results.champion / MODEL)
        answers.divide(champion, results.calibrated[results.champion].temperature)
        rows = report.explained(results)
        evidence = explain.grad_cam(champion, images[rows], results.answers.predicted[rows])
        maps = explain.feature_maps(champion, images[0])
        champion, refused = unlike.add(champion, p.unlike.false_alarms)
        record = results.best.record.model_copy(update={"limits": results.limits})
        saved.save(champion, CHAMPION, record)
        scores.write(results, METRICS, refused)

        views = augmentation.preview(npy.read(IMAGES / "train.npy")[0], 8, p.seed, p.augmentation)
        audit = json.loads((METRICS / "audit.json").read_text(encoding="utf-8"))
        drawn = figures.of_results(results)
        figures.save(drawn.comparison, METRICS / "comparison.png")
        shown = report.content(
            results, drawn, images, views, evidence, maps, fingerprint(), audit, refused
        )
        page.write(report.html(shown), METRICS / "report.html")

        known = examples.load(IMAGES / "validation.npy", "validation")
        chosen = np.linspace(0, len(known.labels) - 1, served.CHECKED).astype(int)
        given = (results.best.record.classes, known.at(np.unique(chosen)), served.FOLDER)
        if why := served.write(champion, CHAMPION, *given):
            console.say(f"the champion is used with Keras alone: as ONNX, {why}")

        by_model = scores.of_models(results)
        if refused is not None:
            run.metrics({"test_unlike": refused})
        run.metrics(
            {f"{name}.{key}": by_model[name][key] for name in by_model for key in by_model[name]}
        )
        for name, figure in drawn.by_name().items():
            run.text(svg(figure), f"{name}.svg")
        run.text(report.html(shown, run.durations()), "report.html")
        for file in ("comparison.png", "comparison.csv", "recall.csv", "calibration.csv"):
            run.artifact(METRICS / file)
        run.score_models({FOLDER / name / MODEL: by_model[name] for name in by_model})
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
