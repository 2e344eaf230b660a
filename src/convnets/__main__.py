"""`python -m convnets`: what there is to do beside the stages."""

import argparse
import sys

from convnets.base import console


def sync(_: argparse.Namespace) -> None:
    from convnets.tracking.sync import sync

    sync()


def predict(arguments: argparse.Namespace) -> None:
    console.hush()
    from convnets.serving import predict as prediction

    console.unhush()
    failures = []

    def failed(name: str, reason: str) -> None:
        failures.append(name)
        print(f"error: {console.printable(name)}: {console.printable(reason)}", file=sys.stderr)

    model, classes = prediction.load(arguments.model)
    made = prediction.predict(model, arguments.images, failed)
    console.say(prediction.show(made, classes, arguments.format))
    if failures:
        sys.exit(1)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m convnets", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    about = "record in MLflow what it missed while its server was down"
    command = commands.add_parser("sync", help=about, description=about)
    command.set_defaults(run=sync)

    about = "tell the class of images"
    command = commands.add_parser("predict", help=about, description=about)
    command.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a file, a folder with .jpg, .jpeg or .png anywhere in it, or - for one on stdin",
    )
    command.add_argument(
        "--model", default="champion", help="a .keras file (default: MLflow's model champion)"
    )
    command.add_argument("--format", choices=("table", "json", "csv"), default="table")
    command.set_defaults(run=predict)

    arguments = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    console.run(lambda: arguments.run(arguments))


if __name__ == "__main__":
    main()
