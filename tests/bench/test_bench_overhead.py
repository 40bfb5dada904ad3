from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vesselflow.bench import overhead as bench
from vesselflow.cli import bench as command
from vesselflow.errors import UserError, VesselflowError


def run_of(since_s: float, steps_s: float, scoring_s: float, steps: float = 12.0) -> dict[str, Any]:
    return {"since_s": since_s, "steps_s": steps_s, "scoring_s": scoring_s, "steps": steps}


def test_overhead_is_what_steps_and_scoring_leave() -> None:
    # Ours: 20 - 1 - 1 = 18 first, then 2 - 1 - 0.8 = 0.2 and 2 - 1 - 0.6 = 0.4, median 0.3.
    # Second round: 0.5 and 0.5. Over both: 0.2, 0.4, 0.5, 0.5, median 0.45.
    ours = [
        [run_of(20, 1, 1), run_of(2, 1, 0.8), run_of(2, 1, 0.6)],
        [run_of(24, 2, 2), run_of(3, 2, 0.5), run_of(3, 2.25, 0.25)],
    ]
    # Stock: every trial counts: 9 and 15, median 12; then 10 and 10.
    stock = [[run_of(10, 1, 0), run_of(16, 1, 0)], [run_of(12, 2, 0), run_of(12, 2, 0)]]
    found = bench.summarise(ours, stock)
    warm, first, theirs = (found["peers"][name] for name in (bench.OURS, bench.FIRST, bench.STOCK))
    assert warm["median"] == pytest.approx(0.45)
    assert (warm["low"], warm["high"], warm["n"]) == (pytest.approx(0.2), pytest.approx(0.5), 4)
    assert (first["low"], first["high"], first["n"]) == (18, 20, 2)
    assert (theirs["median"], theirs["low"], theirs["high"]) == (10, 9, 15)
    # Ratios of medians of the same round: 12 / 0.3 = 40 and 10 / 0.5 = 20, median 30.
    (ratio,) = found["ratios"].values()
    assert [ratio[key] for key in ("low", "median", "high")] == pytest.approx([20, 30, 40])
    assert [row["met"] for row in found["targets"]] == [True, True]
    assert all(row["settings"] for row in found["peers"].values())


def test_missed_targets_are_called_missed() -> None:
    ours = [[run_of(20, 1, 1), run_of(4, 1, 1)]]
    found = bench.summarise(ours, [[run_of(10, 1, 0)]])
    assert [row["met"] for row in found["targets"]] == [False, False]


def test_peers_that_trained_differently_are_not_compared() -> None:
    with pytest.raises(VesselflowError, match="did not train alike"):
        bench.summarise([[run_of(9, 1, 1), run_of(3, 1, 1, steps=8)]], [[run_of(9, 1, 0)]])


def test_peers_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    turns: list[tuple[str, int]] = []

    def measured(peer: str, folder: Path, runs: int) -> list[dict[str, float]]:
        assert folder.is_dir()
        assert not any(folder.iterdir())
        turns.append((peer, runs))
        return [run_of(3, 1, 1)] * runs

    monkeypatch.setattr(bench, "_measure", measured)
    lines: list[str] = []
    bench.overhead(2, lines.append, our_runs=4, stock_runs=1)
    assert turns == [("ours", 4), ("stock", 1)] * 2
    assert lines[0] == "round 1 of 2, ours: 4 runs"
    assert len(lines) == 4


def test_a_peer_that_dies_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(VesselflowError, match=r"ended with code 1: .*KeyError: 'nobody'"):
        bench._measure("nobody", tmp_path, 1)


def test_every_run_is_a_point_with_the_same_steps(tmp_path: Path) -> None:
    space = bench.load(tmp_path, 9)
    points = space.expand().points
    assert len(points) == sum(1 for _ in space.runs()) == 9
    trains = {json.dumps(point.experiment.train.model_dump(mode="json")) for point in points}
    assert len(trains) == 1
    assert space.resources.slots == 1


@pytest.mark.bench
@pytest.mark.parametrize("peer", ["ours", "stock"])
def test_a_peer_runs_in_a_process_of_its_own(peer: str, tmp_path: Path) -> None:
    runs = bench._measure(peer, tmp_path, 2)
    assert [run["steps"] for run in runs] == [12, 12]
    for run in runs:
        assert run["since_s"] > run["steps_s"] + run["scoring_s"] > 0
        assert (run["scoring_s"] > 0) == (peer == "ours")


# -- the command -----------------------------------------------------------------------------------


def parse(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


def fake_bench(rounds: int, progress: Any) -> dict[str, Any]:
    progress("half way")
    spread = {"median": 2.0, "low": 1.0, "high": float(rounds)}
    return {
        "name": "overhead",
        "peers": {"a": {**spread, "unit": "s", "settings": {"threads": 1, "path": "short"}}},
        "ratios": {"a / b": spread},
        "targets": [{"what": "a, median s", "value": 2.0, "target": "<= 0.5", "met": False}],
    }


def test_command_prints_and_writes_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "overhead", fake_bench)
    monkeypatch.setenv("COLUMNS", "120")
    out = tmp_path / "new" / "numbers.json"
    assert command.run(parse("overhead", "--out", str(out))) == 0
    printed = capsys.readouterr().out
    default = command.BENCHES["overhead"].rounds
    assert json.loads(out.read_text())["peers"]["a"]["high"] == default
    assert f"1 to {default}" in printed
    assert "threads: 1; path: short" in printed
    assert "target missed: a, median s = 2, wanted <= 0.5" in printed


def test_command_takes_rounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bench, "overhead", fake_bench)
    out = tmp_path / "numbers.json"
    command.run(parse("overhead", "--rounds", "7", "--out", str(out)))
    assert json.loads(out.read_text())["ratios"]["a / b"]["high"] == 7


@pytest.mark.parametrize("rounds", ["0", "-1"])
def test_command_refuses_no_rounds(rounds: str) -> None:
    with pytest.raises(UserError, match="--rounds"):
        command.run(parse("overhead", "--rounds", rounds))


def test_command_says_in_a_line_that_a_peer_failed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(rounds: int, progress: Any) -> dict[str, Any]:
        raise VesselflowError("the peer stock ended with code 1: [no] reason")

    monkeypatch.setattr(bench, "overhead", fails)
    monkeypatch.setenv("COLUMNS", "120")
    out = tmp_path / "numbers.json"
    assert command.run(parse("overhead", "--out", str(out))) == 1
    assert "vesselflow: the peer stock ended with code 1: [no] reason" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize("folder", ["file", "file/sub"])
def test_command_refuses_an_unwritable_place_before_it_measures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    monkeypatch.setattr(bench, "overhead", lambda **_: pytest.fail("measured"))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"a file stands where a folder|a file, not a folder"):
        command.run(parse("overhead", "--out", str(tmp_path / folder / "numbers.json")))


@pytest.mark.parametrize("name", list(command.BENCHES))
def test_every_bench_is_where_the_command_looks(name: str) -> None:
    import importlib

    entry = command.BENCHES[name]
    assert callable(getattr(importlib.import_module(entry.module), entry.function))
    assert entry.rounds >= 1


def test_ray_is_told_to_keep_one_warning_to_itself() -> None:
    import subprocess

    code = (
        "import vesselflow.orchestration, ray\n"
        "from ray._private.worker import stdout_deduplicator as d\n"
        "lines = ['WARNING: 8 PYTHON worker processes have been started on node: x', 'another']\n"
        "kept = d.deduplicate({'lines': lines, 'pid': 'raylet', 'is_err': False, 'ip': 'x'})\n"
        "print([line for batch in kept for line in batch['lines']])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['another']"
