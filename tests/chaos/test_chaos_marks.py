"""What a kill took, by the marks of steps and checkpoints: what was promised, and what is not."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.chaos.marks import Hit, Mark, next_steps, read_marks, steps_allowed, taken_up
from vesselflow.config.loading import load_space
from vesselflow.feed.local import LocalData
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.planning import prepare
from vesselflow.sweeps.step_trace import (
    BEGIN,
    COPY,
    FOLDER,
    FREE,
    KEPT,
    START,
    STEP,
    StepTrace,
)
from vesselflow.training.interval import NOTHING_SEEN, Due
from vesselflow.training.saving import Saver

#: Seconds between checkpoints here; a step takes one.
INTERVAL_S = 3.0


def _marks(text: str, attempt: int = 1, at: float = 0.0) -> list[Mark]:
    """Marks of one second each, such as ``begin0 start0 1 2 copy2 3 kept2 free2``."""
    marks = []
    for word in text.split():
        what = word.rstrip("0123456789") or STEP
        step = int(word.removeprefix(what))
        at += 1.0 if what == STEP else 0.01
        marks.append(Mark(at, "run", attempt, what, step, INTERVAL_S))
    return marks


def _fault(text: str, step: int, torn: int | None = None) -> str:
    """What is wrong when the next attempt resumes from a step."""
    first = _marks(text)
    second = _marks(f"begin{step} start{step}", 2, first[-1].at)
    gone = [] if torn is None else [("run", 1, torn)]
    (found,) = taken_up([*first, *second], {"run": [(1, 0, "n"), (2, step, "n")]}, gone)
    return found.fault


@pytest.mark.parametrize(
    ("text", "step"),
    [
        # Killed before its first step, within the first interval, and when the copy was due.
        ("begin0", 0),
        ("begin0 start0 1 2", 0),
        ("begin0 start0 1 2 3 4", 0),
        # A copy that was not yet whole, however long its write took.
        ("begin0 start0 1 2 3 copy3 4 5 6 7 8 9", 0),
        # A write that took longer than the interval; its writer that was busy with the cost.
        ("begin0 start0 1 copy1 2 3 4 5 6 7 kept1 free1 8 9", 1),
        ("begin0 start0 1 copy1 kept1 2 3 4 5 6 7 8", 1),
        # It was whole, but killed before it said so.
        ("begin0 start0 1 2 copy2 3", 2),
    ],
)
def test_what_was_promised_is_no_fault(text: str, step: int) -> None:
    assert _fault(text, step) == ""


@pytest.mark.parametrize(
    ("text", "step", "fault"),
    [
        ("begin0 start0 1 2 3 4 5 6", 0, "repeats 6 steps, its interval held 5"),
        ("begin0 start0 1 copy1 kept1 free1 2 3 4 5 6 7", 1, "repeats 6 steps"),
        # The copy itself came too late.
        ("begin0 start0 1 2 3 4 5 6 7 copy7 8", 0, "repeats 8 steps"),
        ("begin0 start0 1 copy1 kept1 free1 2", 0, "resumed from step 0, though 1 was kept"),
        # From one more than was ever kept: a step is left out.
        ("begin0 start0 1 copy1 kept1 free1", 2, "resumed from step 2, though only 1 were done"),
    ],
)
def test_more_than_was_promised_is_a_fault(text: str, step: int, fault: str) -> None:
    assert fault in _fault(text, step)


def test_a_torn_checkpoint_costs_one_interval_more() -> None:
    text = "begin0 start0 1 2 copy2 kept2 free2 3 4 copy4 kept4 free4 5 6"
    assert _fault(text, 4) == ""
    assert "though 4 was kept" in _fault(text, 2)
    assert _fault(text, 2, torn=4) == ""
    assert "though 2 was kept" in _fault(text, 0, torn=4)


def test_a_process_that_goes_on_after_its_run_was_taken_up_is_of_no_account() -> None:
    first = _marks("begin0 start0 1 copy1 kept1 free1 2")
    second = _marks("begin1 start1 2 3 4", 2, first[-1].at)
    late = _marks("3 4 5 copy5 kept5 6 7 8 9", 1, second[0].at)
    marks = sorted([*first, *second, *late], key=lambda mark: mark.at)
    (found,) = taken_up(marks, {"run": [(1, 0, "n"), (2, 1, "n")]}, [])
    assert (found.fault, found.kept, found.reached, found.repeated) == ("", 1, 2, 1)


def test_each_attempt_answers_for_what_the_one_before_it_did() -> None:
    # The second was killed before its first step: it lost nothing of what the first had lost.
    first = _marks("begin0 start0 1 copy1 kept1 free1 2")
    second = _marks("begin1 start1", 2, first[-1].at)
    third = _marks("begin1 start1 2", 3, second[-1].at)
    chain = {"run": [(1, 0, "n"), (2, 1, "n"), (3, 1, "n")]}
    found = taken_up([*first, *second, *third], chain, [])
    assert [(each.repeated, each.fault) for each in found] == [(1, ""), (0, "")]


# -- the very parts of the loop -------------------------------------------------------------------


class _Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def _loop(longest_s: float, seconds: list[float], write_s: float) -> Iterator[Mark]:
    """The marks of a training whose steps take some seconds, and whose writes take `write_s`.

    With the loop's own `Due`, and a writer as patient as `Saver`: one write at a time.
    """
    clock = _Clock()
    due = Due(longest_s, NOTHING_SEEN, clock)
    writing: tuple[int, float] | None = None
    last_s = 0.0

    def mark(what: str, step: int) -> Mark:
        return Mark(clock.now, "run", 1, what, step, due.interval_s(last_s))

    yield mark(BEGIN, 0)
    yield mark(START, 0)
    for step, lasts in enumerate(seconds, 1):
        save = writing is None and due.now(last_s)
        ends = clock.now + lasts
        if writing is not None and writing[1] <= ends:
            clock.now, last_s = writing[1], write_s
            yield mark(KEPT, writing[0])
            yield mark(FREE, writing[0])
            writing = None
        due.step(lasts, writing is not None)
        clock.now = ends
        yield mark(STEP, step)
        if save:
            yield mark(COPY, step)
            due.saved(clock.now)
            writing = (step, clock.now + write_s)


@given(
    st.floats(0.1, 60),
    st.lists(st.floats(0.01, 20), min_size=1, max_size=40),
    st.floats(0, 30),
    st.data(),
)
def test_the_loop_keeps_what_it_promises_wherever_it_is_killed(
    longest_s: float, seconds: list[float], write_s: float, data: st.DataObject
) -> None:
    marks = list(_loop(longest_s, seconds, write_s))
    left = marks[: data.draw(st.integers(1, len(marks)))]
    kept = max((mark.step for mark in left if mark.what == KEPT), default=0)
    reached = max((mark.step for mark in left if mark.what == STEP), default=0)
    assert reached - kept <= steps_allowed(left, 0, reached)


def test_the_loops_own_writer_copies_no_state_while_another_is_written() -> None:
    # What `_loop` takes for granted.
    free, order = threading.Event(), []

    def write(payload: memoryview) -> None:
        free.wait(10)
        order.append("written")

    with Saver(lambda step: order.append(f"copy {step}") or write, lambda: free.set()) as saver:
        saver.save(1, {"w": torch.zeros(3)})
        assert saver.busy
        saver.save(2, {"w": torch.zeros(3)})
    assert order == ["copy 1", "written", "copy 2", "written"]


# -- from a kill to the next step -----------------------------------------------------------------


def test_how_long_a_run_stood_after_a_kill() -> None:
    first = _marks("begin0 start0 1 2 3")
    second = _marks("begin0 start0 1 2", 2, at=20.0)
    marks = [*first, *second]
    hit = Hit("lose-node", 3.5, {"run": 1, "other": 1})
    ((kind, run, seconds),) = next_steps(marks, [hit], ["lose-node"])
    assert (kind, run) == ("lose-node", "run")
    assert seconds == pytest.approx(21.02 - 3.5)
    assert next_steps(marks, [hit], ["tear"]) == []
    # Hit once more before that step: that time is the other's.
    again = Hit("kill-head", 10.0, {"run": 1})
    found = next_steps(marks, [hit, again], ["lose-node", "kill-head"])
    assert [each[0] for each in found] == ["kill-head"]
    # Its attempt went on for long: it was not hit in truth.
    assert next_steps([*marks, Mark(9.0, "run", 1, STEP, 4)], [hit], ["lose-node"]) == []


def test_marks_are_read_as_they_were_written_but_for_a_torn_line(tmp_path: Path) -> None:
    trace = StepTrace(tmp_path / "trace", "run", 2)
    trace.mark(BEGIN, 0)
    assert trace.interval(0.5)
    assert not trace.interval(0.5)
    trace.mark(START, 0)
    trace.close()
    trace.mark(STEP, 1)
    (file,) = (tmp_path / "trace").iterdir()
    with file.open("ab") as sink:
        sink.write(b'{"at": 1')
    found = read_marks(tmp_path / "trace")
    assert [(m.run, m.attempt, m.what, m.step, m.interval_s) for m in found] == [
        ("run", 2, BEGIN, 0, 0.0),
        ("run", 2, START, 0, 0.5),
    ]
    assert read_marks(tmp_path / "nowhere") == []


SPACE = """
stores: {a: "synth:fundus?sources=6&size_px=64"}
data: {train: a, working_size_px: 64}
split: {folds: 3, val_fraction: 0.3}
folds: [0]
train: {epochs: 2, steps_per_epoch: 2, micro_batch_size: 2}
score: {epochs: all}
"""


def test_a_run_tells_its_steps_and_checkpoints_where_it_is_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "space.yaml").write_text(SPACE)
    space = load_space(tmp_path / "space.yaml", registries=REGISTRIES)
    prepared = prepare(space, tmp_path / "results")
    (job,) = prepared.jobs()
    monkeypatch.setenv(FOLDER, str(tmp_path / "trace"))
    data = LocalData({"a": prepared.stores["a"].path})
    assert execute(job, tmp_path / "results", data).state == "finished"
    found = read_marks(tmp_path / "trace")
    assert {(mark.run, mark.attempt) for mark in found} == {(job.run.run_id, 1)}
    # The writer speaks beside the steps.
    steps = [f"{m.what}{m.step}" for m in found if m.what not in (KEPT, FREE)]
    assert steps == ["begin0", "start0", "step1", "step2", "copy2", "step3", "step4", "copy4"]
    written = [f"{m.what}{m.step}" for m in found if m.what in (KEPT, FREE)]
    assert written == ["kept2", "free2", "kept4", "free4"]
    assert all(30.0 <= mark.interval_s <= 600.0 for mark in found[1:])
    assert found[0].interval_s == 0.0
