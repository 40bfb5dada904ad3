"""The first half of a run's execution: an attempt that trains, or resumes, to the end."""

from __future__ import annotations

import socket
import time

import numpy as np

from vesselflow.config.yaml_files import dump_yaml
from vesselflow.errors import UserError
from vesselflow.feed.batches import Samples
from vesselflow.feed.sources import Order, StepClock
from vesselflow.records.runs import Attempt
from vesselflow.sweeps.context import Context
from vesselflow.sweeps.scoring_job import ScoringJob
from vesselflow.training.loop import Hooks, steps_per_epoch, train

#: A run goes on without a new checkpoint for this many times `train.checkpoint_every_s`.
OVERDUE = 10


class TrainingJob:
    """One attempt of one run; every rank has one, and rank 0's writes.

    Args:
        context: The run.
        scoring: Scores the validation data at the end of scored epochs.

    Attributes:
        attempt: On rank 0, from its beginning on.
        steps: Trained by this attempt.
        train_s: Seconds inside them.
    """

    def __init__(self, context: Context, scoring: ScoringJob) -> None:
        self.context, self.scoring = context, scoring
        self.began = time.perf_counter()
        self.attempt: Attempt | None = None
        self.first_step_s: float | None = None
        self.saved_at = time.monotonic()
        self.steps, self.train_s = 0, 0.0

    def run(self) -> bool:
        """Train to the end; False when it was stopped on request before."""
        context = self.context
        spec, experiment = context.spec, context.spec.experiment
        resume: bytes | None = None
        start = 0
        if context.group.rank == 0:
            config = dump_yaml(experiment.model_dump(mode="json"))
            context.record.create(config, dict(spec.identity))
            self.attempt = context.record.begin_attempt()
            point = self.attempt.resume_point()
            if point is not None:
                start, resume = point
            else:
                self.scoring.forget()
        resume, start = context.group.share((resume, start))
        samples = context.data.samples(experiment.data.train, context.view)
        rows = self._rows(samples)
        if not len(rows):
            raise UserError(
                f"fold {spec.fold} has no training sample",
                where=experiment.data.train,
                hint="lower data.min_fov or data.patch",
            )
        settings = experiment.train
        total = settings.epochs * steps_per_epoch(experiment, len(rows))
        batches = StepClock(
            context.data.batches(
                samples,
                rows,
                Order(
                    seed=spec.seed,
                    steps=total,
                    micro_batch_size=settings.micro_batch_size,
                    micro_batches_per_step=settings.micro_batches_per_step,
                    workers=context.group.size,
                    rank=context.group.rank,
                ),
            )
        )
        channels = int(samples.gather(rows[:1]).image.shape[1])
        context.reports.phase("training", start // max(1, total // settings.epochs), start, total)

        def progress(epoch: int, step: int) -> None:
            batches.stop()
            if self.first_step_s is None:
                self.first_step_s = time.perf_counter() - self.began
            context.reports.phase("training", epoch, step, total)

        def epoch_done(epoch: int, step: int, values: dict[str, float]) -> None:
            assert self.attempt is not None
            self.attempt.write_rows(step, [{"epoch": epoch, "step": step, **values}])
            context.reports.epoch(epoch, step, values)

        hooks = Hooks(
            save=self._save,
            epoch=epoch_done,
            keep_weights=lambda epoch, step, payload: context.record.keep_weights(epoch, payload),
            score=self.scoring.validate,
            progress=progress,
            should_stop=context.reports.should_stop,
        )
        outcome = train(
            experiment,
            batches,
            channels=channels,
            train_samples=len(rows),
            seed=spec.seed,
            group=context.group,
            hooks=hooks,
            resume=resume,
            device=context.device,
            dataset_statistics=context.statistics,
        )
        if outcome.finished and context.group.rank == 0:
            context.record.finish(
                self._attempt(),
                {"steps": outcome.steps, "skipped_steps": outcome.skipped_steps},
            )
        self.steps, self.train_s = outcome.step - start, batches.seconds
        return outcome.finished

    def _save(self, step: int, payload: bytes) -> None:
        """Write a checkpoint; a full disk is waited for while the last good one is not too old."""
        now = time.monotonic()
        try:
            self._attempt().checkpoints.save(step, payload)
        except UserError as error:
            every = self.context.spec.experiment.train.checkpoint_every_s
            if now - self.saved_at > OVERDUE * every:
                raise
            self.context.reports.message(
                f"{self.context.spec.label}: no checkpoint at step {step}: {error}"
            )
        else:
            self.saved_at = now

    def _attempt(self) -> Attempt:
        assert self.attempt is not None
        return self.attempt

    def _rows(self, samples: Samples) -> np.ndarray:
        """The samples of the training part, in store order."""
        return np.flatnonzero(np.isin(samples.source, np.asarray(self.context.spec.train)))

    def cost(self) -> dict[str, float]:
        """What this attempt cost; kept with it, if there is one on this rank."""
        cost = {
            "wall_s": time.perf_counter() - self.began,
            "train_s": self.train_s,
            "evaluate_s": self.scoring.seconds,
            "start_s": self.first_step_s or 0.0,
            "steps": float(self.steps),
            "steps_per_s": self.steps / self.train_s if self.train_s else float("nan"),
        }
        if self.attempt is not None:
            self.attempt.write_cost(
                {**cost, "slot": self.context.slot, "host": socket.gethostname()}
            )
        return cost
