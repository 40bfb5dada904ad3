"""What a loss's schedule does: its scalars, what each term pulls, and what comes of it."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from vesselflow.reporting.figures.curves import moving_scalars, same_epochs
from vesselflow.reporting.figures.layout import head, panel_grid, title
from vesselflow.reporting.figures.look import DASHES
from vesselflow.reporting.style import CATEGORIES, CHOSEN, breathe
from vesselflow.reporting.sweep_tables import SweepTables
from vesselflow.reporting.wording import count

#: Points side by side; more stand in the CSV.
MOST_POINTS = 3
#: Names of curves: the loss's scalars, and each term's share of the gradient's norm.
_SCALAR, _SHARE = "train/loss.", "train/share/"


def draw_beta_lab(tables: SweepTables) -> tuple[Figure, pd.DataFrame] | None:
    """A column per point: the loss's scalars, its terms' shares of the gradient, the objective.

    Shares are of the norm of the gradient with respect to the logits, in the steps that log them
    (``train.log_gradient_shares``); their panel stays empty where none did. Shown are the points
    with a scalar that moves or a share, the chosen one first, then those with a scalar that moves.
    Lines are means over runs.

    Returns:
        The figure, and its numbers: a row per point, panel, curve and epoch. None where no scalar
        of a loss moves and no share was logged.
    """
    numbers = _numbers(tables)
    if numbers.empty:
        return None
    found = list(dict.fromkeys(numbers["point"]))
    epochs = tables.epochs
    moving = [p for p in found if moving_scalars(epochs[epochs["point"] == p])]
    points = sorted(found, key=lambda p: (p != tables.selected, p not in moving))[:MOST_POINTS]
    panels = {"scalar": "loss's scalars", "share": "share of gradient"}
    panels["objective"] = tables.objective.label
    width = 6.4 if len(points) == 1 else 3.7
    figure, grid, places = panel_grid(3 * len(points), len(points), width, 1.9)
    entries: dict[str, Line2D] = {}
    for row, (panel, label) in enumerate(panels.items()):
        mine = numbers[numbers["panel"] == panel]
        for column, point in enumerate(points):
            place = grid[row, column]
            _draw(place, panel, mine[mine["point"] == point], list(dict.fromkeys(mine["curve"])))
            if panel != "objective":  # its axis names it
                entries |= {str(line.get_label()): line for line in place.get_lines()}
            if row == 0:
                title(place, tables.text(point), width - 0.7)
            if row == 2:
                place.set_xlabel("epoch")
            if column == 0:
                place.set_ylabel(label)
        _limit(grid[row], panel, mine[mine["point"].isin(points)]["mean"])
    same_epochs(places, numbers["epoch"])
    runs = int(numbers["n"].max())
    words = ["one run per point" if runs < 2 else "mean over runs"]
    if tables.selected in points and len(found) > 1:
        words.append("first column: chosen on val")
    if len(found) > len(points):
        words.append(f"{count(len(found) - len(points), 'more point')}: see the CSV")
    if not (numbers["panel"] == "share").any():
        words.append("no shares: train.log_gradient_shares is null")
    head(figure, [_entry(line) for line in entries.values()], words)
    return figure, numbers


def _numbers(tables: SweepTables) -> pd.DataFrame:
    """Columns point, panel, curve, epoch, mean, std, n; points and curves in the figure's order."""
    epochs = tables.epochs
    names = epochs["name"].astype(str)
    moving = set(moving_scalars(epochs))
    shares = set(names[names.str.startswith(_SHARE)])
    # A point without either has nothing to say here: `learning_curves` draws its objective.
    telling = {
        point
        for point, own in epochs.groupby("point")
        if moving_scalars(own) or shares & set(own["name"])
    }
    scalars = {name: name.removeprefix(_SCALAR) for name in sorted(moving)}
    curves = {name: ("scalar", text) for name, text in scalars.items()}
    curves |= {name: ("share", name.removeprefix(_SHARE)) for name in sorted(shares)}
    curves[tables.objective.curve] = ("objective", tables.objective.label)
    order = [point for point in tables.order if point in telling]
    kept = epochs[epochs["point"].isin(order) & names.isin(curves)]
    grouped = kept.groupby(["point", "name", "epoch"])["value"]
    rows = grouped.agg(mean="mean", std="std", n="count").reset_index()
    keys = list(curves)
    rows = rows.assign(
        panel=[curves[name][0] for name in rows["name"]],
        curve=[curves[name][1] for name in rows["name"]],
        place=rows["point"].map({point: index for index, point in enumerate(order)}),
        rank=rows["name"].map({name: index for index, name in enumerate(keys)}),
    ).sort_values(["place", "rank", "epoch"])
    return rows[["point", "panel", "curve", "epoch", "mean", "std", "n"]].reset_index(drop=True)


def _draw(place: Axes, panel: str, rows: pd.DataFrame, curves: Sequence[str]) -> None:
    for name, curve in rows.groupby("curve", sort=False):
        index = curves.index(str(name))
        few = len(curve) <= 12
        # Terms have the palette's colours; a scalar and the objective are no terms.
        place.plot(
            curve["epoch"], curve["mean"],
            "-" if panel != "scalar" else DASHES[index % len(DASHES)],
            color=CATEGORIES[index % len(CATEGORIES)] if panel == "share" else CHOSEN,
            linewidth=1.6, marker="o" if few else "", markersize=3.5,
            label=f"{name} (share)" if panel == "share" else str(name),
        )  # fmt: skip
    if rows.empty:
        place.annotate("none", (0.5, 0.5), xycoords="axes fraction", ha="center", va="center")


def _entry(line: Line2D) -> Line2D:
    """A legend's entry that looks as the line does."""
    return Line2D(
        [], [], color=line.get_color(), linestyle=line.get_linestyle(), label=line.get_label()
    )


def _limit(places: Sequence[Axes], panel: str, values: pd.Series) -> None:
    """The same limits in a row; shares lie in [0, 1]."""
    known = values.dropna()
    for place in places:
        if panel == "share":
            breathe(place, 0.0, 1.0)
        elif not known.empty:
            breathe(place, float(known.min()), float(known.max()))
