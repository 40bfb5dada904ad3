"""What a sweep cost, in the terminal, in Markdown and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reporting_examples import write_sweep

from vesselflow.cli.main import main
from vesselflow.evaluation.cost_table import Quote, attempt_cost
from vesselflow.reporting.cost_lines import cost_json, cost_lines, dollars, hours
from vesselflow.reporting.sweep_tables import load_tables
from vesselflow.reporting.terminal import answer_json, summary_markdown


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    return write_sweep(tmp_path, previews=False)


def _noted(attempt: int = 1, **changes: Any) -> dict[str, Any]:
    """One hour of a slot that is a quarter of its machine."""
    return {
        "attempt": attempt,
        "machine": "aws:big",
        "market": "spot",
        "share": 0.25,
        "wall_s": 3600.0,
        "idle_s": 0.0,
        "slot_start_s": 0.0,
        "start_s": 36.0,
        "train_s": 3492.0,
        "evaluate_s": 72.0,
        "save_s": 0.36,
        "from_step": 0.0,
        "reached": 0.0,
        "steps": 970.0,
        **changes,
    }


def _prices(machine: str, market: str) -> Quote:
    return Quote() if machine == "local" else Quote(0.4, 1.6, "here")


def _write(sweep: Path, *attempts: tuple[str, dict[str, Any]]) -> None:
    rows = [{"run_id": run, **attempt_cost(noted, _prices)} for run, noted in attempts]
    pd.DataFrame(rows).to_parquet(sweep / "tables" / "cost.parquet")


def test_two_lines_say_it(sweep: Path) -> None:
    _write(
        sweep,
        ("a", _noted()),
        ("b", _noted()),
        ("b", _noted(2, from_step=900.0, reached=997.0)),
    )
    assert cost_lines(load_tables(sweep)) == [
        "cost: $0.30 for 45 min 00 s of aws:big:spot; $1.16 on demand without an interruption",
        "time: 3.0 h of slots: training 93.8%, repeating steps 3.2%, starting 1.0%, scoring 2.0%; "
        "1 attempt went on after an interruption and repeated 97 steps (5 min 49 s)",
    ]


def test_the_cost_stands_in_every_report(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _write(sweep, ("a", _noted()))
    line = "cost: $0.10 for 15 min 00 s of aws:big:spot; $0.40 on demand without an interruption"
    assert f"\n- {line}\n" in summary_markdown(load_tables(sweep))
    assert main(["report", str(sweep), "--no-figures"]) == 0
    assert line in capsys.readouterr().out.splitlines()
    assert main(["report", str(sweep), "--no-figures", "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)["cost"]
    assert cost["dollars"] == pytest.approx(0.1)
    assert cost["machine_hours"] == {"aws:big:spot": 0.25}
    assert (cost["runs"], cost["attempts"], cost["repeated_steps"]) == (1, 1, 0)


def test_a_machine_without_a_price_has_hours_and_the_line_says_how_to_give_one(
    sweep: Path,
) -> None:
    _write(sweep, ("a", _noted(machine="local", market="own")))
    assert cost_lines(load_tables(sweep))[0] == (
        "cost: 15 min 00 s of local; no price is known (prices: {local: 0.10} in the space gives "
        "one)"
    )
    cost = cost_json(load_tables(sweep))
    assert cost is not None
    assert (cost["dollars"], cost["unpriced"]) == (None, ["local"])
    _write(sweep, ("a", _noted(machine="local", market="own")), ("b", _noted()))
    assert (
        "and 15 min 00 s of aws:big:spot, not counting local; " in cost_lines(load_tables(sweep))[0]
    )


def test_without_a_cost_there_is_none(sweep: Path) -> None:
    assert cost_lines(load_tables(sweep)) == []
    assert answer_json(load_tables(sweep))["cost"] is None


def test_a_torn_table_is_told_and_withholds_no_answer(sweep: Path) -> None:
    (sweep / "tables" / "cost.parquet").write_bytes(b"seconds")
    (line,) = cost_lines(load_tables(sweep))
    assert line.startswith("cost: unknown: ")
    assert answer_json(load_tables(sweep))["cost"] is None


def test_a_table_of_an_older_version_says_what_it_has(sweep: Path) -> None:
    old = [{"run_id": "a", "attempt": 1, "wall_s": 60.0, "steps": 3.0}]
    pd.DataFrame(old).to_parquet(sweep / "tables" / "cost.parquet")
    assert cost_lines(load_tables(sweep))[0].startswith("cost: 0 s of unknown; no price is known")


@pytest.mark.parametrize(
    ("amount", "text"),
    [(0, "$0.00"), (0.0034, "$0.0034"), (0.034, "$0.034"), (0.34, "$0.34"), (1234.5, "$1234.50")],
)
def test_small_amounts_keep_digits_that_say_something(amount: float, text: str) -> None:
    assert dollars(amount) == text
    assert dollars(float("nan")) == "—"


@pytest.mark.parametrize(
    ("seconds", "text"), [(59, "59 s"), (3599, "59 min 59 s"), (5400, "1.5 h"), (1e6, "278 h")]
)
def test_hours_are_what_machines_are_paid_by(seconds: float, text: str) -> None:
    assert hours(seconds) == text
