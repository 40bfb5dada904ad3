"""Scores against the values of one axis: what the axis does, whatever the other axes are set to."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vesselflow.reporting.figures.layout import (
    MOST_PANELS,
    columns_of,
    head,
    lowest,
    note,
    panel_grid,
    same_span,
    title,
)
from vesselflow.reporting.figures.look import Look, choose_axes
from vesselflow.reporting.figures.number_line import NumberLine
from vesselflow.reporting.figures.settings import Settings, State
from vesselflow.reporting.style import (
    CHOSEN,
    MARKERS,
    domain_colours,
    shorten,
    shorten_apart,
    text_width,
)
from vesselflow.reporting.sweep_tables import DomainKey, SweepTables
from vesselflow.reporting.wording import count, listing, metric_label, printable

#: Domains in one figure; the others stand in the CSV.
_MOST_DOMAINS = 6
#: Series in a panel up to which each run is a dot and spreads are drawn.
_FEW_LINES, _FEW_DOTS = 4, 6
#: Rows of a dot plot; of more values those best on validation are shown.
_MOST_ROWS = 48
#: Height of a dot plot's rows together, in inches.
_HIGHEST = 9.5
#: Width of what stands beside a panel's axes (ticks, label), in inches.
_BESIDE = 0.7
#: Widest label of a tick, and widest setting in a title, in inches.
_WIDEST_TICK, _WIDEST_ROW = 2.4, 1.2

_ROLES = {"val": "validation", "test": "test", "ood": "out of distribution"}


@dataclass(frozen=True)
class Series:
    """Points that differ in the drawn axis alone: one line, or dots of one kind.

    Attributes:
        domain: Where they are scored.
        points: Their names.
        colour: Their colour.
        marker: Their marker.
        dashed: Whether the line is dashed and its marks hollow: validation beside the others.
    """

    domain: DomainKey
    points: tuple[str, ...]
    colour: Any
    marker: str = "o"
    dashed: bool = False


@dataclass(frozen=True)
class Panel:
    """One panel: its title and what is drawn into it."""

    title: str
    domains: tuple[DomainKey, ...]
    series: tuple[Series, ...]


@dataclass(frozen=True)
class Plan:
    """What is drawn where, for one axis.

    Attributes:
        panels: In rows, from the top left.
        columns: Panels side by side.
        entries: The legend's entries.
        words: What is said above them.
        ringed: Whether the chosen point is ringed; else the chosen value is marked.
        connected: Whether the points of a series are a line.
        rows: Point -> the setting that its panels show, where an axis has panels of its own.
    """

    panels: tuple[Panel, ...]
    columns: int
    entries: list[Line2D]
    words: list[str]
    ringed: bool
    connected: bool
    rows: dict[str, str]


@dataclass(frozen=True)
class Row:
    """The row of one value in a dot plot: its place in inches, and its dots at most."""

    middle: float
    height: float
    most: int


def draw_axis(tables: SweepTables, axis: str) -> tuple[Figure, pd.DataFrame] | None:
    """The objective's metric against the values of one axis.

    Without other axes, one panel with a line per domain. Else a panel per domain with a line per
    setting of the other axes, so that those can be compared; a third axis of few values gets
    panels of its own, and what cannot be told apart is held at the best point's values. A numeric
    axis gets lines, with slots at its side for points without a number; any other gets dots.
    Shown are means over runs; where there is room, one standard deviation and each run.

    Returns:
        The figure and its numbers; None where the axis has a single value.
    """
    settings = Settings(tables)
    if len(settings.values(axis)) < 2:
        return None
    numeric = settings.numeric(axis)
    plan = plan_axis(settings, axis)
    figure = _lines(settings, axis, plan) if numeric else _dots(settings, axis, plan)
    head(figure, plan.entries, plan.words)
    return figure, _numbers(settings, axis, plan)


def plan_axis(settings: Settings, axis: str) -> Plan:
    """Decide what is drawn where."""
    tables = settings.tables
    others = [other for other in settings.axes if other != axis]
    groups: dict[tuple[State, ...], list[str]] = {}
    for point in tables.order:
        groups.setdefault(settings.group(point, others), []).append(point)
    # Where no two points agree in the other axes (random draws) there is no line to follow.
    scattered = len(others) > 0 and max(map(len, groups.values())) < 2
    if scattered or not others:
        return _plan_overlay(settings, axis, scattered)
    return _plan_panels(settings, axis, others)


def _plan_overlay(settings: Settings, axis: str, scattered: bool) -> Plan:
    """A series per domain: in one panel, but in one each where many dots would share a row."""
    tables = settings.tables
    shown, left = _domains(tables, tables.domains)
    colours = domain_colours(tables)
    series = tuple(
        Series(domain, tables.order, colours[domain], "o", domain.role == "val") for domain in shown
    )
    entries = [
        Line2D(
            [],
            [],
            color=one.colour,
            linestyle="" if scattered else "--" if one.dashed else "-",
            marker="o",
            markersize=4,
            markerfacecolor="white" if one.dashed else one.colour,
            label=f"{shorten(printable(one.domain.name), 1.25, 8.5)} "
            f"({_ROLES.get(one.domain.role, one.domain.role)})",
        )
        for one in series
    ]
    words = [_spread_words(tables, True, "; single runs as faint dots"), left]
    if not scattered:
        panel = Panel("", tuple(shown), series)
        return Plan((panel,), 1, entries, words, False, True, {})
    words.append("a dot per point: its other axes differ too")
    ring = Look(settings).entries("dot", tables.order, ring=True)
    if settings.numeric(axis):
        panel = Panel("", tuple(shown), series)
        return Plan((panel,), 1, entries + ring, words, True, False, {})
    panels = tuple(Panel(_domain_title(one.domain), (one.domain,), (one,)) for one in series)
    words[0] = _spread_words(tables, len(tables.order) <= _FEW_DOTS)
    return Plan(panels, columns_of(len(panels)), ring, words, True, False, {})


def _plan_panels(settings: Settings, axis: str, others: Sequence[str]) -> Plan:
    """A panel per domain, a series per setting of the other axes."""
    tables = settings.tables
    hue, shade, rest = choose_axes(settings, others)
    domains, left = _domains(tables, tables.domains)
    third, mark, shown = _third(settings, rest, domains)
    unseen = "validation: see the CSV" if shown != domains else ""
    domains = shown
    states: tuple[State, ...] = (None,) if third is None else settings.states(third)
    rest = [other for other in rest if other not in (third, mark)]
    held = {other: settings.reference(other) for other in rest}
    kept = [
        point
        for point in tables.order
        if all(settings.state(point, a) in (None, state) for a, state in held.items())
    ]
    look = Look(settings, hue, shade, mark)
    groups: dict[tuple[State, ...], list[str]] = {}
    for point in sorted(kept, key=look.rank):
        groups.setdefault(settings.group(point, others), []).append(point)
    panels = []
    rows: dict[str, str] = {}
    named = [""] if third is None else [settings.named(third, state) for state in states]
    for state, row in zip(states, shorten_apart(named, _WIDEST_ROW, 9.5), strict=True):
        mine = [
            tuple(points)
            for points in groups.values()
            if third is None or settings.state(points[0], third) == state
        ]
        rows |= {point: row for points in mine for point in points}
        for domain in domains:
            series = tuple(
                Series(domain, points, look.colour(points[0]), look.marker(points[0]))
                for points in mine
            )
            above = ", ".join(word for word in (_domain_title(domain), row) if word)
            panels.append(Panel(above, (domain,), series))
    most = max(len(panel.series) for panel in panels)
    few = most <= (_FEW_LINES if settings.numeric(axis) else _FEW_DOTS)
    words = [_spread_words(tables, few), *look.words(), _held_words(settings, held), left, unseen]
    kind = "line" if settings.numeric(axis) else "dot"
    entries = look.entries(kind, kept, ring=True)
    columns = len(domains) if len(states) > 1 and len(domains) > 1 else columns_of(len(panels))
    return Plan(tuple(panels), columns, entries, words, True, True, rows)


def _third(
    settings: Settings, rest: Sequence[str], domains: list[DomainKey]
) -> tuple[str | None, str | None, list[DomainKey]]:
    """The axis that gets panels, or else the one that gets markers, and the domains to show.

    Validation makes room for panels where test stands for the same images. An axis that does not
    apply everywhere gets none: they would keep apart what is to be compared.
    """
    outside = [domain for domain in domains if domain.role != "val"]
    tested = any(domain.role == "test" for domain in domains)
    for axis in rest:
        for shown in (domains, outside) if tested else (domains,):
            many = len(shown) * len(settings.states(axis))
            if settings.everywhere(axis) and many <= MOST_PANELS:
                return axis, None, shown
    marks = [axis for axis in rest if len(settings.states(axis)) <= len(MARKERS)]
    return None, marks[0] if marks else None, domains


def _domains(tables: SweepTables, domains: Sequence[DomainKey]) -> tuple[list[DomainKey], str]:
    """The domains that are shown, and the words for those that are not."""
    if len(domains) <= _MOST_DOMAINS:
        return list(domains), ""
    inside = [domain for domain in domains if domain.role != "ood"]
    shown = [*inside, *tables.of_role("ood")][:_MOST_DOMAINS]
    return shown, f"{count(len(domains) - len(shown), 'more domain')}: see the CSV"


def _domain_title(domain: DomainKey) -> str:
    name = shorten(printable(domain.name), 1.3, 9.5, "bold")
    return f"{name} (OOD)" if domain.role == "ood" else f"{name} {domain.role}"


def _held_words(settings: Settings, held: dict[str, State]) -> str:
    if not held:
        return ""
    whose = "the chosen point" if settings.tables.selected else "the best point"
    texts = [settings.named(axis, state) for axis, state in held.items()]
    return f"held as in {whose}: {listing(texts)}"


def _spread_words(tables: SweepTables, shown: bool, more: str = "") -> str:
    if tables.points["n"].max() < 2:
        return "one run per point"
    if not shown:
        return "mean over runs (SD: see the CSV)"
    return f"mean ± SD over runs{more}"


# Lines


def _lines(settings: Settings, axis: str, plan: Plan) -> Figure:
    tables = settings.tables
    width = {1: 5.6, 2: 3.7}.get(plan.columns, 3.1)
    figure, _, places = panel_grid(len(plan.panels), plan.columns, width, 2.75)
    line = NumberLine(settings, axis, width - _BESIDE)
    for place, panel in zip(places, plan.panels, strict=True):
        for one in panel.series:
            _draw_line(place, settings, axis, line, one, panel, plan)
        line.dress(place)
        title(place, panel.title, width - _BESIDE, pad=17 if not plan.ringed else 8)
        if not plan.ringed and tables.selected is not None:
            _mark_chosen(place, line.place(settings.state(tables.selected, axis)))
    _limit(settings, plan, places, Axes.set_ylim)
    for place in lowest(places, plan.columns):
        place.set_xlabel(shorten(axis, width - 0.4, 8.5))
    for place in places[:: plan.columns]:
        place.set_ylabel(metric_label(settings.tables.objective.metric))
    return figure


def _draw_line(
    place: Axes,
    settings: Settings,
    axis: str,
    line: NumberLine,
    one: Series,
    panel: Panel,
    plan: Plan,
) -> None:
    tables = settings.tables
    few = len(panel.series) <= _FEW_LINES or len(panel.domains) > 1
    where = {point: line.place(settings.state(point, axis)) for point in one.points}
    on_line = [point for point in one.points if not _slot(settings, axis, line, point)]
    on_line.sort(key=where.__getitem__)
    x, mean, std = _columns_of(tables, one.domain, on_line, where)
    face = "white" if one.dashed else one.colour
    style = ("--" if one.dashed else "-") if plan.connected else "None"
    if few and plan.connected:
        place.fill_between(x, mean - std, mean + std, color=one.colour, alpha=0.13, linewidth=0)
    place.plot(
        x, mean, linestyle=style, color=one.colour, marker=one.marker, markersize=4, zorder=3,
        markerfacecolor=face, linewidth=1.6 if few else 1.1,
    )  # fmt: skip
    # Beside each other in their slot: means that agree would hide one another.
    beside = [s for s in panel.series if any(_slot(settings, axis, line, p) for p in s.points)]
    index = beside.index(one) if one in beside else 0
    apart = (index - (len(beside) - 1) / 2) * min(0.09, 0.3 / max(1, len(beside)))
    for point in one.points:
        if point in on_line:
            continue
        score = tables.score(point, one.domain, tables.objective.metric)
        at = where[point] + apart * line.per_inch
        place.errorbar(
            [at], [score.mean], yerr=[score.std] if few and math.isfinite(score.std) else None,
            fmt=one.marker, color=one.colour, markerfacecolor=face, markersize=5, elinewidth=1.1,
            zorder=3,
        )  # fmt: skip
        if plan.connected:
            # A level to compare the lines with.
            place.axhline(score.mean, color=one.colour, linewidth=0.8, linestyle=(0, (1, 2.5)))
        where[point] = at
    for point in one.points if few else ():
        runs = settings.runs(point, one.domain)
        place.plot(
            [where[point]] * len(runs), runs, ".", color=one.colour, alpha=0.35, markersize=5, mew=0
        )
    if plan.ringed and tables.selected in one.points:
        chosen = str(tables.selected)
        _ring(place, where[chosen], tables.score(chosen, one.domain, tables.objective.metric).mean)


def _slot(settings: Settings, axis: str, line: NumberLine, point: str) -> bool:
    """Whether a point stands beside the line."""
    return settings.state(point, axis) in line.slots


def _mark_chosen(place: Axes, x: float) -> None:
    place.axvline(x, color=CHOSEN, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    # Read from the middle, towards the inside at both ends: it stays within the panel.
    low, high = place.get_xlim()
    share = (x - low) / (high - low)
    place.annotate(
        "▼ chosen on val", (x, 1.0), xycoords=("data", "axes fraction"), fontsize=7, va="bottom",
        ha="left" if share < 0.12 else "right" if share > 0.88 else "center", color=CHOSEN,
        annotation_clip=False,
    )  # fmt: skip


def _ring(place: Axes, x: float, y: float) -> None:
    place.plot([x], [y], "o", mfc="none", mec=CHOSEN, ms=10, mew=1.1, zorder=5)


# Dots


def _dots(settings: Settings, axis: str, plan: Plan) -> Figure:
    states = list(settings.states(axis))
    if len(states) > _MOST_ROWS:
        best = list(dict.fromkeys(settings.state(point, axis) for point in settings.ranked))
        states = [state for state in states if state in best[:_MOST_ROWS]]
        more = count(len(settings.states(axis)) - len(states), "more value")
        plan.words.append(f"the {_MOST_ROWS} best values on val; {more}: see the CSV")
    rows = _rows(settings, axis, plan, states)
    labels = shorten_apart([settings.label(axis, s) for s in states], _WIDEST_TICK, 8)
    beside = max(text_width(label, 8) for label in labels) + 0.45
    width = {1: 5.6, 2: 3.7}.get(plan.columns, 3.1)
    height = max(1.3, sum(row.height for row in rows.values()) + 0.75)
    figure, _, places = panel_grid(len(plan.panels), plan.columns, width, height)
    # The labels stand beside the first column alone.
    wide, high = figure.get_size_inches()
    figure.set_size_inches(wide + beside - 0.3, high)
    for index, (place, panel) in enumerate(zip(places, plan.panels, strict=True)):
        _draw_dots(place, settings, axis, panel, plan, rows)
        place.grid(axis="y", visible=False)
        place.grid(axis="x", visible=True)
        place.set_yticks([rows[state].middle for state in states], labels)
        place.tick_params(axis="y", length=0, labelleft=index % plan.columns == 0)
        place.set_ylim(0, max(row.middle + row.height / 2 for row in rows.values()))
        title(place, panel.title, width - 0.4)
    _limit(settings, plan, places, Axes.set_xlim)
    for place in lowest(places, plan.columns):
        place.set_xlabel(metric_label(settings.tables.objective.metric))
    for place in places:
        place.locator_params(axis="x", nbins=5)
    figure.supylabel(shorten(axis, height * len(places) / plan.columns - 0.3, 8.5), fontsize=8.5)
    apart = all(len(panel.domains) == 1 for panel in plan.panels)
    if apart and any(row.most > _FEW_DOTS for row in rows.values()):
        plan.words.append("grey line: median of a value's points")
    return figure


def _rows(settings: Settings, axis: str, plan: Plan, states: Sequence[State]) -> dict[State, Row]:
    """The place of each state in a dot plot, from the top; rows of more dots are higher."""
    most = dict.fromkeys(states, 1)
    for panel in plan.panels:
        points = [point for one in panel.series for point in one.points]
        for state in states:
            inside = sum(settings.state(point, axis) == state for point in points)
            most[state] = max(most[state], inside)
    least = 0.42 if len(states) <= 12 else 0.2
    heights = {
        state: max(least, 0.1 * n + 0.12 if n <= _FEW_DOTS else 0.065 * n + 0.33)
        for state, n in most.items()
    }
    shrunk = min(1.0, _HIGHEST / sum(heights.values()))
    rows: dict[State, Row] = {}
    bottom = 0.0
    for state in reversed(states):
        height = heights[state] * shrunk
        rows[state] = Row(bottom + height / 2, height, most[state])
        bottom += height
    return rows


def _draw_dots(
    place: Axes, settings: Settings, axis: str, panel: Panel, plan: Plan, rows: dict[State, Row]
) -> None:
    tables = settings.tables
    inside: dict[State, list[tuple[Series, str]]] = {state: [] for state in rows}
    for one in panel.series:
        for point in one.points:
            inside.get(settings.state(point, axis), []).append((one, point))
    for state, found in inside.items():
        row = rows[state]
        # In the same order in each row: the dots of a row read like a small curve.
        half = min(0.4 * row.height, 0.05 * (len(found) - 1))
        heights = row.middle + np.linspace(half, -half, len(found))
        if row.middle > row.height and len(panel.domains) == 1:
            edge = row.middle - row.height / 2
            place.axhline(edge, color="#e6e6e6", linewidth=0.6, zorder=0.5)
        few = len(found) <= _FEW_DOTS
        means = [
            tables.score(point, one.domain, tables.objective.metric).mean for one, point in found
        ]
        if not few and len(panel.domains) == 1 and np.isfinite(means).any():
            place.vlines(
                float(np.nanmedian(means)), row.middle - 0.45 * row.height,
                row.middle + 0.45 * row.height, color="#b4b4b4", linewidth=1.2, zorder=1,
            )  # fmt: skip
        for (one, point), mean, height in zip(found, means, heights, strict=True):
            y = float(height)
            std = tables.score(point, one.domain, tables.objective.metric).std
            if few:
                runs = settings.runs(point, one.domain)
                place.plot(runs, [y] * len(runs), ".", color=one.colour, alpha=0.35, ms=5, mew=0)
            place.errorbar(
                [mean], [y], xerr=[std] if few and math.isfinite(std) else None,
                fmt=one.marker, color=one.colour, markersize=4.5 if few else 3.6, elinewidth=1.1,
                markerfacecolor="white" if one.dashed else one.colour, zorder=3,
            )  # fmt: skip
            if plan.ringed and point == tables.selected:
                _ring(place, mean, y)
    if not plan.ringed and tables.selected is not None:
        chosen = rows.get(settings.state(tables.selected, axis))
        if chosen is not None:
            low, high = chosen.middle - chosen.height / 2, chosen.middle + chosen.height / 2
            place.axhspan(low, high, color="#f1f1f1", zorder=0, linewidth=0)
            note(place, "shaded: chosen on val")


# Numbers


def _limit(
    settings: Settings, plan: Plan, places: Sequence[Axes], apply: Callable[..., object]
) -> None:
    """The same limits for all panels of a domain, and the same span for all domains."""
    tables = settings.tables
    groups: dict[tuple[DomainKey, ...], list[float]] = {}
    for panel in plan.panels:
        values = groups.setdefault(panel.domains, [])
        for one in panel.series:
            for point in one.points:
                score = tables.score(point, one.domain, tables.objective.metric)
                few = len(panel.series) <= _FEW_DOTS or len(panel.domains) > 1
                std = score.std if few and math.isfinite(score.std) else 0.0
                values += [score.mean - std, score.mean + std]
                values += settings.runs(point, one.domain) if few else []
    limits = dict(zip(groups, same_span(list(groups.values())), strict=True))
    for place, panel in zip(places, plan.panels, strict=True):
        apply(place, *limits[panel.domains])


def _columns_of(
    tables: SweepTables, domain: DomainKey, points: Sequence[str], where: dict[str, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    scores = [tables.score(point, domain, tables.objective.metric) for point in points]
    return (
        np.array([where[point] for point in points]),
        np.array([score.mean for score in scores]),
        np.array([score.std for score in scores]),
    )


def _numbers(settings: Settings, axis: str, plan: Plan) -> pd.DataFrame:
    tables = settings.tables
    others = [other for other in settings.axes if other != axis]
    drawn = {point for panel in plan.panels for one in panel.series for point in one.points}
    scores, metric = tables.run_scores, tables.objective.metric
    by_point = dict(list(scores[scores["metric"] == metric].groupby("point")))
    rows: list[dict[str, Any]] = []
    for point in tables.order:
        if point not in drawn:
            continue
        base = {
            "panel": plan.rows.get(point, ""),
            axis: settings.label(axis, settings.state(point, axis)),
            "others": settings.text(point, others),
            "point": point,
        }
        mine = by_point.get(point, scores.iloc[:0]).sort_values(["fold", "seed", "run_id"])
        for domain in tables.domains:
            where = {"role": domain.role, "domain": domain.name, "chosen": point == tables.selected}
            score = tables.score(point, domain, tables.objective.metric)
            rows.append(
                {**base, **where, "kind": "mean", "run_id": "", metric: score.mean}
                | {"std": score.std, "n": score.n, "n_undefined": score.n_undefined}
            )
            inside = mine[(mine["role"] == domain.role) & (mine["domain"] == domain.name)]
            rows += [
                {**base, **where, "kind": "run", "run_id": run_id, metric: value}
                | {"std": math.nan, "n": 1, "n_undefined": int(math.isnan(value))}
                for run_id, value in zip(inside["run_id"], inside["value"], strict=True)
            ]
    return pd.DataFrame(rows)
