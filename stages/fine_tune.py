"""Train the backbone's last layers with the head, at a low rate (listings 8.27 and 8.28)."""

import keras

from convnets.backbones import backbone
from convnets.base import console, params
from convnets.examples import examples
from convnets.examples.examples import VIEWS
from convnets.heads import cached
from convnets.models import saved
from convnets.models.saved import Kind, Record, arguments
from convnets.models.trained import MODEL, place
from convnets.tracking.run import recorded
from convnets.training.fit import Task, fit


def main() -> None:
    given, p = arguments().parse_args(), params.load()
    how = p.of(given.stage, params.Training)
    train = examples.load(VIEWS / "cut.npy", "train", p.views.count)
    suffixes = ["_cut"]
    record = Record.given(given, Kind.IMAGES, examples.class_names())
    before = saved.load(place("train_augmented_head") / MODEL).get_layer("head")

    def parts() -> tuple[keras.Model, keras.Model]:
        return backbone.split(backbone.load(), p.backbone.fine_tune_from or 0)

    def build() -> keras.Model:
        _, tuned = parts()
        head = keras.models.clone_model(before)
        head.set_weights(before.get_weights())
        return keras.Model(tuned.input, head(tuned(tuned.input)), name="top")

    task = Task(build, train, cached.validation(suffixes), how, p.class_weight)
    with recorded(given.stage) as run:
        top, history = fit(task, p, run)
        frozen, _ = parts()
        cached.finish(top, history, frozen, suffixes, record, run)


if __name__ == "__main__":
    console.run(main)
