"""One seed: a cluster, a sweep on it, and what the schedule does to both."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any

import psutil

from vesselflow.chaos.comparison import FULL, HEADLESS, KILLED, Notice
from vesselflow.chaos.drivers import Driver
from vesselflow.chaos.machines import Machine, Machines
from vesselflow.chaos.marks import Hit
from vesselflow.chaos.schedule import Event
from vesselflow.chaos.stage import Line, Played, Stage
from vesselflow.chaos.watch import Watch
from vesselflow.errors import VesselflowError
from vesselflow.records.atomic import write_bytes
from vesselflow.records.checkpoints import Checkpoints
from vesselflow.records.runs import RunRecord

#: Seconds from a notice to the end of its node; Ray ends it earlier, when its last work has gone.
NOTICE_S = 30.0
#: Seconds that a full disk lasts at most, until a driver says so.
FULL_S = 30.0
#: What a driver says of a storage that does not take what it should.
IN_TROUBLE = "the storage is in trouble"


class Late(VesselflowError):
    """The seed did not end within its time."""


class Play:
    """Plays one schedule; `run` does it.

    Args:
        stage: Where.
        events: The schedule.
        say: Gets each line of the timeline as it is made.
    """

    def __init__(self, stage: Stage, events: Sequence[Event], say: Callable[[str], None]) -> None:
        self._stage, self._events, self._say = stage, list(events), say
        self.watch = Watch(stage.results, stage.steps)
        self.played = Played()
        self._machines: Machines | None = None
        self._drivers: list[Driver] = []
        self._started = 0
        self._frozen: set[str] = set()
        # Attempts that something else than a notice may have ended.
        self._harmed: set[tuple[str, int]] = set()
        self._began = time.monotonic()

    def run(self) -> Played:
        """Play it to the end; whatever happens, no process is left."""
        try:
            self._machines = self._cluster(0)
            self._began = time.monotonic()
            self._start()
            self._go_on()
        except VesselflowError as error:
            self.played.trouble = str(error)
            self._note(f"given up: {error}")
        finally:
            self.played.seconds = time.monotonic() - self._began
            for driver in self._drivers:
                driver.end()
            if self._machines is not None:
                self._machines.end()
        self.watch.look()
        return self.played

    # -- the course ----------------------------------------------------------------------------

    def _go_on(self) -> None:
        todo = list(self._events)
        while self._drivers:
            share = self.watch.look()
            self._reap()
            if todo and self._drivers and share >= todo[0].after:
                self._event(todo.pop(0))
            self._in_time()
            time.sleep(self._stage.look_s)
        for event in todo:
            self._leave_out(event)

    def _event(self, event: Event) -> None:
        self._pause(event.pause_s)
        self._reap()
        if not self._drivers:
            self._leave_out(event)
            return
        self.played.kinds.append(event.kind)
        getattr(self, "_" + event.kind.replace("-", "_"))(event)

    def _leave_out(self, event: Event, *, begun: bool = False) -> None:
        if begun:
            self.played.kinds.pop()
        self._note(f"{event.kind} is left out: the sweep was over before its moment")

    def _reap(self) -> None:
        """Take note of drivers that ended."""
        for driver in [driver for driver in self._drivers if driver.code is not None]:
            self._drivers.remove(driver)
            ended = driver.ended()
            self.played.ended.append(ended)
            if driver.asked not in (KILLED, HEADLESS):
                words = "" if ended.code == 0 else f": {driver.last_words()}"
                self._note(f"driver {driver.number} ended with {ended.code}{words}")

    def _start(self) -> Driver:
        assert self._machines is not None
        self._started += 1
        words = [*self._stage.words, "--address", self._machines.address]
        log = self._stage.folder / "drivers.log"
        env = {**self._stage.env, **self._machines.env}
        driver = Driver(self._started, words, log, env)
        self._drivers.append(driver)
        self._note(f"driver {driver.number} started")
        return driver

    def _cluster(self, made: int) -> Machines:
        """A new cluster, in two tries: a start that a busy machine spoils is no fault."""
        stage = self._stage

        def start() -> Machines:
            return Machines(stage.folder / "ray.log", stage.nodes, stage.cpus, made, stage.env)

        try:
            return start()
        except VesselflowError as error:
            self._note(f"{error}; once more")
        return start()

    def _note(self, text: str) -> None:
        line = Line(round(time.monotonic() - self._began, 1), text)
        self.played.timeline.append(line)
        self._say(f"{line.second:6.1f} s  {text}")

    def _in_time(self) -> None:
        if time.monotonic() - self._began > self._stage.limit_s:
            words = self._drivers[-1].last_words() if self._drivers else ""
            raise Late(f"it did not end within {self._stage.limit_s:g} s; said last: {words}")

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and self._drivers:
            time.sleep(min(left, self._stage.look_s))
            self.watch.look()
            self._in_time()

    def _wait(self, true: Callable[[], Any]) -> Any:
        """Until something holds, or no driver is left; what it was then."""
        while not (found := true()):
            self._reap()
            self._in_time()
            if not self._drivers:
                return found
            time.sleep(self._stage.look_s)
            self.watch.look()
        return found

    # -- who it is done to ---------------------------------------------------------------------

    def _nodes(self) -> list[Machine]:
        assert self._machines is not None
        return list(self._machines.nodes)

    def _workers(self) -> list[tuple[Machine, psutil.Process]]:
        return [
            (node, worker)
            for node in self._nodes()
            if node.name not in self._frozen
            for worker in node.workers()
        ]

    def _worker(self, event: Event) -> tuple[Machine, psutil.Process] | None:
        """One of those at work; waits for some where there are none."""
        there = self._wait(self._workers)
        if there:
            return there[event.target % len(there)]
        self._leave_out(event, begun=True)
        return None

    def _harm(self, event: Event, node: Machine | None = None) -> None:
        """Note whose work is lost by what is done next: that on a node, or everybody's."""
        self._hit(event, node)
        self._harmed |= set(self.played.hits[-1].runs.items())

    def _hit(self, event: Event, node: Machine | None = None) -> None:
        """Note whom what is done next concerns; of several workers the records name one machine."""
        everybody = node is None or self._stage.workers > 1
        runs = {
            run: attempt
            for run, attempt, machine in self.watch.working()
            if everybody or machine in ("", node and node.name)
        }
        self.played.hits.append(Hit(event.kind, time.monotonic(), runs))

    def _at_work(self) -> dict[str, dict[str, int]]:
        """Node -> the runs, with their attempts, that work there unharmed."""
        found: dict[str, dict[str, int]] = {}
        there = {node.name for node in self._nodes()} - self._frozen
        for run, attempt, machine in self.watch.working():
            if machine in there and (run, attempt) not in self._harmed:
                found.setdefault(machine, {})[run] = attempt
        return found

    # -- what is done --------------------------------------------------------------------------

    def _kill_worker(self, event: Event) -> None:
        if (found := self._worker(event)) is not None:
            node, worker = found
            self._harm(event, node)
            _send(worker, "kill")
            self._note(f"killed worker {worker.pid} on {node.name}")

    _kill_rank = _kill_worker

    def _stop_for_good(self, event: Event) -> None:
        if (found := self._worker(event)) is not None:
            node, worker = found
            self._harm(event, node)
            _send(worker, "suspend")
            # Another worker there could not hand back what this one holds.
            self._frozen.add(node.name)
            self._note(f"stopped worker {worker.pid} on {node.name} for good")

    def _stop_a_while(self, event: Event) -> None:
        if (found := self._worker(event)) is not None:
            node, worker = found
            self._harm(event, node)
            _send(worker, "suspend")
            self._note(f"stopped worker {worker.pid} on {node.name}")
            self._pause(event.seconds)
            _send(worker, "resume")
            self._note(f"let worker {worker.pid} go on after {event.seconds:g} s")

    def _kill_driver(self, event: Event) -> None:
        driver = self._drivers[event.target % len(self._drivers)]
        self._harm(event)
        driver.asked = KILLED
        driver.kill()
        self._note(f"killed driver {driver.number}")
        self._reap()
        self._start()

    def _lose_node(self, event: Event) -> None:
        assert self._machines is not None
        nodes = self._nodes()
        node = nodes[event.target % len(nodes)]
        self._harm(event, node)
        self._machines.lose(node)
        self._note(f"killed all of {node.name}")
        self._note(f"added {self._machines.add().name}")

    def _notice(self, event: Event) -> None:
        assert self._machines is not None
        at_work = self._wait(self._at_work)
        if not at_work:
            self._leave_out(event, begun=True)
            return
        name = sorted(at_work)[event.target % len(at_work)]
        (node,) = [each for each in self._nodes() if each.name == name]
        working = at_work[name]
        self._hit(event, node)
        self._machines.drain(node, f"chaos: {node.name} goes in {NOTICE_S:g} s", NOTICE_S)
        self.played.notices.append(Notice(node.name, working))
        self._note(f"gave notice to {node.name}, where {_count(len(working), 'run')} worked")
        deadline = time.monotonic() + NOTICE_S
        self._wait(lambda: not node.alive() or time.monotonic() > deadline)
        ended = "went by itself" if not node.alive() else "was taken away at its deadline"
        self._machines.lose(node)
        self._note(f"{node.name} {ended}")
        if self._drivers:
            self._note(f"added {self._machines.add().name}")

    def _tear(self, event: Event) -> None:
        def candidates() -> list[tuple[Machine, psutil.Process, str]]:
            there = {node.name: (node, worker) for node, worker in self._workers()}
            return [
                (*there[machine], run)
                for run, _, machine in self.watch.working()
                if machine in there and self.watch.newest(run)
            ]

        found = self._wait(candidates)
        if not found:
            self._leave_out(event, begun=True)
            return
        node, worker, run = found[event.target % len(found)]
        self._harm(event, node)
        # Of a slot of several workers, rank 0 writes: without any, nothing is written any more.
        for each in node.workers():
            _send(each, "kill")
        newest = self.watch.newest(run)
        if newest is not None:
            attempt, step = newest
            checkpoints = RunRecord(self._stage.results, run).attempt_folder(attempt)
            self.played.torn.append((run, attempt, step))
            _tear(Checkpoints(checkpoints / "checkpoints"), step)
            self._note(
                f"killed worker {worker.pid} on {node.name} and tore the checkpoint "
                f"of step {step} of {run}"
            )

    def _second_driver(self, event: Event) -> None:
        self._start()

    def _kill_head(self, event: Event) -> None:
        assert self._machines is not None
        self._harm(event)
        for driver in self._drivers:
            driver.asked = HEADLESS
        self._machines.lose_head()
        self._note("killed the head")
        self._wait(lambda: not self._drivers)
        for ended in self.played.ended:
            if ended.asked == HEADLESS:
                self._note(f"driver {ended.number} ended with {ended.code}")
        made = self._machines.made
        self._machines.end()
        self._machines = self._cluster(made)
        self._frozen.clear()
        self._note("a new cluster stands")
        self._start()

    def _cut_bucket(self, event: Event) -> None:
        self._hit(event)
        self._note(f"the bucket is away for {event.seconds:g} s")
        self._stage.storage.cut(event.seconds)
        self._note("the bucket is back")

    def _slow_bucket(self, event: Event) -> None:
        self._hit(event)
        self._note(f"the bucket is slow for {event.seconds:g} s")
        self._stage.storage.slow(event.seconds)
        self._note("the bucket is quick again")

    def _full_disk(self, event: Event) -> None:
        self._hit(event)
        log, there = self._stage.folder / "drivers.log", list(self._drivers)
        before = log.stat().st_size

        def told() -> bool:
            ended = all(driver.code is not None for driver in there)
            return ended or IN_TROUBLE.encode() in log.read_bytes()[before:]

        self._note("the disk is full")
        began = time.monotonic()
        self._stage.storage.fill(event.seconds, told, FULL_S)
        self._note(f"the disk has room again, after {time.monotonic() - began:.1f} s")
        if not told():
            self.played.silent.append(f"no driver said within {FULL_S:g} s that the disk was full")
        for driver in there:
            if driver.code not in (None, 0):
                driver.asked = FULL
        self._reap()
        if not self._drivers and any(driver.asked == FULL for driver in there):
            self._start()


def _tear(checkpoints: Checkpoints, step: int) -> None:
    """Leave half of a checkpoint; one that was pruned meanwhile stays away."""
    path = checkpoints.folder / f"{step:010d}.ckpt"
    with contextlib.suppress(FileNotFoundError):
        content = path.read_bytes()
        write_bytes(path, content[: len(content) // 2])


def _send(process: psutil.Process, what: str) -> None:
    with contextlib.suppress(psutil.Error):
        getattr(process, what)()


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
