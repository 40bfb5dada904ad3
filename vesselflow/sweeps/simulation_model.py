"""What a simulated sweep is made of: runs, machines, what befalls them, and what came of it. Pure.

Times are seconds. A run's steps are not gone through one by one: where it is at a moment, and which
checkpoint it would resume from, is computed.
"""

from __future__ import annotations

import bisect
import enum
import math
from dataclasses import dataclass, field, replace
from typing import NamedTuple


@dataclass(frozen=True)
class RunModel:
    """One run that is to be done, as far as time goes.

    Attributes:
        run_id: Name of the run.
        steps: Optimizer steps of the whole run, at least one for each epoch.
        epochs: Epochs of the run.
        step_s: Seconds of a step, above 0.
        scored: Epochs that are scored on validation as they end, rising; the weights are kept.
        validate_s: Seconds of that.
        score_s: Seconds of all scoring after the last step.
        start_s: Seconds from taking the run to its first step.
        save_s: Seconds that the training stands still for a checkpoint.
        interval_s: Seconds between two checkpoints, but for those at the ends of scored epochs.
    """

    run_id: str
    steps: int
    epochs: int = 1
    step_s: float = 1.0
    scored: tuple[int, ...] = ()
    validate_s: float = 0.0
    score_s: float = 0.0
    start_s: float = 0.0
    save_s: float = 0.0
    interval_s: float = math.inf

    def scaled(self, speed: float) -> RunModel:
        """The same run where all that computes takes `speed` times as long."""
        return replace(
            self,
            step_s=self.step_s * speed,
            validate_s=self.validate_s * speed,
            score_s=self.score_s * speed,
        )


@dataclass(frozen=True)
class Position:
    """Where an attempt is at a moment.

    Attributes:
        step: Steps of the run that are done.
        checkpoint: Step of the newest checkpoint.
        before: Step of the one before it, should the newest be torn.
        next_save_s: Seconds until the next checkpoint; infinite after the last.
    """

    step: int
    checkpoint: int
    before: int
    next_save_s: float = math.inf


class _Stretch(NamedTuple):
    """Steps between two checkpoints.

    Attributes:
        begin_s: When the first of them begins.
        first: Steps of the run that are done then.
        last: Steps that are done at its end.
        kept_s: When the checkpoint of its end is whole.
    """

    begin_s: float
    first: int
    last: int
    kept_s: float


class Timeline:
    """The course of one attempt, from the moment at which it takes the run.

    A checkpoint is written each `interval_s` and at the end of each scored epoch, before it is
    scored; whoever resumes from there scores it first.

    Args:
        run: The run.
        first: Step of the checkpoint that it resumes from; 0 for a fresh start.

    Attributes:
        end_s: Seconds until the run is trained and scored.
    """

    def __init__(self, run: RunModel, first: int) -> None:
        self._run, self._stretches = run, list[_Stretch]()
        at, step = run.start_s, first
        for epoch in sorted({run.epochs, *(one for one in run.scored if one < run.epochs)}):
            last = round(epoch * run.steps / run.epochs)
            if last < first:
                continue
            at, step = self._train(at, step, last), last
            if epoch in run.scored:
                at += run.validate_s
        self.end_s = at + run.score_s
        self._first = first

    def _train(self, at: float, step: int, last: int) -> float:
        """Add the steps up to the end of a scored epoch; when they are done and kept."""
        run = self._run
        most = last - step
        if run.interval_s < math.inf:
            most = max(1, math.ceil(run.interval_s / run.step_s))
        while step < last:
            upto = min(last, step + most)
            kept_s = at + (upto - step) * run.step_s + run.save_s
            self._stretches.append(_Stretch(at, step, upto, kept_s))
            at, step = kept_s, upto
        return at

    def at(self, seconds: float) -> Position:
        """Where it is after so many seconds."""
        index = bisect.bisect_right(self._stretches, seconds, key=lambda part: part.begin_s) - 1
        if index < 0:
            saves = self._stretches[0].kept_s - seconds if self._stretches else math.inf
            return Position(self._first, self._first, self._first, saves)
        part = self._stretches[index]
        before = self._stretches[index - 1].first if index else part.first
        if seconds >= part.kept_s:
            later = index + 1 < len(self._stretches)
            saves = self._stretches[index + 1].kept_s - seconds if later else math.inf
            return Position(part.last, part.last, part.first, saves)
        done = int((seconds - part.begin_s) / self._run.step_s + 1e-9)
        step = min(part.last, part.first + done)
        return Position(step, part.first, before, part.kept_s - seconds)


@dataclass(frozen=True)
class MachineModel:
    """Machines of one kind.

    Attributes:
        name: As it is paid: "aws:m5.large:spot", "local".
        cpus: CPUs that slots may own.
        gpus: Graphics cards.
        count: How many of them there are to be.
        price: Dollars an hour; NaN where nobody knows.
        on_demand: Dollars an hour of the same machine, if it stayed; NaN where nobody knows.
        boot_s: Seconds from asking for one until slots can start on it, typically; 0 for machines
            that are there.
        boot_spread: Standard deviation of the logarithm of that.
        mean_life_s: Mean time until one is taken away; infinite for machines that stay.
        notice_s: Seconds of notice before that.
        noticed: Share of those that are taken away with a notice.
        speed: Seconds of a step here, in those of the machine that the runs were measured on.
    """

    name: str = "local"
    cpus: float = 1.0
    gpus: float = 0.0
    count: int = 1
    price: float = math.nan
    on_demand: float = math.nan
    boot_s: float = 0.0
    boot_spread: float = 0.0
    mean_life_s: float = math.inf
    notice_s: float = 0.0
    noticed: float = 1.0
    speed: float = 1.0


class Blow(enum.Enum):
    """What befalls a sweep; the value says it in words."""

    KILL_SLOT = "a worker is killed"
    FREEZE_SLOT = "a worker is stopped for good"
    PAUSE_SLOT = "a worker is stopped for a while, too short to be missed"
    TEAR = "a worker is killed and its newest checkpoint is torn"
    LOSE_MACHINE = "a machine is gone"
    NOTICE = "a machine is given notice, and then it is gone"
    KILL_DRIVER = "the driver is killed, and started again"
    LOSE_HEAD = "the head is gone, and the sweep is started again elsewhere"
    SECOND_DRIVER = "a second driver is started"
    STORAGE = "the storage is blocked"


@dataclass(frozen=True)
class Disturbance:
    """One blow, beside those that machines of `MachineModel` meet at random.

    Attributes:
        at_s: When: seconds from the command, or, with `after`, from the moment that it names.
        blow: What.
        which: Which slot, machine or driver: its place among those that live then, round and round.
        seconds: How long: of a notice, of a blocked storage, until a driver is started again, until
            a machine is replaced.
        after: Share of the steps of the whole sweep that checkpoints hold when it is due; None for
            a blow by the clock. Those with a share come one after another, each once the one
            before it is over.
        leaves: Of a notice: the machine is gone as soon as no slot is on it, and another is there
            after so many seconds; None where it stays to its end and is replaced as usual.
    """

    at_s: float
    blow: Blow
    which: int = 0
    seconds: float = 0.0
    after: float | None = None
    leaves: float | None = None


@dataclass(frozen=True)
class Settings:
    """How the sweep works, as far as time goes.

    Attributes:
        workers: DDP workers of a slot.
        threads: CPUs that each of them owns.
        gpu: GPUs that each of them owns.
        slots: Fewest and most slots; None for as many as fit.
        retries: Deaths that a run is forgiven.
        driver_s: Seconds from the command to the first start of a slot.
        slot_s: Seconds that a slot's processes take to start.
        look_s: Seconds until the driver sees that a slot ended.
        machines_s: Seconds between two looks at the machines.
        end_s: Seconds from the last run to the end of the command.
        head_price: Dollars an hour of a machine that only leads; 0 without one.
        head_on_demand: Likewise, of one that stays.
    """

    workers: int = 1
    threads: int = 1
    gpu: float = 0.0
    slots: tuple[int, int | None] = (1, None)
    retries: int = 2
    driver_s: float = 0.0
    slot_s: float = 0.0
    look_s: float = 0.25
    machines_s: float = 2.0
    end_s: float = 0.0
    head_price: float = 0.0
    head_on_demand: float = 0.0


@dataclass
class Simulated:
    """What came of one simulated sweep.

    Attributes:
        finished: Whether every run has ended; False when nothing could ever end what is left.
        wall_s: From the command to its end.
        dollars: Of all machines; NaN where a price is not known.
        machine_s: Seconds for which machines were paid, by kind.
        done: Runs with a result.
        failed: Runs that were given up.
        attempts: Of all runs.
        losses: Attempts that ended before their run did.
        machines_lost: Machines that were taken away.
        repeated_steps: Steps that were done more than once.
        repeated_s: Seconds of these steps.
        work_s: Seconds of slots that held a run.
        twice: Runs that were brought to their end more than once (by drivers that could not know of
            each other): their second result is refused.
        most_repeated: Most steps that one loss without a notice made a run repeat.
        most_repeated_noticed: Most steps that one notice made a run repeat.
    """

    finished: bool = False
    wall_s: float = 0.0
    dollars: float = 0.0
    machine_s: dict[str, float] = field(default_factory=dict)
    done: int = 0
    failed: int = 0
    attempts: int = 0
    losses: int = 0
    machines_lost: int = 0
    repeated_steps: int = 0
    repeated_s: float = 0.0
    work_s: float = 0.0
    twice: int = 0
    most_repeated: int = 0
    most_repeated_noticed: int = 0
