"""`vesselflow sweep --budget`: what is refused, and what is told when the money is used up."""

from __future__ import annotations

from pathlib import Path

import pytest
from bad_input import SPACE, command, refused, write_sources

from vesselflow.cli import sweep as sweep_command
from vesselflow.cli.budget import budget_lines, read_budget
from vesselflow.errors import UserError
from vesselflow.sweeps.outcome import Outcome, conclude


@pytest.mark.parametrize(("text", "dollars"), [("40", 40.0), ("$0.5", 0.5), (" 1e2 ", 100.0)])
def test_a_budget_is_in_dollars(text: str, dollars: float) -> None:
    assert read_budget(text) == dollars
    assert read_budget(None) is None


@pytest.mark.parametrize("text", ["", "0", "-1", "nan", "inf", "forty", "4O", "40 EUR", "$"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(UserError) as raised:
        read_budget(text)
    assert str(raised.value).startswith(f"--budget: '{text}' is not allowed; allowed: dollars")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VESSELFLOW_MACHINE", raising=False)
    for name in ("a.h5", "b.h5"):
        write_sources(tmp_path / name, 0 if name == "a.h5" else 10, 6)
    (tmp_path / "space.yaml").write_text(SPACE)
    return tmp_path


def test_a_budget_needs_a_price_of_this_machine(here: Path) -> None:
    line = refused(here, "sweep", "space.yaml", "--budget", "40")
    assert line == (
        "--budget: no price is known of this machine ('local'); "
        "give one in the space: prices: {'local': 0.10}"
    )
    assert "'forty' is not allowed" in refused(here, "sweep", "space.yaml", "--budget", "forty")
    answer = command(
        *("sweep", "space.yaml", "--budget", "40", "--set", "prices={local: 0.1}", "--dry-run")
    )
    assert answer.code == 0


def test_what_is_left_undone_is_told_and_how_to_go_on() -> None:
    outcome = Outcome(budget="$37.20 are spent", undone=[f"run {n}" for n in range(5)])
    assert budget_lines(outcome, 40.0) == [
        "budget: $40.00 would be passed: $37.20 are spent",
        "left undone: 5 runs: run 0, run 1, run 2 and 2 more",
        "the same command carries on, with a higher --budget or with none",
    ]
    outcome.undone = ["run 0"]
    assert budget_lines(outcome, 40.0)[1] == "left undone: 1 run: run 0"


def test_a_sweep_that_the_budget_ended_exits_with_1(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(console, args, prepared, notify, asked) -> Outcome:
        spent = [{"machine": "local", "count": 1, "seconds": 36.0, "price": 10.0, "dollars": 0.1}]
        prepared.rescore()
        return conclude(prepared, Outcome(budget="$0.10 are spent", spent=spent))

    monkeypatch.setattr(sweep_command, "_run", run)
    words = ("--budget", "0.1", "--set", "prices={local: 10}", "--set", "seeds=[0, 1]")
    answer = command("sweep", "space.yaml", "--no-figures", *words)
    assert answer.code == 1
    lines = answer.out.splitlines()
    assert "failed" not in answer.out, "what was not begun has not failed"
    assert not Path("results/space/failures.json").exists()
    assert lines[-5].startswith("machines: $0.10 for 0.01 hours of machines")
    assert lines[-4] == "runs: 0 done now, 0 before"
    assert lines[-3:] == [
        "budget: $0.10 would be passed: $0.10 are spent",
        "left undone: 2 runs: base fold 0 seed 0, base fold 0 seed 1",
        "the same command carries on, with a higher --budget or with none",
    ]
