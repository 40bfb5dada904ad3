"""Room for what is written in a figure: the head above its panels, titles, ticks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vesselflow.reporting.style import CHOSEN, shorten, text_width

#: Panels of one figure; beyond, axes are held still or told apart by marks.
MOST_PANELS = 6
#: Widest entry of a legend, in inches.
WIDEST_ENTRY = 2.4
#: What a legend's entry takes beside its text, in inches: the swatch and the gap between columns.
_SWATCH = 0.55
_ROW, _LINE = 0.2, 0.135


def columns_of(panels: int) -> int:
    """Panels side by side; four make a square."""
    return 2 if panels == 4 else min(panels, 3)


def panel_grid(
    panels: int, columns: int, width: float, height: float
) -> tuple[Figure, np.ndarray, list[Axes]]:
    """A figure of equal panels in rows; those beyond `panels` are not shown.

    Args:
        panels: Number of panels.
        columns: Panels side by side.
        width: Width of a panel with its ticks, in inches.
        height: Height of a panel with its ticks and title, in inches.
    """
    rows = math.ceil(panels / columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows),
        squeeze=False,
        layout="constrained",
    )
    for place in list(grid.flat)[panels:]:
        place.set_visible(False)
    return figure, grid, list(grid.flat)[:panels]


def lowest(places: Sequence[Axes], columns: int) -> list[Axes]:
    """The lowest panel of each column."""
    return [
        places[max(i for i in range(len(places)) if i % columns == column)]
        for column in range(min(columns, len(places)))
    ]


def head(figure: Figure, entries: Sequence[Line2D], words: Sequence[str]) -> None:
    """Put the legend above the panels, and make the figure taller by what it takes.

    Beside the panels a legend of long names would leave them a sliver.

    Args:
        figure: The figure.
        entries: The legend's entries.
        words: What is said above them, broken into lines between its parts.
    """
    width, height = figure.get_size_inches()
    lines = _lines([word for word in words if word], width - 0.4)
    for entry in entries:
        entry.set_label(shorten(str(entry.get_label()), WIDEST_ENTRY, 8.5))
    if entries:
        widest = max(text_width(str(entry.get_label()), 8.5) for entry in entries) + _SWATCH
        columns = max(1, min(len(entries), int((width - 0.3) / widest)))
        rows = math.ceil(len(entries) / columns)
        # As many columns as those rows need: they stand closer together.
        columns = math.ceil(len(entries) / rows)
        figure.set_size_inches(width, height + rows * _ROW + len(lines) * _LINE + 0.15)
        figure.legend(
            handles=list(entries),
            loc="outside upper center",
            ncols=columns,
            title="\n".join(lines) or None,
            title_fontsize=7.5,
            columnspacing=1.6,
        )
    elif lines:
        figure.set_size_inches(width, height + len(lines) * _LINE + 0.1)
        figure.suptitle("\n".join(lines), fontsize=7.5)


def _lines(words: Sequence[str], width: float) -> list[str]:
    lines: list[str] = []
    for word in words:
        joined = f"{lines[-1]} · {word}" if lines else word
        if lines and text_width(joined, 7.5) <= width:
            lines[-1] = joined
        else:
            lines.append(shorten(word, width, 7.5))
    return lines


def title(place: Axes, text: str, width: float, *, pad: float = 8) -> None:
    """Set a panel's title, shortened to the panel's width in inches."""
    place.set_title(shorten(text, width, 9.5, "bold"), pad=pad)


def note(place: Axes, text: str) -> None:
    """A small remark above a panel, at its right end."""
    place.annotate(
        text, (1, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points",
        ha="right", va="bottom", fontsize=7, color=CHOSEN, annotation_clip=False,
    )  # fmt: skip


def same_span(groups: Sequence[Sequence[float]]) -> list[tuple[float, float]]:
    """Limits for each group of values: each around its own values, all equally far apart.

    So a step of 0.01 is as long in every panel, and effects compare between them.
    """
    finite = [[value for value in group if math.isfinite(value)] for group in groups]
    spans = [max(group) - min(group) for group in finite if group]
    half = max([*spans, 0.01]) * 0.5 * 1.16
    return [
        ((max(g) + min(g)) / 2 - half, (max(g) + min(g)) / 2 + half) if g else (0.0, 1.0)
        for g in finite
    ]


def fitting_ticks(places: Sequence[float], labels: Sequence[str], per_inch: float) -> list[int]:
    """Which ticks can be labelled without touching: the ends first, then from the left.

    Args:
        places: Ascending positions.
        labels: Their labels.
        per_inch: Units of the axis in one inch.
    """
    kept: list[int] = []
    last = len(places) - 1
    for index in [last, 0, *range(1, last)]:
        width = text_width(labels[index], 8)
        if index not in kept and all(
            abs(places[index] - places[other]) / per_inch
            > (width + text_width(labels[other], 8)) / 2 + 0.07
            for other in kept
        ):
            kept.append(index)
    return sorted(kept)
