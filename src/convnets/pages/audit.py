"""The page of `audit`: what to look at, and whether more pictures would help."""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib import pyplot as plt
from matplotlib.figure import Figure
from numpy.typing import NDArray

from convnets.audit.pictures import Audit
from convnets.pages.page import picture, render
from convnets.pages.style import BLUE, INK, RED, svg

SHOWN = 60  # pictures of a kind
POINTS, SMALL = 600, 64  # on the map at most, and the longer side of their pictures in pixels
CLASSES = 8  # curves of so many classes, the weakest


def html(audit: Audit, summary: dict[str, Any], pixels: dict[str, NDArray[np.uint8]]) -> str:
    """Return the page. The same results give the same bytes.

    Args:
        audit: from `pictures.examine`.
        summary: from `pictures.summary`.
        pixels: of each split, (n, h, w, 3).
    """
    table = audit.table
    rows: Any = table.to_dict("records")

    def shown(place: int, size: int = 192) -> dict[str, Any]:
        row: dict[str, Any] = rows[place]
        made = picture(pixels[row["split"]][row["row"]], size)
        return row | {"picture": made, "doubtful": bool(pd.notna(row["suspect"]))}

    suspects = table["suspect"].dropna().sort_values().index
    far = table.index[table["unlike"] >= 1]
    strange = table.loc[far, "unlike"].sort_values(ascending=False, kind="stable").index
    odd = table.index[table["odd"] != ""]
    return render(
        "convnets.pages",
        "audit.html",
        {
            **summary,
            "total": len(table),
            "suspects": [shown(place) for place in suspects[:SHOWN]],
            "strange": [shown(place) for place in strange[:SHOWN]],
            "twins": [[shown(place) for place in pair] for pair in audit.twins[:SHOWN]],
            "curve": Markup(svg(learning(audit.curve))),  # noqa: S704 - texts are escaped
            "points": _points(audit, shown),
            "odd": [shown(place) for place in odd[:SHOWN]],
            "weak": audit.recalls.head(20).to_dict("records"),
            "classes": len(audit.recalls),
            "confused": audit.confused.head(SHOWN // 4).to_dict("records"),
        },
    )


def _points(audit: Audit, shown: Any) -> list[dict[str, Any]]:
    """Return what the map shows: all that is doubtful or unlike, and some of the others."""
    table, place = audit.table, audit.map
    marked = table.index[table["suspect"].notna() | (table["unlike"] >= 1)][: POINTS // 2]
    others = table.index.difference(marked)
    count = min(len(others), POINTS - len(marked))
    some = others[np.linspace(0, len(others) - 1, count, dtype=int)]
    names = sorted(table["class"].unique())
    return [
        shown(row, SMALL)
        | {
            "x": round(20 + 960 * float(place[row, 0]), 1),
            "y": round(20 + 560 * float(1 - place[row, 1]), 1),
            "hue": round(360 * names.index(table.loc[row, "class"]) / len(names)),
        }
        for row in [*some, *marked]  # what is marked lies above
    ]


def learning(curve: pd.DataFrame) -> Figure:
    """Draw the accuracy by the number of pictures, with its forecast, of all and of weak classes.

    Args:
        curve: from `curve.curve`.
    """
    figure, both = plt.subplots(1, 2, sharey=True, figsize=(9, 3.6), layout="constrained")
    whole = curve[curve["class"] == ""]
    known = whole[~whole["forecast"]]
    later = pd.concat([known.tail(1), whole[whole["forecast"]]])
    both[0].fill_between(known["pictures"], known["low"], known["high"], color=BLUE, alpha=0.2)
    both[0].plot(known["pictures"], known["accuracy"], color=BLUE, marker=".", label="measured")
    both[0].fill_between(later["pictures"], later["low"], later["high"], color=RED, alpha=0.2)
    both[0].plot(later["pictures"], later["accuracy"], color=RED, linestyle="--", label="forecast")
    both[0].set_ylabel("cross-validated accuracy")
    both[0].legend(loc="lower right", labelcolor=INK)
    of_classes = curve[(curve["class"] != "") & ~curve["forecast"]]
    last = of_classes.groupby("class")["accuracy"].last().sort_values(kind="stable")
    for name in last.index[:CLASSES]:
        one = of_classes[of_classes["class"] == name]
        both[1].plot(one["pictures"], one["accuracy"], marker=".", label=name)
    both[1].legend(fontsize="small", labelcolor=INK)
    for axes in both:
        axes.set_xscale("log")
        axes.set_xlabel("pictures to learn from, of all classes")
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.xaxis.set_minor_formatter("")
    plt.close(figure)
    return figure
