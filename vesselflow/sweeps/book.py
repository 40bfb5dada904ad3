"""The broker's book: which run waits, which slot holds which, what became of it. Pure, no Ray.

Times are passed in, events come out as plain dictionaries; the actor in `broker.py` adds locks,
leases and waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from vesselflow.sweeps.policy import Action, Event, decide
from vesselflow.sweeps.progress import SlotView


@dataclass
class SlotState:
    """What the broker knows of one slot."""

    name: str
    phase: str = "starting"
    run_id: str | None = None
    node: str = ""
    epoch: int = 0
    step: int = 0
    steps: int = 0
    since: float = 0.0

    def rest(self, now: float) -> None:
        """Hold nothing from now on."""
        self.phase, self.since, self.run_id = "idle", now, None
        self.epoch = self.step = self.steps = 0


@dataclass
class Job:
    """What the broker knows of one run."""

    run_id: str
    label: str
    payload: Any
    epochs: int
    steps: int
    deaths: int = 0
    step: int = 0
    state: str = "queued"
    result: dict[str, Any] = field(default_factory=dict)


class Queue:
    """Runs, slots and who holds what.

    Args:
        retries: How many deaths of its worker on a living machine a run is forgiven.
    """

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self.jobs: dict[str, Job] = {}
        self.slots: dict[str, SlotState] = {}
        self.waiting: deque[str] = deque()
        self.events: list[dict[str, Any]] = []
        self.closing = False
        self.stopping = False

    # -- in ------------------------------------------------------------------------------------

    def submit(self, jobs: Iterable[Job]) -> None:
        """Add runs at the end of the queue; a run that is known already is left as it is."""
        for job in jobs:
            if job.run_id not in self.jobs:
                self.jobs[job.run_id] = job
                self.waiting.append(job.run_id)

    def resolve(
        self, slot: str, node: str, now: float, node_lives: Callable[[str], bool]
    ) -> Job | None:
        """What a (re)started slot goes on with: the run that it held, if it may have it again."""
        state = self.slots.setdefault(slot, SlotState(slot, since=now))
        before, state.node = state.node, node
        held, state.run_id = state.run_id, None
        if held is None:
            return None
        job = self.jobs[held]
        if job.state != "running":
            return None
        event = Event.WORKER_DIED if not before or node_lives(before) else Event.NODE_GONE
        job.deaths += event is Event.WORKER_DIED
        if decide(event, job.deaths, self.retries) is Action.FAIL:
            self._end(
                job,
                "failed",
                {"message": f"killed its worker {job.deaths} times on a live machine"},
            )
            return None
        self.message(f"{job.label}: {event.value}; resumes from its last checkpoint")
        self.hold(slot, job, now)
        return job

    def next(self, skip: Callable[[Job], bool] = lambda job: False) -> Job | None:
        """Take the first waiting run that is not to be skipped (held by another driver) yet."""
        if self.stopping or self.closing:
            return None
        for _ in range(len(self.waiting)):
            job = self.jobs[self.waiting.popleft()]
            if not skip(job):
                return job
            self.waiting.append(job.run_id)
        return None

    def hold(self, slot: str, job: Job, now: float) -> None:
        """Note that a slot has a run."""
        state = self.slots.setdefault(slot, SlotState(slot))
        state.run_id, state.phase, state.since = job.run_id, "training", now
        state.epoch = state.step = 0
        state.steps = job.steps
        job.state = "running"
        self.events.append({"type": "started", "run_id": job.run_id, "slot": slot})

    def idle(self, slot: str, now: float) -> None:
        """Note that a slot waits."""
        state = self.slots.setdefault(slot, SlotState(slot, since=now))
        if state.phase != "idle":
            state.rest(now)

    def beat(self, slot: str, phase: str, epoch: int, step: int, steps: int) -> None:
        """Note where a slot is; forgotten when it holds nothing."""
        state = self.slots.get(slot)
        if state is None or state.run_id is None:
            return
        state.phase, state.epoch = phase, epoch
        if steps:
            state.step, state.steps = step, steps
            job = self.jobs[state.run_id]
            job.step, job.steps = step, steps

    def epoch(self, run_id: str, epoch: int, step: int, values: dict[str, float]) -> None:
        """Note an epoch of a run."""
        self.events.append(
            {"type": "epoch", "run_id": run_id, "epoch": epoch, "step": step, "values": values}
        )

    def finish(
        self, slot: str, run_id: str, state: str, result: dict[str, Any], now: float
    ) -> None:
        """Note how a run ended on its slot: finished, failed, or stopped (handed back)."""
        holder = self.slots.get(slot)
        if holder is not None and holder.run_id == run_id:
            holder.rest(now)
        job = self.jobs[run_id]
        if job.state in ("finished", "failed"):
            return
        if state == "stopped":
            job.state = "queued"
            self.waiting.appendleft(run_id)
            self.events.append({"type": "stopped", "run_id": run_id})
            return
        self._end(job, state, result)

    def slot_gone(self, slot: str) -> None:
        """A slot will not come back: its run goes to the front of the queue."""
        state = self.slots.pop(slot, None)
        if state is not None and state.run_id is not None:
            job = self.jobs[state.run_id]
            if job.state == "running":
                job.state = "queued"
                self.waiting.appendleft(job.run_id)

    def message(self, text: str) -> None:
        """Tell the person."""
        self.events.append({"type": "message", "text": text})

    def _end(self, job: Job, state: str, result: dict[str, Any]) -> None:
        job.state, job.result = state, result
        if state == "finished":
            job.step = job.steps
        else:
            self.message(f"{job.label} failed: {result.get('message', '')}")
        self.events.append({"type": state, "run_id": job.run_id, **result})

    # -- out -----------------------------------------------------------------------------------

    def outstanding(self) -> int:
        """Runs that have not ended."""
        return sum(job.state in ("queued", "running") for job in self.jobs.values())

    def views(self, now: float) -> tuple[SlotView, ...]:
        """The slots as a person sees them, by name."""
        rows = []
        for name in sorted(self.slots):
            state = self.slots[name]
            job = self.jobs.get(state.run_id or "")
            rows.append(
                SlotView(
                    name=name,
                    run=job.label if job else "",
                    phase=state.phase,
                    epoch=state.epoch,
                    epochs=job.epochs if job else 0,
                    step=state.step,
                    steps=state.steps,
                    seconds=max(0.0, now - state.since),
                )
            )
        return tuple(rows)
