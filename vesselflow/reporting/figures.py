"""The figures of a sweep as PNG, each with the numbers that it shows as CSV beside it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vesselflow.reporting.figure_files import replace_figures
from vesselflow.reporting.overlays import draw_predictions
from vesselflow.reporting.style import (
    CATEGORIES,
    CHOSEN,
    MARKERS,
    SOFT,
    breathe,
    domain_colours,
    sequence,
    styled,
    value_ticks,
)
from vesselflow.reporting.tables import Domain, SweepTables, load_tables
from vesselflow.reporting.wording import point_text, printable, value_text

#: More panels than this are not drawn: the other axes are held at the chosen point's values.
_MOST_PANELS = 9
_PANELS_A_ROW = 3
#: From this ratio of largest to smallest on, a positive axis (a learning rate) is logarithmic.
_LOG_RATIO = 50.0

Told = Callable[[int, int], None]


@dataclass(frozen=True)
class Panel:
    """The points of one panel: those that agree in all axes but the one that is drawn."""

    title: str
    points: tuple[str, ...]


def write_figures(sweep: SweepTables | str | Path, *, told: Told | None = None) -> list[Path]:
    """Draw all figures of a sweep into ``report/figures``.

    Drawn are: Dice against each axis of the grid (``dice_by_<axis>.png``), the learning curves
    (``learning_curves.png``), out-of-distribution against in-distribution Dice
    (``in_against_out.png``), and the chosen point's best and worst predictions
    (``predictions.png``). A figure for which the sweep has no data is left out. Equal tables give
    equal files. All are drawn before the first is written; those of an earlier report are replaced
    or removed, a user's own files stay.

    Args:
        sweep: The sweep's folder, or its tables where they are read already.
        told: Called before each figure and at the end with (figures done, figures in all).

    Returns:
        The PNG files that were written; each has a CSV file of the same name beside it.

    Raises:
        UserError: The folder is no sweep, or has no results.
    """
    tables = sweep if isinstance(sweep, SweepTables) else load_tables(sweep)
    jobs: list[tuple[str, Callable[[SweepTables], tuple[Figure, pd.DataFrame] | None]]] = [
        (f"dice_by_{_file_name(axis)}", _axis_job(axis)) for axis in tables.axes
    ]
    jobs += [
        ("learning_curves", draw_curves),
        ("in_against_out", draw_gap),
        ("predictions", draw_predictions),
    ]
    files: dict[str, bytes] = {}
    for index, (name, draw) in enumerate(jobs):
        if told is not None:
            told(index, len(jobs))
        with styled():
            drawn = draw(tables)
            if drawn is None:
                continue
            figure, numbers = drawn
            try:
                picture = io.BytesIO()
                figure.savefig(picture, format="png", bbox_inches="tight", pad_inches=0.12)
            finally:
                plt.close(figure)
        files[f"{name}.csv"] = numbers.to_csv(index=False, lineterminator="\n").encode()
        files[f"{name}.png"] = picture.getvalue()
    written = replace_figures(tables.folder, files)
    if told is not None:
        told(len(jobs), len(jobs))
    return [path for path in written if path.suffix == ".png"]


def _axis_job(axis: str) -> Callable[[SweepTables], tuple[Figure, pd.DataFrame] | None]:
    return lambda tables: draw_axis(tables, axis)


def _file_name(axis: str) -> str:
    return "".join(char if char.isalnum() or char in "._-" else "_" for char in axis)


# Dice against an axis


def draw_axis(tables: SweepTables, axis: str) -> tuple[Figure, pd.DataFrame] | None:
    """Dice against the values of one axis, a line (or dots) per domain, a panel per other setting.

    Shown are the mean over runs, a band of one standard deviation, and each run as a faint dot.
    A numeric axis gets lines; any other gets a dot plot. None where the axis has a single value.
    """
    values = _distinct(tables, axis)
    if len(values) < 2:
        return None
    numeric = is_numeric(values)
    panels, held = panels_of(tables, axis)
    columns = _columns(len(panels))
    rows = math.ceil(len(panels) / columns)
    height = 2.75 if numeric else 0.9 + 0.42 * len(values)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(max(4.6, 3.1 * columns), height * rows + 0.35),
        sharey=True,
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    numbers = _axis_numbers(tables, axis, panels)
    for place, panel in zip(grid.flat, panels, strict=False):
        _draw_lines(place, tables, axis, panel) if numeric else _draw_dots(
            place, tables, axis, panel
        )
        # Room above a panel of lines for the mark of the chosen value.
        place.set_title(panel.title, pad=17 if numeric else 8)
    _hide_rest(grid, len(panels))
    shown = numbers["dice"].dropna()
    for place in grid.flat if numeric and not shown.empty else ():
        breathe(place, float(shown.min()), float(shown.max()))
    label = f"{axis}{held}"
    if numeric:
        grid[0, 0].set_ylabel("Dice")
        for place in _bottom(grid, len(panels)):
            place.set_xlabel(label)
        if _logarithmic([v for v in values if v is not None]):
            grid[0, 0].set_xscale("log")
        ticks = [v for v in values if v is not None]
        value_ticks(grid[0, 0], ticks, [value_text(v) for v in ticks])
    else:
        for place in _bottom(grid, len(panels)):
            place.set_xlabel("Dice")
        figure.supylabel(label, fontsize=8.5)
    _domain_legend(figure, tables)
    return figure, numbers


def _draw_lines(place: Axes, tables: SweepTables, axis: str, panel: Panel) -> None:
    colours = domain_colours(tables)
    everywhere = [v for v in _distinct(tables, axis) if v is not None]
    scored = [point for point in panel.points if tables.values[point][axis] is not None]
    apart = [point for point in panel.points if tables.values[point][axis] is None]
    for domain in tables.domains:
        style = "--" if domain.role == "val" else "-"
        colour = colours[domain]
        points = sorted(scored, key=lambda point: float(tables.values[point][axis]))
        x = np.array([float(tables.values[point][axis]) for point in points])
        mean = np.array([tables.score(point, domain, "dice").mean for point in points])
        std = np.array([tables.score(point, domain, "dice").std for point in points])
        if len(points):
            place.fill_between(x, mean - std, mean + std, color=colour, alpha=0.13, linewidth=0)
            place.plot(
                x,
                mean,
                style,
                color=colour,
                marker="o",
                markersize=4,
                markerfacecolor="white" if domain.role == "val" else colour,
                zorder=3,
            )
        for point in scored:
            runs = _runs_of(tables, point, domain)
            place.plot(
                [float(tables.values[point][axis])] * len(runs),
                runs,
                ".",
                color=colour,
                alpha=0.35,
                markersize=5,
                markeredgewidth=0,
            )
        for point in apart:
            # The axis does not apply: the point is a level to compare with, not a place on it.
            score = tables.score(point, domain, "dice")
            place.axhline(score.mean, linestyle=style, color=colour, linewidth=1.2)
            if math.isfinite(score.std):
                place.axhspan(
                    score.mean - score.std, score.mean + score.std, color=colour, alpha=0.1, lw=0
                )
    if apart and not scored:
        place.text(
            0.5,
            0.02,
            f"has no {axis}",
            transform=place.transAxes,
            ha="center",
            color=SOFT,
            size=7.5,
        )
    if tables.selected in scored:
        x_chosen = float(tables.values[str(tables.selected)][axis])
        _mark_chosen(place, x_chosen)
    elif tables.selected in apart:
        _mark_chosen(place, 0.5 * (min(everywhere) + max(everywhere)), line=False)


def _mark_chosen(place: Axes, x: float, *, line: bool = True) -> None:
    if line:
        place.axvline(x, color=CHOSEN, linewidth=0.8, linestyle=(0, (1, 2)), zorder=1)
    place.annotate(
        "▼ chosen on val",
        (x, 1.0),
        xycoords=("data", "axes fraction"),
        ha="center",
        va="bottom",
        fontsize=7,
        color=CHOSEN,
        annotation_clip=False,
    )


def _draw_dots(place: Axes, tables: SweepTables, axis: str, panel: Panel) -> None:
    colours = domain_colours(tables)
    values = _distinct(tables, axis)
    rows = {_key(value): len(values) - 1 - index for index, value in enumerate(values)}
    offsets = np.linspace(0.24, -0.24, len(tables.domains)) if len(tables.domains) > 1 else [0.0]
    for domain, offset in zip(tables.domains, offsets, strict=True):
        hollow = domain.role == "val"
        for point in panel.points:
            y = rows[_key(tables.values[point][axis])] + offset
            score = tables.score(point, domain, "dice")
            runs = _runs_of(tables, point, domain)
            place.plot(
                runs, [y] * len(runs), ".", color=colours[domain], alpha=0.35, markersize=5, mew=0
            )
            place.errorbar(
                [score.mean],
                [y],
                xerr=None if math.isnan(score.std) else [score.std],
                fmt="o",
                color=colours[domain],
                markerfacecolor="white" if hollow else colours[domain],
                markersize=4.5,
                elinewidth=1.1,
                zorder=3,
            )
    if tables.selected in panel.points:
        y = rows[_key(tables.values[str(tables.selected)][axis])]
        place.axhspan(y - 0.42, y + 0.42, color="#f1f1f1", zorder=0, linewidth=0)
        _note(place, "shaded: chosen on val")
    place.grid(axis="y", visible=False)
    place.grid(axis="x", visible=True)
    place.set_yticks([rows[_key(v)] for v in values], [value_text(v) for v in values])
    place.tick_params(axis="y", length=0)
    place.set_ylim(-0.6, len(values) - 0.4)


def _note(place: Axes, text: str) -> None:
    """A small remark above a panel, at its right end."""
    place.annotate(
        text, (1, 1), xycoords="axes fraction", xytext=(0, 5), textcoords="offset points",
        ha="right", va="bottom", fontsize=7, color=CHOSEN, annotation_clip=False,
    )  # fmt: skip


def _bottom(grid: np.ndarray, shown: int) -> list[Axes]:
    """The lowest visible panel of each column; their x axes carry the labels."""
    columns = grid.shape[1]
    return [
        grid.flat[max(index for index in range(shown) if index % columns == column)]
        for column in range(min(columns, shown))
    ]


def _columns(panels: int) -> int:
    """Panels side by side; four make a square."""
    return 2 if panels == 4 else min(panels, _PANELS_A_ROW)


def _hide_rest(grid: np.ndarray, shown: int) -> None:
    for place in list(grid.flat)[shown:]:
        place.set_visible(False)
    for place in _bottom(grid, shown):
        place.tick_params(labelbottom=True)


def _spread_words(tables: SweepTables, more: str = "") -> str:
    if tables.points["n"].max() < 2:
        return "one run per point"
    return f"mean ± SD over runs{more}"


def _domain_legend(figure: Figure, tables: SweepTables) -> None:
    colours = domain_colours(tables)
    words = {"val": "validation", "test": "test", "ood": "out of distribution"}
    handles = [
        Line2D(
            [],
            [],
            color=colours[domain],
            linestyle="--" if domain.role == "val" else "-",
            marker="o",
            markersize=4,
            markerfacecolor="white" if domain.role == "val" else colours[domain],
            label=f"{printable(domain.name)} ({words.get(domain.role, domain.role)})",
        )
        for domain in tables.domains
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=min(len(handles), 4),
        title=_spread_words(tables, "; single runs as faint dots"),
        title_fontsize=7.5,
    )


def _axis_numbers(tables: SweepTables, axis: str, panels: Sequence[Panel]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for panel in panels:
        for point in panel.points:
            base = {"panel": panel.title, axis: value_text(tables.values[point][axis])}
            for domain in tables.domains:
                where = {"point": point, "role": domain.role, "domain": domain.name}
                score = tables.score(point, domain, "dice")
                rows.append(
                    {**base, **where, "chosen": point == tables.selected, "kind": "mean"}
                    | {"run_id": "", "dice": score.mean, "std": score.std}
                    | {"n": score.n, "n_undefined": score.n_undefined}
                )
                scores = _scores_of(tables, point, domain)
                rows += [
                    {**base, **where, "chosen": point == tables.selected, "kind": "run"}
                    | {"run_id": run_id, "dice": value, "std": math.nan, "n": 1}
                    | {"n_undefined": int(math.isnan(value))}
                    for run_id, value in zip(scores["run_id"], scores["value"], strict=True)
                ]
    return pd.DataFrame(rows)


def _scores_of(
    tables: SweepTables, point: str, domain: Domain, metric: str = "dice"
) -> pd.DataFrame:
    scores = tables.run_scores
    keep = (scores["point"] == point) & (scores["role"] == domain.role)
    keep &= (scores["domain"] == domain.name) & (scores["metric"] == metric)
    return scores[keep].sort_values(["fold", "seed", "run_id"])


def _runs_of(tables: SweepTables, point: str, domain: Domain) -> list[float]:
    return [float(value) for value in _scores_of(tables, point, domain)["value"]]


def panels_of(tables: SweepTables, axis: str) -> tuple[list[Panel], str]:
    """The panels for one axis, and the words for what is held still.

    A panel per setting of the other axes; where that would be more than nine, a single one with
    the other axes at the chosen point's values (those of the first point without a choice).
    """
    others = [other for other in tables.axes if other != axis]
    groups: dict[str, list[str]] = {}
    for point in tables.order:
        groups.setdefault(_setting(tables, point, others), []).append(point)
    if len(groups) <= _MOST_PANELS:
        return [Panel(title, tuple(points)) for title, points in groups.items()], ""
    held = _setting(tables, tables.selected or tables.order[0], others)
    whose = "chosen point" if tables.selected else "first point"
    return [Panel(held, tuple(groups[held]))], f" (other axes as in the {whose})"


def _setting(tables: SweepTables, point: str, axes: Sequence[str]) -> str:
    return point_text({axis: tables.values[point][axis] for axis in axes}, tables.names)


def _distinct(tables: SweepTables, axis: str) -> list[Any]:
    """The values of an axis: numbers in their order, others in the grid's; not applicable last."""
    found: dict[str, Any] = {}
    for point in tables.order:
        value = tables.values[point][axis]
        found.setdefault(_key(value), value)
    values = list(found.values())
    if is_numeric(values):
        return sorted((v for v in values if v is not None), key=float) + [None] * (None in values)
    return [v for v in values if v is not None] + [None] * (None in values)


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether an axis is drawn as a line: at least two numbers, nothing but numbers and None."""
    present = [value for value in values if value is not None]
    return len(present) > 1 and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in present
    )


def _key(value: Any) -> str:
    return repr(value)


def _logarithmic(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) >= _LOG_RATIO


# Learning curves


def draw_curves(tables: SweepTables) -> tuple[Figure, pd.DataFrame] | None:
    """Train loss, val Dice and every schedule that moves, against the epoch, a line per point.

    The axis with the most values colours the lines (in order where it is numeric); a column per
    setting of the other axes. None where the sweep has no curves.
    """
    epochs = tables.epochs
    wanted = {"train/loss": "train loss", "val/dice": "val Dice"}
    for name in _moving(epochs):
        wanted[name] = name.removeprefix("train/").replace("loss.", "loss ")
    names = [name for name in wanted if (epochs["name"] == name).any()]
    if not names:
        return None
    axis = max(tables.axes, key=lambda a: (len(_distinct(tables, a)), a), default="")
    values = _distinct(tables, axis) if axis else [None]
    panels, held = panels_of(tables, axis) if axis else ([Panel("", tables.order)], "")
    if is_numeric(values):
        palette: list[Any] = sequence(len(values))
    else:
        palette = [CATEGORIES[index % len(CATEGORIES)] for index in range(len(values))]
    colours = {_key(value): palette[index] for index, value in enumerate(values)}
    numbers = _curve_numbers(tables, [p for panel in panels for p in panel.points], names)
    figure, grid = plt.subplots(
        len(names),
        len(panels),
        figsize=(max(4.6, 2.9 * len(panels)), 2.1 * len(names) + 0.4),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for row, name in enumerate(names):
        for column, panel in enumerate(panels):
            place = grid[row, column]
            for point in panel.points:
                curve = numbers[(numbers["point"] == point) & (numbers["name"] == name)]
                if curve.empty:
                    continue
                colour = colours[_key(tables.values[point][axis] if axis else None)]
                x, mean, std = (curve[key].to_numpy(float) for key in ("epoch", "mean", "std"))
                chosen = point == tables.selected
                place.fill_between(x, mean - std, mean + std, color=colour, alpha=0.14, linewidth=0)
                place.plot(x, mean, color=colour, linewidth=2.4 if chosen else 1.3)
            if row == 0 and tables.selected in panel.points:
                _note(place, "thick: chosen on val")
            if row == 0 and panel.title:
                place.set_title(panel.title)
            if row == len(names) - 1:
                place.set_xlabel("epoch")
            if column == 0:
                place.set_ylabel(wanted[name])
            place.xaxis.get_major_locator().set_params(integer=True)
        # A loss has a scale of its own in each panel; scores and schedules share theirs.
        if name != "train/loss":
            _share_y(grid[row])
    if axis:
        handles = [
            Line2D([], [], color=colours[_key(value)], label=value_text(value)) for value in values
        ]
        figure.legend(
            handles=handles,
            title=f"{axis}{held} · {_spread_words(tables)}",
            title_fontsize=8,
            loc="outside upper center",
            ncols=min(len(handles), 8),
        )
    return figure, numbers


def _moving(epochs: pd.DataFrame) -> list[str]:
    """Names of the loss's scalars that change within some run."""
    scalars = epochs[epochs["name"].astype(str).str.startswith("train/loss.")]
    if scalars.empty:
        return []
    values = scalars.groupby(["name", "run_id"])["value"]
    span = (values.max() - values.min()).groupby("name").max()
    # Equal values that were averaged over different numbers of steps differ in the last digits.
    return sorted(str(name) for name in span[span > 1e-9].index)


def _curve_numbers(
    tables: SweepTables, points: Sequence[str], names: Sequence[str]
) -> pd.DataFrame:
    epochs = tables.epochs
    kept = epochs[epochs["point"].isin(points) & epochs["name"].isin(names)]
    grouped = kept.groupby(["point", "name", "epoch"])["value"]
    curves = grouped.agg(mean="mean", std="std", n="count").reset_index()
    rank = {point: index for index, point in enumerate(tables.order)}
    order = curves["point"].map(rank)
    return curves.assign(order=order).sort_values(["order", "name", "epoch"]).drop(columns="order")


def _share_y(places: Sequence[Axes]) -> None:
    limits = [place.get_ylim() for place in places]
    for place in places:
        place.set_ylim(min(low for low, _ in limits), max(high for _, high in limits))


# In-distribution against out-of-distribution


def draw_gap(tables: SweepTables) -> tuple[Figure, pd.DataFrame] | None:
    """Out-of-distribution against test Dice, a dot per point with its spread, a panel per domain.

    Colours are the values of the axis with the most values, marks those of the other one. None
    without a test or an out-of-distribution domain.
    """
    tests, outside = tables.of_role("test"), tables.of_role("ood")
    if not tests or not outside:
        return None
    inside = tests[0]
    axis = max(tables.axes, key=lambda a: (len(_distinct(tables, a)), a), default="")
    others = [other for other in tables.axes if other != axis]
    values = _distinct(tables, axis) if axis else [None]
    settings = list(dict.fromkeys(_setting(tables, point, others) for point in tables.order))
    if is_numeric(values):
        palette: list[Any] = sequence(len(values))
    else:
        palette = [CATEGORIES[index % len(CATEGORIES)] for index in range(len(values))]
    colours = {_key(value): palette[index] for index, value in enumerate(values)}
    columns = _columns(len(outside))
    rows = math.ceil(len(outside) / columns)
    figure, grid = plt.subplots(
        rows,
        columns,
        figsize=(max(4.2, 3.3 * columns), 3.2 * rows + 0.4),
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    numbers = []
    for place, domain in zip(grid.flat, outside, strict=False):
        for point in tables.order:
            x, y = tables.score(point, inside, "dice"), tables.score(point, domain, "dice")
            numbers.append(
                {"point": point, "chosen": point == tables.selected, "domain": domain.name}
                | {"test_dice": x.mean, "test_std": x.std, "test_n": x.n}
                | {"ood_dice": y.mean, "ood_std": y.std, "ood_n": y.n}
                | {"gap": x.mean - y.mean}
            )
            colour = colours[_key(tables.values[point][axis] if axis else None)]
            marker = MARKERS[settings.index(_setting(tables, point, others)) % len(MARKERS)]
            place.errorbar(
                [x.mean], [y.mean],
                xerr=None if math.isnan(x.std) else [x.std],
                yerr=None if math.isnan(y.std) else [y.std],
                fmt=marker, color=colour, ecolor=colour, elinewidth=0.8, markersize=5.5,
                markeredgecolor="white", markeredgewidth=0.6, zorder=3,
            )  # fmt: skip
            if point == tables.selected:
                place.plot(
                    [x.mean], [y.mean], "o", mfc="none", mec=CHOSEN, ms=11, mew=1.1, zorder=4
                )
                place.annotate(
                    "chosen on val", (x.mean, y.mean), xytext=(-9, 9), ha="right", fontsize=7,
                    textcoords="offset points", zorder=5,
                )  # fmt: skip
        place.grid(visible=True, axis="both")
        place.set_xlabel(f"test Dice ({printable(inside.name)})")
        place.set_ylabel(f"Dice on {printable(domain.name)} (out of distribution)")
        _gap_line(place)
    _hide_rest(grid, len(outside))
    handles = [
        Line2D(
            [],
            [],
            ls="",
            marker="o",
            color=colours[_key(value)],
            label=f"{tables.names[axis]} {value_text(value)}",
        )
        for value in values
        if axis
    ]
    handles += [
        Line2D([], [], ls="", marker=MARKERS[index % len(MARKERS)], color=SOFT, label=setting)
        for index, setting in enumerate(settings)
        if setting
    ]
    if handles:
        figure.legend(
            handles=handles,
            loc="outside right upper",
            ncols=1,
            handlelength=1.0,
            title=_spread_words(tables),
            title_fontsize=7.5,
        )
    return figure, pd.DataFrame(numbers)


def _gap_line(place: Axes) -> None:
    """The line on which both Dice are equal where it is near; otherwise lines of equal gap."""
    (x0, x1), (y0, y1) = place.get_xlim(), place.get_ylim()
    place.set_xlim(x0, x1)
    place.set_ylim(y0, y1)
    gaps = _nice_gaps(x0 - y1, x1 - y0)
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
            fontsize=6.5, color=SOFT, ha="left", va="bottom",
        )  # fmt: skip


def _nice_gaps(low: float, high: float) -> Iterator[float]:
    step = next((s for s in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / s <= 6), 1.0)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return (round(index * step, 6) for index in range(first, last + 1))
