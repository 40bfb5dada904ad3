"""Out-of-distribution against in-distribution scores: who keeps what it learned elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vesselflow.reporting.figures.layout import (
    MOST_PANELS,
    columns_of,
    head,
    lowest,
    panel_grid,
    title,
)
from vesselflow.reporting.figures.look import Look, choose_axes
from vesselflow.reporting.figures.settings import Settings
from vesselflow.reporting.style import (
    CHOSEN,
    MARKERS,
    SOFT,
    shorten,
)
from vesselflow.reporting.sweep_tables import SweepTables
from vesselflow.reporting.wording import count, listing, metric_label, printable

#: Points up to which their spread is drawn.
_FEW_POINTS = 12


def draw_gap(tables: SweepTables) -> tuple[Figure, pd.DataFrame] | None:
    """The objective's metric out of distribution against that on test, a panel per domain.

    Points are dots, told apart by hue, shade and marker; where they are few, crosses are their
    standard deviations. None without a test or an out-of-distribution domain.
    """
    tests, outside = tables.of_role("test"), tables.of_role("ood")
    if not tests or not outside:
        return None
    inside, metric = tests[0], tables.objective.metric
    label = metric_label(metric)
    settings = Settings(tables)
    hue, shade, rest = choose_axes(settings, settings.axes)
    marks = [axis for axis in rest if len(settings.states(axis)) <= len(MARKERS)][:1]
    rest = [axis for axis in rest if axis not in marks]
    look = Look(settings, hue, shade, marks[0] if marks else None)
    shown = outside[:MOST_PANELS]
    columns = columns_of(len(shown))
    width = {1: 5.2, 2: 3.9}.get(columns, 3.3)
    figure, _, places = panel_grid(len(shown), columns, width, 3.5 if columns == 1 else 3.2)
    few = len(tables.order) <= _FEW_POINTS
    numbers: list[dict[str, Any]] = []
    for domain in outside:
        for point in tables.order:
            x, y = tables.score(point, inside, metric), tables.score(point, domain, metric)
            numbers.append(
                {"point": point, "chosen": point == tables.selected, "domain": domain.name}
                | {f"test_{metric}": x.mean, "test_std": x.std, "test_n": x.n}
                | {f"ood_{metric}": y.mean, "ood_std": y.std, "ood_n": y.n}
                | {"gap": x.mean - y.mean}
            )
    for place, domain in zip(places, shown, strict=True):
        for point in tables.order:
            x, y = tables.score(point, inside, metric), tables.score(point, domain, metric)
            colour = look.colour(point)
            place.errorbar(
                [x.mean], [y.mean],
                xerr=[x.std] if few and math.isfinite(x.std) else None,
                yerr=[y.std] if few and math.isfinite(y.std) else None,
                fmt=look.marker(point), color=colour, ecolor=colour, elinewidth=0.8,
                markersize=5.5 if few else 5, markeredgecolor="white", markeredgewidth=0.5,
                zorder=3,
            )  # fmt: skip
            if point == tables.selected:
                place.plot(
                    [x.mean], [y.mean], "o", mfc="none", mec=CHOSEN, ms=11, mew=1.1, zorder=4
                )
        place.grid(visible=True, axis="both")
        place.margins(0.08)
        place.locator_params(nbins=6)
        title(place, f"{shorten(printable(domain.name), 1.6, 9.5, 'bold')} (OOD)", width - 0.7)
        _gap_lines(place)
    for place in lowest(places, columns):
        place.set_xlabel(f"test {label} ({shorten(printable(inside.name), 1.4, 8.5)})")
    for place in places[::columns]:
        place.set_ylabel(f"out-of-distribution {label}")
    one = tables.points["n"].max() < 2
    spread = "mean ± SD over runs" if few else "mean over runs (SD: see the CSV)"
    words = ["one run per point" if one else spread, *look.words()]
    words.append("dashed: equal gaps between test and OOD")
    if rest:
        words.append(f"not told apart: {listing(tables.names[axis] for axis in rest)}")
    if len(outside) > len(shown):
        words.append(f"{count(len(outside) - len(shown), 'more domain')}: see the CSV")
    head(figure, look.entries("dot", tables.order, ring=True), words)
    return figure, pd.DataFrame(numbers)


def _gap_lines(place: Axes) -> None:
    """The line on which both are equal where it is near; otherwise lines of equal gap."""
    (x0, x1), (y0, y1) = place.get_xlim(), place.get_ylim()
    place.set_xlim(x0, x1)
    place.set_ylim(y0, y1)
    gaps = nice_gaps(x0 - y1, x1 - y0)
    for gap in gaps:
        left, right = max(x0, y0 + gap), min(x1, y1 + gap)
        if right - left < 0.15 * (x1 - x0):
            continue
        place.plot(
            [left, right], [left - gap, right - gap], color=SOFT, lw=0.7, ls=(0, (4, 3)), zorder=1
        )
        label = "no gap" if abs(gap) < 1e-9 else f"gap {gap:.2f}"
        place.annotate(
            label, (left, left - gap), xytext=(3, 1), textcoords="offset points",
            fontsize=6.5, color=SOFT, ha="left", va="bottom", zorder=2,
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 0.5},
        )  # fmt: skip


def nice_gaps(low: float, high: float) -> Iterator[float]:
    """Round gaps between two scores, at most seven of them."""
    steps = (each * 10.0**power for power in range(-2, 300) for each in (1, 2, 5))
    step = next((step for step in steps if (high - low) / step <= 6), math.inf)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return (round(index * step, 6) for index in range(first, last + 1))
