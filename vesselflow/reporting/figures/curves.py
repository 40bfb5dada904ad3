"""Learning curves: train loss, the objective and moving schedules against the epoch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vesselflow.reporting.figures.layout import MOST_PANELS, head, lowest, panel_grid, title
from vesselflow.reporting.figures.look import DASHES, Look, choose_axes
from vesselflow.reporting.figures.settings import Settings, State
from vesselflow.reporting.style import breathe
from vesselflow.reporting.sweep_tables import SweepTables
from vesselflow.reporting.wording import count, listing

#: Curves in a panel up to which their spread is drawn, and epochs up to which each is marked.
_FEW_CURVES, _FEW_EPOCHS = 6, 12
#: Schedules that are drawn; more stand in the CSV.
_MOST_SCHEDULES = 2
#: From this ratio of the largest to the smallest last loss on, losses share a logarithmic scale.
_LOG_RATIO = 20.0


def draw_curves(tables: SweepTables) -> tuple[Figure, pd.DataFrame] | None:
    """Train loss, the objective on validation, and schedules that move; a line per point.

    Lines are means over runs. All points share a panel, told apart by hue and shade; a further axis
    of few values gets a column per value, or else line styles. None where the sweep has no curves.
    """
    epochs = tables.epochs
    schedules = moving_scalars(epochs)
    wanted = {"train/loss": "train loss", tables.objective.curve: tables.objective.label}
    wanted |= {name: name.removeprefix("train/").replace("loss.", "loss ") for name in schedules}
    names = [name for name in wanted if (epochs["name"] == name).any()]
    if not names:
        return None
    settings = Settings(tables)
    numbers = _numbers(tables, names)
    hidden = schedules[_MOST_SCHEDULES:]
    names = [name for name in names if name not in hidden]
    drawn = set(numbers["point"])
    points = [point for point in tables.order if point in drawn]

    hue, shade, rest = choose_axes(settings, settings.axes)
    split: str | None = None
    states: tuple[State, ...] = (None,)
    look = Look(settings, hue, shade)
    for axis in list(rest):
        values = settings.states(axis)
        narrow = len(values) <= 3 and len(values) * len(names) <= MOST_PANELS
        if split is None and narrow and settings.everywhere(axis):
            split, states = axis, values
        elif look.dash is None and len(values) <= len(DASHES):
            look = replace(look, dash=axis)
        else:
            continue
        rest.remove(axis)

    columns = len(states)
    width = 6.4 if columns == 1 else 3.7 if columns == 2 else 3.1
    figure, grid, places = panel_grid(len(names) * columns, columns, width, 2.35)
    groups = {
        state: [p for p in points if split is None or settings.state(p, split) == state]
        for state in states
    }
    for row, name in enumerate(names):
        mine = numbers[numbers["name"] == name]
        for column, state in enumerate(states):
            place = grid[row, column]
            inside = sorted(groups[state], key=lambda p: (p == tables.selected, look.rank(p)))
            few = len(inside) <= _FEW_CURVES
            for point in inside:
                _draw_curve(place, mine[mine["point"] == point], look, point, few)
            if row == 0 and split is not None:
                title(place, settings.named(split, state), width - 0.7)
            if column == 0:
                place.set_ylabel(wanted[name])
        _same_y(grid[row], mine, logarithmic=name == "train/loss")
    same_epochs(places, numbers["epoch"])
    for place in lowest(places, columns):
        place.set_xlabel("epoch")
    spread = f"mean{' ± SD' if max(map(len, groups.values())) <= _FEW_CURVES else ''} over runs"
    words = ["one run per point" if numbers["n"].max() < 2 else spread, *look.words()]
    if tables.selected in points and len(points) > 1:
        words.append("thick: chosen on val")
    if rest:
        words.append(f"not told apart: {listing(tables.names[axis] for axis in rest)}")
    if hidden:
        words.append(f"{count(len(hidden), 'more schedule')}: see the CSV")
    head(figure, look.entries("line", points), words)
    return figure, numbers


def _draw_curve(place: Axes, curve: pd.DataFrame, look: Look, point: str, few: bool) -> None:
    if curve.empty:
        return
    x, mean, std = (curve[key].to_numpy(float) for key in ("epoch", "mean", "std"))
    colour = look.colour(point)
    chosen = point == look.settings.tables.selected
    if few:
        place.fill_between(x, mean - std, mean + std, color=colour, alpha=0.14, linewidth=0)
    # A single epoch, or one between undefined ones, is no line: without a mark it would not show.
    known = np.isfinite(mean)
    alone = known & ~np.append(known[1:], False) & ~np.append(False, known[:-1])
    marked = bool(alone.any()) or (few and len(x) <= _FEW_EPOCHS)
    if chosen:
        # A pale edge: among many curves the thick one would drown.
        place.plot(x, mean, color="white", linewidth=4.6)
    place.plot(
        x, mean, look.line(point), color=colour, linewidth=2.6 if chosen else 1.2 if few else 0.9,
        marker="o" if marked else "", markersize=6.0 if chosen else 4.0,
    )  # fmt: skip


def same_epochs(places: Sequence[Axes], epochs: pd.Series) -> None:
    """The same epochs in all panels; a score of the last epoch stands below the last loss."""
    first, last = int(epochs.min()), int(epochs.max())
    room = max(0.5, 0.04 * (last - first))
    for place in places:
        place.set_xlim(first - room, last + room)
        if last - first < 4:
            place.set_xticks(range(first, last + 1))
        else:
            place.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))


def _same_y(places: Sequence[Axes], curves: pd.DataFrame, *, logarithmic: bool) -> None:
    """The same limits for the panels of a row."""
    last = curves.sort_values("epoch").groupby("point")["mean"].last().dropna()
    if logarithmic and not last.empty and curves["mean"].min() > 0:
        logarithmic = bool(last.max() / last.min() >= _LOG_RATIO)
    else:
        logarithmic = False
    values = curves["mean"].dropna()
    for place in places:
        if logarithmic:
            place.set_yscale("log")
        elif not values.empty:
            breathe(place, float(values.min()), float(values.max()))


def moving_scalars(epochs: pd.DataFrame) -> list[str]:
    """Names of the loss's scalars that change within some run."""
    scalars = epochs[epochs["name"].astype(str).str.startswith("train/loss.")]
    if scalars.empty:
        return []
    values = scalars.groupby(["name", "run_id"])["value"]
    span = (values.max() - values.min()).groupby("name").max()
    # Equal values that were averaged over different numbers of steps differ in the last digits.
    return sorted(str(name) for name in span[span > 1e-9].index)


def _numbers(tables: SweepTables, names: Sequence[str]) -> pd.DataFrame:
    epochs = tables.epochs
    kept = epochs[epochs["point"].isin(tables.order) & epochs["name"].isin(names)]
    grouped = kept.groupby(["point", "name", "epoch"])["value"]
    curves = grouped.agg(mean="mean", std="std", n="count").reset_index()
    rank = {point: index for index, point in enumerate(tables.order)}
    order = curves["point"].map(rank)
    return curves.assign(order=order).sort_values(["order", "name", "epoch"]).drop(columns="order")
