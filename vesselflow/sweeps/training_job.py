"""The first half of a run's execution: an attempt that trains, or resumes, to the end."""

from __future__ import annotations

import contextlib
import functools
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from vesselflow.config.yaml_files import dump_yaml
from vesselflow.errors import Interrupted, UserError
from vesselflow.feed.batches import Samples
from vesselflow.feed.hard import Hard
from vesselflow.feed.sources import BatchSource, Order, StepClock, WithUnlabelled
from vesselflow.records.attempts import Attempt
from vesselflow.records.runs import STOPPED
from vesselflow.runs.initial import InitialFile
from vesselflow.runs.specs import view_of
from vesselflow.sweeps.context import Context
from vesselflow.sweeps.cost_notes import CostNotes, reached_before
from vesselflow.sweeps.gate import Gate
from vesselflow.sweeps.scoring_job import ScoringJob
from vesselflow.sweeps.step_trace import (
    BEGIN,
    COPY,
    FREE,
    KEPT,
    START,
    STEP,
    StepTrace,
    step_trace,
)
from vesselflow.training.group import lead, together
from vesselflow.training.health import warnings
from vesselflow.training.loop import Hooks, steps_per_epoch, train
from vesselflow.training.saving import Write
from vesselflow.training.stopping import Patience


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
        self.start_s: float | None = None
        self.steps = 0
        self._from_step = self._reached = 0
        self._save_s, self._stepped = 0.0, self.began
        self._batches: StepClock | None = None
        self._notes: CostNotes | None = None
        self._trace: StepTrace | None = None
        self._warned: set[str] = set()

    def run(self) -> bool:
        """Train to the end; False when it was stopped on request before.

        What fails on one rank before, between and after the steps fails on all of them.
        """
        context = self.context
        experiment = context.spec.experiment
        resume, start = lead(context.group, self._begin)
        ready = _Ready()
        together(context.group, lambda: self._prepare(ready, anew=resume is None))
        settings = experiment.train
        total = settings.epochs * steps_per_epoch(experiment, ready.samples)
        self._batches = ready.batches
        context.reports.phase("training", start // max(1, total // settings.epochs), start, total)

        epoch_now = 0
        trace = self._trace

        def interval(seconds: float) -> None:
            if trace is not None and trace.interval(seconds):
                trace.mark(START, start)

        def progress(epoch: int, step: int) -> None:
            nonlocal epoch_now
            ready.batches.stop()
            epoch_now = epoch
            self.steps, self._stepped = step - start, time.perf_counter()
            if trace is not None:
                trace.mark(STEP, step)
            if self.start_s is None:
                self.start_s = self._rest_s()
            context.reports.phase("training", epoch, step, total)

        def epoch_done(epoch: int, step: int, values: dict[str, float]) -> None:
            rows = [{"epoch": epoch, "step": step, **values}]
            context.gate.keep(lambda: self._attempt().write_rows(step, rows))
            context.reports.epoch(epoch, step, values)
            self._warn(epoch, values)

        def keep_weights(epoch: int, step: int, payload: bytes) -> None:
            with self._saving():
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
            interval=None if trace is None else interval,
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
            task=context.spec.task,
            memory=ready.memory,
            initial=ready.initial,
            factors=context.spec.factors,
            stack=context.stack,
        )
        if outcome.finished:
            # Without early stopping all planned steps are done.
            summary = {"steps": outcome.step, "skipped_steps": outcome.skipped_steps}
            if (stopped := outcome.stopped_epoch) is not None:
                summary[STOPPED] = stopped
                lead(context.group, lambda: self._say_stopped(stopped))
            lead(context.group, lambda: self._finish(summary))
        return outcome.finished

    def _say_stopped(self, epoch: int) -> None:
        context, attempt = self.context, self._attempt()
        train = context.spec.experiment.train
        assert train.stop is not None
        patience = Patience.of(train.stop, context.spec.task)
        line = (
            f"stopped after epoch {epoch} of {train.epochs} (train.stop): {patience.metric} on "
            f"validation was no better in {train.stop.patience} scored epochs"
        )
        context.gate.keep(functools.partial(attempt.log_once, line))
        context.reports.message(f"{context.spec.label}: {line}")

    def _warn(self, epoch: int, values: Mapping[str, float]) -> None:
        """Say what an epoch's gradients show, each thing once in an attempt."""
        context, attempt = self.context, self._attempt()
        for name, text in warnings(values):
            if name not in self._warned:
                self._warned.add(name)
                line = f"epoch {epoch}: {text}"
                context.gate.keep(functools.partial(attempt.log_once, line))
                context.reports.message(f"{context.spec.label}: {line}")

    def _begin(self) -> tuple[bytes | None, int]:
        """Begin an attempt: the checkpoint that it resumes from, and its step (rank 0 alone)."""
        context = self.context
        config = dump_yaml(context.spec.experiment.model_dump(mode="json"))
        context.gate.keep(lambda: context.record.create(config, dict(context.spec.identity)))
        self.attempt = context.gate.keep(context.record.begin_attempt)
        point = self.attempt.resume_point()
        self._from_step = 0 if point is None else point[0]
        self._trace = step_trace(context.record.run_id, self.attempt.number)
        if self._trace is not None:
            self._trace.mark(BEGIN, self._from_step)
        self._reached = context.taken.reached
        if self.attempt.number > 1:
            # Of a sweep before this one the records alone know how far it came.
            self._reached = max(self._reached, reached_before(context.record.costs()))
        self._notes = CostNotes(self.attempt, self._noted)
        if isinstance(first := context.spec.initial, InitialFile):
            line = (
                f"first weights of {first.label} (sha256 {first.digest[:16]}): "
                "what they were trained on is not known"
            )
            context.gate.keep(functools.partial(self.attempt.log_once, line))
        if (unlabelled := context.spec.experiment.unlabelled) is not None:
            line = f"images of '{unlabelled}' are learnt from without labels (data.unlabelled)"
            context.gate.keep(functools.partial(self.attempt.log_once, line))
        if context.spec.stack:
            names = ", ".join(f"{base.run_id}@{base.epoch}" for base in context.spec.stack)
            line = f"stacked (train.stack) on {names}"
            context.gate.keep(functools.partial(self.attempt.log_once, line))
        if point is None:
            context.gate.keep(self.scoring.forget)
            return None, 0
        return point[1], point[0]

    def _prepare(self, ready: _Ready, *, anew: bool) -> None:
        """Find the samples, where micro-batches come from, and first weights (each rank)."""
        context = self.context
        spec = context.spec
        if anew and (first := spec.initial) is not None:
            ready.initial = context.gate.keep(lambda: first.read(context.results))
        samples = context.data.samples(spec.experiment.data.train, context.view)
        rows = training_rows(context, samples)
        ready.samples = len(samples.table.of_grid(rows))
        order = order_of(context, ready.samples)
        ready.channels = int(samples.gather(rows[:1]).image.shape[1])
        draws = order.draws(samples, rows)
        ready.memory = draws if isinstance(draws, Hard) else None
        batches = context.data.batches(samples, draws, order)
        if spec.experiment.unlabelled is not None:
            batches = WithUnlabelled(batches, unlabelled_batches(context, order))
        ready.batches = StepClock(batches)
        # Read here, where a rank that cannot is not waited for.
        _ = context.statistics, context.stack

    def _save(self, step: int) -> Write:
        """What writes a checkpoint, and what the attempt has cost by then."""
        # Since its last step the training stood still for the copy, and for a write before it.
        self._save_s += time.perf_counter() - self._stepped
        attempt, gate, trace = self._attempt(), self.context.gate_beside, self._trace
        if trace is not None:
            trace.mark(COPY, step)

        def write(payload: memoryview) -> None:
            gate.keep(lambda: attempt.checkpoints.save(step, payload))
            if trace is not None:
                trace.mark(KEPT, step)
            self._write_cost(gate)
            if trace is not None:
                trace.mark(FREE, step)

        return write

    def _finish(self, summary: dict[str, int]) -> None:
        self.context.gate.keep(lambda: self.context.record.finish(self._attempt(), summary))

    def _attempt(self) -> Attempt:
        assert self.attempt is not None
        return self.attempt

    @contextlib.contextmanager
    def _saving(self) -> Iterator[None]:
        """Count the seconds for which training waits for what is kept."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self._save_s += time.perf_counter() - began

    def _rest_s(self) -> float:
        """Seconds so far that were neither steps nor scoring nor saving.

        An attempt may score an epoch before its first step: its checkpoint was the epoch's end.
        """
        train_s = self._batches.seconds if self._batches is not None else 0.0
        others = train_s + self.scoring.seconds + self._save_s
        return max(0.0, time.perf_counter() - self.began - others)

    def cost(self) -> dict[str, float]:
        """What this attempt has cost so far, in seconds and steps.

        ``reached`` is the step to which the run had come before: steps below it are repeated.
        """
        taken = self.context.taken
        train_s = self._batches.seconds if self._batches is not None else 0.0
        return {
            "wall_s": time.perf_counter() - self.began,
            "idle_s": taken.idle_s,
            "slot_start_s": taken.slot_start_s,
            "start_s": self._rest_s() if self.start_s is None else self.start_s,
            "train_s": train_s,
            "evaluate_s": self.scoring.seconds,
            "save_s": self._save_s,
            "from_step": float(self._from_step),
            "reached": float(self._reached),
            "steps": float(self.steps),
            "steps_per_s": self.steps / train_s if train_s else float("nan"),
        }

    def close(self) -> dict[str, float]:
        """Keep the cost with the attempt, if there is one on this rank, and return it."""
        self.end_notes()
        if self._trace is not None:
            self._trace.close()
        with contextlib.suppress(Interrupted):
            self._write_cost(self.context.gate)
        return self.cost()

    def end_notes(self) -> None:
        """Write no more beside the training."""
        if self._notes is not None:
            self._notes.end()

    def _write_cost(self, gate: Gate) -> None:
        if self._notes is not None:
            gate.keep(self._notes.write)

    def _noted(self) -> dict[str, float | str]:
        where = {"slot": self.context.slot, "host": socket.gethostname()}
        return {**self.cost(), **where, **self.context.taken.seat.plain()}


def training_rows(context: Context, samples: Samples) -> np.ndarray:
    """The samples of the training part, in store order."""
    return np.flatnonzero(np.isin(samples.source, np.asarray(context.spec.train)))


def unlabelled_batches(context: Context, order: Order) -> BatchSource:
    """The micro-batches of unlabelled samples that come with those of an order.

    Raises:
        UserError: There is no such sample.
    """
    experiment, name = context.spec.experiment, context.spec.experiment.unlabelled
    assert name is not None
    view = view_of(experiment, name, context.spec.task.stride)
    samples, order = context.data.samples(name, view), order.of_unlabelled()
    if not samples.n:
        raise UserError("there is no sample", where=name, hint="lower data.min_fov or data.patch")
    return context.data.batches(samples, order.draws(samples, np.arange(samples.n)), order)


def order_of(context: Context, samples: int) -> Order:
    """The order of a run's micro-batches.

    Args:
        context: The run.
        samples: Of the grid, in its training part.

    Raises:
        UserError: There is none.
    """
    experiment = context.spec.experiment
    if not samples:
        raise UserError(
            f"fold {context.spec.fold} has no training sample",
            where=experiment.data.train,
            hint="lower data.min_fov or data.patch",
        )
    settings, per_epoch = experiment.train, steps_per_epoch(experiment, samples)
    return Order(
        seed=context.spec.seed,
        steps=settings.epochs * per_epoch,
        steps_per_epoch=per_epoch,
        micro_batch_size=settings.micro_batch_size,
        micro_batches_per_step=settings.micro_batches_per_step,
        workers=context.group.size,
        rank=context.group.rank,
        sampling=experiment.sampling,
        window=experiment.data.window,
    )


@dataclass
class _Ready:
    """What a rank made ready to train."""

    samples: int = 0
    channels: int = 0
    batches: StepClock = field(init=False)
    memory: Hard | None = None
    initial: bytes | None = None
