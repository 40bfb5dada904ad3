"""Cells (points x folds x seeds), and the jobs that complete them: pure functions."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vesselflow.config.experiment import Experiment
from vesselflow.config.fingerprint import (
    canonical_json,
    digest,
    experiment_identity,
    run_identity,
)
from vesselflow.config.space import Space
from vesselflow.feed.folds import Fold
from vesselflow.runs.domains import Domain
from vesselflow.runs.evaluations import Evaluation
from vesselflow.runs.initial import Initial, InitialFile
from vesselflow.runs.objective import Objective
from vesselflow.runs.protocols import Protocol
from vesselflow.runs.registries import REGISTRIES
from vesselflow.runs.resolved import task_of
from vesselflow.runs.specs import (
    RunSpec,
    StoreFacts,
    augment_factors,
    domains_of,
    pixels_of,
    split_key,
    unlabelled_identity,
)
from vesselflow.runs.stacked import Base


@dataclass(frozen=True)
class Cell:
    """A place of a sweep's tables: one point on one fold with one seed.

    Attributes:
        point: Name of the point.
        index: Place of the point in the expansion.
        params: Axis key -> value.
        run: The training that it needs; other cells may need the same one.
        domains: On which it is scored: `val` first, then `test`, then out of distribution.
        protocol: How it is scored.
    """

    point: str
    index: int
    params: Mapping[str, Any]
    run: RunSpec
    domains: tuple[Domain, ...]
    protocol: Protocol

    @property
    def label(self) -> str:
        """What a person calls it."""
        return f"{self.point} fold {self.run.fold} seed {self.run.seed}"

    def evaluation(self, epoch: int, domain: Domain) -> Evaluation:
        """One of its evaluations."""
        return Evaluation(self.run.run_id, epoch, domain, self.protocol)

    def evaluations(self) -> list[Evaluation]:
        """All of them: by epoch, `val` first within each."""
        return [
            self.evaluation(epoch, domain) for epoch in self.run.epochs for domain in self.domains
        ]


@dataclass(frozen=True)
class Job:
    """The unit of work: train a run if that is missing, and score what its cells need.

    Attributes:
        cells: Cells of one run, at least one.
        objective: By what the epoch is chosen.
    """

    cells: tuple[Cell, ...]
    objective: Objective

    def __post_init__(self) -> None:
        if len({cell.run.run_id for cell in self.cells}) != 1:
            raise ValueError("a job has cells of exactly one run")

    @property
    def run(self) -> RunSpec:
        """The training."""
        return self.cells[0].run

    @property
    def points(self) -> tuple[str, ...]:
        """Names of the points that wait for it, each once."""
        return tuple(dict.fromkeys(cell.point for cell in self.cells))

    @property
    def protocols(self) -> tuple[Protocol, ...]:
        """How it is scored, each way once; the first one's validation scores are its curve."""
        return tuple(dict.fromkeys(cell.protocol for cell in self.cells))

    @property
    def validation(self) -> Domain:
        """The images that make every choice: the run's fold determines them."""
        return self.cells[0].domains[0]

    @property
    def evaluations(self) -> tuple[Evaluation, ...]:
        """All that its cells need, each once: by epoch, and `val` before what it freezes."""
        by_name = {
            evaluation.name: evaluation for cell in self.cells for evaluation in cell.evaluations()
        }
        return tuple(sorted(by_name.values(), key=lambda evaluation: evaluation.epoch))


def no_initial(experiment: Experiment, fold: Fold, seed: int) -> None:
    """For who knows of no other runs; ValueError where one is needed."""
    if experiment.train.init_from is not None:
        raise ValueError("train.init_from needs the results folder")


def no_stack(experiment: Experiment, fold: Fold, seed: int) -> tuple[Base, ...]:
    """Likewise."""
    if experiment.train.stack is not None:
        raise ValueError("train.stack needs the results folder")
    return ()


def make_cells(
    space: Space,
    folds: Mapping[str, Sequence[Fold]],
    stores: Mapping[str, StoreFacts],
    initial: Callable[[Experiment, Fold, int], Initial | InitialFile | None] = no_initial,
    stack: Callable[[Experiment, Fold, int], tuple[Base, ...]] = no_stack,
) -> list[Cell]:
    """All cells of a sweep: points x folds x seeds, in this order.

    Args:
        space: The space.
        folds: `split_key` of an experiment -> its folds.
        stores: Facts of every store in use.
        initial: ``(experiment, fold, seed)`` -> the weights that the run begins with.
        stack: Likewise, the runs whose predictions it is given.
    """
    runs: dict[str, RunSpec] = {}
    by_fold: dict[tuple[str, int, tuple[str, ...], str], _OfFold] = {}
    cells = []
    for point, entries in itertools.groupby(space.runs(), key=lambda entry: entry[0]):
        # Said once for all runs of a point, and all points of a fold: there are thousands of each.
        experiment = point.experiment
        split, ood = split_key(experiment), tuple(experiment.data.ood)
        facts = stores[experiment.data.train]
        pixels, task = pixels_of(experiment, facts), task_of(experiment, facts)
        protocol = Protocol.of(experiment, task, facts.layout)
        seen = _seen_key(experiment)
        shared = run_identity(
            experiment,
            seed=0,
            store_digest=facts.digest,
            split_digest="",
            registries=REGISTRIES,
            pixels=None if pixels is None else digest(pixels),
            task=task.identity,
            stop=None if experiment.train.stop is None else protocol.judging(experiment.train.stop),
        )
        factors = augment_factors(experiment, facts)
        unlabelled = unlabelled_identity(experiment, stores)
        for _, number, seed in entries:
            if (split, number, ood, seen) not in by_fold:
                made = _OfFold.of(experiment, folds[split][number], stores)
                by_fold[split, number, ood, seen] = made
            of_fold = by_fold[split, number, ood, seen]
            identity = {**shared, "seed": seed, "split": of_fold.digest}
            first = initial(experiment, folds[split][number], seed)
            if first is not None:
                identity["init"] = first.identity
            bases = stack(experiment, folds[split][number], seed)
            if bases:
                identity["stack"] = [base.identity for base in bases]
            if unlabelled is not None:
                identity["unlabelled"] = unlabelled
            run_id = digest(identity)
            if run_id not in runs:
                runs[run_id] = RunSpec(
                    run_id=run_id,
                    label=f"{point.name} fold {of_fold.number} seed {seed}",
                    fold=of_fold.number,
                    seed=seed,
                    experiment=experiment,
                    identity=identity,
                    train=of_fold.train,
                    task=task,
                    initial=first,
                    factors=factors,
                    stack=bases,
                )
            cells.append(
                Cell(
                    point=point.name,
                    index=point.index,
                    params=dict(point.params),
                    run=runs[run_id],
                    domains=of_fold.domains,
                    protocol=protocol,
                )
            )
    return cells


def trainings(space: Space) -> list[Experiment]:
    """The experiment of each training that a space needs; points that only score otherwise share.

    By what the space says, so that it is known before any store is made.
    """
    known: dict[str, str] = {}
    found: dict[tuple[str, int, int], Experiment] = {}
    for point, fold, seed in space.runs():
        experiment = point.experiment
        if point.name not in known:
            known[point.name] = canonical_json(
                [
                    experiment_identity(experiment, REGISTRIES),
                    experiment.task.model_dump(mode="json"),
                    experiment.scale_of(experiment.data.train),
                    split_key(experiment),
                    experiment.train.init_from,
                    experiment.train.stack,
                    [experiment.unlabelled, experiment.scale_of(experiment.unlabelled or "")],
                    # Scores that end a training are part of it.
                    experiment.score.model_dump(mode="json") if experiment.train.stop else None,
                ]
            )
        found.setdefault((known[point.name], fold, seed), experiment)
    return list(found.values())


def _seen_key(experiment: Experiment) -> str:
    """Points with the same key see their stores in one way, but for what `data` says."""
    scales = {name: experiment.scale_of(name) for name in sorted(experiment.stores)}
    return canonical_json([experiment.data.spacing_um is None, scales])


class _OfFold(NamedTuple):
    """What the cells of a fold share: its number and digest, training sources, domains."""

    number: int
    digest: str
    train: tuple[int, ...]
    domains: tuple[Domain, ...]

    @classmethod
    def of(cls, experiment: Experiment, fold: Fold, stores: Mapping[str, StoreFacts]) -> _OfFold:
        index = stores[experiment.data.train].index
        train = tuple(sorted(index[name] for name in fold.train))
        return cls(fold.index, fold.digest, train, domains_of(experiment, fold, stores))


def make_jobs(cells: Iterable[Cell], objective: Objective) -> list[Job]:
    """The jobs that complete these cells: one for each run, in order of first appearance."""
    by_run: dict[str, list[Cell]] = {}
    for cell in cells:
        by_run.setdefault(cell.run.run_id, []).append(cell)
    return [Job(tuple(members), objective) for members in by_run.values()]
