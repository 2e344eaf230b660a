"""How all figures look, and a figure as a part of a page."""

import io
import warnings
from functools import cache

from matplotlib import font_manager
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

BLUE, RED = "#4c86c6", "#e0555a"  # legible on white and on black
INK = "#12161c"  # an SVG replaces it with the colour of the surrounding text

# Class names may be in any script, and Matplotlib's own font has no Korean.
OTHER_FONTS = ("Noto Sans CJK KR", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo")
warnings.filterwarnings("ignore", "Glyph .* missing from font")

plt.rcParams |= {
    "font.family": [
        "DejaVu Sans",
        *(name for name in OTHER_FONTS if name in font_manager.get_font_names()),
    ],
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK
    ),
    "axes.facecolor": "none",
    "figure.max_open_warning": 0,  # the page has more, and each is closed once MLflow has it
    "axes.spines.right": False,
    "axes.spines.top": False,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "convnets",  # the same figure gives the same bytes
    "text.parse_math": False,  # a class may be named a$b$
}


@cache
def svg(figure: Figure) -> str:
    """Return a figure as an `<svg>` element for any background, with escaped text."""
    file = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    drawn = file.getvalue()
    return drawn[drawn.index("<svg") :].replace(INK, "currentColor")
