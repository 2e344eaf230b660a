"""`python -m convnets`: what there is to do beside the stages."""

import argparse

from convnets import console


def sync(_: argparse.Namespace) -> None:
    from convnets.sync import sync

    sync()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m convnets", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    about = "record in MLflow what it missed while its server was down"
    command = commands.add_parser("sync", help=about, description=about)
    command.set_defaults(run=sync)
    arguments = parser.parse_args()
    console.run(lambda: arguments.run(arguments))


if __name__ == "__main__":
    main()
