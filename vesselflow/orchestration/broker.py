"""The broker: the book as an actor on the head, with leases on the runs.

It owns no CPU. All calls run in one event loop, so that the book needs no lock; what touches the
disk runs in threads beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import psutil
import ray

from vesselflow.evaluation.cost_table import Pricing, no_prices
from vesselflow.records.atomic import create_exclusive
from vesselflow.records.drivers import Driver
from vesselflow.records.leases import Lease
from vesselflow.records.paths import AnyPath, any_path
from vesselflow.records.runs import RunRecord
from vesselflow.sweeps.book import Book, Entry, Grant, JobState, Place, PointState, Verdict
from vesselflow.sweeps.budget import Budget
from vesselflow.sweeps.cost_machine import MachineKind, machine_kind
from vesselflow.sweeps.events import Happening
from vesselflow.sweeps.leaving import Leaving
from vesselflow.sweeps.policy import Event
from vesselflow.sweeps.progress import SlotView
from vesselflow.sweeps.spending import Spending

#: Seconds that a call waits for something to happen before it answers "nothing yet".
LONG_POLL_S = 1.0
#: Seconds between heartbeats of the leases.
HEARTBEAT_S = 5.0
#: Beats that the broker wants to hear in a second, of all slots together, and how rare a slot's may
#: become for it.
BEATS_PER_S, RAREST_BEAT_S, BEAT_S = 400.0, 3.0, 0.5
#: Seconds between two tries of a storage that was in trouble.
PROBE_S = 2.0
#: Seconds for which a run that another driver holds is left alone.
ELSEWHERE_S = 2.0


@dataclass(frozen=True)
class Answer:
    """What a slot is to do next.

    Attributes:
        word: "run", "wait" (ask again) or "close" (end).
        grant: The run, with "run".
    """

    word: str
    grant: Grant | None = None


@dataclass(frozen=True)
class Snapshot:
    """What the driver sees of the book at one moment."""

    slots: tuple[SlotView, ...]
    counts: Mapping[JobState, int]
    steps_done: int
    steps_total: int
    outstanding: int
    stopping: bool
    trouble: tuple[str, float] | None
    events: tuple[Happening, ...]
    skipped: int
    seen: int
    verdicts: tuple[Verdict, ...]
    spent: tuple[dict[str, Any], ...] = ()
    broke: str = ""


class Broker:
    """See `Book`; this adds waiting, leases on the runs' folders, and data that slots ask for.

    Args:
        results: The results folder.
        driver: Who holds the leases, entered in that folder; None in tests that claim nothing.
        retries: Deaths that a run is forgiven.
        curve: Name of the objective in the curve of an epoch.
        clock: Monotonic seconds.
        alive: Ids of the machines that are there; asked in a thread.
        claim: Takes the lease of a run; None while another driver has it. OSError and UserError
            are trouble of the storage.
        pricing: What machines cost.
        budget: How much they may; None for no limit.
    """

    def __init__(
        self,
        results: str | AnyPath,
        driver: Driver | None,
        retries: int,
        curve: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        alive: Callable[[], frozenset[str]] | None = None,
        claim: Callable[[str], Lease | None] | None = None,
        pricing: Pricing = no_prices,
        budget: Budget | None = None,
    ) -> None:
        self._results, self._driver, self._clock = any_path(results), driver, clock
        self._alive = alive or _nodes_alive
        self._claim = claim or self._claim_lease
        self.book = Book(retries, curve)
        self.spending, self._budget, self._broke = Spending(pricing), budget, ""
        self._leases: dict[str, Lease] = {}
        self._elsewhere: set[str] = set()
        self._lost: set[str] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._point_news: dict[str, asyncio.Event] = {}
        self._data: Any = None
        self._data_there = asyncio.Event()
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="broker-disk")
        self._tasks: set[asyncio.Task[None]] = set()
        self._releases: set[asyncio.Task[None]] = set()

    # -- slots ---------------------------------------------------------------------------------

    async def arrive(self, slot: str, places: Sequence[Place]) -> int:
        """A slot (re)starts; returns the number of its arrival."""
        self._care()
        alive = await self._in_thread(self._alive)
        arrival = self.book.arrive(slot, places, self._clock(), alive.__contains__)
        await self._release_waiting()
        self.spending.look(alive, self._clock())
        for place in places:
            if place.machine:
                self.spending.known(place.node, MachineKind.read(place.machine))
        self._wake()
        return arrival

    async def data(self) -> Any:
        """What the driver gave to `provide`; None after a while without it (ask again)."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._data_there.wait(), LONG_POLL_S)
        return self._data

    async def claim(self, slot: str, arrival: int) -> Answer:
        """The next run for an arrival of a slot."""
        book, deadline = self.book, self._clock() + LONG_POLL_S
        while True:
            now = self._clock()
            if book.closing or book.stopping or self._broke or book.leaves(slot):
                return Answer("close")
            if not book.idle(slot, arrival, now) or book.spare(slot, now):
                return Answer("close")
            entry = book.pick(now)
            if entry is not None:
                if self._too_dear(slot, entry, now):
                    book.return_unused(entry)
                    return Answer("close")
                if await self._hold(entry):
                    grant = book.grant(slot, arrival, entry, self._clock())
                    if grant is not None:
                        return Answer("run", grant)
                    await self._release(entry.run_id)
                continue
            left = deadline - now
            if left <= 0:
                return Answer("wait")
            wakes = book.wakes(now)
            await self._sleep(min(left, wakes) if wakes is not None else left)

    async def beat(
        self, slot: str, arrival: int, grant: int, place: tuple[str, int, int, int]
    ) -> tuple[bool, float]:
        """Where a slot is.

        Returns:
            Whether it is to go on (else it hands back what it holds at its next step), and the
            seconds until its next beat.
        """
        goes_on = self.book.beat(slot, arrival, grant, place, self._clock())
        state = self.book.slots.get(slot)
        if state is not None and state.run_id in self._lost:
            goes_on = False
        wait = max(BEAT_S, min(RAREST_BEAT_S, len(self.book.slots) / BEATS_PER_S))
        return goes_on, wait

    async def storage(self, slot: str, arrival: int, text: str) -> None:
        """A slot cannot write, or can again (with "")."""
        state = self.book.slots.get(slot)
        if state is not None and state.arrival == arrival:
            self.book.storage(slot, text, self._clock())
            self._wake()

    async def note(self, text: str) -> None:
        """Something that the person should know."""
        self.book.say(text)

    async def epoch(
        self, grant: int, run_id: str, epoch: int, step: int, values: Mapping[str, float]
    ) -> None:
        """An epoch of a run is done."""
        self.book.epoch(grant, run_id, epoch, step, values)
        self._tell(run_id)

    async def finish(
        self,
        slot: str,
        grant: int,
        run_id: str,
        values: Mapping[str, float],
        cost: Mapping[str, float],
    ) -> None:
        """A run is done."""
        if self.book.finish(slot, grant, run_id, values, cost, self._clock()):
            if self._budget is not None:
                seconds, steps = cost.get("wall_s", 0.0), cost.get("steps", 0.0)
                self._budget.durations.end(seconds, int(steps))
            self._tell(run_id)
            # Nobody asks for it again: the slot need not wait for the disk.
            task = self._start(self._release(run_id))
            self._releases.add(task)
            task.add_done_callback(self._releases.discard)

    async def end(
        self, slot: str, grant: int, run_id: str, event: Event, details: Mapping[str, Any]
    ) -> None:
        """A run ended without a result; `details` are those of `Book.end`."""
        if self.book.end(slot, grant, run_id, event, self._clock(), **details):
            self._tell(run_id)
            await self._release(run_id)
            self._wake()

    # -- relays --------------------------------------------------------------------------------

    async def watch(self, point: str, seen: int) -> tuple[PointState | None, bool]:
        """A point's state once its version is not `seen`.

        Returns:
            The state, None after a while without news; and whether the sweep is being stopped.
        """
        book = self.book
        state = book.points.setdefault(point, PointState())
        over = book.stopping or book.closing
        if state.version == seen and not state.ended and not over:
            news = self._point_news.setdefault(point, asyncio.Event())
            try:
                await asyncio.wait_for(news.wait(), LONG_POLL_S)
            except TimeoutError:
                return None, False
        return state, book.stopping or book.closing

    # -- driver --------------------------------------------------------------------------------

    async def provide(self, data: Any) -> None:
        """What slots need before their first run."""
        self._data = data
        self._data_there.set()

    async def submit(
        self, entries: Sequence[Entry], known: Mapping[str, Mapping[str, float]]
    ) -> None:
        """Queue runs; see `Book.submit`."""
        self._care()
        self.book.submit(entries, known)
        self._wake(len(entries))

    async def look(self, seen: int) -> Snapshot:
        """Everything that the driver shows, and the events since number `seen`."""
        self._care()
        book, now = self.book, self._clock()
        verdicts = tuple(book.overdue(now))
        if verdicts:
            await self._release_waiting()
            self._wake(len(verdicts))
        if self._budget is not None and not book.stopping:
            passed = self._budget.passed(self.spending, now)
            if passed:
                self._broke = self._broke or passed
                await self.stop()
        events, skipped = book.events.since(seen)
        done, total = book.steps
        trouble = min(book.trouble.values(), key=lambda entry: entry[1], default=None)
        return Snapshot(
            slots=book.views(now),
            counts={state: book.count(state) for state in JobState},
            steps_done=done,
            steps_total=total,
            outstanding=book.outstanding,
            stopping=book.stopping,
            trouble=(trouble[0], now - trouble[1]) if trouble else None,
            events=tuple(events),
            skipped=skipped,
            seen=book.events.end,
            verdicts=verdicts,
            spent=tuple(self.spending.rows(now)),
            broke=self._broke,
        )

    async def starting(self, slot: str, note: str = "") -> None:
        """A slot is asked for."""
        self.book.starting(slot, self._clock(), note)

    async def lose(self, slot: str, *, gone: bool = False) -> None:
        """The processes of a slot ended."""
        alive = await self._in_thread(self._alive)
        self.book.lose(slot, 0, self._clock(), alive.__contains__, gone=gone)
        await self._release_waiting()
        self._wake()

    async def drain(self, leaving: Mapping[str, Leaving]) -> None:
        """Machines that are about to go: their slots hand back what they hold."""
        self.book.drain(leaving)
        self._wake(len(self._idle))

    async def memory(self) -> int:
        """Bytes that this process holds by itself."""
        return int(psutil.Process().memory_full_info().uss)

    async def stop(self) -> None:
        """Ask every slot to checkpoint at its next step and to hand its run back."""
        self.book.stopping = True
        self._wake_all()

    async def close(self) -> None:
        """Let slots end when the queue is empty."""
        self.book.closing = True
        self._wake_all()

    async def release(self) -> None:
        """Give all leases back, and leave the results folder."""
        left = [self._release(run_id) for run_id in list(self._leases)]
        await asyncio.gather(*left, *self._releases)
        if self._driver is not None:
            await self._in_thread(self._driver.end)

    # -- within --------------------------------------------------------------------------------

    async def _hold(self, entry: Entry) -> bool:
        """Take the lease of a picked run; otherwise the run goes back into the queue."""
        if entry.run_id in self._leases:
            return True
        try:
            lease = await self._in_thread(partial(self._claim, entry.run_id))
        except Exception as error:
            # Whatever it is, the run is still there: it is tried again, and the person is told.
            self.book.put_back(entry, self._clock())
            self.book.storage("broker", _line(error), self._clock())
            self._start(self._probe())
            return False
        if lease is None:
            if entry.run_id not in self._elsewhere:
                self._elsewhere.add(entry.run_id)
                self.book.say(f"{entry.label} is being done by another driver; waiting for it")
            self.book.put_back(entry, self._clock(), patience=False)
            return False
        self._leases[entry.run_id] = lease
        self._elsewhere.discard(entry.run_id)
        return True

    def _claim_lease(self, run_id: str) -> Lease | None:
        assert self._driver is not None
        return Lease.claim(RunRecord(self._results, run_id).folder, self._driver)

    async def _release_waiting(self) -> None:
        """Give runs back that wait again: on a small cluster another driver may have the slots.

        Its slots would wait for runs that ours hold, and ours for the machines that its slots own.
        A storage that does not answer is not waited for.
        """
        jobs = self.book.jobs
        waiting = [
            self._start(self._release(run_id))
            for run_id in self._leases
            if run_id in jobs and jobs[run_id].state is JobState.QUEUED
        ]
        self._releases.update(waiting)
        for task in waiting:
            task.add_done_callback(self._releases.discard)
        if waiting:
            await asyncio.wait(waiting, timeout=LONG_POLL_S)

    async def _release(self, run_id: str) -> None:
        lease = self._leases.pop(run_id, None)
        self._lost.discard(run_id)
        if lease is not None:
            await self._in_thread(lease.release)

    async def _probe(self) -> None:
        """Try the storage until it works again."""
        while "broker" in self.book.trouble:
            await asyncio.sleep(PROBE_S)
            try:
                await self._in_thread(self._write_probe)
            except Exception as error:
                text = _line(error)
                since = self.book.trouble["broker"][1]
                self.book.trouble["broker"] = (text, since)
            else:
                self.book.storage("broker", "", self._clock())
                self._wake(len(self._idle))

    def _write_probe(self) -> None:
        path = self._results / f".probe-{os.getpid()}-{time.monotonic_ns()}"
        create_exclusive(path, b"probe")
        path.unlink(missing_ok=True)

    def _too_dear(self, slot: str, entry: Entry, now: float) -> bool:
        """Whether no run is taken any more, because one more might pass the budget."""
        if self._budget is not None and not self._broke:
            self._broke = self._budget.refuses(self.book, self.spending, slot, entry, now)
            if self._broke:
                self._wake_all()
        return self._broke != ""

    async def _look_at_machines(self) -> None:
        """Keep the ledger of machines; this one, which leads, says itself what it is."""
        own: tuple[str, MachineKind] | None = None
        while True:
            # Ray starts itself where somebody asks who is not connected: tests are not.
            if ray.is_initialized():
                with contextlib.suppress(Exception):  # The next look tells.
                    alive = await self._in_thread(self._alive)
                    self.spending.look(alive, self._clock())
                    own = own or await self._in_thread(_this_machine)
                    self.spending.known(*own)
            await asyncio.sleep(HEARTBEAT_S)

    async def _heartbeats(self) -> None:
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            # One heartbeat for all leases; each is looked at only when somebody may have taken it.
            if self._driver is None or await self._in_thread(self._driver.beat):
                continue
            for run_id, lease in list(self._leases.items()):
                if await self._in_thread(lease.lost):
                    # Another driver took us for dead: it has the run now, ours is handed back.
                    self._lost.add(run_id)

    def _care(self) -> None:
        """Start what runs beside the calls; an actor is made outside its event loop."""
        if not self._tasks:
            self._start(self._heartbeats())
            self._start(self._look_at_machines())

    def _start(self, work: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _in_thread(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    async def _sleep(self, seconds: float) -> None:
        """Wait in line for a run, at most so long."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._idle.append(turn)
        try:
            await asyncio.wait_for(turn, seconds)
        except TimeoutError:
            with contextlib.suppress(ValueError):
                self._idle.remove(turn)

    def _wake(self, count: int = 1) -> None:
        """Let so many of those that wait in line look again."""
        while count > 0 and self._idle:
            turn = self._idle.popleft()
            if not turn.done():
                turn.set_result(None)
                count -= 1

    def _wake_all(self) -> None:
        """Let whoever waits for anything look again."""
        self._wake(len(self._idle))
        for news in self._point_news.values():
            news.set()
        self._point_news.clear()

    def _tell(self, run_id: str) -> None:
        """Wake the relays of a run's points."""
        for point in self.book.jobs[run_id].points:
            news = self._point_news.pop(point, None)
            if news is not None:
                news.set()


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _this_machine() -> tuple[str, MachineKind]:
    """Ray's id of this machine, and its kind."""
    return ray.get_runtime_context().get_node_id(), machine_kind()


def _nodes_alive() -> frozenset[str]:
    return frozenset(entry["NodeID"] for entry in ray.nodes() if entry["Alive"])
