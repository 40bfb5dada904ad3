"""How fast runs are: which are alike, what is known of each kind, their model in time. Pure.

What is known comes from a few measured steps (`measuring`), from what finished runs noted, or from
the user's own number.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from vesselflow.config.experiment import Experiment
from vesselflow.config.fingerprint import digest
from vesselflow.runs.cells import Job
from vesselflow.sweeps.simulation_model import RunModel
from vesselflow.training.interval import SHORTEST_S, Survival, best_interval

#: Predictions of each domain that are drawn as pictures: the best and the worst, in about.
_PREVIEWS = 2
#: A prediction takes about so much of a training step's time for an image, where nobody measured.
_FORWARD = 0.35


@dataclass(frozen=True)
class Pace:
    """How fast one kind of run is.

    Attributes:
        step_s: Seconds of an optimizer step.
        image_s: Store -> seconds of scoring one of its images; "" for stores that are not in it.
        start_s: Seconds from taking a run to its first step, in a warm process.
        save_s: Seconds that a checkpoint takes from the training.
        steps: Steps that it was measured on.
        run_steps: Steps of the whole run that was measured; 0 where that is not known.
        source: How it is known, in words.
    """

    step_s: float
    image_s: Mapping[str, float] = field(default_factory=dict)
    start_s: float = 0.5
    save_s: float = 0.05
    steps: int = 0
    run_steps: int = 0
    source: str = ""

    def image(self, store: str) -> float:
        """Seconds of scoring one image of a store."""
        return self.image_s.get(store, self.image_s.get("", 0.0))


def kind_of(experiment: Experiment) -> str:
    """Runs of equal kinds take equal time a step: numbers that change no amount of work are out."""
    train = experiment.train
    return digest(
        {
            "data": experiment.data.model_dump(mode="json", exclude={"ood", "unlabelled"}),
            "normalise": experiment.normalise.model_dump(mode="json"),
            "task": experiment.task.model_dump(mode="json"),
            "augment": {
                name: {key: value for key, value in arguments.items() if isinstance(value, str)}
                for name, arguments in experiment.augment.items()
            },
            "model": experiment.model,
            "loss": experiment.loss["name"],
            "optimizer": experiment.optimizer["name"],
            "micro_batch_size": train.micro_batch_size,
            "micro_batches_per_step": train.micro_batches_per_step,
            "precision": [train.amp, train.channels_last],
            "ema": train.ema is not None,
            **({"freeze": list(train.freeze)} if train.freeze else {}),
            # The loss of each sample alone; other ways to draw cost nothing.
            **({"sampling": "hard"} if experiment.sampling["name"] == "hard" else {}),
            # A second pass over unlabelled images; networks that look first; blocks computed twice.
            **({"unlabelled": experiment.unlabelled} if experiment.unlabelled else {}),
            **({"stack": train.stack} if train.stack else {}),
            **({"recompute": True} if train.recompute else {}),
            "tta": experiment.score.tta,
        }
    )


def given_pace(seconds_per_step: float, experiment: Experiment) -> Pace:
    """What follows from a user's own number: scoring is guessed from it."""
    train = experiment.train
    samples = train.micro_batch_size * train.micro_batches_per_step
    flips = 4 if experiment.score.tta == "flips" else 1
    image_s = _FORWARD * flips * seconds_per_step / samples
    return Pace(seconds_per_step, {"": image_s}, source="given")


def noted_pace(job: Job, noted: Sequence[Mapping[str, Any]], machine: str) -> Pace | None:
    """How fast a finished run was, by what its attempts noted; None where they do not tell.

    Args:
        job: The run, with all that it is scored on.
        noted: As `RunRecord.costs` gives it.
        machine: Which kind of machine is asked about; others tell nothing of it.
    """
    here = [
        {
            name: float(value)
            for name, value in one.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        for one in noted
        if one.get("machine") == machine
    ]
    steps = math.fsum(one.get("steps", 0.0) for one in here)
    train_s = math.fsum(one.get("train_s", 0.0) for one in here)
    if len(here) < len(noted) or not steps > 0 or not train_s > 0:
        return None
    images = sum(len(evaluation.domain.sources) for evaluation in job.evaluations)
    score_s = math.fsum(one.get("evaluate_s", 0.0) for one in here) / max(1, images)
    start_s = statistics.median(one.get("start_s", 0.0) for one in here)
    experiment = job.run.experiment
    train = experiment.train
    # One at the end of each scored epoch, and as many between as the time allows.
    each_s = max(train_s / steps, min(train.checkpoint_every_s, SHORTEST_S))
    saves = len(experiment.score.at(train.epochs)) + train_s / each_s
    save_s = math.fsum(one.get("save_s", 0.0) for one in here) / saves
    return Pace(
        train_s / steps,
        {"": score_s},
        start_s,
        save_s,
        steps=int(steps),
        run_steps=int(steps),
        source="finished runs",
    )


def joined(paces: Sequence[Pace]) -> Pace:
    """One pace out of several of the same kind, at least one: the medians."""
    median = statistics.median
    stores = dict.fromkeys(store for pace in paces for store in pace.image_s)
    return Pace(
        step_s=median([pace.step_s for pace in paces]),
        image_s={store: median([pace.image(store) for pace in paces]) for store in stores},
        start_s=median([pace.start_s for pace in paces]),
        save_s=median([pace.save_s for pace in paces]),
        steps=sum(pace.steps for pace in paces),
        run_steps=paces[0].run_steps,
        source=paces[0].source,
    )


def spread(paces: Sequence[Pace]) -> float:
    """Standard deviation of the logarithm of a step's seconds; 0 for less than two."""
    logs = [math.log(pace.step_s) for pace in paces]
    return statistics.stdev(logs) if len(logs) > 1 else 0.0


def run_model(job: Job, pace: Pace, *, steps: int, trained: bool, mean_life_s: float) -> RunModel:
    """A run as the simulation takes it.

    Args:
        job: The run, and what is to be scored of it.
        pace: How fast its kind is.
        steps: Optimizer steps of the whole run.
        trained: Whether it is trained already, so that it is only scored.
        mean_life_s: Mean time until its machine is taken away.
    """
    run = job.run
    train = run.experiment.train
    validation, first = job.validation, job.protocols[0]
    at_ends = {
        evaluation.name
        for evaluation in job.evaluations
        if evaluation.domain == validation and evaluation.protocol == first
    }
    later_s = math.fsum(
        len(evaluation.domain.sources) * pace.image(evaluation.domain.store)
        for evaluation in job.evaluations
        if trained or evaluation.name not in at_ends
    )
    domains = dict.fromkeys(evaluation.domain for evaluation in job.evaluations)
    drawn_s = math.fsum(_PREVIEWS * pace.image(domain.store) for domain in domains)
    whole = RunModel(
        run_id=run.run_id,
        steps=steps,
        epochs=train.epochs,
        step_s=pace.step_s,
        scored=run.epochs,
        validate_s=len(validation.sources) * pace.image(validation.store),
        score_s=later_s + drawn_s * len(job.protocols),
        start_s=pace.start_s,
        save_s=pace.save_s,
        interval_s=interval(pace.save_s, mean_life_s, train.checkpoint_every_s),
    )
    if not trained:
        return whole
    # One step that takes no time: what is left is to score it.
    return replace(whole, steps=1, epochs=1, step_s=1e-9, scored=(), validate_s=0.0, save_s=0.0)


def interval(save_s: float, mean_life_s: float, longest_s: float) -> float:
    """Seconds between two checkpoints, as `training.interval` will choose them."""
    mean_s = min(mean_life_s, Survival().mean_s())
    return min(longest_s, max(SHORTEST_S, best_interval(save_s, mean_s)))
