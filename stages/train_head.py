"""Train a head on a frozen backbone's cached features: `python -m stages.train_head STAGE`.

It trains every head. Listings 8.20 to 8.26 have the book's heads. The params section of a head sets
its features, its use of the mirror image, its architecture and its schedule.
"""

import keras

from convnets.base import console, params
from convnets.data import examples
from convnets.models import architectures, backbone
from convnets.models.saved import Kind, Record, arguments
from convnets.tracking.run import recorded
from convnets.training import cached
from convnets.training.fit import Task, fit


def main() -> None:
    given, p = arguments().parse_args(), params.load()
    how = p.of(given.stage, params.HeadTraining)
    train = cached.to_learn_from(how, p.views)
    suffixes = ["", examples.MIRRORED] if how.mirrored else [""]
    record = Record.given(given, Kind.IMAGES, examples.class_names())

    def build() -> keras.Model:
        return architectures.build_head(train.inputs.shape[1:], len(record.classes), how)

    task = Task(build, train, cached.validation(suffixes), how, p.class_weight)
    with recorded(given.stage) as run:
        head, history = fit(task, p, run)
        cached.finish(head, history, backbone.load(), suffixes, record, run)


if __name__ == "__main__":
    console.run(main)
