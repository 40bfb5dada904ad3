"""What must hold after a sweep was disturbed, on records that are written here."""

from __future__ import annotations

from pathlib import Path

import pytest

from vesselflow.chaos.comparison import (
    Ended,
    Notice,
    compare_codes,
    compare_tables,
    compare_words,
    compare_work,
    tell_gaps,
)
from vesselflow.chaos.marks import TakenUp
from vesselflow.chaos.watch import Watch, steps_of
from vesselflow.evaluation.answer import ANSWER_TABLES, read_answer
from vesselflow.records.attempts import Attempt
from vesselflow.records.runs import RunRecord

SAME = dict.fromkeys(ANSWER_TABLES, b"1")


def test_tables_are_compared_byte_by_byte(tmp_path: Path) -> None:
    assert all(finding.holds for finding in compare_tables(SAME, SAME))
    changed = compare_tables(SAME, {**SAME, "epochs": b"2"})
    assert [finding.what for finding in changed if not finding.holds] == ["table epochs"]
    # A table that neither has is no table that is equal.
    none = read_answer(tmp_path)
    assert not any(finding.holds for finding in compare_tables(none, none))


@pytest.mark.parametrize(
    ("ended", "holds"),
    [
        ([], False),
        ([Ended(1, 0)], True),
        ([Ended(1, -9, "killed"), Ended(2, 0)], True),
        ([Ended(1, -9, "killed")], False),
        ([Ended(1, 1), Ended(2, 0)], False),
        ([Ended(1, 1, "the head was killed"), Ended(2, 0), Ended(3, 0)], True),
        # Its C++ ended it, or it saw an error of its own and said so with a wrong code.
        ([Ended(1, -6, "the head was killed"), Ended(2, 0)], False),
        ([Ended(1, 1, "killed"), Ended(2, 0)], False),
        ([Ended(2, 0), Ended(1, -6)], False),
    ],
)
def test_exit_codes_are_held_against_what_was_done(ended: list[Ended], holds: bool) -> None:
    assert compare_codes(ended).holds is holds


def _resumed(step: int, machine: str = "node-1", before: int = 1, allowed: int = 5) -> TakenUp:
    return TakenUp("run", before + 1, before, machine, step, step, 20, allowed)


@pytest.mark.parametrize(
    ("resumed", "holds"),
    [
        (_resumed(20), True),
        (_resumed(19), False),
        # Killed elsewhere, or later: no notice was given there.
        (_resumed(19, machine="node-2"), True),
        (_resumed(19, before=2), True),
    ],
)
def test_steps_after_a_notice_are_told_from_those_after_a_kill(
    resumed: TakenUp, holds: bool
) -> None:
    findings = compare_work([], [resumed], [Notice("node-1", {"run": 1})])
    assert [f.holds for f in findings] == [True, True, True, holds, True]


@pytest.mark.parametrize(("allowed", "holds"), [(1, True), (0, False)])
def test_after_a_kill_at_most_one_interval_is_repeated(allowed: int, holds: bool) -> None:
    *others, last = compare_work([], [_resumed(19, allowed=allowed)], [])
    assert all(finding.holds for finding in others)
    assert last.holds is holds
    assert last.seen.startswith("1 in 1 attempt(s)")
    assert ("run attempt 2 repeats 1 steps" in last.seen) is not holds


def test_what_is_missing_redone_or_ended_twice_does_not_hold() -> None:
    found = compare_work(["run: twice"], [], [])
    assert [f.holds for f in found] == [True, False, True, True, True]
    assert not compare_work([], [], [], missing=["run"])[0].holds
    assert not compare_work([], [], [], ended_twice=["run: by 2 attempts"])[2].holds


def test_how_long_runs_stood_is_told_and_no_condition() -> None:
    node, other = tell_gaps([("lose-node", "a", 50.0), ("tear", "a", 1.0), ("tear", "b", 3.0)])
    assert node.holds
    assert other.holds
    assert node.seen.startswith("median 50.0, worst 50.0, of 1")
    assert other.seen.startswith("median 2.0, worst 3.0, of 2")
    assert tell_gaps([])[0].seen == "none to measure"


def test_a_trouble_of_which_nobody_spoke_does_not_hold() -> None:
    assert compare_words([]).holds
    assert not compare_words(["no driver said that the disk was full"]).holds


# -- the records -----------------------------------------------------------------------------------


def _attempt(results: Path, steps: int, *, machine: str = "node-1") -> Attempt:
    record = RunRecord(results, "run")
    record.create("", {})
    attempt = record.begin_attempt()
    point = attempt.resume_point()
    begun = 0 if point is None else point[0]
    attempt.write_cost({"from_step": begun, "steps": steps, "machine": machine})
    return attempt


def test_progress_is_read_off_checkpoints_and_never_falls(tmp_path: Path) -> None:
    watch = Watch(tmp_path, {"run": 40, "other": 40})
    assert watch.look() == 0
    attempt = _attempt(tmp_path, 20)
    attempt.checkpoints.save(10, b"x")
    assert watch.look() == 10 / 80
    attempt.checkpoints.save(20, b"x")
    assert watch.look() == 20 / 80
    assert watch.newest("run") == (1, 20)
    assert watch.working() == [("run", 1, "node-1")]
    (attempt.checkpoints.folder / "0000000020.ckpt").unlink()
    assert watch.look() == 20 / 80
    RunRecord(tmp_path, "run").finish(attempt, {"steps": 40})
    assert watch.look() == 40 / 80
    assert watch.working() == []
    assert steps_of(tmp_path) == {"run": 40}


def test_how_attempts_follow_each_other(tmp_path: Path) -> None:
    first = _attempt(tmp_path, 13)
    first.checkpoints.save(10, b"x")
    second = _attempt(tmp_path, 5, machine="node-2")
    second.checkpoints.save(15, b"x")
    _attempt(tmp_path, 1)
    watch = Watch(tmp_path, {"run": 40})
    assert watch.chains() == {"run": [(1, 0, "node-1"), (2, 10, "node-2"), (3, 15, "node-1")]}


def test_a_run_that_two_attempts_trained_to_its_end_is_seen(tmp_path: Path) -> None:
    watch = Watch(tmp_path, {"run": 40})
    attempts = [_attempt(tmp_path, 40), _attempt(tmp_path, 40)]
    RunRecord(tmp_path, "run").finish(attempts[0], {"steps": 40})
    assert watch.ended_twice() == []
    RunRecord(tmp_path, "run").finish(attempts[1], {"steps": 40})
    assert watch.ended_twice() == ["run: by 2 attempts"]


def test_what_happens_to_a_finished_run_is_seen(tmp_path: Path) -> None:
    watch = Watch(tmp_path, {"run": 40})
    attempt = _attempt(tmp_path, 40)
    RunRecord(tmp_path, "run").finish(attempt, {"steps": 40})
    watch.look()
    assert watch.redone() == []
    _attempt(tmp_path, 1)
    assert watch.redone() == ["run: 1 attempt(s) began after it was accepted"]
    (tmp_path / "runs" / "run" / "accepted.json").write_text("{}")
    assert len(watch.redone()) == 2
    (tmp_path / "runs" / "run" / "accepted.json").unlink()
    assert watch.redone() == ["run: its acceptance is gone"]
