"""All figures of a sweep, drawn and written."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from vesselflow.records.paths import AnyPath
from vesselflow.reporting.figure_files import replace_figures
from vesselflow.reporting.figures.beta_lab import draw_beta_lab
from vesselflow.reporting.figures.by_axis import draw_axis
from vesselflow.reporting.figures.curves import draw_curves
from vesselflow.reporting.figures.in_against_out import draw_gap
from vesselflow.reporting.overlays import draw_predictions
from vesselflow.reporting.style import styled
from vesselflow.reporting.sweep_tables import SweepTables, load_tables

Told = Callable[[int, int], None]
Draw = Callable[[SweepTables], tuple[Figure, pd.DataFrame] | None]
_LONGEST_NAME = 80


def write_figures(sweep: SweepTables | str | AnyPath, *, told: Told | None = None) -> list[AnyPath]:
    """Draw all figures of a sweep into ``report/figures``.

    Drawn are: the objective's metric against each axis of the grid (``<metric>_by_<axis>.png``),
    the learning curves (``learning_curves.png``), what a loss's schedules and terms do
    (``beta_lab.png``), that metric out of distribution against in
    distribution (``in_against_out.png``), and the chosen point's best and worst predictions
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
    names = _file_names(tables.axes, tables.objective.metric)
    jobs: list[tuple[str, Draw]] = [(names[axis], _axis_job(axis)) for axis in tables.axes]
    jobs += [
        ("learning_curves", draw_curves),
        ("beta_lab", draw_beta_lab),
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


def _axis_job(axis: str) -> Draw:
    return lambda tables: draw_axis(tables, axis)


def _file_names(axes: Sequence[str], metric: str) -> dict[str, str]:
    """A file name per axis: an axis of joint settings has any name, two may look alike."""
    names: dict[str, str] = {}
    for axis in axes:
        safe = "".join(char if char.isalnum() or char in "._-" else "_" for char in axis)
        name = f"{metric}_by_{safe[:_LONGEST_NAME]}"
        taken = {other.lower() for other in names.values()}
        number = 2
        while name.lower() in taken:
            name, number = f"{metric}_by_{safe[:_LONGEST_NAME]}-{number}", number + 1
        names[axis] = name
    return names
