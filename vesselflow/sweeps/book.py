"""The broker's book: which run waits, which slot holds which, what became of it. Pure, no Ray.

Times are passed in; the actor in `orchestration.broker` adds leases and waiting. A run is given to
an *arrival* of a slot (each start of its process has a number) under a *grant* number of its own:
what an older arrival or grant says later is ignored.
"""

from __future__ import annotations

import enum
import heapq
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vesselflow.sweeps.events import (
    EpochDone,
    Failed,
    Finished,
    HandedBack,
    Happening,
    Message,
    Ring,
    Started,
)
from vesselflow.sweeps.exposure import Exposure
from vesselflow.sweeps.leaving import Leaving
from vesselflow.sweeps.policy import (
    Action,
    Event,
    Tally,
    across_machines,
    decide,
    last_words,
    loses_steps,
    on_leaving_machine,
)
from vesselflow.sweeps.progress import SlotView
from vesselflow.training.interval import NOTHING_SEEN, Survival

#: A slot that has not been heard of for so long has lost its run to another.
SILENT_S = 10.0
#: A step that takes so many times the median of its run's steps is told.
SLOW_FACTOR = 10.0
#: No step is told before so many seconds, whatever the median.
SLOW_FLOOR_S = 15.0
#: A slow step is given so many times that, and not less than `HUNG_FLOOR_S`, before its worker is
#: replaced.
HUNG_FACTOR = 2.0
HUNG_FLOOR_S = 60.0
#: A slot that waited so long for a run, while there are more slots than runs, ends.
SPARE_S = 30.0
#: Work of which no median is known (a first step, an image to be scored) is given so long.
HUNG_UNKNOWN_S = 1800.0
#: Steps of which the median is taken.
PACE_STEPS = 32
#: Events that are kept for the driver, which asks twice a second.
EVENTS_KEPT = 20_000
#: Seconds until a run that could not be claimed is tried again: first, and at most.
LATER_S, LATEST_S = 1.0, 30.0


class JobState(enum.Enum):
    """How a run stands in this sweep."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"

    @property
    def ended(self) -> bool:
        """Whether nothing more happens to it."""
        return self in (JobState.FINISHED, JobState.FAILED)


@dataclass
class Entry:
    """What the book knows of one run.

    Attributes:
        run_id: Name of the run.
        label: What a person calls it.
        payload: What a slot needs to do it; the book does not look into it.
        points: Names of the points that it belongs to.
        epochs: Epochs of the run.
        steps: Optimizer steps of the run, as planned until the first beat tells the true number.
        state: How it stands.
        step: Steps done.
        grant: Number of its latest grant; 0 before the first.
        tally: What it met.
        tried: How often it could not be claimed in a row.
    """

    run_id: str
    label: str
    payload: Any
    points: tuple[str, ...]
    epochs: int
    steps: int
    state: JobState = JobState.QUEUED
    step: int = 0
    grant: int = 0
    tally: Tally = field(default_factory=Tally)
    tried: int = 0


@dataclass
class SlotState:
    """What the book knows of one slot: of the latest arrival under its name."""

    name: str
    arrival: int = 0
    phase: str = "starting"
    run_id: str | None = None
    grant: int = 0
    places: tuple[Place, ...] = ()
    epoch: int = 0
    step: int = 0
    steps: int = 0
    since: float = 0.0
    heard: float = 0.0
    moved: float = 0.0
    told: bool = False
    note: str = ""
    pace: deque[float] = field(default_factory=lambda: deque(maxlen=PACE_STEPS))

    def rest(self, now: float) -> None:
        """Hold nothing from now on."""
        self.phase, self.since, self.run_id, self.grant = "idle", now, None, 0
        self.epoch = self.step = self.steps = 0
        self.told = False
        self.pace.clear()


@dataclass(frozen=True)
class Place:
    """Where one worker of a slot lives.

    Attributes:
        node: Ray's id of its machine.
        pid: Its process.
        host: The machine's name.
        machine: Its kind, as `cost_machine.MachineKind` writes it; "" where nobody asked.
    """

    node: str
    pid: int
    host: str
    machine: str = ""


@dataclass(frozen=True)
class Grant:
    """A run, given to an arrival of a slot.

    Attributes:
        number: Its own.
        run_id: The run.
        payload: What the slot needs to do it.
        reached: Step that the run was last heard at, under whatever grant.
        survival: What was seen of failures so far.
    """

    number: int
    run_id: str
    payload: Any
    reached: int = 0
    survival: Survival = NOTHING_SEEN


@dataclass
class PointState:
    """What relays see of a point; `version` grows with every change.

    Attributes:
        runs: Its runs that were submitted.
        values: Run -> objective, of runs that have ended with one.
        latest: Run -> objective, of the latest scored epoch of runs in work.
        failed: Its runs that failed.
        version: Grows with every change.
    """

    runs: set[str] = field(default_factory=set)
    values: dict[str, float] = field(default_factory=dict)
    latest: dict[str, float] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    version: int = 0

    @property
    def ended(self) -> bool:
        """Whether it has runs and all of them have ended."""
        return bool(self.runs) and all(
            run in self.values or run in self.failed for run in self.runs
        )

    @property
    def known(self) -> dict[str, float]:
        """Run -> what is known of its objective now; of runs in work only while some are."""
        return self.values if self.ended else {**self.latest, **self.values}


@dataclass(frozen=True)
class Verdict:
    """A slot that is to be replaced, and why."""

    slot: str
    arrival: int
    places: tuple[Place, ...]
    reason: str


class Book:
    """Runs, slots and who holds what.

    Args:
        retries: How many deaths of its worker on a living machine a run is forgiven.
        curve: Name of the objective in the curve of an epoch ("val/...").
        silent_s: Seconds without a beat after which a slot loses its run.
    """

    def __init__(self, retries: int, curve: str, *, silent_s: float = SILENT_S) -> None:
        self.retries, self.curve, self.silent_s = retries, curve, silent_s
        self.jobs: dict[str, Entry] = {}
        self.slots: dict[str, SlotState] = {}
        self.points: dict[str, PointState] = {}
        self.events: Ring[Happening] = Ring(EVENTS_KEPT)
        self.draining: frozenset[str] = frozenset()
        self.closing = self.stopping = False
        self.failures: dict[str, Failed] = {}
        self.exposure = Exposure()
        #: Who is in trouble with the storage -> (what, since when).
        self.trouble: dict[str, tuple[str, float]] = {}
        self._counts = dict.fromkeys(JobState, 0)
        self._steps_done = self._steps_total = 0
        self._waiting: deque[str] = deque()
        self._later: list[tuple[float, int, str]] = []
        self._numbers = 0

    # -- runs ----------------------------------------------------------------------------------

    def submit(
        self, entries: Iterable[Entry], known: Mapping[str, Mapping[str, float]] | None = None
    ) -> None:
        """Add runs at the end of the queue; a run that is known already is left as it is.

        Args:
            entries: The runs.
            known: Point -> run -> objective, of runs that are done already.
        """
        for point, values in (known or {}).items():
            state = self.points.setdefault(point, PointState())
            state.runs.update(values)
            state.values.update(values)
            state.version += 1
        for entry in entries:
            for point in entry.points:
                state = self.points.setdefault(point, PointState())
                state.runs.add(entry.run_id)
                state.version += 1
            if entry.run_id not in self.jobs:
                self.jobs[entry.run_id] = entry
                self._counts[entry.state] += 1
                self._steps_total += entry.steps
                self._waiting.append(entry.run_id)

    def pick(self, now: float) -> Entry | None:
        """Take the first run that waits out of the queue; `grant`, or `put_back` must follow."""
        if self.stopping or self.trouble:
            return None
        while self._later and self._later[0][0] <= now:
            self._waiting.append(heapq.heappop(self._later)[2])
        return self.jobs[self._waiting.popleft()] if self._waiting else None

    def put_back(self, entry: Entry, now: float, *, patience: bool = True) -> None:
        """A picked run that could not be claimed: it is tried again, later and later."""
        entry.tried += 1
        wait = min(LATEST_S, LATER_S * 2 ** min(entry.tried - 1, 10)) if patience else LATER_S
        self._numbers += 1
        heapq.heappush(self._later, (now + wait, self._numbers, entry.run_id))

    def return_unused(self, entry: Entry) -> None:
        """A picked run that nobody needed after all: it is the first of the queue again."""
        self._waiting.appendleft(entry.run_id)

    def grant(self, slot: str, arrival: int, entry: Entry, now: float) -> Grant | None:
        """Give a picked run to an arrival of a slot; None when that is gone, or leaves."""
        state = self.slots.get(slot)
        if state is None or state.arrival != arrival or self.stopping or self._leaves(state):
            self.return_unused(entry)
            return None
        self._numbers += 1
        entry.grant, entry.tried = self._numbers, 0
        self._change(entry, JobState.RUNNING)
        state.rest(now)
        state.run_id, state.grant, state.phase = entry.run_id, entry.grant, "training"
        state.heard = state.moved = now
        state.steps = entry.steps
        self.events.add(Started(entry.run_id, slot))
        survival = self.exposure.survival(now)
        self.exposure.begin(entry.run_id, now)
        return Grant(entry.grant, entry.run_id, entry.payload, entry.step, survival)

    # -- slots ---------------------------------------------------------------------------------

    def arrive(
        self, slot: str, places: Sequence[Place], now: float, node_lives: Callable[[str], bool]
    ) -> int:
        """A slot (re)starts; what an arrival before it held is given to whoever comes first.

        Returns:
            The number of this arrival.
        """
        before = self.slots.get(slot)
        if before is not None:
            self.lose(slot, before.arrival, now, node_lives)
        self._numbers += 1
        state = SlotState(slot, self._numbers, "idle", places=tuple(places), since=now, heard=now)
        self.slots[slot] = state
        return state.arrival

    def lose(
        self,
        slot: str,
        arrival: int,
        now: float,
        node_lives: Callable[[str], bool],
        *,
        gone: bool = False,
    ) -> None:
        """The processes of a slot are gone.

        Args:
            slot: The slot.
            arrival: Which arrival; 0 for whichever is the latest.
            now: Seconds.
            node_lives: Whether a machine is still there.
            gone: The slot will not come back.
        """
        state = self.slots.get(slot)
        if state is None or arrival not in (0, state.arrival):
            return
        lives = all(node_lives(place.node) for place in state.places)
        event = Event.WORKER_DIED if lives else Event.NODE_GONE
        self._take_away(state, self._seen_there(state, event), now)
        state.arrival, state.phase, state.since = 0, "restarting", now
        self.trouble.pop(slot, None)
        if gone:
            del self.slots[slot]

    def starting(self, slot: str, now: float, note: str = "") -> None:
        """A slot is asked for, or tried again: seen by the person, holds nothing."""
        state = self.slots.get(slot)
        if state is None:
            state = self.slots[slot] = SlotState(slot, since=now)
        if state.arrival == 0:
            state.note = note

    def idle(self, slot: str, arrival: int, now: float) -> bool:
        """Note that an arrival waits; False when it is not the latest of its slot."""
        state = self.slots.get(slot)
        if state is None or state.arrival != arrival:
            return False
        state.heard = now
        if state.phase != "idle" and state.run_id is None:
            state.rest(now)
        return True

    def spare(self, slot: str, now: float) -> bool:
        """Whether a slot that waits may end: it has waited for a while, and others are enough.

        Where it ends, a machine may become idle, and an autoscaler takes it away.
        """
        state = self.slots.get(slot)
        if state is None or state.run_id is not None or now - state.since < SPARE_S:
            return False
        return sum(other.arrival != 0 for other in self.slots.values()) > self.outstanding

    def drain(self, leaving: Mapping[str, Leaving]) -> None:
        """Machines that are about to go, or went after a notice: their slots hand runs back.

        Args:
            leaving: All of them, by Ray's id.
        """
        for node, facts in leaving.items():
            if node not in self.draining:
                there = [s for s in self.slots.values() if any(p.node == node for p in s.places)]
                self.say(facts.line(sum(state.run_id is not None for state in there)))
        self.draining = frozenset(leaving)

    def leaves(self, slot: str) -> bool:
        """Whether a slot is on a machine that is about to go."""
        state = self.slots.get(slot)
        return state is not None and self._leaves(state)

    def _leaves(self, state: SlotState) -> bool:
        return any(place.node in self.draining for place in state.places)

    def _seen_there(self, state: SlotState | None, event: Event) -> Event:
        """What an event is where it happened: on a leaving machine things end by themselves."""
        if state is None:
            return event
        if self._leaves(state):
            return on_leaving_machine(event)
        return across_machines(event) if len({place.node for place in state.places}) > 1 else event

    def beat(
        self, slot: str, arrival: int, grant: int, place: tuple[str, int, int, int], now: float
    ) -> bool:
        """Note where a slot is.

        Args:
            slot: The slot.
            arrival: Number of its arrival.
            grant: Number of the grant that it works on; 0 for none.
            place: (phase, epoch, step, steps); steps 0 where no step is counted.
            now: Seconds.

        Returns:
            False when it is to hand back what it works on at its next step.
        """
        state = self.slots.get(slot)
        if state is None or state.arrival != arrival:
            return False
        state.heard = now
        if state.run_id is None or state.grant != grant:
            return grant == 0
        phase, epoch, step, steps = place
        if (phase, epoch) != (state.phase, state.epoch) or (steps and step != state.step):
            if phase == state.phase == "training" and steps and 0 < state.step < step:
                state.pace.append((now - state.moved) / (step - state.step))
            state.moved = now
            if state.told:
                state.told = False
                self.say(f"{self.jobs[state.run_id].label}: goes on")
        state.phase, state.epoch = phase, epoch
        if steps:
            state.step, state.steps = step, steps
            entry = self.jobs[state.run_id]
            self._steps_total += steps - entry.steps
            self._steps_done += step - entry.step
            entry.step, entry.steps = step, steps
        return not (self.stopping or self.leaves(slot))

    def epoch(
        self, grant: int, run_id: str, epoch: int, step: int, values: Mapping[str, float]
    ) -> None:
        """Note an epoch of a run; ignored from a grant that is not the run's latest."""
        entry = self.jobs[run_id]
        if entry.grant != grant or entry.state is not JobState.RUNNING:
            return
        self.events.add(EpochDone(run_id, epoch, step, dict(values)))
        if self.curve in values:
            for point in entry.points:
                self.points[point].latest[run_id] = values[self.curve]
                self.points[point].version += 1

    def finish(
        self,
        slot: str,
        grant: int,
        run_id: str,
        values: Mapping[str, float],
        cost: Mapping[str, float],
        now: float,
    ) -> bool:
        """A run is done; False when its grant is not the latest, and nothing was noted."""
        entry = self._ended(slot, grant, run_id, now)
        if entry is None:
            return False
        self._steps_done += entry.steps - entry.step
        entry.step = entry.steps
        self.exposure.end(run_id, now)
        self._change(entry, JobState.FINISHED)
        for point in entry.points:
            state = self.points[point]
            state.values[run_id] = values.get(point, math.nan)
            state.version += 1
        self.events.add(Finished(run_id, dict(values), dict(cost), now))
        return True

    def end(
        self,
        slot: str,
        grant: int,
        run_id: str,
        event: Event,
        now: float,
        *,
        message: str = "",
        place: str = "",
        log: str = "",
        recorded: bool = True,
    ) -> bool:
        """A run ended on its slot without a result; `policy` decides what becomes of it.

        Args:
            slot: Who says so.
            grant: Number of the grant; ignored when it is not the run's latest.
            run_id: The run.
            event: What happened.
            now: Seconds.
            message: Why, in one line.
            place: Where.
            log: File with the whole story.
            recorded: Whether the run's own record says so already.

        Returns:
            Whether it was noted.
        """
        entry = self._ended(slot, grant, run_id, now)
        if entry is None:
            return False
        event = self._seen_there(self.slots.get(slot), event)
        self._decide(entry, event, now, message, place, log, recorded)
        return True

    def overdue(self, now: float) -> list[Verdict]:
        """Slots that are silent or whose run hangs: their runs are taken away, they are to go."""
        found = []
        for state in self.slots.values():
            if state.arrival == 0:
                continue
            if now - state.heard > self.silent_s:
                reason = f"was not heard of for {now - state.heard:.0f} s"
                self._take_away(state, self._seen_there(state, Event.SILENT), now)
                state.phase, state.since = "silent", now
            elif state.run_id is not None and self._hangs(state, now):
                reason = f"made no progress for {now - state.moved:.0f} s"
                self._take_away(state, self._seen_there(state, Event.HUNG), now)
                state.phase, state.since = "restarting", now
            else:
                continue
            self.trouble.pop(state.name, None)
            found.append(Verdict(state.name, state.arrival, state.places, reason))
            state.arrival = 0
        return found

    def _hangs(self, state: SlotState, now: float) -> bool:
        still = now - state.moved
        if state.phase == "waiting":
            return False
        if state.phase != "training" or len(state.pace) < 3:
            return still > HUNG_UNKNOWN_S
        median = statistics.median(state.pace)
        slow = max(SLOW_FLOOR_S, SLOW_FACTOR * median)
        if still > slow and not state.told:
            state.told = True
            assert state.run_id is not None
            self.say(
                f"{self.jobs[state.run_id].label}: step {state.step + 1} takes {still:.0f} s so "
                f"far, the median is {median:.2g} s"
            )
        return still > max(HUNG_FLOOR_S, HUNG_FACTOR * slow)

    # -- storage -------------------------------------------------------------------------------

    def storage(self, who: str, text: str, now: float) -> None:
        """Note that somebody cannot write (or, with "", that it works again)."""
        if text and who not in self.trouble:
            if not self.trouble:
                self.say(f"the storage is in trouble, runs wait: {text}")
            self.trouble[who] = (text, now)
        elif not text and self.trouble.pop(who, None) is not None and not self.trouble:
            self.say("the storage works again")

    # -- out -----------------------------------------------------------------------------------

    def say(self, text: str) -> None:
        """Tell the person."""
        self.events.add(Message(text))

    def count(self, state: JobState) -> int:
        """Runs in a state."""
        return self._counts[state]

    @property
    def outstanding(self) -> int:
        """Runs that have not ended."""
        return self._counts[JobState.QUEUED] + self._counts[JobState.RUNNING]

    @property
    def steps(self) -> tuple[int, int]:
        """Optimizer steps done, and those of all runs."""
        return self._steps_done, self._steps_total

    def wakes(self, now: float) -> float | None:
        """Seconds until a run that is to be tried later may be picked; None when none may."""
        if self.stopping or self.trouble or not self._later:
            return None
        return max(0.0, self._later[0][0] - now)

    def views(self, now: float) -> tuple[SlotView, ...]:
        """The slots as a person sees them, by name."""
        rows = []
        for name in sorted(self.slots, key=_natural):
            state = self.slots[name]
            entry = self.jobs.get(state.run_id or "")
            rows.append(
                SlotView(
                    name=name,
                    run=entry.label if entry else state.note,
                    phase="leaving" if state.arrival and self._leaves(state) else state.phase,
                    epoch=state.epoch,
                    epochs=entry.epochs if entry else 0,
                    step=state.step,
                    steps=state.steps,
                    seconds=max(0.0, now - state.since),
                )
            )
        return tuple(rows)

    # -- within --------------------------------------------------------------------------------

    def _ended(self, slot: str, grant: int, run_id: str, now: float) -> Entry | None:
        entry = self.jobs.get(run_id)
        state = self.slots.get(slot)
        if state is not None and state.grant == grant and state.run_id == run_id:
            state.rest(now)
            state.heard = now
        if entry is None or entry.grant != grant or entry.state is not JobState.RUNNING:
            return None
        return entry

    def _take_away(self, state: SlotState, event: Event, now: float) -> None:
        run_id, grant = state.run_id, state.grant
        places = ", ".join(dict.fromkeys(place.host for place in state.places))
        state.rest(now)
        entry = self.jobs.get(run_id or "")
        if entry is not None and entry.grant == grant and entry.state is JobState.RUNNING:
            where = f"{state.name} on {places}" if places else state.name
            self._decide(entry, event, now, "", where, "", recorded=False)

    def _decide(
        self,
        entry: Entry,
        event: Event,
        now: float,
        message: str,
        place: str,
        log: str,
        recorded: bool,
    ) -> None:
        self.exposure.end(entry.run_id, now, failed=loses_steps(event))
        entry.tally = entry.tally.with_event(event)
        if decide(event, entry.tally, self.retries) is Action.FAIL:
            text = message or last_words(event, entry.tally)
            if event not in (Event.RAISED, Event.DIVERGED):
                text, recorded = last_words(event, entry.tally), False
            self._fail(entry, Failed(entry.run_id, text, place, log, recorded))
            return
        self._change(entry, JobState.QUEUED)
        if event is Event.STORAGE:
            self.put_back(entry, now)
        else:
            self._waiting.appendleft(entry.run_id)
        self.events.add(HandedBack(entry.run_id))
        if event is not Event.HANDED_BACK:
            why = f" ({message})" if message else ""
            self.say(f"{entry.label}: {event.value}{why}; it resumes from its last checkpoint")

    def _fail(self, entry: Entry, failure: Failed) -> None:
        self._change(entry, JobState.FAILED)
        self.failures[entry.run_id] = failure
        for point in entry.points:
            self.points[point].failed.add(entry.run_id)
            self.points[point].version += 1
        self.say(f"{entry.label} failed: {failure.message}")
        self.events.add(failure)

    def _change(self, entry: Entry, state: JobState) -> None:
        self._counts[entry.state] -= 1
        self._counts[state] += 1
        entry.state = state


def _natural(name: str) -> tuple[str, int]:
    """slot-2 before slot-10."""
    head, _, number = name.rpartition("-")
    return (head, int(number)) if number.isdecimal() else (name, 0)
