"""The report speaks of the space's objective: its metric, its direction, its runs in one number."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from reporting_examples import write_sweep
from rich.console import Console

from vesselflow.errors import UserError
from vesselflow.evaluation.long_tables import SCORING
from vesselflow.reporting.figures.by_axis import draw_axis
from vesselflow.reporting.figures.curves import draw_curves
from vesselflow.reporting.figures.in_against_out import draw_gap
from vesselflow.reporting.figures.settings import Settings
from vesselflow.reporting.overlays import chosen_previews
from vesselflow.reporting.sweep_tables import SweepTables, load_tables
from vesselflow.reporting.terminal import answer_json, answer_table, summary_markdown

OBJECTIVE = {"metric": "mcc", "direction": "min", "reduction": "median"}


def _say(sweep: Path, **content: object) -> None:
    (sweep / "tables" / SCORING).write_text(json.dumps(content))


def _small(folder: Path, previews: bool = False) -> Path:
    """Two points of one run."""
    return write_sweep(
        folder, losses=("fuzzy",), betas=(0.0, 1.0), folds=1, seeds=1, previews=previews
    )


@pytest.fixture(scope="module")
def by_mcc(tmp_path_factory: pytest.TempPathFactory) -> SweepTables:
    """A sweep whose tables have MCC where others have Dice."""
    sweep = write_sweep(tmp_path_factory.mktemp("mcc"))
    for name in ("points", "epochs", "images"):
        path = sweep / "tables" / f"{name}.parquet"
        table = pd.read_parquet(path)
        column = "name" if name == "epochs" else "metric"
        table[column] = table[column].replace({"dice": "mcc", "val/dice": "val/mcc"})
        table.to_parquet(path)
    _say(sweep, objective=OBJECTIVE)
    return load_tables(sweep)


def _printed(tables: SweepTables) -> str:
    console = Console(width=200, file=io.StringIO())
    console.print(answer_table(tables))
    return console.file.getvalue()


def test_tables_that_say_nothing_have_the_default(tmp_path: Path) -> None:
    sweep = _small(tmp_path)
    (sweep / "tables" / SCORING).unlink(missing_ok=True)
    tables = load_tables(sweep)
    assert (tables.objective.metric, tables.objective.direction) == ("dice", "max")
    assert tables.protocol(tables.order[0]) == ""


@pytest.mark.parametrize(
    "content", ["", "7", "[]", '{"objective": 3}', '{"objective": {"direction": "up"}}']
)
def test_a_damaged_note_reads_as_the_default(tmp_path: Path, content: str) -> None:
    sweep = _small(tmp_path)
    (sweep / "tables" / SCORING).write_text(content)
    assert load_tables(sweep).objective.metric == "dice"


def test_an_objective_of_newer_code_is_refused_in_a_line(tmp_path: Path) -> None:
    sweep = _small(tmp_path)
    _say(sweep, objective={**OBJECTIVE, "metric": "of tomorrow"})
    with pytest.raises(UserError, match="unknown metric 'of tomorrow'"):
        summary_markdown(load_tables(sweep))


def test_the_answer_names_the_objective(by_mcc: SweepTables) -> None:
    text = _printed(by_mcc)
    for part in ("val MCC", "test MCC", "test AUC", "gap = test MCC minus"):
        assert part in text
    assert "Validation chooses by the median of MCC over runs; smaller is better." in text
    # Of the default there is nothing but an empty column: these tables have no values of it.
    assert not re.search(r"\bDice\b", text + summary_markdown(by_mcc))
    assert answer_json(by_mcc)["objective"] == OBJECTIVE
    assert math.isfinite(by_mcc.gap(by_mcc.order[0]))


def test_figures_draw_the_objective(by_mcc: SweepTables) -> None:
    figure, numbers = draw_axis(by_mcc, "loss.beta")
    assert "mcc" in numbers.columns
    assert "MCC" in {place.get_ylabel() for place in figure.axes}
    figure, numbers = draw_gap(by_mcc)
    assert {"test_mcc", "ood_mcc"} < {*numbers.columns}
    assert any(place.get_xlabel().startswith("test MCC") for place in figure.axes)
    figure, numbers = draw_curves(by_mcc)
    assert "val/mcc" in set(numbers["name"])
    assert "val MCC" in {place.get_ylabel() for place in figure.axes}


def test_points_are_ranked_in_the_objectives_direction(by_mcc: SweepTables) -> None:
    ranked = [point for point in Settings(by_mcc).ranked if point != by_mcc.selected]
    (val,) = by_mcc.of_role("val")
    means = [by_mcc.score(point, val, "mcc").mean for point in ranked]
    defined = [mean for mean in means if math.isfinite(mean)]
    assert defined == sorted(defined)


def test_previews_of_another_metric_are_not_compared(by_mcc: SweepTables) -> None:
    # The example's are of Dice.
    assert chosen_previews(by_mcc) == []


def test_a_point_shows_the_previews_of_its_own_protocol(tmp_path: Path) -> None:
    sweep = _small(tmp_path, previews=True)
    tables = load_tables(sweep)
    before = chosen_previews(tables)
    assert before
    for run_id in tables.complete["run_id"]:
        folder = sweep.parent / "runs" / str(run_id) / "previews"
        mine = folder / "0123abcd"
        mine.mkdir()
        for path in folder.glob("*.npz"):
            path.rename(mine / path.name)
    assert tables.selected is not None
    _say(sweep, protocols={tables.selected: "0123abcd"})
    assert len(chosen_previews(load_tables(sweep))) == len(before)
    _say(sweep, protocols={tables.selected: "89abcdef"})
    assert chosen_previews(load_tables(sweep)) == []
