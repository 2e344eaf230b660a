"""The way to the folder `stages` where Python does not look into this folder (PYTHONSAFEPATH).

Python finds this file only then, since the project is installed from `src`.
"""

import importlib
import os
import sys

sys.path.insert(0, os.getcwd())  # noqa: PTH109 - of text
del sys.modules[__name__]
importlib.import_module(__name__)
