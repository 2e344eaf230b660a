"""Look at what the project stands on, which DVC runs each time before anything else.

The files and folders outside that the params name; what stands at the outs' places; git's branch.
"""

from convnets.base import console, files, params
from convnets.sources import inputs
from convnets.tracking import git, outs


def main() -> None:
    given = inputs.outside(params.load())
    outs.refuse(*(files.given(path) for paths in given.values() for path in paths))
    for told in (outs.check(), git.no_branch()):
        if told:
            console.say(told)
    for name, paths in given.items():
        inputs.write(paths, inputs.FOLDER / f"{name}.json")


if __name__ == "__main__":
    console.run(main)
