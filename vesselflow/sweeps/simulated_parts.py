"""What a simulated driver and its world share: records, machines, slots, attempts. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from vesselflow.sweeps.book import Place
from vesselflow.sweeps.capacity import SlotPlan
from vesselflow.sweeps.simulation_model import (
    MachineModel,
    RunModel,
    Settings,
    Simulated,
    Timeline,
)

#: Seconds that a slot takes for a run that turns out to be done already.
FOUND_DONE_S = 0.1


class Holder(Protocol):
    """A driver, as another one sees it.

    Attributes:
        died_s: When it died; None while it lives.
        known_dead: Whether who looks can tell that it is dead.
    """

    died_s: float | None
    known_dead: bool


class Stage(Protocol):
    """The world, as a driver sees it.

    Attributes:
        now: Seconds.
        settings: How the sweep works.
        plan: What a slot owns.
        records: The results folder.
        machines: By node.
        told: What came of it so far.
    """

    now: float
    settings: Settings
    plan: SlotPlan
    records: dict[str, Record]
    machines: dict[str, Machine]
    told: Simulated

    def at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        """Do something at a moment."""

    def lives(self, node: str) -> bool:
        """Whether a machine is there."""

    def unused(self, machine: Machine) -> None:
        """No slot is on a machine now."""


@dataclass
class Record:
    """What the results folder knows of a run.

    Attributes:
        run: The run.
        checkpoint: Step of its newest whole checkpoint.
        accepted: Whether it is trained and scored.
        claim: Number of the latest claim, and whose it is.
        released: Whether that was given back.
    """

    run: RunModel
    checkpoint: int = 0
    accepted: bool = False
    claim: tuple[int, Holder] | None = None
    released: bool = True


@dataclass(eq=False)
class Machine:
    """One machine.

    Attributes:
        kind: What it is.
        node: Its name.
        site: Which driver's it is.
        asked_s: When it was asked for: it is paid from then on.
        room: Workers for which it has room.
        free: Those of them that are not taken.
        alive: Whether it is there.
        draining: Whether it was given notice.
    """

    kind: MachineModel
    node: str
    site: int
    asked_s: float
    room: int
    free: int
    alive: bool = True
    draining: bool = False


@dataclass(eq=False)
class Slot:
    """One start of a slot: of the processes under its name.

    Attributes:
        name: As the book knows it.
        machines: One for each worker.
        places: The same, as the book knows them.
        arrival: Its number in the book; 0 before.
        attempt: What it works on.
        alive: Whether its processes do anything.
    """

    name: str
    machines: tuple[Machine, ...]
    places: tuple[Place, ...]
    arrival: int = 0
    attempt: Attempt | None = None
    alive: bool = True


@dataclass(eq=False)
class Attempt:
    """One try of a run.

    Attributes:
        record: Of the run.
        grant: Its number in the book.
        began_s: When the slot took it.
        line: Its course.
        found_done: Whether the run turns out to be done already.
        holds: When it waits for the storage: (from, to).
    """

    record: Record
    grant: int
    began_s: float
    line: Timeline
    found_done: bool
    holds: list[tuple[float, float]] = field(default_factory=list)

    def elapsed(self, now: float) -> float:
        """Seconds of its own at a moment, without those for which it waited."""
        held = sum(max(0.0, min(now, upto) - since) for since, upto in self.holds)
        return now - self.began_s - held

    @property
    def end_s(self) -> float:
        """When it is done, as far as is known now."""
        if self.found_done:
            return self.began_s + FOUND_DONE_S
        return self.began_s + self.line.end_s + sum(upto - since for since, upto in self.holds)
