"""`python -m convnets`: the commands besides the stages."""

import argparse
import sys
from pathlib import Path

from convnets.base import console


def sync(_: argparse.Namespace) -> None:
    from convnets.tracking.sync import sync

    sync()


def inspect(arguments: argparse.Namespace) -> None:
    from convnets.data import inspection

    console.say(inspection.show(inspection.inspect(arguments.path), arguments.format))


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
    about = "record in MLflow the runs that it missed while its server was down"
    command = commands.add_parser("sync", help=about, description=about)
    command.set_defaults(run=sync)

    about = "predict the class of images"
    command = commands.add_parser("predict", help=about, description=about)
    command.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a file, a folder that is searched for images, or - for stdin",
    )
    command.add_argument(
        "--model", default="champion", help="a .keras file (default: MLflow's champion)"
    )
    command.add_argument("--format", choices=("table", "json", "csv"), default="table")
    command.set_defaults(run=predict)

    about = "show what would be used of a folder or an archive, and the command that uses it"
    command = commands.add_parser("inspect", help=about, description=about)
    command.add_argument("path", type=lambda given: Path(given).expanduser(), metavar="PATH")
    command.add_argument("--format", choices=("text", "json"), default="text")
    command.set_defaults(run=inspect)

    arguments = parser.parse_args()
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    console.run(lambda: arguments.run(arguments))


if __name__ == "__main__":
    main()
