"""The first half of a run's execution: an attempt that trains, or resumes, to the end."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import dataclass, field

import numpy as np

from vesselflow.config.yaml_files import dump_yaml
from vesselflow.errors import Interrupted, UserError
from vesselflow.feed.batches import Samples
from vesselflow.feed.sources import Order, StepClock
from vesselflow.records.runs import Attempt
from vesselflow.sweeps.context import Context
from vesselflow.sweeps.gate import Gate
from vesselflow.sweeps.scoring_job import ScoringJob
from vesselflow.training.group import lead, together
from vesselflow.training.loop import Hooks, steps_per_epoch, train
from vesselflow.training.saving import Write


class TrainingJob:
    """One attempt of one run; every rank has one, and rank 0's writes.

    Args:
        context: The run.
        scoring: Scores the validation data at the end of scored epochs.

    Attributes:
        attempt: On rank 0, from its beginning on.
        steps: Trained by this attempt so far.
    """

    def __init__(self, context: Context, scoring: ScoringJob) -> None:
        self.context, self.scoring = context, scoring
        self.began = time.perf_counter()
        self.attempt: Attempt | None = None
        self.first_step_s: float | None = None
        self.steps = 0
        self._batches: StepClock | None = None

    def run(self) -> bool:
        """Train to the end; False when it was stopped on request before.

        What fails on one rank before, between and after the steps fails on all of them.
        """
        context = self.context
        experiment = context.spec.experiment
        resume, start = lead(context.group, self._begin)
        ready = _Ready()
        together(context.group, lambda: self._prepare(ready))
        settings = experiment.train
        total = settings.epochs * steps_per_epoch(experiment, ready.samples)
        self._batches = ready.batches
        context.reports.phase("training", start // max(1, total // settings.epochs), start, total)

        epoch_now = 0

        def progress(epoch: int, step: int) -> None:
            nonlocal epoch_now
            ready.batches.stop()
            epoch_now = epoch
            self.steps = step - start
            if self.first_step_s is None:
                self.first_step_s = time.perf_counter() - self.began
            context.reports.phase("training", epoch, step, total)

        def epoch_done(epoch: int, step: int, values: dict[str, float]) -> None:
            rows = [{"epoch": epoch, "step": step, **values}]
            context.gate.keep(lambda: self._attempt().write_rows(step, rows))
            context.reports.epoch(epoch, step, values)

        def keep_weights(epoch: int, step: int, payload: bytes) -> None:
            context.gate.keep(lambda: context.record.keep_weights(epoch, payload))

        def waiting() -> None:
            # A large file on a slow storage is no step that hangs.
            context.reports.phase("saving", epoch_now, start + self.steps, total)
            context.troubles.repeat()

        hooks = Hooks(
            save=self._save,
            waiting=waiting,
            epoch=epoch_done,
            keep_weights=keep_weights,
            score=self.scoring.validate,
            progress=progress,
            should_stop=context.reports.should_stop,
        )
        outcome = train(
            experiment,
            ready.batches,
            channels=ready.channels,
            train_samples=ready.samples,
            seed=context.spec.seed,
            group=context.group,
            hooks=hooks,
            resume=resume,
            device=context.device,
            dataset_statistics=context.statistics,
            survival=context.survival,
        )
        if outcome.finished:
            summary = {"steps": outcome.steps, "skipped_steps": outcome.skipped_steps}
            lead(context.group, lambda: self._finish(summary))
        return outcome.finished

    def _begin(self) -> tuple[bytes | None, int]:
        """Begin an attempt: the checkpoint that it resumes from, and its step (rank 0 alone)."""
        context = self.context
        config = dump_yaml(context.spec.experiment.model_dump(mode="json"))
        context.gate.keep(lambda: context.record.create(config, dict(context.spec.identity)))
        self.attempt = context.gate.keep(context.record.begin_attempt)
        point = self.attempt.resume_point()
        if point is None:
            context.gate.keep(self.scoring.forget)
            return None, 0
        return point[1], point[0]

    def _prepare(self, ready: _Ready) -> None:
        """Find the samples, and where micro-batches come from (each rank)."""
        context = self.context
        spec, settings = context.spec, context.spec.experiment.train
        samples = context.data.samples(spec.experiment.data.train, context.view)
        rows = self._rows(samples)
        if not len(rows):
            raise UserError(
                f"fold {spec.fold} has no training sample",
                where=spec.experiment.data.train,
                hint="lower data.min_fov or data.patch",
            )
        ready.samples = len(rows)
        ready.channels = int(samples.gather(rows[:1]).image.shape[1])
        per_epoch = steps_per_epoch(spec.experiment, len(rows))
        order = Order(
            seed=spec.seed,
            steps=settings.epochs * per_epoch,
            steps_per_epoch=per_epoch,
            micro_batch_size=settings.micro_batch_size,
            micro_batches_per_step=settings.micro_batches_per_step,
            workers=context.group.size,
            rank=context.group.rank,
        )
        ready.batches = StepClock(context.data.batches(samples, rows, order))
        _ = context.statistics  # read here, where a rank that cannot is not waited for

    def _save(self, step: int) -> Write:
        """What writes a checkpoint, and what the attempt has cost until its step."""
        attempt, gate, cost = self._attempt(), self.context.gate_beside, self.cost()

        def write(payload: memoryview) -> None:
            gate.keep(lambda: attempt.checkpoints.save(step, payload))
            self._write_cost(cost, gate)

        return write

    def _finish(self, summary: dict[str, int]) -> None:
        self.context.gate.keep(lambda: self.context.record.finish(self._attempt(), summary))

    def _attempt(self) -> Attempt:
        assert self.attempt is not None
        return self.attempt

    def _rows(self, samples: Samples) -> np.ndarray:
        """The samples of the training part, in store order."""
        return np.flatnonzero(np.isin(samples.source, np.asarray(self.context.spec.train)))

    def cost(self) -> dict[str, float]:
        """What this attempt has cost so far, in seconds and steps."""
        train_s = self._batches.seconds if self._batches is not None else 0.0
        return {
            "wall_s": time.perf_counter() - self.began,
            "train_s": train_s,
            "evaluate_s": self.scoring.seconds,
            "start_s": self.first_step_s or 0.0,
            "steps": float(self.steps),
            "steps_per_s": self.steps / train_s if train_s else float("nan"),
        }

    def close(self) -> dict[str, float]:
        """Keep the cost with the attempt, if there is one on this rank, and return it."""
        cost = self.cost()
        with contextlib.suppress(Interrupted):
            self._write_cost(cost, self.context.gate)
        return cost

    def _write_cost(self, cost: dict[str, float], gate: Gate) -> None:
        attempt = self.attempt
        if attempt is not None:
            machine = {"slot": self.context.slot, "host": socket.gethostname()}
            gate.keep(lambda: attempt.write_cost({**cost, **machine}))


@dataclass
class _Ready:
    """What a rank made ready to train."""

    samples: int = 0
    channels: int = 0
    batches: StepClock = field(init=False)
