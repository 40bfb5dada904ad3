"""A driver of a simulated sweep: what broker, driver and slots do, around the real book. Pure."""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping
from typing import Any

from vesselflow.records.drivers import TIMEOUT_S
from vesselflow.records.leases import Claim, holds
from vesselflow.sweeps.book import SPARE_S, Book, Entry, Place
from vesselflow.sweeps.capacity import Node, wanted_slots
from vesselflow.sweeps.leaving import Leaving
from vesselflow.sweeps.policy import Event
from vesselflow.sweeps.simulated_parts import Attempt, Holder, Machine, Record, Slot, Stage
from vesselflow.sweeps.simulation_model import Blow, Timeline

#: Seconds between two looks of the driver at who is silent.
_LOOK_S = 0.5


class SimulatedDriver:
    """A driver with its book: slots, claims, looks.

    Args:
        world: Where it is.
        site: Its machines are those of this number.

    Attributes:
        book: The real one.
        slots: By name.
        open: Machines that may have room.
        alive: Whether it lives.
        over: Whether every run has ended.
        over_s: When it saw that.
        died_s: As of `Holder`, and so is `known_dead`.
    """

    def __init__(self, world: Stage, site: int) -> None:
        self.world, self.site = world, site
        self.book = Book(world.settings.retries, "")
        self.slots: dict[str, Slot] = {}
        self.open: deque[Machine] = deque()
        self.alive, self.over, self.over_s = True, False, math.inf
        self.died_s: float | None = None
        self.known_dead = False
        self._idle: deque[Slot] = deque()
        self._numbers = itertools.count()
        self._looks = self._begun = False
        self._blocked_s = self._wakes_s = -math.inf

    def begin(self) -> None:
        """The command is given: what is not done is queued."""
        if not self.alive:
            return
        self._begun = True
        self.book.submit(
            Entry(
                run_id=run_id,
                label=run_id,
                payload=None,
                points=(run_id,),
                epochs=record.run.epochs,
                steps=record.run.steps,
            )
            for run_id, record in self.world.records.items()
            if not record.accepted
        )
        self.open.extend(
            machine
            for machine in self.world.machines.values()
            if machine.alive and machine.site == self.site
        )
        for machine in self.open:
            machine.free = machine.room
        self._drained()
        self.look()

    def die(self, known: bool) -> None:
        """It and its slots are gone."""
        for slot in list(self.slots.values()):
            self._stop(slot)
        self.alive, self.died_s, self.known_dead = False, self.world.now, known
        self.slots.clear()

    # -- machines ------------------------------------------------------------------------------

    def look_soon(self) -> None:
        """Machines came or went: the next look at them tells."""
        if not self._looks and self.alive and self._begun:
            self._looks = True
            self.world.at(self.world.now + self.world.settings.machines_s, self.look)

    def look(self) -> None:
        """Start what slots are wanted and have room."""
        self._looks = False
        if not self.alive or self._done():
            return
        nodes = [
            Node(m.kind.cpus, m.kind.gpus)
            for m in self.world.machines.values()
            if m.alive and not m.draining and m.site == self.site
        ]
        wanted = wanted_slots(self.world.plan, nodes, self.book.outstanding)
        while len(self.slots) < wanted and (room := self._room()) is not None:
            self._start(room, f"slot-{next(self._numbers)}")

    def _room(self) -> tuple[Machine, ...] | None:
        """A machine for each worker of a slot: one that holds all of them, where there is one."""
        need = self.world.settings.workers
        for _ in range(len(self.open)):
            machine = self.open[0]
            if machine.alive and not machine.draining and machine.free >= need:
                return (machine,) * need
            if not machine.alive or machine.draining or machine.free == 0:
                self.open.popleft()
            else:
                self.open.rotate(-1)
        places = [machine for machine in self.open for _ in range(machine.free)]
        return tuple(places[:need]) if len(places) >= need else None

    def _start(self, room: tuple[Machine, ...], name: str) -> None:
        for machine in room:
            machine.free -= 1
        places = tuple(Place(machine.node, 0, machine.node) for machine in room)
        slot = self.slots[name] = Slot(name, room, places)
        self.book.starting(name, self.world.now)
        self.world.at(self.world.now + self.world.settings.slot_s, self._arrive, slot)

    def _arrive(self, slot: Slot) -> None:
        if slot.alive and self.alive:
            now = self.world.now
            slot.arrival = self.book.arrive(slot.name, slot.places, now, self.world.lives)
            self._claim(slot)

    def _leave(self, slot: Slot) -> None:
        """The processes of a slot have ended: what they owned is free."""
        slot.alive = False
        if self.slots.get(slot.name) is slot:
            del self.slots[slot.name]
        for machine in slot.machines:
            machine.free += 1
            if machine.alive and machine not in self.open:
                self.open.append(machine)
            if machine.alive and machine.free == machine.room:
                self.world.unused(machine)

    def drain(self, machine: Machine, seconds: float) -> None:
        """A machine was given notice: what its slots hold is handed back at the next step."""
        self._drained()
        world = self.world
        for slot in self._on(machine):
            attempt = slot.attempt
            if attempt is None:
                self._let_go(slot)
                continue
            run, place = attempt.record.run, attempt.place(world.now)
            last = place.step >= run.steps or place.step == place.checkpoint
            # Between two images, or at the end of the step in work.
            wait = 0.0 if last else run.step_s + run.save_s
            if wait < seconds:
                world.at(world.now + wait, self._hand_back, slot, attempt)

    def _drained(self) -> None:
        self.book.drain(
            {
                machine.node: Leaving(machine.node)
                for machine in self.world.machines.values()
                if machine.draining and machine.site == self.site
            }
        )

    def _hand_back(self, slot: Slot, attempt: Attempt) -> None:
        """The agreed stop: a checkpoint of where it is, then the run is in the queue again."""
        if not slot.alive or slot.attempt is not attempt:
            return
        now = self.world.now
        goes_on = self._beat(slot)
        assert not goes_on, "who is on a leaving machine is told to hand back"
        self._forget(slot, agreed=True)
        run_id = attempt.record.run.run_id
        self.book.end(slot.name, attempt.grant, run_id, Event.HANDED_BACK, now)
        self._release(attempt.record)
        self._let_go(slot)
        self._wake()

    def _let_go(self, slot: Slot) -> None:
        """A slot ends as it should, not silent until then; the driver sees it at its next look."""
        if slot.arrival:
            self._beat(slot)
        self._leave(slot)
        self.world.at(self.world.now + self.world.settings.look_s, self._gone, slot)

    def _gone(self, slot: Slot) -> None:
        if self.alive:
            self.book.lose(slot.name, slot.arrival, self.world.now, self.world.lives, gone=True)
            self.look_soon()
            self._wake()

    def lost_machine(self, machine: Machine) -> None:
        """A machine is gone: its slots are silent until that is noticed."""
        for slot in self._on(machine):
            self._stop(slot)
        world = self.world
        world.at(world.now + self.book.silent_s + world.settings.look_s, self._overdue)

    def _on(self, machine: Machine) -> list[Slot]:
        return [slot for slot in self.slots.values() if machine in slot.machines]

    # -- runs ----------------------------------------------------------------------------------

    def _claim(self, slot: Slot) -> None:
        """What the broker does with a slot that asks for work."""
        book, now = self.book, self.world.now
        while slot.alive:
            if book.leaves(slot.name) or not book.idle(slot.name, slot.arrival, now):
                self._let_go(slot)
                return
            entry = book.pick(now)
            if entry is None:
                self._idle.append(slot)
                self._wake_later(book.wakes(now))
                self.world.at(now + SPARE_S + 1e-6, self._let_spare_go, slot)
                return
            record = self.world.records[entry.run_id]
            if not self._hold(record):
                book.put_back(entry, now, patience=False)
                continue
            grant = book.grant(slot.name, slot.arrival, entry, now)
            assert grant is not None, "an arrival that lives is granted what it picked"
            self._begin(slot, record, grant.number)
            return

    def _let_spare_go(self, slot: Slot) -> None:
        """A slot that has waited for long ends, where the others are enough."""
        waits = slot.alive and self.alive and slot.attempt is None and not self.over
        if waits and self.book.spare(slot.name, self.world.now):
            self._let_go(slot)

    def _hold(self, record: Record) -> bool:
        """Take the lease of a run, by the rule of all drivers."""
        if record.claim is not None and record.claim[1] is self and not record.released:
            return True
        last = None if record.claim is None else self._read(record, *record.claim)
        if holds(last, lambda token: self._silent_s(record), _may_live):
            return False
        record.claim = (1 + (last.number if last else 0), self)
        record.released = False
        return True

    def _read(self, record: Record, number: int, driver: Holder) -> Claim:
        """A claim as another driver reads it."""
        owner = {"dead": driver.known_dead}
        return Claim(number, timeout_s=TIMEOUT_S, owner=owner, released=record.released)

    def _silent_s(self, record: Record) -> float:
        """Seconds for which the driver of a claim has shown nothing: it beats until it dies."""
        assert record.claim is not None
        died_s = record.claim[1].died_s
        return 0.0 if died_s is None else self.world.now - died_s

    def _release(self, record: Record) -> None:
        if record.claim is not None and record.claim[1] is self:
            record.released = True

    def _begin(self, slot: Slot, record: Record, grant: int) -> None:
        speed = max(machine.kind.speed for machine in slot.machines)
        run = record.run if speed == 1.0 else record.run.scaled(speed)
        line = Timeline(run, record.checkpoint)
        attempt = Attempt(record, grant, self.world.now, line, record.accepted)
        slot.attempt = attempt
        self.world.told.attempts += 1
        if self._blocked_s > self.world.now:
            self._wait_for_storage(attempt)
        self.world.at(attempt.end_s, self._finish, slot, attempt)

    def _finish(self, slot: Slot, attempt: Attempt) -> None:
        if not slot.alive or slot.attempt is not attempt or not self.alive:
            return
        now, record, told = self.world.now, attempt.record, self.world.told
        if now < attempt.end_s:
            # It waited for the storage meanwhile.
            self.world.at(attempt.end_s, self._finish, slot, attempt)
            return
        slot.attempt = None
        taken = self.book.finish(slot.name, attempt.grant, record.run.run_id, {}, {}, now)
        assert taken, "the latest grant of a run that lives is believed"
        told.work_s += attempt.elapsed(now)
        if not attempt.found_done:
            told.twice += record.accepted
        record.accepted = True
        self._release(record)
        if not self._done():
            self._claim(slot)

    def _done(self) -> bool:
        """Whether every run has ended: the driver sees it at its next look."""
        if self._begun and not self.over and not self.book.outstanding:
            self.over, self.over_s = True, self.world.now + self.world.settings.look_s
            # It gives all its leases back, also those of runs that were given up.
            for record in self.world.records.values():
                self._release(record)
        return self.over

    def _wake_later(self, seconds: float | None) -> None:
        """Let idle slots ask again when a run that is tried later may be picked; once for all."""
        if seconds is not None:
            # A bit more: rounded, the sum may lie before the moment that is meant.
            when = self.world.now + seconds + 1e-6
            if not self.world.now < self._wakes_s <= when:
                self._wakes_s = when
                self.world.at(when, self._wake)

    def _wake(self) -> None:
        """Let idle slots ask again."""
        waiting, self._idle = self._idle, deque()
        for slot in waiting:
            if slot.alive and self.alive and not self.over:
                self._claim(slot)

    # -- ends of attempts ----------------------------------------------------------------------

    def strike(self, slot: Slot, blow: Blow, seconds: float = 0.0) -> None:
        """A worker of a slot is killed, or stopped."""
        world, attempt = self.world, slot.attempt
        if blow is Blow.PAUSE_SLOT:
            if attempt is not None and not attempt.found_done:
                since = max([world.now, *(upto for _, upto in attempt.holds)])
                attempt.holds.append((since, since + seconds))
            return
        self._stop(slot, torn=blow is Blow.TEAR)
        if blow is Blow.FREEZE_SLOT:
            silent_s = self.book.silent_s + world.settings.look_s
            world.at(world.now + silent_s, self._overdue)
            if attempt is not None:
                world.at(world.now + 2 * silent_s, self._late_words, slot, attempt)
        else:
            world.at(world.now + world.settings.look_s, self._died, slot)

    def _late_words(self, slot: Slot, attempt: Attempt) -> None:
        """A stopped worker goes on before it is killed, and tells of a run that others have."""
        if self.alive:
            run_id, now = attempt.record.run.run_id, self.world.now
            place = ("training", 1, 1, attempt.record.run.steps)
            assert not self.book.beat(slot.name, slot.arrival, attempt.grant, place, now)
            assert not self.book.finish(slot.name, attempt.grant, run_id, {}, {}, now)
            assert not self.book.end(slot.name, attempt.grant, run_id, Event.RAISED, now)

    def _died(self, slot: Slot) -> None:
        """The driver sees that the processes of a slot are gone: it starts them again."""
        if self.alive and self.slots.get(slot.name) is slot:
            self.book.lose(slot.name, 0, self.world.now, self.world.lives)
            self._replace(slot)

    def _overdue(self) -> None:
        """The driver looks who is silent; who lives has beaten just now."""
        if not self.alive or self.over:
            return
        for slot in self.slots.values():
            if slot.alive and slot.arrival:
                self._beat(slot)
        for verdict in self.book.overdue(self.world.now):
            slot = self.slots[verdict.slot]
            assert not slot.alive, f"{verdict.slot} lives, and {verdict.reason}"
            self._replace(slot)
        # Those that had not arrived when their machine went are seen by their processes' end.
        for slot in [s for s in self.slots.values() if not s.alive and not s.arrival]:
            self._replace(slot)
        if any(not slot.alive for slot in self.slots.values()):
            self.world.at(self.world.now + _LOOK_S, self._overdue)

    def _replace(self, slot: Slot) -> None:
        lives = all(machine.alive and not machine.draining for machine in slot.machines)
        self._leave(slot)
        if lives and not self._done():
            for machine in slot.machines:
                machine.free -= 1
            again = self.slots[slot.name] = Slot(slot.name, slot.machines, slot.places)
            world = self.world
            world.at(world.now + world.settings.slot_s, self._arrive, again)
        elif not lives:
            self.book.lose(slot.name, 0, self.world.now, self.world.lives, gone=True)
        self.look_soon()
        self._wake()
        self._done()

    def _stop(self, slot: Slot, *, torn: bool = False) -> None:
        """The processes of a slot do nothing more; nobody knows it yet."""
        if slot.alive and slot.arrival:
            self._beat(slot)
        self._forget(slot, torn=torn)
        slot.alive = False

    def _forget(self, slot: Slot, *, agreed: bool = False, torn: bool = False) -> None:
        """An attempt ends before its run does: what is lost is what no checkpoint has."""
        attempt, slot.attempt = slot.attempt, None
        if attempt is None or attempt.found_done:
            return
        record, told, now = attempt.record, self.world.told, self.world.now
        place = attempt.place(now)
        kept = place.step if agreed else place.before if torn else place.checkpoint
        lost = place.step - kept
        record.checkpoint = kept
        told.losses += 1
        told.work_s += attempt.elapsed(now)
        told.repeated_steps += lost
        told.repeated_s += lost * record.run.step_s
        if agreed:
            told.most_repeated_noticed = max(told.most_repeated_noticed, lost)
        else:
            told.most_repeated = max(told.most_repeated, lost)

    def _beat(self, slot: Slot) -> bool:
        """Tell the book where a slot is; whether it is to go on."""
        now, attempt = self.world.now, slot.attempt
        if attempt is None:
            return self.book.beat(slot.name, slot.arrival, 0, ("idle", 0, 0, 0), now)
        run = attempt.record.run
        place = attempt.place(now)
        scoring = place.step in (place.checkpoint, run.steps)
        phase = "evaluating" if scoring else "training"
        if any(since <= now < upto for since, upto in attempt.holds):
            phase = "waiting"
        epoch = min(run.epochs, 1 + place.step * run.epochs // run.steps)
        where = (phase, epoch, place.step, run.steps)
        return self.book.beat(slot.name, slot.arrival, attempt.grant, where, now)

    # -- storage -------------------------------------------------------------------------------

    def block(self, seconds: float) -> None:
        """Nothing can be written for a while: who has to, waits."""
        now = self.world.now
        self._blocked_s = max(self._blocked_s, now + seconds)
        self.book.storage("storage", "blocked", now)
        for slot in self.slots.values():
            if slot.attempt is not None:
                self._wait_for_storage(slot.attempt)
        self.world.at(self._blocked_s, self._unblock)

    def _wait_for_storage(self, attempt: Attempt) -> None:
        now = self.world.now
        saves_s = now + attempt.place(now).next_save_s
        since = max([saves_s, *(upto for _, upto in attempt.holds)])
        if since < self._blocked_s:
            attempt.holds.append((since, self._blocked_s))

    def _unblock(self) -> None:
        if self.world.now >= self._blocked_s and self.alive:
            self.book.storage("storage", "", self.world.now)
            self._wake()


def _may_live(owner: Mapping[str, Any]) -> bool:
    """Whether a claim's holder may live, as far as who reads it can tell."""
    return not owner["dead"]
