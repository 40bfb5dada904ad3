"""What an answer says of itself: null apart from not applicable, what is missing, gone, empty."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from answer_examples import write_answer
from rich.console import Console
from rich.measure import Measurement

from vesselflow.reporting import sweep_tables, terminal
from vesselflow.reporting.run_list import load_runs
from vesselflow.reporting.sweep_tables import load_tables
from vesselflow.reporting.terminal import (
    answer_json,
    answer_table,
    chosen_sentence,
    footnotes,
    points_json,
    summary_markdown,
    warnings,
)
from vesselflow.reporting.wording import NULL

GRID = {
    "loss=combined,beta=0.5,ema=null": {
        "loss.name": "combined",
        "loss.beta": 0.5,
        "train.ema": None,
    },
    "loss=combined,beta=0.5,ema=0.99": {
        "loss.name": "combined",
        "loss.beta": 0.5,
        "train.ema": 0.99,
    },
    "loss=bce,ema=null": {"loss.name": "bce", "train.ema": None},
    "loss=bce,ema=0.99": {"loss.name": "bce", "train.ema": 0.99},
}
FIRST, SECOND, THIRD, FOURTH = GRID


def shown(renderable, width=200) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


# -- null --------------------------------------------------------------------------------------


def test_null_is_a_value_and_not_applicable_is_none(tmp_path: Path):
    values = load_tables(write_answer(tmp_path, GRID, selected=FIRST)).values
    assert values[FIRST] == {"loss.name": "combined", "loss.beta": 0.5, "train.ema": NULL}
    assert values[THIRD] == {"loss.name": "bce", "loss.beta": None, "train.ema": NULL}
    assert values[FIRST]["train.ema"] is NULL


def test_the_sentence_fits_one_point_only(tmp_path: Path):
    tables = load_tables(write_answer(tmp_path, GRID, selected=FIRST))
    assert chosen_sentence(tables).startswith(
        "Chosen on validation: loss=combined, beta=0.5, ema=null (val Dice"
    )
    assert [tables.text(point) for point in tables.order] == [
        "loss=combined, beta=0.5, ema=null",
        "loss=combined, beta=0.5, ema=0.99",
        "loss=bce, ema=null",
        "loss=bce, ema=0.99",
    ]


def test_terminal_and_markdown_write_null_and_a_dash(tmp_path: Path):
    tables = load_tables(write_answer(tmp_path, GRID, selected=FIRST))
    rows = [line for line in shown(answer_table(tables)).splitlines() if " bce " in line]
    assert rows[0].split()[:3] == ["bce", "—", "null"]
    rows = [line for line in summary_markdown(tables).splitlines() if "| bce " in line]
    assert rows[0].split(" | ")[1:4] == ["bce", "—", "null"]


def test_json_writes_null_and_leaves_out_what_does_not_apply(tmp_path: Path):
    tables = load_tables(write_answer(tmp_path, GRID, selected=FIRST))
    points = json.loads(json.dumps(points_json(tables), allow_nan=False))
    assert points[0]["config"] == {"loss.name": "combined", "loss.beta": 0.5, "train.ema": None}
    assert points[2]["config"] == {"loss.name": "bce", "train.ema": None}


def test_points_of_one_text_are_told_by_their_names(tmp_path: Path):
    points = {"lr=0.10000001": {"lr": 0.10000001}, "lr=0.1": {"lr": 0.1}, "lr=1": {"lr": 1}}
    tables = load_tables(write_answer(tmp_path, points))
    assert [tables.text(point) for point in tables.order] == [
        "lr=0.1 (lr=0.10000001)",
        "lr=0.1 (lr=0.1)",
        "lr=1",
    ]


# -- incomplete --------------------------------------------------------------------------------

INCOMPLETE = "incomplete: 3 of 4 points (7 of 8 runs) have all their runs; the choice may change"


def test_an_incomplete_answer_says_so_where_the_choice_is_told(tmp_path: Path):
    tables = load_tables(write_answer(tmp_path, GRID, selected=FIRST, unfinished=[(THIRD, 1)]))
    assert warnings(tables) == [INCOMPLETE]
    lines = shown(answer_table(tables), 400).splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("Chosen on validation"))
    assert lines[at + 1].strip() == INCOMPLETE
    assert f".\n\n**{INCOMPLETE}**\n\n|" in summary_markdown(tables)
    assert answer_json(tables)["complete"] is False
    assert answer_json(tables)["points_complete"] == 3
    assert answer_json(tables)["points_total"] == 4
    assert answer_json(tables)["runs_complete"] == 7
    assert answer_json(tables)["runs_total"] == 8
    assert answer_json(tables)["warnings"] == [INCOMPLETE]


def test_a_complete_answer_says_nothing(tmp_path: Path):
    tables = load_tables(write_answer(tmp_path, GRID, selected=FIRST))
    assert warnings(tables) == []
    assert answer_json(tables)["complete"] is True
    assert answer_json(tables)["warnings"] == []
    assert "incomplete" not in shown(answer_table(tables)) + summary_markdown(tables)


def test_without_any_whole_point_nothing_was_chosen(tmp_path: Path):
    one = [(point, 0) for point in GRID]
    tables = load_tables(write_answer(tmp_path, GRID, unfinished=one))
    assert chosen_sentence(tables) == "No point was chosen yet: none has all its runs."
    assert warnings(tables) == [
        "incomplete: 0 of 4 points (4 of 8 runs) have all their runs; none can be chosen yet"
    ]


# -- without signal ----------------------------------------------------------------------------


def test_runs_without_signal_are_counted_and_named(tmp_path: Path):
    predicts = {
        (FIRST, 0): "every pixel",
        (THIRD, 1): "every pixel",
        (SECOND, 0): "no pixel",
        (FOURTH, 1): "nothing defined",
    }
    tables = load_tables(write_answer(tmp_path, GRID, selected=FIRST, predicts=predicts))
    every, no = warnings(tables)
    assert every == (
        "2 runs found no signal on validation: their threshold predicts every pixel: "
        "loss=combined beta=0.5 ema=null (fold 0 seed 0), loss=bce ema=null (fold 0 seed 1)"
    )
    assert no == (
        "2 runs found no signal on validation: their threshold predicts no pixel: "
        "loss=combined beta=0.5 ema=0.99 (fold 0 seed 0), loss=bce ema=0.99 (fold 0 seed 1)"
    )
    assert every in shown(answer_table(tables), 400)
    assert f"**{every}**" in summary_markdown(tables)
    found = answer_json(tables)
    assert found["warnings"] == [every, no]
    assert found["no_signal"][0] == {
        "run_id": "00000000ffffffffffff",
        "point": FIRST,
        "fold": 0,
        "seed": 0,
        "predicts": "every pixel",
    }
    assert [entry["predicts"] for entry in found["no_signal"]] == [
        "every pixel",
        "no pixel",
        "every pixel",
        "no pixel",
    ]


def test_at_most_three_runs_without_signal_are_named(tmp_path: Path):
    predicts = {(point, seed): "every pixel" for point in GRID for seed in (0, 1)}
    tables = load_tables(write_answer(tmp_path, GRID, selected=FIRST, predicts=predicts))
    (line,) = warnings(tables)
    assert line.startswith("8 runs found no signal on validation")
    assert line.endswith("loss=combined beta=0.5 ema=0.99 (fold 0 seed 0) and 5 more")
    assert line.count("(fold ") == 3


def test_one_run_without_signal_is_in_the_singular(tmp_path: Path):
    predicts = {(FIRST, 0): "no pixel"}
    tables = load_tables(write_answer(tmp_path, GRID, selected=FIRST, predicts=predicts))
    assert warnings(tables) == [
        "1 run found no signal on validation: its threshold predicts no pixel: "
        "loss=combined beta=0.5 ema=null (fold 0 seed 0)"
    ]


def test_a_handful_of_pixels_is_no_signal(tmp_path: Path):
    predicts = {
        (FIRST, 0): "almost every pixel",
        (SECOND, 1): "almost no pixel",
        (THIRD, 0): "many vessels, much else",
    }
    tables = load_tables(write_answer(tmp_path, GRID, selected=FIRST, predicts=predicts))
    assert warnings(tables) == [
        "1 run found no signal on validation: its threshold predicts almost every pixel: "
        "loss=combined beta=0.5 ema=null (fold 0 seed 0)",
        "1 run found no signal on validation: its threshold predicts almost no pixel: "
        "loss=combined beta=0.5 ema=0.99 (fold 0 seed 1)",
    ]


def test_undefined_scores_and_other_epochs_are_no_missing_signal(tmp_path: Path):
    # NaN throughout is counted as undefined already; the table has no sensitivity at epoch 2.
    predicts = {(FIRST, 0): "all NaN"}
    tables = load_tables(write_answer(tmp_path, GRID, selected=FIRST, predicts=predicts))
    assert warnings(tables) == []


# -- runs that are gone ------------------------------------------------------------------------


def _run_folder(sweep: Path, index: int, seed: int) -> Path:
    return sweep.parent / "runs" / f"{index:04x}{seed:04x}".ljust(20, "f")


def test_a_run_that_is_gone_is_said_by_the_answer(tmp_path: Path):
    sweep = write_answer(tmp_path, GRID, selected=FIRST, records=True)
    assert warnings(load_tables(sweep)) == []
    shutil.rmtree(_run_folder(sweep, 0, 1))
    tables = load_tables(sweep)
    line = (
        "1 run of these tables is gone from runs/: loss=combined beta=0.5 ema=null (fold 0 seed 1);"
        " its scores are those of before, the next start of the sweep trains it again"
    )
    assert warnings(tables) == [line]
    assert line in shown(answer_table(tables), 400)
    assert f"**{line}**" in summary_markdown(tables)
    assert answer_json(tables)["gone"] == [
        {"run_id": _run_folder(sweep, 0, 1).name, "point": FIRST, "fold": 0, "seed": 1}
        | {"state": "gone"}
    ]


def test_a_run_that_is_no_longer_finished_is_said_by_the_answer(tmp_path: Path):
    sweep = write_answer(tmp_path, GRID, selected=FIRST, records=True)
    for index in range(4):
        (_run_folder(sweep, index, 0) / "accepted.json").write_text("{")
    assert warnings(load_tables(sweep)) == [
        "4 runs of these tables are no longer finished in runs/: "
        "loss=combined beta=0.5 ema=null (fold 0 seed 0), "
        "loss=combined beta=0.5 ema=0.99 (fold 0 seed 0), loss=bce ema=null (fold 0 seed 0) "
        "and 1 more; their scores are those of before, the next start of the sweep takes them up"
    ]


def test_tables_that_were_copied_without_their_runs_say_so_in_a_note(tmp_path: Path):
    sweep = write_answer(tmp_path, GRID, selected=FIRST)
    tables = load_tables(sweep)
    assert warnings(tables) == []
    assert "The records of these runs are not beside the tables (no folder runs/)." in (
        footnotes(tables)
    )
    assert answer_json(tables)["gone"] == []


def test_runs_say_what_is_gone(tmp_path: Path):
    sweep = write_answer(tmp_path, GRID, selected=FIRST, records=True)
    shutil.rmtree(_run_folder(sweep, 2, 1))
    (_run_folder(sweep, 3, 0) / "accepted.json").write_text("[]")
    runs = {row.run_id: row for row in load_runs(sweep)}
    gone = runs[_run_folder(sweep, 2, 1).name]
    assert (gone.state, gone.message) == (
        "gone",
        "its folder is gone from runs/; the next start of the sweep trains it again",
    )
    damaged = runs[_run_folder(sweep, 3, 0).name]
    assert damaged.state == "running"
    assert damaged.message.startswith("accepted.json is damaged")
    assert [row.state for row in runs.values()].count("finished") == 6


def test_runs_of_copied_tables_are_those_of_the_tables(tmp_path: Path):
    sweep = write_answer(tmp_path, GRID, unfinished=[(FIRST, 0)])
    states = [row.state for row in load_runs(sweep)]
    assert (states.count("queued"), states.count("finished")) == (1, 7)


def test_a_queued_run_without_a_folder_is_not_gone(tmp_path: Path):
    sweep = write_answer(tmp_path, GRID, records=True, unfinished=[(FIRST, 0)])
    assert [row.state for row in load_runs(sweep)].count("queued") == 1


def test_three_axes_and_three_domains_fit_80_columns(tmp_path: Path):
    domains = (
        ("val", "chase"),
        ("test", "chase"),
        *(("ood", n) for n in ("stare", "drive", "hrf")),
    )
    sweep = write_answer(tmp_path, GRID, selected=FIRST, domains=domains)
    lines = shown(answer_table(sweep), 80).splitlines()
    assert max(map(len, lines)) <= 80
    head = next(line for line in lines if line.split()[:3] == ["loss", "beta", "ema"])
    assert head.split().count("Dice") == 5
    row = next(line for line in lines if "▶" in line)
    assert row.split()[1:4] == ["combined", "0.5", "null"]
    assert row.count("0.800") == 5


# -- many points ------------------------------------------------------------------------------


def test_pooled_scores_are_the_same_rows_as_of_the_whole_table(tmp_path: Path):
    tables = load_tables(write_answer(tmp_path, GRID, selected=FIRST, unfinished=[(SECOND, 1)]))
    images = tables.images
    pooled = images[images["source_id"] == "*"]
    chosen = tables.complete[["run_id", "point", "epoch"]].astype({"epoch": images["epoch"].dtype})
    expected = pooled.merge(chosen, on=["run_id", "point", "epoch"])
    assert len(expected)
    pd.testing.assert_frame_equal(tables.run_scores, expected)


def test_rows_that_are_left_out_are_those_with_other_values(tmp_path: Path):
    frame = pd.DataFrame({"name": ["a", "b", None, "a"], "chosen": [True, True, True, False]})
    pq.write_table(pa.Table.from_pandas(frame), tmp_path / "x.parquet", row_group_size=2)
    read = sweep_tables._read_rows
    assert read(tmp_path / "x.parquet", {"name": "a"})["chosen"].tolist() == [True, False]
    assert len(read(tmp_path / "x.parquet", {"name": "a", "chosen": True, "other": 1})) == 1
    none = read(tmp_path / "x.parquet", {"name": "c"})
    assert list(none.columns) == ["name", "chosen"]
    assert none.empty


def test_an_answer_of_many_points_takes_each_but_a_few_times(tmp_path: Path, monkeypatch):
    points = {f"p{number}": {"loss.beta": number / 100} for number in range(60)}
    tables = load_tables(write_answer(tmp_path, points, selected="p3", seeds=(0,)))
    asked: list[str] = []
    real = terminal.Column.text

    def text(column, tables, point):
        asked.append(point)
        return real(column, tables, point)

    monkeypatch.setattr(terminal.Column, "text", text)
    assert "p3" not in shown(answer_table(tables))
    columns = len(terminal.score_columns(tables))
    assert len(asked) <= 8 * columns * len(points)


def test_the_points_that_make_a_table_wide_make_it_as_wide_as_all(tmp_path: Path):
    points = {
        f"p{number}": {"loss.beta": number / 7, "loss.name": "x" * (number * 5 % 11)}
        for number in range(40)
    }
    tables = load_tables(write_answer(tmp_path, points, selected="p3", unfinished=[("p7", 1)]))
    columns = terminal.score_columns(tables)
    few = terminal._widest(tables, columns)
    assert len(few) < len(points)
    console = Console(width=10_000)
    for form in terminal._forms(columns):
        widths = [
            [
                Measurement.get(console, console.options, table).maximum
                for table in terminal._drawn(tables, form, some)
            ]
            for some in (few, tables.order)
        ]
        assert widths[0] == widths[1]


# -- thresholds --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("thresholds", "text"),
    [
        ([0.47, 0.61], "is chosen on val and frozen elsewhere. "),
        ([0.5], "is a probability of 0.5. "),
        ([0.47, 0.5], "is chosen on val and frozen elsewhere, or a probability of 0.5. "),
    ],
)
def test_where_thresholds_come_from_is_said(tmp_path: Path, thresholds: list[float], text: str):
    folder = write_answer(tmp_path, GRID, selected=FIRST, thresholds=thresholds)
    assert text in footnotes(load_tables(folder))[0]
