"""The stages of `dvc.yaml`. Each is a script: `python -m stages.<name>`.

They import the library from their own checkout. So an experiment in one of DVC's temporary
directories runs the code that was committed with it, not an installed version.

A stage that is not trained ends here, before its script imports Keras.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from convnets.base import console, params, untrained


def _end_if_not_trained() -> None:
    stage = sys.argv[1]
    if why := untrained.reason(stage, params.load()):
        untrained.not_trained(stage, why)
        console.say(f"{stage}: not trained, as {why}")
        sys.exit()


if sys.argv[0] == "-m" and len(sys.argv) > 1:  # Python is on its way to a stage's script
    console.run(_end_if_not_trained)
console.hush()
