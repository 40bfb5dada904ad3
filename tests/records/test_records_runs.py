"""Run records: attempts, the joined curve, the one accepted attempt."""

from __future__ import annotations

import errno
import math
import multiprocessing
import os
import resource
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.errors import StorageTrouble, UserError
from vesselflow.records import atomic
from vesselflow.records.attempts import Attempt
from vesselflow.records.drivers import Driver
from vesselflow.records.leases import Lease
from vesselflow.records.runs import RunRecord, read_index
from vesselflow.records.status import RunState, Status


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    made = RunRecord(tmp_path, "r1")
    made.create("loss: {name: bce}\n", {"fold": 0})
    return made


def _train(attempt: Attempt, steps: range, *, saved: int | None = None) -> None:
    """Rows at each step, and a checkpoint after each up to `saved`."""
    for step in steps:
        attempt.write_rows(step, [{"epoch": step, "step": step, "by": attempt.number}])
        if saved is None or step <= saved:
            attempt.checkpoints.save(step, str(step).encode())


def _curve(record: RunRecord) -> list[tuple[int, int]]:
    return [(row["step"], row["by"]) for row in record.rows()]


def test_states_say_whether_they_are_terminal() -> None:
    assert [state.value for state in RunState if state.terminal] == ["finished", "failed"]


def test_a_run_that_nobody_tried_is_queued(tmp_path: Path) -> None:
    record = RunRecord(tmp_path, "r1")
    assert record.status() == Status(RunState.QUEUED)
    assert record.rows() == []
    assert record.costs() == []
    assert record.resume_point() is None
    assert not record.folder.exists()


def test_create_keeps_the_first_config(record: RunRecord) -> None:
    record.create("other\n", {"fold": 1})
    assert record.config_path.read_text() == "loss: {name: bce}\n"


def test_a_straight_run(record: RunRecord) -> None:
    attempt = record.begin_attempt()
    assert attempt.number == 1
    assert attempt.resume_point() is None
    assert record.status().state is RunState.RUNNING
    _train(attempt, range(1, 4))
    assert record.status() == Status(RunState.RUNNING, attempts=1, epochs=3, steps=3)
    assert record.finish(attempt, {"steps": 3})
    assert record.status() == Status(
        RunState.FINISHED, attempts=1, epochs=3, steps=3, accepted_attempt=1
    )
    assert _curve(record) == [(1, 1), (2, 1), (3, 1)]


def test_rows_past_the_checkpoint_resumed_from_are_not_counted_twice(record: RunRecord) -> None:
    # Killed after the rows of step 3, before its checkpoint: step 3 is done again.
    _train(record.begin_attempt(), range(1, 4), saved=2)
    second = record.begin_attempt()
    assert second.resume_point() == (2, b"2")
    _train(second, range(3, 5))
    assert _curve(record) == [(1, 1), (2, 1), (3, 2), (4, 2)]


def test_a_step_that_was_resumed_from_counts_once_though_written_again(record: RunRecord) -> None:
    _train(record.begin_attempt(), range(1, 3))
    _train(record.begin_attempt(), range(2, 4))
    assert _curve(record) == [(1, 1), (2, 1), (3, 2)]


def test_an_attempt_that_saved_nothing_leaves_no_rows(record: RunRecord) -> None:
    _train(record.begin_attempt(), range(1, 3))
    _train(record.begin_attempt(), range(3, 5), saved=0)
    third = record.begin_attempt()
    assert third.resume_point() == (2, b"2")
    _train(third, range(3, 4))
    assert _curve(record) == [(1, 1), (2, 1), (3, 3)]
    assert record.finish(third, {})
    assert _curve(record) == [(1, 1), (2, 1), (3, 3)]


def test_a_torn_newest_checkpoint_falls_back_over_attempts_and_is_logged(
    record: RunRecord,
) -> None:
    _train(record.begin_attempt(), range(1, 3))
    second = record.begin_attempt()
    _train(second, range(3, 4))
    (second.checkpoints.folder / "0000000003.ckpt").write_bytes(b"torn")
    third = record.begin_attempt()
    assert third.resume_point() == (2, b"2")
    log = (third.folder / "log.txt").read_text()
    assert "checkpoint of step 3 of attempt 2 is passed over" in log
    assert "resumes from step 2 of attempt 1" in log
    assert _curve(record) == [(1, 1), (2, 1)]


@given(
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.booleans()), min_size=1, max_size=6)
)
@settings(deadline=None, max_examples=40)
def test_whatever_was_killed_each_step_counts_once(tmp_path_factory, kills) -> None:
    # Each attempt does some steps, of which the last ones are not saved; some checkpoints tear.
    record = RunRecord(tmp_path_factory.mktemp("run"), "r1")
    record.create("", {})
    for steps, unsaved, torn in kills:
        attempt = record.begin_attempt()
        point = attempt.resume_point()
        start = point[0] if point else 0
        _train(attempt, range(start + 1, start + 1 + steps), saved=start + steps - unsaved)
        if torn and attempt.checkpoints.steps():
            step = attempt.checkpoints.steps()[0]
            (attempt.checkpoints.folder / f"{step:010d}.ckpt").write_bytes(b"")
    last = record.begin_attempt()
    point = last.resume_point()
    start = point[0] if point else 0
    _train(last, range(start + 1, start + 3))
    assert [row["step"] for row in record.rows()] == list(range(1, start + 3))
    before = record.rows()
    assert record.finish(last, {})
    assert record.rows() == before


def test_undefined_values_come_back_as_nan(record: RunRecord) -> None:
    attempt = record.begin_attempt()
    attempt.write_rows(1, [{"epoch": 1, "step": 1, "val/dice": math.nan, "train/loss": 0.1}])
    (row,) = record.rows()
    assert math.isnan(row["val/dice"])
    assert row["train/loss"] == 0.1


def test_a_part_written_again_replaces_itself(record: RunRecord) -> None:
    attempt = record.begin_attempt()
    attempt.write_rows(1, [{"step": 1, "by": 1}, {"step": 1, "by": 2}])
    attempt.write_rows(1, [{"step": 1, "by": 3}])
    assert _curve(record) == [(1, 3)]


def test_exactly_one_attempt_is_accepted(record: RunRecord) -> None:
    first = record.begin_attempt()
    _train(first, range(1, 3), saved=1)
    second = record.begin_attempt()
    _train(second, range(2, 3))
    assert record.finish(second, {"steps": 2})
    # The first was thought dead, and was not.
    assert not record.finish(first, {"steps": 2})
    assert record.finish(second, {"steps": 2})
    assert record.status().accepted_attempt == 2
    assert _curve(record) == [(1, 1), (2, 2)]


def test_acceptance_holds_though_killed_before_the_status_was_noted(record: RunRecord) -> None:
    attempt = record.begin_attempt()
    _train(attempt, range(1, 3))
    status = (record.folder / "status.json").read_bytes()
    record.finish(attempt, {"steps": 2})
    (record.folder / "status.json").write_bytes(status)
    assert record.status().state is RunState.FINISHED
    assert record.status().accepted_attempt == 1
    attempt.write_rows(2, [{"step": 2, "by": 1}])
    assert record.status().state is RunState.FINISHED


def test_a_status_of_another_version_is_written_anew(record: RunRecord) -> None:
    (record.folder / "status.json").write_text('{"state": "dreaming", "since": 3}')
    assert record.status() == Status()
    record.begin_attempt()
    assert record.status().state is RunState.RUNNING


def _offer(results: str, number: int, barrier, accepted) -> None:
    record = RunRecord(results, "r1")
    attempt = record.begin_attempt()
    attempt.write_rows(1, [{"step": 1, "by": attempt.number}])
    barrier.wait()
    if record.finish(attempt, {"steps": 1}):
        accepted.put(attempt.number)


def test_of_racing_processes_exactly_one_attempt_is_accepted(record: RunRecord) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, accepted = context.Barrier(3), context.Queue()
    results = str(record.folder.parent.parent)
    racers = [
        context.Process(target=_offer, args=(results, number, barrier, accepted))
        for number in range(3)
    ]
    for racer in racers:
        racer.start()
    winner = accepted.get(timeout=60)
    for racer in racers:
        racer.join(60)
        assert racer.exitcode == 0
    assert accepted.empty()
    assert record.status() == Status(
        RunState.FINISHED, attempts=3, epochs=0, steps=1, accepted_attempt=winner
    )
    assert _curve(record) == [(1, winner)]


def test_failure_is_a_line_and_a_traceback_in_the_log(record: RunRecord) -> None:
    attempt = record.begin_attempt()
    record.fail(attempt, "ValueError: bad\nthing", "Traceback ...\nValueError: bad\nthing")
    assert record.status() == Status(RunState.FAILED, attempts=1, message="ValueError: bad thing")
    assert "Traceback ..." in (attempt.folder / "log.txt").read_text()
    again = record.begin_attempt()
    assert record.status() == Status(RunState.RUNNING, attempts=2)
    # The first one's voice does not count any more.
    record.fail(attempt, "late", "late")
    assert record.status().state is RunState.RUNNING
    record.pause(again, "pruned")
    assert record.status() == Status(RunState.PAUSED, attempts=2, message="pruned")


def test_costs_name_their_attempt(record: RunRecord) -> None:
    record.begin_attempt()
    second = record.begin_attempt()
    second.write_cost({"wall_s": 2.5, "steps_per_s": math.nan, "slot": "a"})
    (cost,) = record.costs()
    assert (cost["attempt"], cost["wall_s"], cost["slot"]) == (2, 2.5, "a")
    assert math.isnan(cost["steps_per_s"])


def test_weights_are_frozen_once_an_attempt_is_accepted(record: RunRecord) -> None:
    attempt = record.begin_attempt()
    record.keep_weights(3, b"weights")
    record.finish(attempt, {})
    record.keep_weights(3, b"of an attempt that came too late")
    assert record.read_weights(3) == b"weights"
    with pytest.raises(UserError, match="weights of epoch 4 are missing") as caught:
        record.read_weights(4)
    assert "4.pt" in str(caught.value)


def test_reset_forgets_all_at_once(record: RunRecord) -> None:
    _train(record.begin_attempt(), range(1, 3))
    record.reset()
    assert record.status() == Status()
    assert list(record.folder.parent.iterdir()) == []
    record.reset()
    record.create("", {})
    assert record.begin_attempt().resume_point() is None


def test_reset_refuses_a_run_that_somebody_holds(record: RunRecord) -> None:
    driver = Driver.begin(record.folder.parent.parent, {"host": "elsewhere", "pid": 7})
    lease = Lease.claim(record.folder, driver)
    assert lease is not None
    with pytest.raises(UserError, match="being trained by process 7 on elsewhere"):
        record.reset()
    lease.release()
    record.reset()
    assert not record.folder.exists()


def test_the_index_lists_runs_by_name(tmp_path: Path) -> None:
    assert read_index(tmp_path) == []
    for name in ("b", "a"):
        RunRecord(tmp_path, name).create("", {})
    done = RunRecord(tmp_path, "b")
    done.finish(done.begin_attempt(), {"steps": 4})
    (tmp_path / "runs" / ".gone-c-1").mkdir()
    (tmp_path / "runs" / "note.txt").touch()
    assert [(name, status.state.value) for name, status in read_index(tmp_path)] == [
        ("a", "queued"),
        ("b", "finished"),
    ]


def test_the_index_of_many_runs_is_quick(tmp_path: Path) -> None:
    for number in range(1000):
        folder = tmp_path / "runs" / f"{number:04d}"
        folder.mkdir(parents=True)
        (folder / "status.json").write_text('{"state": "finished", "attempts": 1, "steps": 4}')
    began = time.perf_counter()
    assert len(read_index(tmp_path)) == 1000
    # 0.1 s on an idle machine; the bound only catches a change of order.
    assert time.perf_counter() - began < 3


def _full(*_: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_an_attempt_that_could_not_begin_leaves_no_number(record: RunRecord, monkeypatch) -> None:
    for name in ("fsync", "mkdir"):
        with monkeypatch.context() as disk:
            disk.setattr(atomic.os, name, _full)
            for _ in range(3):
                with pytest.raises(StorageTrouble):
                    record.begin_attempt()
    assert record.status() == Status()
    assert record.begin_attempt().number == 1


def test_a_log_line_is_whole_or_absent_and_not_said_twice(tmp_path: Path, monkeypatch) -> None:
    record = RunRecord(tmp_path, "r1")
    record.create("", {})
    attempt = record.begin_attempt()
    attempt.log("first")
    limit = attempt.log_path.stat().st_size + 20
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    # A real limit, in the middle of the line (Python ignores the signal that comes with it).
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises(UserError, match="larger than a limit"):
            attempt.log("second " + 100 * "x")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    lines = attempt.log_path.read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["first"]
    # The log is written before the note: of a failure that is noted at the second try, one line.
    with monkeypatch.context() as disk:
        disk.setattr(atomic.os, "fsync", _full)
        with pytest.raises(StorageTrouble):
            record.fail(attempt, "ValueError: x", "Traceback")
    record.fail(attempt, "ValueError: x", "Traceback")
    assert attempt.log_path.read_text().count("failed: ValueError: x") == 1
    assert record.status().state is RunState.FAILED


def test_a_finish_that_is_tried_again_is_accepted_once(record: RunRecord, monkeypatch) -> None:
    attempt = record.begin_attempt()
    attempt.write_rows(1, [{"step": 1, "by": 1}])
    true, written = os.fsync, []

    def full_at_the_fifth(handle: int) -> None:
        written.append(handle)
        if len(written) == 5:  # curve.json and accepted.json, each with its folder; status.json
            _full()
        true(handle)

    with monkeypatch.context() as disk:
        disk.setattr(atomic.os, "fsync", full_at_the_fifth)
        with pytest.raises(StorageTrouble):
            record.finish(attempt, {"steps": 1})
    assert record.status().state is RunState.FINISHED
    assert record.finish(attempt, {"steps": 1})
    assert record.status().accepted_attempt == 1


def test_a_bad_sector_falls_back_and_a_disk_that_is_away_is_waited_for(
    record: RunRecord, monkeypatch
) -> None:
    _train(record.begin_attempt(), range(1, 3))
    record.keep_weights(3, b"weights")
    true = Path.read_bytes
    unreadable: set[int] = {2}

    def bad(path: Path) -> bytes:
        if path.suffix != ".ckpt" or int(path.stem) in unreadable:
            raise OSError(errno.EIO, "Input/output error")
        return true(path)

    monkeypatch.setattr(Path, "read_bytes", bad)
    messages: list[str] = []
    point = record.resume_point(messages)
    assert point is not None
    assert point[:2] == (1, b"1")
    assert "checkpoint of step 2 of attempt 1 is passed over" in messages[0]
    # Nothing could be read: that is no reason to begin from nothing.
    unreadable.add(1)
    with pytest.raises(StorageTrouble):
        record.begin_attempt()
    assert record.status().attempts == 1
    with pytest.raises(StorageTrouble):
        record.read_weights(3)


def test_tidying_removes_the_checkpoints_of_all_attempts_once_one_is_accepted(
    record: RunRecord,
) -> None:
    _train(record.begin_attempt(), range(1, 3))
    second = record.begin_attempt()
    _train(second, range(3, 5))
    record.keep_weights(4, b"weights")
    for folder in (second.folder, second.checkpoints.folder, record.folder / "weights"):
        half = folder / f".4194305-{atomic._here()}-0123456789abcdef.tmp"
        half.write_bytes(b"half")
    record.tidy()
    assert len(list(record.folder.rglob("*.ckpt"))) == 4
    before = {path for path in record.folder.rglob("*") if "checkpoints" not in str(path)}
    record.finish(second, {"steps": 4})
    record.tidy()
    after = set(record.folder.rglob("*"))
    assert {path for path in before if path.suffix != ".tmp"} < after
    assert not [path for path in after if path.suffix in (".ckpt", ".tmp")]
    assert _curve(record) == [(1, 1), (2, 1), (3, 2), (4, 2)]
    record.tidy()
    assert record.status().state is RunState.FINISHED
    assert record.read_weights(4) == b"weights"


def test_rows_at_the_checkpoint_resumed_from_may_be_of_either_attempt(record: RunRecord) -> None:
    # The checkpoint of step 2 is written before its rows: the first attempt ended in between.
    first = record.begin_attempt()
    _train(first, range(1, 2))
    first.checkpoints.save(2, b"2")
    second = record.begin_attempt()
    assert second.resume_point() == (2, b"2")
    _train(second, range(2, 4))
    assert _curve(record) == [(1, 1), (2, 2), (3, 2)]
    record.finish(second, {"steps": 3})
    assert _curve(record) == [(1, 1), (2, 2), (3, 2)]


def test_an_acceptance_is_mended_from_the_attempt_that_it_named(record: RunRecord) -> None:
    assert not record.mend()
    first = record.begin_attempt()
    _train(first, range(1, 3), saved=1)
    assert not record.mend()
    second = record.begin_attempt()
    _train(second, range(2, 3))
    record.finish(second, {"steps": 2})
    record.finish(first, {"steps": 2})
    path = record.folder / "accepted.json"
    before = path.read_bytes()
    for damage in (path.unlink, lambda: path.write_bytes(b"{")):
        damage()
        assert record.status().state is RunState.RUNNING
        assert record.mend()
        assert path.read_bytes() == before
        assert record.status().accepted_attempt == 2
        assert _curve(record) == [(1, 1), (2, 2)]
    # Of a run that is to be trained again nothing is mended.
    record.reopen()
    assert not record.mend()
    assert _curve(record) == [(1, 1), (2, 2)]
