"""The beta lab: schedules, shares of the gradient and the objective of one point in one column."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from reporting_examples import write_sweep

from vesselflow.reporting.figures.beta_lab import MOST_POINTS, draw_beta_lab
from vesselflow.reporting.style import styled
from vesselflow.reporting.sweep_tables import SweepTables, load_tables

MOVING = {"schedule": "linear", "from": 0.0, "to": 1.0}


def tables_of(
    folder: Path, *betas: object, shares: bool = False, losses: tuple[str, ...] = ("fuzzy",)
) -> SweepTables:
    """Two runs a point; where asked, terms whose shares of the gradient are 0.2 and 0.8."""
    sweep = write_sweep(folder, betas=betas, losses=losses, folds=1, seeds=2, previews=False)
    path = sweep / "tables" / "epochs.parquet"
    epochs = pd.read_parquet(path)
    if shares:
        loss = epochs[epochs["name"] == "train/loss"]
        more = [
            loss.assign(name=f"train/share/{term}", value=value + 0.01 * loss["seed"])
            for term, value in (("bce", 0.2), ("dice", 0.8))
        ]
        epochs = pd.concat([epochs, *more], ignore_index=True)
    epochs.to_parquet(path)
    return load_tables(sweep)


def drawn(tables: SweepTables):
    with styled():
        return draw_beta_lab(tables)


def test_schedule_shares_and_objective_stand_in_three_panels(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, MOVING, shares=True)
    figure, numbers = drawn(tables)
    lines = [len(axes.get_lines()) for axes in figure.axes]
    assert lines == [1, 2, 1]
    assert figure.axes[1].get_ylabel() == "share of gradient"
    assert [len(axes.get_lines()[0].get_xdata()) for axes in figure.axes] == [4, 4, 4]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["beta", "bce (share)", "dice (share)"]
    assert list(dict.fromkeys(numbers["panel"])) == ["scalar", "share", "objective"]
    bce = numbers[(numbers["curve"] == "bce") & (numbers["epoch"] == 2)].iloc[0]
    # Of seeds 0 and 1: 0.20 and 0.21.
    assert bce["mean"] == pytest.approx(0.205)
    assert bce["n"] == 2
    epochs = tables.epochs
    beta = epochs[epochs["name"] == "train/loss.beta"].groupby("epoch")["value"].mean()
    scalar = numbers[numbers["panel"] == "scalar"].set_index("epoch")["mean"]
    assert scalar.to_dict() == pytest.approx(beta.to_dict())


def test_a_schedule_alone_leaves_the_shares_empty_and_says_why(tmp_path: Path) -> None:
    figure, numbers = drawn(tables_of(tmp_path, 0.5, MOVING))
    # The point whose beta stands still has nothing to say here.
    assert numbers["point"].nunique() == 1
    assert len(figure.axes[1].get_lines()) == 0
    assert "log_gradient_shares" in figure.legends[0].get_title().get_text()


def test_without_schedules_and_shares_there_is_none(tmp_path: Path) -> None:
    assert drawn(tables_of(tmp_path, 0.0, 0.5)) is None


def test_shares_alone_are_enough_and_further_points_stand_in_the_numbers(tmp_path: Path) -> None:
    tables = tables_of(tmp_path, 0.0, 0.25, 0.5, 0.75, MOVING, shares=True)
    figure, numbers = drawn(tables)
    assert len([axes for axes in figure.axes if axes.get_visible()]) == 3 * MOST_POINTS
    assert numbers["point"].nunique() == 5
    assert figure.axes[0].get_title(loc="left") == tables.text(tables.selected)
    # After it those whose beta moves.
    titles = [axes.get_title(loc="left") for axes in figure.axes[:MOST_POINTS]]
    assert any("0→1" in text for text in titles[:2])
    assert "2 more points" in figure.legends[0].get_title().get_text()
