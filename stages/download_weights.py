"""Get the backbone's weights: random, Keras's ImageNet ones, or a local file's."""

from pathlib import Path

from convnets import backbone, console, params, tracking


def main() -> None:
    p = params.load()
    out = Path("data/backbone.weights.h5")
    with tracking.run("download_weights"):
        backbone.write_weights(p.backbone.name, p.image_size, p.backbone.weights, p.seed, out)
    console.say(f"{out}: {p.backbone.name}, {p.backbone.weights}")


if __name__ == "__main__":
    console.run(main)
