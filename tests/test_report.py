"""The report's content, and its safety against external text."""

import json
import re
from html.parser import HTMLParser

import keras
import numpy as np
import pandas as pd
import pytest

from convnets.evaluation import explain, scores
from convnets.evaluation.metrics import Predictions
from convnets.models.saved import Kind
from convnets.models.trained import Trained, by_epoch
from convnets.pages import figures, report
from tests.commands import TRAINING, command, record

HOSTILE = ["<script>alert(1)</script>", "a$\\frac$b", "\"'onload=x&", "고양이"]
SIZE = 78


def results(
    classes: list[str], right: bool = False, stages: tuple[str, ...] = TRAINING
) -> scores.Results:
    """Results of models on five images of each class, random or all right."""
    chance = np.random.default_rng(0)
    history = by_epoch([{"accuracy": 0.5, "loss": 0.7, "val_accuracy": 0.5, "val_loss": 0.7}])
    trained, known_labels = {}, {}
    for stage in stages:
        name = stage.replace("@", "_")
        digits = {"kind": "digits"} if "--digits" in command(stage) else {}
        of_classes = list("0123456789") if digits else classes
        book = {"book": 0.9, "book_split": "validation"} if name == "train_feature_head" else {}
        known = record(of_classes, title=f"title of {name}", **digits, **book)
        labels = np.repeat(np.arange(len(of_classes)), 5)
        alike = np.ones(len(of_classes))
        probabilities = np.diag(alike)[labels] if right else chance.dirichlet(alike, len(labels))
        logits = np.log(probabilities.clip(1e-9))[:, None]
        trained[name] = Trained(known, history, {"validation": 3 * logits, "test": logits})
        for split in ("validation", "test"):
            known_labels[known.kind, split] = labels
    labels = known_labels[Kind.IMAGES, "test"]
    files = pd.DataFrame(
        {
            "file": [f"{classes[label]}/<img src=x onerror=y>.jpg" for label in labels],
            "class": [classes[label] for label in labels],
            "label": labels,
        }
    )
    return scores.gather(trained, "val_loss", known_labels, files)


AUDIT = {"advice": ["3 labels are doubtful."], "trusted": "A head has 97 %.", "few": False}


def page(
    found: scores.Results,
    seconds: dict[str, float] | None = None,
    unlike: float | None = 0.0425,
) -> str:
    images = np.random.default_rng(0).integers(0, 256, (len(found.images), SIZE, SIZE, 3), "uint8")
    views = images[:9].astype("float32")
    drawn = figures.of_results(found)
    evidence = np.random.default_rng(0).random((len(report.explained(found)), 7, 7), "f4")
    shown = report.content(
        found, drawn, images, views, evidence, images[0].astype("f4"), "0" * 16, AUDIT, unlike
    )
    for figure in drawn.by_name().values():
        figures.plt.close(figure)
    return report.html(shown, seconds)


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


def test_names_from_outside_are_harmless_and_the_page_needs_nothing_else():
    found = results(HOSTILE)
    html = page(found)
    parsed = Elements(html)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {t for t, _ in parsed.found}
    for tag, attributes in parsed.found:
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
        for name in ("src", "href", "xlink:href"):
            target = attributes.get(name) or "#"
            assert target.startswith(("#", "data:image/")) or target in ("data.html", "audit.html")
    assert set(re.findall(r"url\((.)", html)) <= {"#"}
    for name in HOSTILE:
        assert parsed.text.count(name) > len(found.of_images()), name
    images = sum(tag == "img" for tag, _ in parsed.found)
    views, mistakes, maps = 9, 12, 1
    assert images >= views + mistakes + 2 * 4 + maps


def test_the_same_results_give_the_same_bytes_and_only_mlflow_gets_the_time():
    found = results(["cat", "dog"])
    html = page(found)
    assert html == page(found)
    assert len(html.encode()) < 1.5e6
    assert "<th>seconds" not in html
    assert "<td>train_scratch</td><td>12.3</td>" in page(found, {"train_scratch": 12.34})


@pytest.mark.parametrize("stage", ["train_scratch", "train_feature_head"])
def test_one_model_alone_has_a_report_without_empty_parts(stage, tmp_path):
    found = results(["ant", "bee"], stages=(stage,))
    html = page(found)
    assert f"The champion is <b>{stage}</b>" in html
    for absent in ("digits", "differences", "Differences", "beyond chance"):
        assert absent not in html.partition("</style>")[2].replace("train_mnist", "")
    scores.write(found, tmp_path, None)
    written = json.loads((tmp_path / "models.json").read_text())
    assert list(written) == ["champion", stage]
    assert written["champion"] == written[stage]
    assert set(pd.read_csv(tmp_path / "curves.csv")["model"]) == {stage}
    assert list(pd.read_csv(tmp_path / "recall.csv")) == ["class", stage]


def test_what_can_be_decided_without_a_person():
    html = page(results([f"kind {number}" for number in range(40)], right=True)).partition(
        'id="decided"'
    )[2]
    table = html.partition("</table>")[0]
    assert table.count('<td class="extra">100.0 %</td>') == 3  # up to 98 % is promised
    assert "takes at least 368 validation images" in table
    html = page(results(["ant", "bee"])).partition('id="decided"')[2].partition("<h2")[0]
    assert "takes at least 36 validation images" in html and "<table" not in html


def test_with_few_test_images_the_cross_validated_accuracy_stands_first(monkeypatch):
    few = {"few": True, "accuracy": 0.91, "low": 0.55, "high": 0.98}
    monkeypatch.setitem(globals(), "AUDIT", AUDIT | few)
    verdict = page(results(["ant", "bee"], right=True)).partition("verdict")[2].partition("</p>")[0]
    assert "<b>91.0 %</b>" in verdict and "<b>100.0 %</b>" not in verdict
    assert "10 test images" in verdict and "55.0 % to 98.0 %" in verdict


def test_the_share_of_the_test_images_that_is_unlike_is_told(tmp_path):
    found = results(["ant", "bee"])
    assert re.search(r"4\.2. ?% seem <em>unlike", page(found))
    assert "unlike the training" not in page(found, unlike=None)
    scores.write(found, tmp_path, 0.0425)
    assert json.loads((tmp_path / "evaluate.json").read_text())["test_unlike"] == 0.0425


def test_the_digits_stand_apart_and_recall_is_by_class():
    found = results(["ant", "bee", "cow"])
    html = page(found).partition('id="comparison"')[2]
    assert (
        html.index("On the images") < html.index("title of fine_tune") < html.index("On the digits")
    )
    assert html.index("On the digits") < html.index("title of train_mnist_max_pooling")
    recall = found.recall()
    assert "train_mnist_max_pooling" not in recall
    assert list(recall.index) == ["ant", "bee", "cow"]
    tested = found.tested["fine_tune"]
    of_bees = tested.predicted[tested.labels == 1]
    assert recall.loc["bee", "fine_tune"] == (of_bees == 1).mean()
    assert recall["fine_tune"].mean() == found.table.loc["fine_tune", "balanced_accuracy"]
    two = figures.comparison(found).axes
    assert [axes.get_title(loc="left") for axes in two] == ["the images", "the digits"]


def test_predictions_are_by_name(tmp_path):
    """`compare` reads them. A class may be named as a number or as what pandas takes for none."""
    found = results(["001", "NA"])
    written = set()
    for _ in range(2):
        scores.write(found, tmp_path, 0.0425)
        written.add((tmp_path / "predictions.csv").read_bytes())
    assert len(written) == 1
    table = pd.read_csv(tmp_path / "predictions.csv", dtype=str, keep_default_na=False)
    assert list(table.columns[:3]) == ["data", "file", "class"]
    assert set(table.columns[3:]) == {*found.table.index}
    data = dict(list(table.groupby("data")))
    assert set(data["images"]["class"]) == {"001", "NA"}
    for name in found.table.index:
        of, other = ("images", "digits") if name in found.of_images() else ("digits", "images")
        right = (data[of][name] == data[of]["class"]).mean()
        assert right == found.table.loc[name, "test_accuracy"]
        assert (data[other][name] == "").all()


def test_differences_of_all_pairs_are_shown_both_ways():
    found = results(list("abcdefgh"))
    better = found.tested["fine_tune"]
    found.tested["fine_tune"] = Predictions(better.labels, np.eye(8)[better.labels])
    html = page(found)
    rows = html.partition('id="differences"')[2].partition("</table>")[0].split("<tr>")[2:]
    of_images = found.of_images()
    assert len(rows) == len(of_images)
    for name, row in zip(of_images, rows, strict=True):
        sign = r"\+" if name == "fine_tune" else "-"
        marked = re.findall(rf"<b>{sign}\d+\.\d \*</b><small>p &lt; 0\.001", row)
        assert len(marked) == (len(of_images) - 1 if name == "fine_tune" else 1)


def test_no_mistakes_and_many_classes():
    html = page(results([f"class {number}" for number in range(40)], right=True))
    assert "The champion makes none." in html
    assert len(html.encode()) < 1.5e6


def test_the_pictures_chosen_are_the_most_confident():
    labels = np.array([0, 0, 1, 1, 2])
    second = np.array([0.3, 0.9, 0.6, 0.2, 0.8])  # of class 1, the rest of class 0
    tested = Predictions(labels, np.stack([1 - second, second, 0 * second], axis=1))
    assert scores.mistakes(tested, 9) == [1, 3, 4]
    assert scores.mistakes(tested, 2) == [1, 3]
    assert scores.successes(tested, 9) == [0, 2]


def test_grad_cam_finds_the_evidence_where_it_is():
    """A model that counts red pixels, which are evidence for the second class."""
    inputs = keras.Input((12, 12, 3))
    red = keras.layers.Conv2D(1, 1, use_bias=False)
    output = keras.layers.Dense(1, activation="sigmoid")
    x = keras.layers.MaxPooling2D(2)(red(inputs))
    model = keras.Model(inputs, output(keras.layers.Flatten()(x)))
    red.set_weights([np.array([1, 0, 0], "f4").reshape(1, 1, 3, 1)])
    output.set_weights([np.full((36, 1), 0.1, "f4"), np.zeros(1, "f4")])
    images = np.zeros((2, 12, 12, 3), "uint8")
    images[:, 2:5, 7:9, 0] = 200
    images[:, 6:, :, 2] = 255
    first, second = explain.grad_cam(model, images, np.array([0, 1]))
    assert not first.any()
    assert (second == (images[1, ..., 0] > 0)).all()
    assert (explain.feature_maps(model, images[0])[..., 0] == images[0, ..., 0]).all()
    marked = figures.overlay(images[1], second)
    assert (marked[second == 0] == images[1][second == 0]).all()


@pytest.mark.parametrize("maps", [1, 8, 11])
def test_a_mosaic_holds_every_map(maps):
    ramp = np.linspace(0, 1, 20 * 30, dtype="f4").reshape(20, 30, 1).repeat(maps, axis=2)
    assert figures.mosaic(ramp, columns=8, side=16).shape == (-(-maps // 8) * 16, 8 * 16, 3)
