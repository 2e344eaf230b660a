"""Look at the files and folders outside that the params name; DVC runs this each time."""

from convnets.base import console, params
from convnets.data import inputs


def main() -> None:
    for name, paths in inputs.outside(params.load()).items():
        inputs.write(paths, inputs.FOLDER / f"{name}.json")


if __name__ == "__main__":
    console.run(main)
