"""Get the digits: scikit-learn's upscaled, Keras's MNIST, or a local mnist.npz."""

from pathlib import Path

from convnets import console, mnist, params, tracking


def main() -> None:
    p = params.load()
    out = Path("data/mnist.npz")
    with tracking.run("download_mnist"):
        mnist.write(p.mnist.source, Path(p.mnist.path or "").expanduser(), p.seed, out)
    console.say(f"{out}: {len(mnist.load(out, 'test').labels):,} test images")


if __name__ == "__main__":
    console.run(main)
