"""What a sweep told of every step and checkpoint (`sweeps.step_trace`), and what kills took of it.

Pure, but for reading. All on one machine: the times are those of its one monotonic clock.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import inf
from pathlib import Path

from vesselflow.sweeps.step_trace import BEGIN, COPY, FREE, KEPT, START, STEP

#: Steps that may be done when a checkpoint has become due: the one that was under way then, and the
#: one that ends with the copy.
LATE_STEPS = 2
#: Seconds that a worker may go on after its driver or its node was killed.
LAST_S = 3.0


@dataclass(frozen=True)
class Mark:
    """One line of a trace.

    Attributes:
        at: Monotonic seconds of this machine.
        run: Name of the run.
        attempt: Its number.
        what: One of `step_trace`'s words.
        step: Of the run.
        interval_s: Seconds between two checkpoints as they stood then; 0 where not yet known.
    """

    at: float
    run: str
    attempt: int
    what: str
    step: int
    interval_s: float = 0.0


def read_marks(folder: Path) -> list[Mark]:
    """All marks of a folder by time; a line that a kill left torn is passed over."""
    marks = []
    for path in folder.glob("*.jsonl"):
        for line in path.read_bytes().splitlines():
            try:
                content = json.loads(line)
                interval_s = content.pop("interval_s") or 0.0
                marks.append(Mark(**content, interval_s=interval_s))
            except (ValueError, TypeError, KeyError):
                continue
    return sorted(marks, key=lambda mark: mark.at)


@dataclass(frozen=True)
class Hit:
    """Something that was done to runs.

    Attributes:
        kind: Of disturbance.
        at: When, by the clock of the marks.
        runs: Run -> its newest attempt, of those that it hit.
    """

    kind: str
    at: float
    runs: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TakenUp:
    """How an attempt took up a run that another one had left.

    Attributes:
        run: Name of the run.
        attempt: Its number, at least 2.
        before: The attempt before it.
        machine: Where that one was made; empty when it said nothing.
        step: That this one resumed from; 0 for a fresh start.
        kept: The newest step of which a whole checkpoint was there.
        reached: Last step that the attempt before had done.
        allowed: Steps beyond `kept` that it may have done by what was promised.
    """

    run: str
    attempt: int
    before: int
    machine: str
    step: int
    kept: int
    reached: int
    allowed: int

    @property
    def repeated(self) -> int:
        """Steps that are done twice."""
        return max(0, self.reached - self.step)

    @property
    def fault(self) -> str:
        """What is wrong with it after a kill; empty for nothing."""
        name = f"{self.run} attempt {self.attempt}"
        if self.step < self.kept:
            return f"{name} resumed from step {self.step}, though {self.kept} was kept"
        if self.step > max(self.reached, self.kept):
            return f"{name} resumed from step {self.step}, though only {self.reached} were done"
        if self.reached - self.kept > self.allowed:
            done = self.reached - self.kept
            return f"{name} repeats {done} steps, its interval held {self.allowed}"
        return ""


def taken_up(
    marks: Sequence[Mark],
    attempts: Mapping[str, Sequence[tuple[int, int, str]]],
    torn: Collection[tuple[str, int, int]],
) -> list[TakenUp]:
    """How each attempt but the first of a run followed the one before it.

    Args:
        marks: Of all runs, by time.
        attempts: Run -> number, step that it resumed from and machine of each attempt, in order.
        torn: Run, attempt and step of each checkpoint that was torn on purpose.
    """
    found = []
    for run, each in sorted(attempts.items()):
        ours = [mark for mark in marks if mark.run == run]
        for (before, resumed, machine), (number, step, _) in pairwise(each):
            begin = _begin(ours, number)
            # One that was stopped and goes on is of no account any more.
            past = [mark for mark in ours if mark.attempt < number and mark.at < begin]
            last = [mark for mark in past if mark.attempt == before]
            reached = max((m.step for m in last if m.what == STEP), default=resumed)
            kept = max(
                (
                    mark.step
                    for mark in past
                    if mark.what == KEPT and (run, mark.attempt, mark.step) not in torn
                ),
                default=0,
            )
            allowed = steps_allowed(last, resumed, reached)
            newest = max((m.step for m in last if m.what == KEPT), default=resumed)
            # What was torn on purpose is one interval more: that from the one before it.
            allowed += max(0, newest - kept)
            found.append(TakenUp(run, number, before, machine, step, kept, reached, allowed))
    return found


def steps_allowed(marks: Sequence[Mark], resumed: int, reached: int) -> int:
    """Steps that an attempt may lose by a kill: those of one interval between checkpoints.

    What is promised: a copy of the state is taken at the end of the first step that begins when the
    interval since the last copy is over and that copy is written. So, beyond the newest whole
    checkpoint, an attempt may have done the steps that ended within the interval (or while that
    checkpoint was being written, if that took longer), the step that was under way then, and the
    one that ends with the copy. A copy that was not yet whole at the kill is lost, and with it the
    steps that were done while it was written: there is one write at a time.

    Args:
        marks: Of this attempt, by time, until another took its run up.
        resumed: Step from which it began.
        reached: Its last step.

    Returns:
        A count from the newest whole checkpoint of this attempt on, else from `resumed`; all steps
        that were done where a copy was being written that had been taken in time.
    """
    kept = [mark for mark in marks if mark.what == KEPT]
    base = max((mark.step for mark in kept), default=resumed)
    steps = [mark for mark in marks if mark.what == STEP and mark.step > base]
    first = COPY if kept else START
    since = [mark for mark in marks if mark.what == first and mark.step == base]
    if not since:
        # Nothing was trained yet.
        return 0
    began = since[-1].at
    interval_s = max((m.interval_s for m in marks if m.at >= began), default=0.0)
    due = began + interval_s
    if kept:
        # Its writer may be busy for longer, with what the attempt has cost.
        due = max(due, max((m.at for m in marks if (m.what, m.step) == (FREE, base)), default=inf))
    allowed = sum(mark.at <= due for mark in steps) + LATE_STEPS
    copies = [mark.step for mark in marks if mark.what == COPY and mark.step > base]
    if copies and min(copies) - base <= allowed:
        return max(allowed, reached - base)
    return allowed


def next_steps(
    marks: Sequence[Mark], hits: Sequence[Hit], kinds: Collection[str]
) -> list[tuple[str, str, float]]:
    """Kind, run, and seconds from a hit to the first step of a later attempt of the run.

    Left out are runs whose training was over, that were not hit in truth (their attempt went on),
    and that were hit once more before that step.

    Args:
        marks: Of all runs, by time.
        hits: Of all kinds.
        kinds: Those that are told.
    """
    found = []
    for hit in hits:
        for run, attempt in sorted(hit.runs.items()) if hit.kind in kinds else ():
            steps = [m for m in marks if (m.run, m.what) == (run, STEP) and m.at > hit.at]
            if any(m.attempt == attempt and m.at > hit.at + LAST_S for m in steps):
                continue
            first = min((m.at for m in steps if m.attempt > attempt), default=inf)
            again = any(run in other.runs and hit.at < other.at < first for other in hits)
            if first < inf and not again:
                found.append((hit.kind, run, first - hit.at))
    return found


def _begin(marks: Iterable[Mark], attempt: int) -> float:
    """When an attempt began; for ever later, when it did not say so."""
    times = [mark.at for mark in marks if mark.attempt == attempt and mark.what == BEGIN]
    return min(times, default=inf)
