"""Whether one point can learn four samples by heart: in this process, in no table and no record."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from vesselflow.augment.inputs import normalise_by, unit
from vesselflow.config.experiment import Every, Experiment
from vesselflow.evaluation.evaluated import POOLED
from vesselflow.evaluation.scoring import evaluate
from vesselflow.feed.batches import Batch, Samples, WholeImage
from vesselflow.feed.local import LocalData
from vesselflow.feed.sources import Order
from vesselflow.runs.cells import Cell, Job
from vesselflow.runs.protocols import Protocol
from vesselflow.stores.keypoints import Keypoints
from vesselflow.sweeps.context import Context, Reports
from vesselflow.sweeps.planning import SweepPlan
from vesselflow.sweeps.training_job import training_rows
from vesselflow.tasks import TASKS
from vesselflow.training.group import Solo
from vesselflow.training.health import SKIPPED, warnings
from vesselflow.training.loop import Diverged, Hooks, train
from vesselflow.training.process import settle_process

#: Samples that are learnt, the score that is asked for, and how long it may take.
SAMPLES, ENOUGH, EPOCHS, STEPS_PER_EPOCH, SCORED = 4, 0.95, 10, 20, 2
#: Samples that are looked at for some that hold anything.
LOOKED_AT = 64
#: Deviation of a channel below which it tells nothing; it is about 1 where nothing is wrong.
FLAT = 1e-3
#: A loss that keeps more than this share of its first value did not fall.
STILL = 0.9


@dataclass
class Smoke:
    """What came of it.

    Attributes:
        metric: Name of the task's own.
        score: The last one, on the samples that were learnt; NaN before the first.
        steps: Optimizer steps that were taken.
        seconds: They took, with the scoring.
        losses: Mean training loss of each epoch.
        faults: What to look at, line by line; empty where the score is high enough.
    """

    metric: str
    score: float = math.nan
    steps: int = 0
    seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether the samples were learnt."""
        return self.score > ENOUGH


def smoke(plan: SweepPlan, cell: Cell, scratch: Path, *, device: str = "cpu") -> Smoke:
    """Train a point on a few of its samples without augmentation, and score it on the same.

    Args:
        plan: The sweep, with all its stores.
        cell: Of the point.
        scratch: A folder; nothing is written into it.
        device: Where to train.
    """
    # As a slot has them: more threads than idle cores wait for each other.
    settle_process(plan.space.resources.threads)
    spec = replace(cell.run, experiment=bare(cell.run.experiment))
    experiment, task = spec.experiment, spec.task
    metric = TASKS.task(task.name).objective
    facts = plan.stores[experiment.data.train]
    protocol = Protocol.of(experiment, task, facts.layout)
    data = LocalData({name: Path(str(each.path)) for name, each in plan.stores.items()})
    job = Job((replace(cell, run=spec, protocol=protocol),), plan.objective)
    context = Context(job, scratch, data, Solo(), Reports(), device, "smoke")
    found, began = Smoke(metric), time.monotonic()

    samples = data.samples(experiment.data.train, context.view)
    rows, full = choose(samples, training_rows(context, samples))
    batch = samples.gather(rows)
    found.faults += list(_bad_inputs(experiment, batch, context, full))
    images = [as_image(batch, index) for index in range(len(rows))]
    order = Order(
        seed=spec.seed,
        steps=EPOCHS * STEPS_PER_EPOCH,
        steps_per_epoch=STEPS_PER_EPOCH,
        micro_batch_size=experiment.train.micro_batch_size,
        micro_batches_per_step=1,
        workers=1,
        rank=0,
    )
    said: dict[str, str] = {}

    def score(model: nn.Module, epoch: int, step: int) -> dict[str, float]:
        answer = evaluate(
            model,
            images,
            experiment,
            protocol,
            thresholds=None,
            task=task,
            metrics=[metric],
            device=device,
            dataset_statistics=context.statistics,
        )
        found.score = answer.value(POOLED, metric)
        return {}

    def epoch_done(epoch: int, step: int, values: Mapping[str, float]) -> None:
        found.losses.append(values["train/loss"])
        said.update(warnings(values))
        if values[SKIPPED]:
            share = f"{100 * values[SKIPPED]:.0f} %"
            said[SKIPPED] = f"{share} of the steps of an epoch had gradients that are not finite"

    def progress(epoch: int, step: int) -> None:
        found.steps = step

    try:
        train(
            experiment,
            order.gathered(samples, order.draws(samples, rows)),
            channels=batch.image.shape[1],
            train_samples=len(rows),
            seed=spec.seed,
            hooks=Hooks(
                epoch=epoch_done,
                score=score,
                progress=progress,
                should_stop=lambda: found.passed,
            ),
            device=device,
            dataset_statistics=context.statistics,
            task=task,
            stack=context.stack,
        )
    except Diverged as error:
        said[SKIPPED] = str(error)
    found.seconds = time.monotonic() - began
    found.faults = [] if found.passed else [*found.faults, *said.values(), *_of_loss(found)]
    return found


def bare(experiment: Experiment) -> Experiment:
    """The experiment without what makes learning by heart hard; it trains on as few samples."""
    settings, score = experiment.train, experiment.score
    short = {
        "epochs": EPOCHS,
        "steps_per_epoch": STEPS_PER_EPOCH,
        "micro_batch_size": min(SAMPLES, settings.micro_batch_size),
        "micro_batches_per_step": 1,
        "ema": None,
        "swa": None,
        "average_last": None,
        "stop": None,
        "log_health": True,
        "domain_weight": 0.0,
    }
    plain = {
        "epochs": Every(every=SCORED),
        "threshold": "best",
        "threshold_metric": None,
        "tta": "none",
        "window": None,
    }
    return experiment.model_copy(
        update={
            "augment": {},
            "sampling": {"name": "uniform"},
            "train": settings.model_copy(update=short),
            "score": score.model_copy(update=plain),
        }
    )


def choose(samples: Samples, rows: np.ndarray) -> tuple[np.ndarray, bool]:
    """Up to `SAMPLES` of some rows, spread evenly, and whether each of them holds anything.

    Those that hold nothing are taken only where too few do.
    """
    looked = rows[np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).round().astype(int)]
    holding = [row for row in looked if _holds(samples.gather(np.array([row])))]
    few = [row for row in looked if row not in holding]
    chosen = np.array([*holding, *few])[: max(SAMPLES, len(holding))]
    places = np.linspace(0, len(chosen) - 1, min(SAMPLES, len(chosen))).round().astype(int)
    return chosen[places], len(holding) >= len(places)


def as_image(batch: Batch, index: int) -> WholeImage:
    """A sample as an image that is scored in its own px, which are not always native ones."""
    shape = batch.fov.shape[2:]
    keypoints, spacing = None, None
    if batch.points is not None:
        points = batch.points
        own = points.sample == index
        # Those around the sample belong to others: none may be found there.
        own &= ((points.positions >= -0.5) & (points.positions < np.array(shape) - 0.5)).all(1)
        keypoints = Keypoints(points.positions[own], points.classes[own])
        angstrom = points.spacing_angstrom[index]
        if np.isfinite(angstrom).all():
            spacing = tuple((angstrom / 1e4).tolist())
    return WholeImage(
        source_id=f"sample {index}",
        group=f"sample {index}",
        image=batch.image[index],
        fov_working=np.ascontiguousarray(batch.fov[index, 0]),
        centre=batch.centre[index],
        scale=batch.scale[index],
        target=(batch.target[index] >= 128).astype(np.uint8),
        fov=np.ascontiguousarray(batch.fov[index, 0]),
        box=(*(0 for _ in shape), *shape),
        inner=shape,
        offset=tuple(0 for _ in shape),
        keypoints=keypoints,
        spacing_um=spacing,
    )


def _holds(batch: Batch) -> bool:
    """Whether a batch of one sample has anything to find in its fov."""
    if batch.points is None:
        return bool(((batch.target >= 128) & (batch.fov > 0)).any())
    image = as_image(batch, 0)
    return image.keypoints is not None and len(image.keypoints.positions) > 0


def _bad_inputs(
    experiment: Experiment, batch: Batch, context: Context, full: bool
) -> Iterator[str]:
    """What is wrong with the samples before any training."""
    if not full:
        yield (
            "empty targets: some of the samples hold nothing to find; look at data.patch, "
            "data.min_fov and the masks ('vesselflow data inspect')"
        )
    fov = torch.from_numpy(np.array(batch.fov)).float()
    image = normalise_by(
        experiment.normalise,
        unit(batch.image, torch.device("cpu")),
        fov,
        batch.centre,
        batch.scale,
        context.statistics,
    )
    inside = image.movedim(1, 0)[:, fov[:, 0] > 0]
    if not bool(torch.isfinite(inside).all()):
        yield "the normalised images are not finite; look at normalise, and at NaN in the store"
    else:
        for channel, deviation in enumerate(inside.double().std(1).tolist()):
            if deviation < FLAT:
                yield (
                    f"normalise makes a constant of channel {channel} (deviation {deviation:.1g}, "
                    "about 1 is right); look at normalise and at the range of the images"
                )


def _of_loss(found: Smoke) -> Iterator[str]:
    """What the losses and the score say of a training that was not enough."""
    losses: Sequence[float] = [loss for loss in found.losses if math.isfinite(loss)]
    if len(losses) < 2:
        yield (
            "hardly a step had a finite loss: lower optimizer.lr, or set train.clip_norm or "
            "train.amp: none"
        )
        return
    way = f"from {losses[0]:.4g} to {losses[-1]:.4g}"
    if losses[-1] > STILL * losses[0]:
        yield (
            f"the loss did not fall ({way}): try ten times optimizer.lr, and a tenth of it; look "
            "at what train.freeze leaves, and whether images and masks belong together"
        )
    else:
        yield (
            f"the loss fell ({way}), but not far enough in {found.steps} steps: raise optimizer.lr "
            "or lower model.dropout, or the model is too small or too coarse for what it is to find"
        )
