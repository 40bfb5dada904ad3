"""From a planned sweep to the runs that a simulation takes: what is left, and how fast it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from vesselflow.errors import UserError
from vesselflow.records.runs import RunRecord
from vesselflow.records.status import RunState
from vesselflow.runs.cells import Job
from vesselflow.sweeps.forecast import Doubt
from vesselflow.sweeps.measuring import Task, measure
from vesselflow.sweeps.pace import (
    Pace,
    given_pace,
    joined,
    kind_of,
    noted_pace,
    run_model,
    spread,
)
from vesselflow.sweeps.planning import SweepPlan, on_stores
from vesselflow.sweeps.simulation_model import RunModel
from vesselflow.sweeps.stores_made import borrowed_stores

#: Kinds that are measured; of more of them, those with the most runs.
KINDS = 12
#: Finished runs of a kind that are read.
READ = 20
#: Seconds that a slot's processes take to start, where nobody measured: on two idle cores.
SLOT_S = 3.0
#: Doubts (deviations of logarithms): of a speed that was measured at least, of one that was given,
#: of another kind of machine, of kinds that were not measured, of the others beside each other, of
#: steps that several workers share, of what takes its time at a start.
MEASURED, GIVEN, ELSEWHERE, UNMEASURED, AMONG = 0.06, 0.10, 0.20, 0.30, 0.04
SHARED, START = 0.15, 0.25


@dataclass(frozen=True)
class Place:
    """Where runs are going to be, as far as their speed goes.

    Attributes:
        machine: Kind of machine, as attempts note it: "local", "aws:m5.large".
        share: A slot's part of it.
        threads: CPU threads of a worker.
        device: Where models live.
        workers: Workers that share a slot's steps.
        processes: Workers that work side by side on this machine, for the measurement.
        here: Whether it is this machine.
    """

    machine: str
    share: float
    threads: int
    device: str = "cpu"
    workers: int = 1
    processes: int = 1
    here: bool = True


@dataclass(frozen=True)
class Estimate:
    """What is left to do, and how fast.

    Attributes:
        runs: In the order in which they are wanted.
        kinds: Of each run.
        paces: Kind -> how fast.
        doubt: How well that is known.
        slot_s: Seconds that a slot's processes take to start.
        source: How the speed is known, in words.
        notes: What a person should know of it.
    """

    runs: tuple[RunModel, ...]
    kinds: tuple[str, ...]
    paces: Mapping[str, Pace]
    doubt: Doubt
    slot_s: float = SLOT_S
    source: str = ""
    notes: tuple[str, ...] = ()


def with_stores(plan: SweepPlan, scratch: Path, notify: Callable[[str], None]) -> SweepPlan:
    """The plan with all its stores: those that are not made yet are made in a scratch folder.

    Raises:
        UserError: A store or a split is not as it must be.
    """
    if plan.whole:
        return plan
    stores = borrowed_stores(plan.space, plan.file, plan.results, scratch, notify)
    return on_stores(plan, stores, notify)


def estimate(
    plan: SweepPlan,
    place: Place,
    *,
    seconds_per_step: float | None = None,
    measured: bool = False,
    mean_life_s: float,
    known_only: bool = False,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Estimate:
    """Find out what is left of a sweep and how fast it goes.

    Args:
        plan: The sweep, with all its stores.
        place: Where it is going to be.
        seconds_per_step: What the user says; None asks finished runs, then measures.
        measured: Finished runs are not asked.
        mean_life_s: Mean time until a machine is taken away.
        known_only: Nothing is measured: where finished runs do not tell of every kind, there is
            nothing to be done.
        told: (kinds measured, of how many).

    Raises:
        VesselflowError: Steps could not be measured.
    """
    jobs = plan.jobs()
    kinds = tuple(kind_of(job.run.experiment) for job in jobs)
    trained = {row.cell.run.run_id for row in plan.scored if row.state == RunState.FINISHED.value}
    paces: dict[str, Pace] = {}
    doubt = Doubt(speed=GIVEN, start=START)
    slot_s, source, notes = SLOT_S, "given", list[str]()
    if seconds_per_step is not None:
        paces = {
            kind: given_pace(seconds_per_step, job.run.experiment)
            for kind, job in zip(kinds, jobs, strict=True)
        }
    else:
        if not measured:
            paces = known_paces(plan, place)
        known = len(paces.keys() & set(kinds))
        doubt = Doubt(speed=MEASURED, kind=AMONG, start=START)
        source = "by finished runs" if known else "measured here"
        left = [job for job, kind in zip(jobs, kinds, strict=True) if kind not in paces]
        if left and known_only:
            return Estimate((), (), {}, doubt)
        if left:
            found, deviation, slot_s = _measured(left, plan, place, told)
            paces |= found
            doubt = replace(doubt, speed=max(doubt.speed, deviation))
            if known:
                source += ", others measured here"
        without = [kind for kind in kinds if kind not in paces]
        if without:
            paces |= dict.fromkeys(without, joined(list(paces.values())))
            doubt = replace(doubt, kind=UNMEASURED)
            notes.append(
                f"{len(set(without))} of {len(set(kinds))} kinds of runs were not measured: they "
                "are taken to be as fast as the others"
            )
    if not place.here and seconds_per_step is None:
        doubt = replace(doubt, speed=(doubt.speed**2 + ELSEWHERE**2) ** 0.5)
        notes.append(
            f"{place.machine} is taken to be as fast, thread by thread, as this machine: within "
            f"a factor of {1 + 1.645 * ELSEWHERE:.2f}, nine times of ten"
        )
    runs = tuple(
        run_model(
            job,
            paces[kind],
            steps=_steps(job, paces[kind]),
            trained=job.run.run_id in trained,
            mean_life_s=mean_life_s,
        )
        for job, kind in zip(jobs, kinds, strict=True)
    )
    return Estimate(runs, kinds, paces, doubt, slot_s, source, tuple(notes))


def known_paces(plan: SweepPlan, place: Place) -> dict[str, Pace]:
    """What finished runs of this sweep noted on such a machine, by kind."""
    found: dict[str, list[Pace]] = {}
    for row in plan.scored:
        kind, record = (
            kind_of(row.cell.run.experiment),
            RunRecord(plan.results, row.cell.run.run_id),
        )
        # Its record is asked: a run that is to be done again tells how fast it was, too.
        if len(found.get(kind, ())) >= READ or record.accepted() is None:
            continue
        noted = record.costs()
        if any(_differs(one.get("share"), place.share) for one in noted):
            continue
        pace = noted_pace(Job((row.cell,), plan.objective), noted, place.machine)
        if pace is not None:
            found.setdefault(kind, []).append(pace)
    return {kind: joined(paces) for kind, paces in found.items()}


def _differs(noted: object, share: float) -> bool:
    return not isinstance(noted, int | float) or abs(noted - share) > 1e-6


def _measured(
    jobs: list[Job], plan: SweepPlan, place: Place, told: Callable[[int, int], None]
) -> tuple[dict[str, Pace], float, float]:
    """Kind -> pace of the kinds with the most runs, how far processes differ, a slot's start."""
    kinds = Counter(kind_of(job.run.experiment) for job in jobs)
    first = {kind_of(job.run.experiment): job for job in reversed(jobs)}
    wanted = [kind for kind, _ in kinds.most_common(KINDS)]
    task = Task(
        jobs=tuple(first[kind] for kind in wanted),
        stores={name: facts.path for name, facts in plan.stores.items()},
        threads=place.threads,
        device=place.device,
    )
    result = measure(task, place.processes, told)
    warm_s = min(pace.start_s for paces in result.paces for pace in paces)
    found = {}
    for kind, paces in zip(wanted, result.paces, strict=True):
        pace = joined(paces)
        # A process did all micro-batches of a step; the workers of a slot share them.
        found[kind] = replace(pace, start_s=warm_s, step_s=pace.step_s / place.workers)
    deviation = max(spread(paces) for paces in result.paces) / result.processes**0.5
    if place.workers > 1:
        deviation = max(deviation, SHARED)
    return found, deviation, result.slot_s


def _steps(job: Job, pace: Pace) -> int:
    """Optimizer steps of a run, as far as they are known before its samples are."""
    train = job.run.experiment.train
    if train.steps_per_epoch is not None:
        return train.epochs * train.steps_per_epoch
    if job.run.experiment.data.patch != "full":
        if not pace.run_steps:
            raise UserError(
                "with patches the number of steps is not known before they are drawn",
                where="train.steps_per_epoch",
                hint="leave --seconds-per-step out, or give the number of steps",
            )
        # As many as the measured run of its kind has, epoch by epoch.
        return pace.run_steps
    per_step = train.micro_batch_size * train.micro_batches_per_step
    return train.epochs * -(-len(job.run.train) // per_step)
