"""The look of all figures: one style, one palette that colour-blind readers can tell apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any

import matplotlib
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from vesselflow.reporting.sweep_tables import DomainKey, SweepTables

INK = "#222222"
SOFT = "#8a8a8a"
CHOSEN = "#111111"

#: In-distribution, then the out-of-distribution domains by name. After Okabe and Ito (2008), the
#: yellow left out (too light for a line on white).
_IN = "#0072B2"
_OUT = ("#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195")
#: Categories that are no domains (losses, models): apart from the domains' colours in lightness.
CATEGORIES = (
    "#332288",
    "#44AA99",
    "#CC6677",
    "#999933",
    "#882255",
    "#117733",
    "#88CCEE",
    "#DDCC77",
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")

#: Even in lightness, and without a yellow end that vanishes on white.
_SEQUENTIAL = LinearSegmentedColormap.from_list(
    "vesselflow", ["#1b2a6b", "#2f6db0", "#3fa7a0", "#8fbf5a", "#e0a030"]
)

_STYLE: dict[Any, Any] = {
    "figure.dpi": 150,
    "savefig.dpi": 150,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlepad": 8,
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#555555",
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "text.color": INK,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 2.2,
    # Names of points, domains and sources are data: a "$" in them is no formula.
    "text.parse_math": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the project's style, without a display, whatever the user's settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        plt.switch_backend("Agg")
        matplotlib.rcParams.update(_STYLE)
        yield


def domain_colours(tables: SweepTables) -> dict[DomainKey, str]:
    """The colour of each domain: val and test share one, each OOD domain has its own."""
    outside = {domain: index for index, domain in enumerate(tables.of_role("ood"))}
    return {
        domain: _OUT[outside[domain] % len(_OUT)] if domain in outside else _IN
        for domain in tables.domains
    }


def sequence(n: int) -> list[tuple[float, float, float, float]]:
    """`n` colours in order, for the values of a numeric axis."""
    return [_SEQUENTIAL(position) for position in (np.linspace(0, 1, n) if n > 1 else [0.3])]


def breathe(axes: Axes, low: float, high: float, share: float = 0.08) -> None:
    """Set the y limits to a range of values with some room on both sides."""
    room = max((high - low) * share, 0.005)
    axes.set_ylim(low - room, high + room)


def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width of a line of text in inches, a little on the safe side."""
    font = FontProperties(family="DejaVu Sans", size=size, weight=weight)
    width = text_to_path.get_text_width_height_descent(text, font, ismath=False)[0]
    return float(width) / 72 * 1.04


def shorten(text: str, width: float, size: float, weight: str = "normal") -> str:
    """The text if it fits into `width` inches, else its two ends: what differs is often last."""
    if text_width(text, size, weight) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: (kept + 1) // 2].rstrip()}…{text[len(text) - kept // 2 :].lstrip()}"
        if text_width(short, size, weight) <= width:
            return short
    return text[:1] + "…"


def shorten_apart(texts: Sequence[str], width: float, size: float) -> list[str]:
    """Each text within `width` inches, and all still different.

    Where one is too long, the beginning that all share is cut first; texts that would become equal
    are numbered.
    """
    if len(texts) > 1 and any(text_width(text, size) > width for text in texts):
        pairs = zip(min(texts), max(texts), strict=False)
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        texts = [f"…{text[shared:]}" for text in texts] if shared > 4 else texts
    short = [shorten(text, width, size) for text in texts]
    seen: dict[str, int] = {}
    for index, text in enumerate(list(short)):
        if short.count(text) > 1:
            seen[text] = seen.get(text, 0) + 1
            mark = f" ({seen[text]})"
            short[index] = shorten(texts[index], width - text_width(mark, size), size) + mark
    return short
