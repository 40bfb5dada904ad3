"""The start bench: its sums, and its made-up results, which the command takes for real ones."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from vesselflow.bench import start as bench
from vesselflow.cli import bench as command
from vesselflow.errors import UserError, VesselflowError
from vesselflow.evaluation.long_tables import score_cell
from vesselflow.records.known import KnownRuns
from vesselflow.sweeps.planning import prepare


def _row(begun: float, start: float, answer: float, mib: float, runs: float) -> dict[str, float]:
    return {"begun_s": begun, "start_s": start, "answer_s": answer, "mib": mib, "runs": runs}


def _found() -> dict[str, list[dict[str, float]]]:
    return {
        bench.WARM: [_row(1, 4, 8, 300, 100), _row(1, 5, 10, 310, 100)],
        bench.COLD: [_row(1, 50, 60, 400, 100)],
        bench.WITHOUT: [_row(1, 3, 5, 200, 20), _row(1, 5, 9, 200, 20)],
    }


def test_only_what_comes_after_the_imports_is_multiplied() -> None:
    found = bench.summarise(_found(), 100, 20)
    # 1 + 5 x (3 - 1) = 11 and 1 + 5 x (5 - 1) = 21; answers 1 + 5 x 4 = 21 and 1 + 5 x 8 = 41.
    without = found["peers"]["start, without an index (x 5)"]
    assert (without["low"], without["median"], without["high"]) == (11, 16, 21)
    assert found["peers"]["answer, without an index (x 5)"]["high"] == 41
    assert found["peers"]["start, with the index"]["median"] == 4.5
    assert found["peers"]["memory, index is missing"]["unit"] == "MiB"
    assert "memory, without an index (x 5)" not in found["peers"]
    # Of the same round: 11 / 4 and 21 / 5.
    ratio = found["ratios"]["start, without an index (x 5) / with the index"]
    assert (ratio["high"], ratio["low"]) == (21 / 5, 11 / 4)
    assert [row["met"] for row in found["targets"]] == [True, True, True]


def test_missed_targets_are_called_missed() -> None:
    found = _found()
    found[bench.WARM] = [_row(1, 11, 21, 2000, 100)] * 2
    assert [row["met"] for row in bench.summarise(found, 100, 20)["targets"]] == [False] * 3


def test_ways_that_found_less_are_not_compared() -> None:
    found = _found()
    found[bench.COLD][0]["runs"] = 99
    with pytest.raises(VesselflowError, match="not all of 100 runs"):
        bench.summarise(found, 100, 20)


def test_made_up_runs_are_finished_runs(tmp_path: Path) -> None:
    bench.fabricate(tmp_path / "made", 10, sources=2, epochs=2)
    prepared = prepare(bench.load(tmp_path / "made"), tmp_path / "made" / "results")
    assert len(prepared.cells) == 10
    assert prepared.jobs() == []
    row = score_cell(prepared.cells[3], prepared.results, prepared.objective)
    assert row.complete
    assert len(row.evaluated) == 2 * 3
    known = KnownRuns(prepared.results, keep=False).get(row.cell.run.run_id)
    assert len(known.rows()) == 2
    assert known.costs()[0]["host"] == "made-up"


def test_a_peer_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(
        VesselflowError, match=r"with the index: it ended with code 2: .*start.yaml"
    ):
        bench.measure(bench.WARM, tmp_path)


def test_the_number_of_runs_is_asked_of_one_bench(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    out = str(tmp_path / "out.json")
    for words, what in (
        (["overhead", "--runs", "9"], "takes no such number"),
        (["start", "--runs", "4"], "4 is not allowed"),
    ):
        with pytest.raises(UserError, match=what):
            command.run(parser.parse_args([*words, "--out", out]))
