"""Training samples of one point as its network would be given them; nothing is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from vesselflow.augment.compose import Mix, compose
from vesselflow.errors import UserError
from vesselflow.feed.batches import Batch
from vesselflow.feed.local import LocalData
from vesselflow.runs.cells import Cell, Job
from vesselflow.sweeps.context import Context, Reports
from vesselflow.sweeps.planning import SweepPlan
from vesselflow.sweeps.training_job import order_of, training_rows
from vesselflow.tasks.task import build_task
from vesselflow.training.giving import Given, Giver
from vesselflow.training.group import Solo
from vesselflow.training.process import settle_process

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Look:
    """How one sample looks.

    Attributes:
        image: float32 (C, *S).
        fov: float32 (*S), 0 or 1.
        target: float32 (K, *T), as the loss is given it.
        points: float (k, D): its keypoints in voxels, in the frame or beyond it.
        classes: int (k,).
    """

    image: Floats
    fov: Floats
    target: Floats
    points: NDArray[np.float64]
    classes: NDArray[np.int64]


@dataclass(frozen=True)
class Drawn:
    """One sample of a training, as it is stored and as it is given.

    Attributes:
        name: Where it stands: source, step and number in the step; and the factor on its
            probabilities, where `train.augment_by_source` gives some.
        before: As it is stored.
        after: As the network is given it; its keypoints are those from before samples were mixed.
        parts: Names of the parts that changed it, and how it was mixed, in their order.
    """

    name: str
    before: Look
    after: Look
    parts: tuple[str, ...]


def given(plan: SweepPlan, cell: Cell, scratch: Path, *, count: int, step: int = 0) -> list[Drawn]:
    """The samples of a step of a run and of those after it, by the run's own keyed draws.

    Args:
        plan: The sweep, with all its stores.
        cell: Of the point.
        scratch: A folder; nothing is written into it.
        count: Samples, at most.
        step: Where to begin.

    Raises:
        UserError: The run has fewer steps, or no sample.
    """
    # As a slot has them: more threads than idle cores wait for each other.
    settle_process(plan.space.resources.threads)
    spec = cell.run
    experiment, settings = spec.experiment, spec.experiment.train
    data = LocalData({name: Path(str(each.path)) for name, each in plan.stores.items()})
    job = Job((cell,), plan.objective)
    context = Context(job, scratch, data, Solo(), Reports(), "cpu", "inspect")
    samples = data.samples(experiment.data.train, context.view)
    rows = training_rows(context, samples)
    order = order_of(context, len(samples.table.of_grid(rows)))
    if step >= order.steps:
        raise UserError(
            f"the run has no step {step}", where="--step", allowed=f"0 to {order.steps - 1}"
        )
    batches = data.batches(samples, order.draws(samples, rows), order)
    sources = plan.stores[experiment.data.train].sources
    augmenter = compose(experiment.augment)
    giver, plain = (
        Giver(
            experiment,
            parts,
            build_task(spec.task),
            seed=spec.seed,
            device=torch.device("cpu"),
            dataset_statistics=context.statistics,
            factors=spec.factors,
        )
        for parts in (augmenter, None)
    )
    found: list[Drawn] = []
    while len(found) < count and step < order.steps:
        progress = step / max(1, order.steps - 1)
        for index in range(settings.micro_batches_per_step):
            batch = batches.batch(step, index)
            after, before = (each(step, index, progress, batch) for each in (giver, plain))
            size, first = len(after.image), index * settings.micro_batch_size
            factors = giver.factors(batch)
            told = [
                tuple(each)
                for each in augmenter.chosen(
                    size,
                    generator=giver.keyed("augment", step, index),
                    progress=progress,
                    factors=factors,
                )
            ]
            mixes = after.mixes or [None] * size
            for number in range(size):
                found.append(
                    Drawn(
                        f"{sources[batch.source[number]].id}, step {step} #{first + number}"
                        + ("" if factors is None else f", augment x {factors[number]:g}"),
                        _stored(batch, before, number),
                        _look(after, number),
                        (*told[number], *_mixed(mixes[number], first)),
                    )
                )
        step += 1
    return found[:count]


def _mixed(drawn: Mix | None, first: int) -> tuple[str, ...]:
    if drawn is None:
        return ()
    where = " behind the encoder" if drawn.hidden else ""
    return (f"{drawn.name} {float(drawn.share.mean()):.2f} with #{first + drawn.other}{where}",)


def _stored(batch: Batch, before: Given, number: int) -> Look:
    """As it is stored, with the target that it has as it stands."""
    return replace(_look(before, number), image=np.asarray(batch.image[number], np.float32))


def _look(seen: Given, number: int) -> Look:
    image, fov, target = (
        each[number].numpy() for each in (seen.image, seen.fov[:, 0], seen.target)
    )
    points = seen.keypoints
    if points is None:
        return Look(image, fov, target, np.zeros((0, fov.ndim)), np.zeros(0, np.int64))
    own = points.sample == number
    return Look(
        image, fov, target, points.coordinates[own].numpy(), points.class_index[own].numpy()
    )
