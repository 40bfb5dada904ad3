"""What a sweep will take: many simulations of it, each with other draws of what is not known. Pure.

The speed of a step is known from a few seconds of it, the start of a machine from hearsay, and when
machines vanish nobody knows: each simulation draws them anew. The ranges hold nine of ten.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from vesselflow.sweeps.simulation import simulate
from vesselflow.sweeps.simulation_model import (
    Disturbance,
    MachineModel,
    RunModel,
    Settings,
    Simulated,
)

#: Simulations at most and at least; fewer of large sweeps, whose runs even each other out.
MOST, LEAST = 200, 20
#: Runs that are simulated in all, about.
RUNS = 20_000
#: Ends of the ranges: nine of ten lie between them.
LOW, HIGH = 0.05, 0.95


@dataclass(frozen=True)
class Doubt:
    """How well what a simulation starts from is known: standard deviations of logarithms.

    Attributes:
        speed: Of all steps and scores together.
        kind: Of one kind of run beside the others.
        start: Of the seconds in which driver, slots and attempts start.
        losses: Of the rate at which machines are taken away.
    """

    speed: float = 0.0
    kind: float = 0.0
    start: float = 0.0
    losses: float = 0.0


@dataclass(frozen=True)
class Range:
    """A number that is not known.

    Attributes:
        low: One in twenty lies below.
        median: Half of them lie below.
        high: One in twenty lies above.
    """

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Range:
        """The range of draws, at least one; NaN where one of them is undefined."""
        if any(map(math.isnan, values)):
            return cls(math.nan, math.nan, math.nan)
        return cls(*(quantile(values, share) for share in (LOW, 0.5, HIGH)))

    @property
    def width(self) -> float:
        """How far its farther end is from the median, as a share of it; 0 for a median of 0."""
        farther = max(self.high - self.median, self.median - self.low)
        return farther / self.median if self.median else 0.0


@dataclass(frozen=True)
class Forecast:
    """What a sweep will take.

    Attributes:
        simulations: Of which the ranges are made.
        wall_s: Seconds from the command to its end.
        dollars: Of all machines; undefined where a price is.
        on_demand_dollars: On machines that stay.
        machine_s: Seconds for which machines are paid.
        losses: Attempts that end before their run does.
        machines_lost: Machines that are taken away.
        repeated: Share of the work that is done more than once.
        finished: Share of the simulations in which every run ended.
        failed: Runs that are given up, on average.
    """

    simulations: int
    wall_s: Range
    dollars: Range
    on_demand_dollars: Range
    machine_s: Range
    losses: Range
    machines_lost: Range
    repeated: Range
    finished: float
    failed: float


def forecast(
    runs: Sequence[RunModel],
    machines: Sequence[MachineModel],
    settings: Settings,
    *,
    doubt: Doubt = Doubt(),
    kinds: Sequence[str] = (),
    seed: int = 0,
    simulations: int | None = None,
    disturbances: Sequence[Disturbance] = (),
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Forecast:
    """Simulate a sweep many times.

    Args:
        runs: What is to be done.
        machines: Where.
        settings: How.
        doubt: How well that is known.
        kinds: Of each run, which others are as fast: they share a draw. Empty: all of them.
        seed: Of all draws.
        simulations: How many; None for as many as the size of the sweep allows.
        disturbances: As of `simulate`, in each of them.
        told: (simulations done, of how many).

    Raises:
        UserError: The machines cannot carry one slot.
    """
    count = simulations or min(MOST, max(LEAST, RUNS // max(1, len(runs))))
    staying = [
        replace(kind, price=kind.on_demand, mean_life_s=math.inf, notice_s=0.0) for kind in machines
    ]
    priced = not any(math.isnan(kind.on_demand) for kind in machines)
    ended: list[Simulated] = []
    undisturbed: list[Simulated] = []
    for number in range(count):
        draws = random.Random(f"{seed} {number}")
        ours, drawn, facts = _drawn(runs, kinds, machines, settings, doubt, draws)
        ended.append(
            simulate(ours, drawn, facts, seed=draws.getrandbits(48), disturbances=disturbances)
        )
        if priced:
            quiet = replace(facts, head_price=facts.head_on_demand)
            undisturbed.append(simulate(ours, staying, quiet, seed=draws.getrandbits(48)))
        told(number + 1, count)
    return Forecast(
        simulations=count,
        wall_s=Range.of([one.wall_s for one in ended]),
        dollars=Range.of([one.dollars for one in ended]),
        on_demand_dollars=Range.of([one.dollars for one in undisturbed] or [math.nan]),
        machine_s=Range.of([sum(one.machine_s.values()) for one in ended]),
        losses=Range.of([one.losses for one in ended]),
        machines_lost=Range.of([one.machines_lost for one in ended]),
        repeated=Range.of([one.repeated_s / one.work_s if one.work_s else 0.0 for one in ended]),
        finished=sum(one.finished for one in ended) / count,
        failed=sum(one.failed for one in ended) / count,
    )


def _drawn(
    runs: Sequence[RunModel],
    kinds: Sequence[str],
    machines: Sequence[MachineModel],
    settings: Settings,
    doubt: Doubt,
    draws: random.Random,
) -> tuple[list[RunModel], list[MachineModel], Settings]:
    """One draw of what is not known."""

    def factor(deviation: float) -> float:
        return draws.lognormvariate(0.0, deviation) if deviation > 0 else 1.0

    common, start = factor(doubt.speed), factor(doubt.start)
    each = {kind: common * factor(doubt.kind) for kind in dict.fromkeys(kinds)}
    ours = [
        replace(run.scaled(each[kinds[place]] if kinds else common), start_s=run.start_s * start)
        for place, run in enumerate(runs)
    ]
    rate = factor(doubt.losses)
    drawn = [replace(kind, mean_life_s=kind.mean_life_s / rate) for kind in machines]
    facts = replace(
        settings,
        driver_s=settings.driver_s * start,
        slot_s=settings.slot_s * start,
        end_s=settings.end_s * start,
    )
    return ours, drawn, facts


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile of some values, by the straight line between its neighbours; none may be NaN."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    if ordered[low] == ordered[high]:  # also of two infinite ones
        return ordered[low]
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])
