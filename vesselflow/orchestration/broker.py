"""The broker: one actor that owns no CPU and hands runs to slots."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray

from vesselflow.records.leases import Lease
from vesselflow.records.runs import RunRecord
from vesselflow.sweeps.book import Job, Queue

#: Seconds that a call waits for something to happen before it answers "nothing yet".
LONG_POLL_S = 1.0
#: Seconds between heartbeats of the leases.
HEARTBEAT_S = 5.0


class Broker:
    """See `Queue`; this adds a lock, waiting, and leases on the runs' folders.

    Args:
        results: The results folder.
        owner: Who holds the leases: host, pid and the like of the driver.
        retries: Deaths that a run is forgiven.
    """

    def __init__(self, results: str, owner: dict[str, Any], retries: int) -> None:
        self._results, self._owner = Path(results), owner
        self._queue = Queue(retries)
        self._changed = threading.Condition()
        self._leases: dict[str, Lease] = {}
        self._elsewhere: dict[str, float] = {}
        self._lost: set[str] = set()
        self._points: dict[str, Sequence[Job]] = {}
        self._known: dict[str, Mapping[str, float]] = {}
        threading.Thread(target=self._heartbeats, daemon=True).start()

    # -- slots ---------------------------------------------------------------------------------

    def arrive(self, slot: str, node: str) -> Any:
        """A slot (re)starts: the payload of the run that it must go on with, or None."""
        alive = {entry["NodeID"] for entry in ray.nodes() if entry["Alive"]}
        with self._changed:
            job = self._queue.resolve(slot, node, time.monotonic(), alive.__contains__)
            self._changed.notify_all()
            return job.payload if job else None

    def claim(self, slot: str) -> tuple[str, Any]:
        """The next run for a slot: ("run", payload), ("wait", None) or ("close", None)."""
        deadline = time.monotonic() + LONG_POLL_S
        with self._changed:
            while True:
                job = self._queue.next(skip=self._held_elsewhere)
                if job is not None:
                    self._queue.hold(slot, job, time.monotonic())
                    self._changed.notify_all()
                    return "run", job.payload
                if self._queue.closing or self._queue.stopping:
                    return "close", None
                self._queue.idle(slot, time.monotonic())
                left = deadline - time.monotonic()
                if left <= 0:
                    return "wait", None
                self._changed.wait(left)

    def beat(self, slot: str, phase: str, epoch: int, step: int, steps: int) -> bool:
        """Where a slot is; True when it is to hand its run back at its next step."""
        with self._changed:
            self._queue.beat(slot, phase, epoch, step, steps)
            state = self._queue.slots.get(slot)
            lost = state is not None and state.run_id in self._lost
            return self._queue.stopping or lost

    def note(self, text: str) -> None:
        """Something that the person should know."""
        with self._changed:
            self._queue.message(text)

    def epoch(self, run_id: str, epoch: int, step: int, values: dict[str, float]) -> None:
        """An epoch of a run is done."""
        with self._changed:
            self._queue.epoch(run_id, epoch, step, values)
            self._changed.notify_all()

    def finish(self, slot: str, run_id: str, state: str, result: dict[str, Any]) -> None:
        """A run ended on its slot; its event says when, in monotonic seconds of this machine."""
        with self._changed:
            now = time.monotonic()
            self._queue.finish(slot, run_id, state, {**result, "at": now}, now)
            lease = self._leases.pop(run_id, None)
            self._lost.discard(run_id)
            self._changed.notify_all()
        if lease is not None:
            lease.release()

    # -- trials --------------------------------------------------------------------------------

    def register(
        self, points: Mapping[str, Sequence[Job]], known: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Tell which runs each point still needs, and the scores of those that it has.

        The runs are queued when the point's trial submits it.
        """
        with self._changed:
            self._points.update(points)
            self._known.update(known)

    def submit(self, point: str) -> tuple[list[str], dict[str, float]]:
        """Queue a point's missing runs; return their names, and the scores of its other runs."""
        with self._changed:
            jobs = self._points[point]
            self._queue.submit(jobs)
            self._changed.notify_all()
            return [job.run_id for job in jobs], dict(self._known.get(point, {}))

    def poll(self, run_ids: Sequence[str], seen: int) -> tuple[int, list[dict[str, Any]], bool]:
        """News of some runs since event number `seen`: (new number, events, all ended)."""
        wanted = set(run_ids)
        deadline = time.monotonic() + LONG_POLL_S
        with self._changed:
            while True:
                events = [e for e in self._queue.events[seen:] if e.get("run_id") in wanted]
                ended = all(
                    run in self._queue.jobs
                    and self._queue.jobs[run].state in ("finished", "failed")
                    for run in wanted
                )
                left = deadline - time.monotonic()
                if events or ended or left <= 0:
                    return len(self._queue.events), events, ended
                self._changed.wait(left)

    # -- driver --------------------------------------------------------------------------------

    def snapshot(self, seen: int) -> dict[str, Any]:
        """Everything that the live view shows, and the events since number `seen`."""
        with self._changed:
            jobs = self._queue.jobs.values()
            return {
                "slots": self._queue.views(time.monotonic()),
                "running": sum(job.state == "running" for job in jobs),
                "finished": sum(job.state == "finished" for job in jobs),
                "failed": sum(job.state == "failed" for job in jobs),
                "steps_done": sum(job.step for job in jobs),
                "outstanding": self._queue.outstanding(),
                "stopping": self._queue.stopping,
                "events": self._queue.events[seen:],
                "seen": len(self._queue.events),
            }

    def slot_gone(self, slot: str) -> None:
        """A slot ended for good."""
        with self._changed:
            self._queue.slot_gone(slot)
            self._changed.notify_all()

    def stop(self) -> None:
        """Ask every slot to checkpoint at its next step and to hand its run back."""
        with self._changed:
            self._queue.stopping = True
            self._changed.notify_all()

    def closed(self) -> bool:
        """Whether slots are to end."""
        with self._changed:
            return self._queue.closing or self._queue.stopping

    def close(self) -> None:
        """Let slots end when the queue is empty."""
        with self._changed:
            self._queue.closing = True
            self._changed.notify_all()

    def release(self) -> None:
        """Give all leases back."""
        with self._changed:
            leases, self._leases = list(self._leases.values()), {}
        for lease in leases:
            lease.release()

    # -- leases --------------------------------------------------------------------------------

    def _held_elsewhere(self, job: Job) -> bool:
        """True while another driver has the run; takes the lease otherwise."""
        if job.run_id in self._leases:
            return False
        now = time.monotonic()
        if now < self._elsewhere.get(job.run_id, 0.0):
            return True
        record = RunRecord(self._results, job.run_id)
        lease = Lease.claim(record.folder, self._owner)
        if lease is None:
            if job.run_id not in self._elsewhere:
                self._queue.message(f"{job.label} is being done by another driver; waiting for it")
            self._elsewhere[job.run_id] = now + 2.0
            return True
        self._leases[job.run_id] = lease
        return False

    def _heartbeats(self) -> None:
        while True:
            time.sleep(HEARTBEAT_S)
            with self._changed:
                leases = list(self._leases.items())
            for run_id, lease in leases:
                if not lease.beat() and lease.lost():
                    # Another driver took us for dead: it has the run now, ours is handed back.
                    with self._changed:
                        self._lost.add(run_id)
