"""The stages of `dvc.yaml`, each a script: `python -m stages.<name>`.

They take the library from their own checkout, so that an experiment in one of DVC's temporary
directories runs the code that was committed with it, whatever is installed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from convnets.base import console

console.hush()
