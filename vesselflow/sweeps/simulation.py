"""A sweep as a discrete-event simulation: the book, the policy and the leases of a real one. Pure.

Slots claim, train, checkpoint and die on a simulated clock; what is done about it is decided by
`Book`, `policy`, `capacity` and `leases.holds`, as in a sweep. What a slot does between two
events is computed (`simulation_model.Timeline`), and it beats only when somebody looks, so that a
thousand runs on a hundred machines take less than a second.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Callable, Sequence
from typing import Any

from vesselflow.sweeps.book import Book
from vesselflow.sweeps.capacity import Node, SlotPlan, make_plan, workers_that_fit
from vesselflow.sweeps.simulated_driver import SimulatedDriver
from vesselflow.sweeps.simulated_parts import Machine, Record
from vesselflow.sweeps.simulation_model import (
    Blow,
    Disturbance,
    MachineModel,
    RunModel,
    Settings,
    Simulated,
)

#: Seconds after which an autoscaler gives a machine back on which nothing runs.
IDLE_S = 300.0
#: Seconds until a machine that was given notice, and on which nothing runs any more, is gone: Ray
#: ends a node that idles (11.1 to 12.3 s from notice to end in ten seeds of chaos).
GOES_S = 10.0
#: Seconds between two looks at the share of the steps that is kept.
_SHARE_S = 0.1
#: What is simulated at most: a year, and so many events for each run.
_LONGEST_S, _EVENTS = 366 * 86400.0, 5_000


def simulate(
    runs: Sequence[RunModel],
    machines: Sequence[MachineModel],
    settings: Settings | None = None,
    *,
    seed: int = 0,
    disturbances: Sequence[Disturbance] = (),
    watch: Callable[[Book], None] | None = None,
) -> Simulated:
    """Simulate one sweep from its command to its end.

    Args:
        runs: What is to be done, in the order in which it is wanted.
        machines: Where.
        settings: How.
        seed: Of all random draws: equal arguments give equal results.
        disturbances: What befalls it at known times.
        watch: Looks at the book of each driver after each event, for tests.

    Raises:
        UserError: The machines cannot carry one slot.
    """
    world = _World(runs, machines, settings or Settings(), random.Random(seed))
    for blow in disturbances:
        if blow.after is None:
            world.at(blow.at_s, world.strike, blow)
    world.follow([blow for blow in disturbances if blow.after is not None])
    return world.run(watch)


class _World:
    """Clock, machines, results folder and drivers."""

    def __init__(
        self,
        runs: Sequence[RunModel],
        machines: Sequence[MachineModel],
        settings: Settings,
        draws: random.Random,
    ) -> None:
        self.settings, self.draws, self.now = settings, draws, 0.0
        self.records = {run.run_id: Record(run) for run in runs}
        self.kinds = tuple(machines)
        self.machines: dict[str, Machine] = {}
        self.told = Simulated()
        self.drivers: list[SimulatedDriver] = []
        self._events: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._paid: list[tuple[MachineModel, float]] = []
        self.plan = self._plan(max(1, len(runs)))
        self._open_site()

    def _plan(self, runs: int) -> SlotPlan:
        wanted = self.settings
        nodes = [Node(kind.cpus, kind.gpus) for kind in self.kinds for _ in range(kind.count)]
        return make_plan(
            nodes,
            slots=wanted.slots,
            workers=wanted.workers,
            threads=wanted.threads,
            gpu=wanted.gpu,
            runs=runs,
            runs_per_point=1,
            micro_batches_per_step=wanted.workers,
        )

    def at(self, when: float, call: Callable[..., Any], *args: Any) -> None:
        """Do something at a moment; what is due together is done in the order of its asking."""
        heapq.heappush(self._events, (max(when, self.now), next(self._numbers), call, args))

    def run(self, watch: Callable[[Book], None] | None) -> Simulated:
        left = _EVENTS * (1 + len(self.records))
        while self._events and left:
            when, _, call, args = heapq.heappop(self._events)
            if when > _LONGEST_S or all(driver.over for driver in self.drivers):
                break
            self.now, left = when, left - 1
            call(*args)
            for driver in self.drivers if watch is not None else ():
                if driver.alive and watch is not None:
                    watch(driver.book)
        return self._end()

    def _end(self) -> Simulated:
        told = self.told
        told.finished = all(driver.over for driver in self.drivers)
        ends = [driver.over_s for driver in self.drivers if driver.over]
        told.wall_s = max(ends) + self.settings.end_s if told.finished else math.inf
        upto = told.wall_s if told.finished else self.now
        for machine in self.machines.values():
            if machine.alive:
                self._paid.append((machine.kind, upto - machine.asked_s))
        head = self.settings
        told.dollars = upto * head.head_price / 3600
        for kind, seconds in self._paid:
            told.machine_s[kind.name] = told.machine_s.get(kind.name, 0.0) + seconds
            told.dollars += seconds * kind.price / 3600
        told.done = sum(record.accepted for record in self.records.values())
        told.failed = len({run for driver in self.drivers for run in driver.book.failures})
        return told

    # -- machines ------------------------------------------------------------------------------

    def _open_site(self) -> None:
        """A driver with machines of its own."""
        site = len({driver.site for driver in self.drivers})
        for kind in self.kinds:
            for _ in range(kind.count):
                self._ask(kind, site)
        self.begin_driver(site)

    def _ask(self, kind: MachineModel, site: int, boot_s: float | None = None) -> None:
        if boot_s is None:
            boot_s = kind.boot_s
            if boot_s > 0 and kind.boot_spread > 0:
                boot_s *= self.draws.lognormvariate(0.0, kind.boot_spread)
        self.at(self.now + boot_s, self._join, kind, site, self.now)

    def _join(self, kind: MachineModel, site: int, asked_s: float) -> None:
        wanted = self.settings
        room = workers_that_fit([Node(kind.cpus, kind.gpus)], wanted.threads, wanted.gpu)
        machine = Machine(kind, f"node-{len(self.machines)}", site, asked_s, room, room)
        self.machines[machine.node] = machine
        for driver in self._at_site(site):
            driver.open.append(machine)
            driver.look_soon()
        if kind.mean_life_s < math.inf:
            life = self.draws.expovariate(1.0 / kind.mean_life_s)
            noticed = kind.notice_s > 0 and self.draws.random() < kind.noticed
            call = self.notice if noticed else self.lose
            self.at(self.now + life, call, machine, *([kind.notice_s] if noticed else []))

    def _at_site(self, site: int) -> list[SimulatedDriver]:
        return [driver for driver in self.drivers if driver.site == site and driver.alive]

    def lives(self, node: str) -> bool:
        return self.machines[node].alive

    def unused(self, machine: Machine) -> None:
        """No slot is on a machine now: a rented one is given back after a while."""
        if machine.draining and machine.leaves is not None:
            self.at(self.now + GOES_S, self.lose, machine, machine.leaves)
        elif machine.kind.boot_s > 0:
            self.at(self.now + IDLE_S, self._give_back, machine)

    def _give_back(self, machine: Machine) -> None:
        if machine.alive and not machine.draining and machine.free == machine.room:
            machine.alive = False
            self._paid.append((machine.kind, self.now - machine.asked_s))

    def notice(self, machine: Machine, seconds: float, after_s: float | None = None) -> None:
        """A machine will be gone in some seconds, and says so."""
        if not machine.alive or machine.draining:
            return
        machine.draining = True
        for driver in self._at_site(machine.site):
            driver.drain(machine, seconds)
        self.at(self.now + seconds, self.lose, machine, after_s)

    def lose(self, machine: Machine, after_s: float | None = None) -> None:
        """A machine is gone; of rented ones another is asked for.

        Args:
            machine: Which.
            after_s: Seconds until another one takes its place; as it boots when None.
        """
        if not machine.alive:
            return
        machine.alive = False
        self.told.machines_lost += 1
        self._paid.append((machine.kind, self.now - machine.asked_s))
        for driver in self._at_site(machine.site):
            driver.lost_machine(machine)
        self._ask(machine.kind, machine.site, after_s)

    # -- drivers -------------------------------------------------------------------------------

    def begin_driver(self, site: int) -> None:
        driver = SimulatedDriver(self, site)
        self.drivers.append(driver)
        self.at(self.now + self.settings.driver_s, driver.begin)

    def kill_driver(self, driver: SimulatedDriver, again_s: float, *, known: bool) -> None:
        """The driver and its slots die.

        Args:
            driver: Which.
            again_s: Seconds until its command is given again.
            known: Whether who comes next can tell that it is dead; else its claims must lapse.
        """
        driver.die(known)
        self.at(self.now + again_s, self._again, driver)

    def _again(self, driver: SimulatedDriver) -> None:
        self.drivers.remove(driver)
        self.begin_driver(driver.site)

    # -- blows ---------------------------------------------------------------------------------

    def follow(self, blows: Sequence[Disturbance]) -> None:
        """Strike one after another, each when checkpoints hold its share of the steps."""
        if not blows:
            return
        first, *others = blows
        if self._share() < (first.after or 0.0):
            self.at(self.now + _SHARE_S, self.follow, blows)
            return
        self.at(self.now + first.at_s, self._strike_then, first, others)

    def _strike_then(self, blow: Disturbance, others: Sequence[Disturbance]) -> None:
        machine = self.strike(blow)
        self.at(self.now, self._once_over, blow, machine, self.now, others)

    def _once_over(
        self,
        blow: Disturbance,
        machine: Machine | None,
        since: float,
        others: Sequence[Disturbance],
    ) -> None:
        """Go on with the others when a blow that lasts is over."""
        lasts = blow.blow in (Blow.STORAGE, Blow.PAUSE_SLOT) and self.now < since + blow.seconds
        if lasts or (blow.blow is Blow.NOTICE and machine is not None and machine.alive):
            self.at(self.now + _SHARE_S, self._once_over, blow, machine, since, others)
        else:
            self.follow(others)

    def _share(self) -> float:
        """Share of all steps that checkpoints hold."""
        kept = {
            run_id: record.run.steps if record.accepted else record.checkpoint
            for run_id, record in self.records.items()
        }
        for driver in self.drivers:
            for slot in driver.slots.values():
                if slot.attempt is not None:
                    run_id = slot.attempt.record.run.run_id
                    kept[run_id] = max(kept[run_id], slot.attempt.place(self.now).checkpoint)
        return sum(kept.values()) / max(1, sum(r.run.steps for r in self.records.values()))

    def strike(self, blow: Disturbance) -> Machine | None:
        """Let something befall the sweep; the machine that it befell, if it was one."""
        living = [driver for driver in self.drivers if driver.alive and not driver.over]
        if blow.blow is Blow.SECOND_DRIVER:
            self._open_site()
        elif not living:
            return None
        elif blow.blow in (Blow.KILL_DRIVER, Blow.LOSE_HEAD):
            driver = living[blow.which % len(living)]
            self.kill_driver(driver, blow.seconds, known=blow.blow is Blow.KILL_DRIVER)
        elif blow.blow is Blow.STORAGE:
            for driver in living:
                driver.block(blow.seconds)
        elif blow.blow in (Blow.LOSE_MACHINE, Blow.NOTICE):
            there = [m for m in self.machines.values() if m.alive and not m.draining]
            if there:
                machine = there[blow.which % len(there)]
                if blow.blow is Blow.NOTICE:
                    machine.leaves = blow.leaves
                    self.notice(machine, blow.seconds, blow.leaves)
                else:
                    self.lose(machine, blow.seconds)
                return machine
        else:
            slots = [(d, slot) for d in living for slot in d.slots.values() if slot.alive]
            if slots:
                driver, slot = slots[blow.which % len(slots)]
                driver.strike(slot, blow.blow, blow.seconds)
        return None
