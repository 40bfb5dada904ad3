import io
import json
import math
from dataclasses import replace

import pandas as pd
import pytest
from reporting_examples import write_sweep
from rich.console import Console

from vesselflow.errors import UserError
from vesselflow.reporting.run_list import RunRow
from vesselflow.reporting.sweep_tables import find_sweep, load_tables
from vesselflow.reporting.terminal import (
    answer_table,
    chosen_sentence,
    failures_table,
    footnotes,
    points_json,
    runs_table,
    summary_markdown,
)

FUZZY = "loss=fuzzy,beta=1.0"


def shown(renderable, width=140) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(renderable)
    return console.export_text()


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    undefined = [(FUZZY, "c", "dice", seed) for seed in (0, 1)]
    undefined += [("loss=fuzzy,beta=0.0", "b", "dice", 1)]
    return write_sweep(
        tmp_path_factory.mktemp("results"),
        undefined=undefined,
        failed=["loss=combined,beta=1.0"],
        previews=False,
    )


def test_rows_stand_in_grid_order_with_the_tables_numbers(sweep):
    lines = shown(answer_table(sweep / "tables")).splitlines()
    rows = [line for line in lines if " combined " in line or " fuzzy " in line]
    assert [row.replace("▶", " ").split()[:2] for row in rows] == [
        [loss, beta] for loss in ("combined", "fuzzy") for beta in ("0", "0.25", "0.5", "0.75", "1")
    ]
    points = pd.read_parquet(sweep / "tables" / "points.parquet")
    first = points[points["index"] == 0].set_index(["role", "domain", "metric"])
    means = [first.loc[key, "mean"] for key in (("val", "a", "dice"), ("test", "a", "dice"))]
    assert f"{means[0]:.3f} ± " in rows[0]
    assert f"{means[1]:.3f} ± " in rows[0]
    b, c = (first.loc[("ood", name, "dice"), "mean"] for name in ("b", "c"))
    assert f"{means[1] - (b + c) / 2:.3f}" in rows[0]


def test_only_the_chosen_point_is_marked(sweep):
    tables = load_tables(sweep)
    lines = shown(answer_table(tables)).splitlines()
    assert next(line for line in lines if "▶" in line).split()[1:3] == ["combined", "0.5"]
    assert sum("▶" in line for line in lines) == 1


def test_sentence_says_what_was_chosen_on_what(sweep):
    text = chosen_sentence(load_tables(sweep))
    assert text.startswith("Chosen on validation: loss=combined, beta=0.5 (val Dice 0.8")
    assert "n = 4 runs" in text
    assert "on the test part of a 0." in text
    assert "on b 0." in text
    assert text.endswith("Nothing was chosen on test or out-of-distribution data.")


def test_undefined_is_a_dash_and_counted(sweep):
    text = shown(answer_table(sweep))
    row = next(line for line in text.splitlines() if " fuzzy " in line and "  1  " in line)
    assert "—" in row
    # Both seeds of both folds at c (4 values), one seed of both folds at b (2 values).
    note = footnotes(load_tables(sweep))[-1]
    assert "6 values undefined" in note
    assert "c Dice at loss=fuzzy, beta=1: 4 of 4" in note
    assert "b Dice at loss=fuzzy, beta=0: 2 of 4" in note
    partial = next(line for line in text.splitlines() if " fuzzy " in line and "  0  " in line)
    assert partial.count("†") == 1
    assert "nan" not in text.lower()


def test_failed_run_is_missing_from_its_points_count(sweep):
    tables = load_tables(sweep)
    assert tables.n_runs("loss=combined,beta=1.0") == 3
    assert tables.n_runs("loss=combined,beta=0.5") == 4


def test_single_run_says_n_1_and_never_zero_spread(tmp_path):
    sweep = write_sweep(tmp_path, folds=1, seeds=1, previews=False)
    for text in (shown(answer_table(sweep)), summary_markdown(load_tables(sweep))):
        assert "n = 1" in text
        assert "± 0" not in text


@pytest.mark.parametrize("width", [50, 80, 100, 140])
def test_answer_never_exceeds_the_terminal_nor_cuts_numbers(sweep, width):
    text = shown(answer_table(sweep), width)
    assert max(len(line) for line in text.splitlines()) <= width
    assert "…" not in text
    for column in ("val", "test", "b", "c", "gap", "AUC", "runs"):
        assert column in text


def test_80_columns_hold_one_table(sweep):
    assert shown(answer_table(sweep), 80).count("beta") == shown(answer_table(sweep)).count("beta")


def test_markdown_holds_the_same_rows_and_the_provenance(sweep):
    text = summary_markdown(load_tables(sweep))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + 10
    assert len({row.count("|") for row in rows}) == 1
    assert "From 39 runs of 40 of the sweep loss_beta" in text
    assert "commit a5defea" in text


def test_points_as_plain_data(sweep):
    points = json.loads(json.dumps(points_json(load_tables(sweep)), allow_nan=False))
    assert len(points) == 10
    assert points[2]["config"] == {"loss.name": "combined", "loss.beta": 0.5}
    assert [point["selected"] for point in points].count(True) == 1
    undefined = [s for s in points[9]["scores"] if s["domain"] == "c" and s["metric"] == "dice"]
    assert (undefined[0]["mean"], undefined[0]["n_undefined"]) == (None, 4)
    assert points[9]["gap"] is None


def test_gap_is_nan_without_ood(tmp_path):
    domains = (("val", "a"), ("test", "a"))
    tables = load_tables(write_sweep(tmp_path, domains=domains, previews=False))
    assert math.isnan(tables.gap(tables.order[0]))
    assert "gap" not in shown(answer_table(tables))


def test_schedule_is_named_by_its_ends(tmp_path):
    schedule = {"schedule": "linear", "from": 0.0, "to": 1.0}
    sweep = write_sweep(tmp_path, betas=(0.5, schedule), previews=False)
    assert "linear 0→1" in shown(answer_table(sweep))


def test_runs_and_failures_as_tables():
    rows = [
        RunRow("aa11", ("s/beta=0",), 0, 1, "finished", 6, 4, ""),
        RunRow("bb22", ("s/beta=1",), 1, 0, "failed", 2, None, "loss is \x1b[31mnot finite"),
        RunRow("cc33", (), None, None, "running", 3, None, ""),
    ]
    text = shown(runs_table(rows))
    assert "3 runs: 1 failed, 1 finished and 1 running" in text
    assert "\x1b" not in text
    failures = shown(failures_table(rows))
    assert "1 run failed" in failures
    assert "bb22" in failures
    assert "aa11" not in failures
    assert failures_table(rows[:1]) is None


def _row(number: int, state: str = "finished", message: str = "", **changes) -> RunRow:
    point = f"losses/name=combined,beta=0.{number},ema=null"
    epoch = 8 if state == "finished" else None
    row = RunRow(f"{number}0a1b2c3d4e5f607182", (point,), 0, 1, state, 16, epoch, message)
    return replace(row, **changes)


LONG = "RuntimeError: the loss is not finite at step 7; lower optimizer.lr or set train.clip_norm"


def _points(rows, width: int) -> list[str]:
    """The lines of the last column."""
    lines = shown(runs_table(rows), width).splitlines()
    head = next(index for index, line in enumerate(lines) if line.startswith("run "))
    at = lines[head].index("point")
    return [line[at:].rstrip() for line in lines[head + 2 : -1]]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_runs_are_read_at_a_glance(width):
    rows = [_row(0), _row(1, "failed", LONG), _row(2), _row(3, "queued", points=())]
    lines = shown(runs_table(rows), width).splitlines()
    assert max(map(len, lines)) <= width
    assert lines[0] == "sweep losses"
    for row in rows[:3]:
        (line,) = [line for line in lines if row.points[0].removeprefix("losses/") in line]
        assert line.split()[0] == row.run_id[: 8 if width == 80 else 20]
    # The message stands below the point, whole.
    assert LONG in " ".join(_points(rows, width))
    assert _points(rows, width)[-1] == "—"


def test_narrow_runs_are_folded_between_axes_and_never_cut():
    rows = [_row(1)]
    assert _points(rows, 72) == ["name=combined,beta=0.1,", "ema=null"]
    assert _points(rows, 66) == ["name=combined,", "beta=0.1,ema=null"]
    # Narrower than a part: all letters are there.
    assert "".join(_points(rows, 55)) == "name=combined,beta=0.1,ema=null"


def test_runs_of_several_sweeps_name_them_and_share_a_row():
    rows = [_row(0, points=("one/beta=0", "two/beta=0.0")), _row(1, points=("one/beta=1",))]
    assert _points(rows, 80) == ["one/beta=0", "two/beta=0.0", "one/beta=1"]


def test_short_run_names_tell_runs_apart():
    rows = [_row(0, run_id=name) for name in ("0123456789abcdef", "0123456789abffff")]
    lines = shown(runs_table(rows), 60).splitlines()
    assert [line.split()[0] for line in lines if "name=" in line] == [
        "0123456789abc",
        "0123456789abf",
    ]


def test_results_folder_with_one_sweep_means_that_sweep(sweep):
    assert find_sweep(sweep.parent) == sweep
    assert find_sweep(sweep / "tables") == sweep


def test_results_folder_with_several_sweeps_lists_them(tmp_path):
    for name in ("one", "two"):
        write_sweep(tmp_path, name=name, betas=(0.0,), folds=1, seeds=1, previews=False)
    with pytest.raises(UserError, match="2 sweeps are in this folder") as caught:
        load_tables(tmp_path)
    assert str(tmp_path / "one") in caught.value.allowed
    assert "vesselflow report" in caught.value.hint


def test_sweep_without_results_says_so(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "space.yaml").write_text("name: new\n")
    with pytest.raises(UserError, match="no results yet"):
        load_tables(tmp_path / "new")


def test_misspelt_folder_names_the_closest(sweep):
    with pytest.raises(UserError, match="no such folder") as caught:
        load_tables(sweep.parent / "los_beta")
    assert "did you mean 'loss_beta'?" in str(caught.value)


@pytest.mark.parametrize("kind", ["empty", "file"])
def test_what_is_no_sweep_is_refused(tmp_path, kind):
    path = tmp_path / "x"
    path.mkdir() if kind == "empty" else path.write_text("")
    with pytest.raises(UserError, match=r"this folder is no sweep|a file, not a folder") as caught:
        load_tables(path)
    assert "vesselflow" in caught.value.hint


@pytest.mark.parametrize("damage", ["truncated", "missing", "columns"])
def test_damaged_table_is_one_line(tmp_path, damage):
    sweep = write_sweep(tmp_path, betas=(0.0,), folds=1, seeds=1, previews=False)
    path = sweep / "tables" / "runs.parquet"
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "missing":
        path.unlink()
    else:
        pd.read_parquet(path).drop(columns="epoch").to_parquet(path)
    with pytest.raises(UserError) as caught:
        load_tables(sweep)
    assert "runs.parquet" in str(caught.value)
    assert "\n" not in str(caught.value)
