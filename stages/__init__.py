"""The stages of `dvc.yaml`. Each is a script: `python -m stages.<name>`.

They import the library from their own checkout. So an experiment in one of DVC's temporary
directories runs the code that was committed with it, not an installed version.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from convnets.base import console

console.hush()
