"""Does one run in one process, or one group of them: trains what is missing, then scores it.

Imports no Ray: a slot calls it, and so do tests and notebooks.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import socket
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from vesselflow.augment.inputs import DatasetStatistics
from vesselflow.config.yaml_files import dump_yaml
from vesselflow.errors import UserError
from vesselflow.evaluation.domains import Domain
from vesselflow.evaluation.parts import (
    POOLED,
    Part,
    part_id,
    part_path,
    read_part,
    write_part,
)
from vesselflow.evaluation.previews import write_previews
from vesselflow.evaluation.scoring import evaluate, select
from vesselflow.evaluation.selection import choose_epoch
from vesselflow.feed.batches import Batch, Samples, WholeImages
from vesselflow.feed.view import View
from vesselflow.orchestration.runs import RunSpec, view_of
from vesselflow.records.runs import Attempt, RunRecord, RunState
from vesselflow.stores.statistics import intensities, pooled_centre_scale
from vesselflow.training.group import Group, Solo
from vesselflow.training.loop import (
    BatchSource,
    Diverged,
    Hooks,
    KeyedBatches,
    build_model,
    load,
    steps_per_epoch,
    train,
)

#: A run goes on without a new checkpoint for this many times `train.checkpoint_every_s`.
OVERDUE = 10


@dataclass(frozen=True)
class Order:
    """In which order samples come: all that micro-batches are a function of.

    Attributes:
        seed: Seed of the run.
        steps: Optimizer steps of the whole run.
        micro_batch_size: Samples of one micro-batch.
        micro_batches_per_step: Micro-batches of one step, over all workers.
        workers: How many share a step.
        rank: Which of them asks.
    """

    seed: int
    steps: int
    micro_batch_size: int
    micro_batches_per_step: int
    workers: int
    rank: int

    def gathered(self, samples: Samples, rows: np.ndarray) -> BatchSource:
        """Micro-batches of samples that can be gathered at random."""
        return KeyedBatches(
            samples,
            rows,
            seed=self.seed,
            micro_batch_size=self.micro_batch_size,
            micro_batches_per_step=self.micro_batches_per_step,
        )


class Data(Protocol):
    """Where a worker gets samples and whole images from."""

    def samples(self, store: str, view: View) -> Samples:
        """All samples of a store."""

    def images(self, store: str, view: View) -> WholeImages:
        """All whole images of a store."""

    def batches(self, samples: Samples, rows: np.ndarray, order: Order) -> BatchSource:
        """The keyed micro-batches drawn from `rows` of what `samples` gave."""


@dataclass
class Reports:
    """What a worker tells while it works; every default does nothing.

    Attributes:
        phase: ``(phase, epoch, step, steps)``.
        epoch: ``(epoch, step, values)`` of the curve.
        should_stop: True when the run is to be handed back at the next step.
        message: A line that the person should see.
    """

    phase: Callable[[str, int, int, int], None] = lambda phase, epoch, step, steps: None
    epoch: Callable[[int, int, dict[str, float]], None] = lambda epoch, step, values: None
    should_stop: Callable[[], bool] = lambda: False
    message: Callable[[str], None] = lambda text: None


@dataclass
class Result:
    """How a run ended.

    Attributes:
        state: `finished`, `failed` or `stopped` (handed back, to be resumed).
        value: Validation score of the chosen epoch; NaN when undefined or not finished.
        epoch: The epoch chosen on validation.
        message: Why it failed.
        steps: Steps trained by this attempt.
        cost: Seconds by kind, for the cost table.
    """

    state: str
    value: float = float("nan")
    epoch: int = 0
    message: str = ""
    steps: int = 0
    cost: dict[str, float] = field(default_factory=dict)


def execute(
    spec: RunSpec,
    results: Path,
    data: Data,
    *,
    group: Group | None = None,
    reports: Reports | None = None,
    device: str = "cpu",
    slot: str = "local",
) -> Result:
    """Bring one run to its end: train unless it is trained, score what is not scored.

    Every rank of the group calls it with the same arguments. An error in the run's code marks the
    run as failed and is returned (rank 0) or raised (other ranks, to end the group).
    """
    group, reports = group or Solo(), reports or Reports()
    record = RunRecord(results, spec.run_id)
    began = time.perf_counter()
    job = _Job(spec, results, record, data, group, reports, device, slot, began)
    try:
        return job.run()
    except Exception as error:
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        if group.rank == 0 and job.attempt is not None and not job.trained:
            record.fail(job.attempt, message, traceback.format_exc())
        # A divergence is met by all ranks at the same step, and scoring is rank 0's alone: then
        # no rank is left waiting for another.
        if group.size > 1 and not job.trained and not isinstance(error, Diverged):
            raise
        return Result("failed", message=message)


class _Job:
    def __init__(
        self,
        spec: RunSpec,
        results: Path,
        record: RunRecord,
        data: Data,
        group: Group,
        reports: Reports,
        device: str,
        slot: str,
        began: float,
    ) -> None:
        self.spec, self.results, self.record, self.data = spec, results, record, data
        self.group, self.reports, self.device, self.slot = group, reports, device, slot
        self.began = began
        self.attempt: Attempt | None = None
        self.trained = False
        self.first_step_s: float | None = None
        self.evaluate_s = 0.0
        self.saved_at = time.monotonic()
        self._statistics = functools.cache(self._dataset_statistics)
        self.view = view_of(spec.experiment)

    def run(self) -> Result:
        self.trained = self.group.share(self._finished() if self.group.rank == 0 else None)
        steps, train_s = 0, 0.0
        if not self.trained:
            outcome, steps, train_s = self._train()
            if not outcome:
                if self.attempt is not None:
                    self.record.pause(self.attempt, "stopped on request")
                return Result("stopped", steps=steps, cost=self._cost(steps, train_s))
            self.trained = True
        if self.group.rank != 0:
            return Result("finished")
        began = time.perf_counter()
        epoch, value = self._evaluate()
        self.evaluate_s += time.perf_counter() - began
        return Result("finished", value, epoch, steps=steps, cost=self._cost(steps, train_s))

    def _finished(self) -> bool:
        """Whether nothing is left to train; a run whose lost weights are needed is reopened."""
        if self.record.status().state is not RunState.FINISHED:
            return False
        lost = self._lost_epoch()
        if lost is None:
            return True
        self.reports.message(
            f"{self.spec.label}: the weights of epoch {lost} are lost and a score of it is "
            "missing; the run is trained again"
        )
        self.record.reopen()
        return False

    def _lost_epoch(self) -> int | None:
        """The first epoch that is to be scored and of which no weights can be read."""
        experiment = self.spec.experiment
        for epoch in experiment.score.at(experiment.train.epochs):
            paths = (self._part_path(domain, epoch) for domain in self.spec.domains)
            if all(read_part(path) is not None for path in paths):
                continue
            try:
                load(self.record.read_weights(epoch))
            except Exception:
                # A file that is cut short raises one of many types.
                return epoch
        return None

    def _cost(self, steps: int, train_s: float) -> dict[str, float]:
        """What this attempt cost; kept with it, if there is one on this rank."""
        cost = {
            "wall_s": time.perf_counter() - self.began,
            "train_s": train_s,
            "evaluate_s": self.evaluate_s,
            "start_s": self.first_step_s or 0.0,
            "steps": float(steps),
            "steps_per_s": steps / train_s if train_s else float("nan"),
        }
        if self.attempt is not None:
            self.attempt.write_cost({**cost, "slot": self.slot, "host": socket.gethostname()})
        return cost

    # -- training ------------------------------------------------------------------------------

    def _train(self) -> tuple[bool, int, float]:
        spec, experiment = self.spec, self.spec.experiment
        resume: bytes | None = None
        start = 0
        if self.group.rank == 0:
            config = dump_yaml(experiment.model_dump(mode="json"))
            self.record.create(config, dict(spec.identity))
            self.attempt = self.record.begin_attempt()
            point = self.attempt.resume_point()
            if point is not None:
                start, resume = point
            else:
                self._forget_parts()
        resume, start = self.group.share((resume, start))
        samples = self.data.samples(experiment.data.train, self.view)
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
            self.data.batches(
                samples,
                rows,
                Order(
                    seed=spec.seed,
                    steps=total,
                    micro_batch_size=settings.micro_batch_size,
                    micro_batches_per_step=settings.micro_batches_per_step,
                    workers=self.group.size,
                    rank=self.group.rank,
                ),
            )
        )
        channels = int(samples.gather(rows[:1]).image.shape[1])
        self.reports.phase("training", start // max(1, total // settings.epochs), start, total)

        def progress(epoch: int, step: int) -> None:
            batches.stop()
            if self.first_step_s is None:
                self.first_step_s = time.perf_counter() - self.began
            self.reports.phase("training", epoch, step, total)

        def epoch_done(epoch: int, step: int, values: dict[str, float]) -> None:
            assert self.attempt is not None
            self.attempt.write_rows(step, [{"epoch": epoch, "step": step, **values}])
            self.reports.epoch(epoch, step, values)

        hooks = Hooks(
            save=self._save,
            epoch=epoch_done,
            keep_weights=lambda epoch, step, payload: self.record.keep_weights(epoch, payload),
            score=self._score_validation,
            progress=progress,
            should_stop=self.reports.should_stop,
        )
        outcome = train(
            experiment,
            batches,
            channels=channels,
            train_samples=len(rows),
            seed=spec.seed,
            group=self.group,
            hooks=hooks,
            resume=resume,
            device=self.device,
            dataset_statistics=self._statistics(),
        )
        if outcome.finished and self.group.rank == 0:
            self.record.finish(
                self._attempt(),
                {"steps": outcome.steps, "skipped_steps": outcome.skipped_steps},
            )
        return outcome.finished, outcome.step - start, batches.seconds

    def _save(self, step: int, payload: bytes) -> None:
        """Write a checkpoint; a full disk is waited for while the last good one is not too old."""
        now = time.monotonic()
        try:
            self._attempt().checkpoints.save(step, payload)
        except UserError as error:
            every = self.spec.experiment.train.checkpoint_every_s
            if now - self.saved_at > OVERDUE * every:
                raise
            self.reports.message(f"{self.spec.label}: no checkpoint at step {step}: {error}")
        else:
            self.saved_at = now

    def _attempt(self) -> Attempt:
        assert self.attempt is not None
        return self.attempt

    def _rows(self, samples: Samples) -> np.ndarray:
        """The samples of the training part, in store order."""
        return np.flatnonzero(np.isin(samples.source, np.asarray(self.spec.train)))

    def _dataset_statistics(self) -> DatasetStatistics | None:
        """Centre and scale of all pixels of the training sources together, inside their fovs."""
        experiment = self.spec.experiment
        scheme = experiment.normalise
        if scheme.scope != "dataset":
            return None
        images = self.data.images(experiment.data.train, self.view)
        counts = [
            intensities(np.moveaxis(whole.image, 0, 2), whole.fov_working)
            for whole in (images[index] for index in self.spec.train)
        ]
        return pooled_centre_scale(counts, scheme.method, scheme.per_channel)

    def _score_validation(self, model: nn.Module, epoch: int, step: int) -> dict[str, float]:
        began = time.perf_counter()
        self.reports.phase("evaluating", epoch, step, 0)
        # Always anew: what stands there may be of an attempt that did this epoch before.
        part = self._make_part(self.spec.domains[0], epoch, None, model)
        self.evaluate_s += time.perf_counter() - began
        pooled = {metric: value for source, metric, value in part.rows if source == POOLED}
        return {**{f"val/{name}": v for name, v in pooled.items()}, "val/threshold": part.threshold}

    # -- evaluation ----------------------------------------------------------------------------

    def _evaluate(self) -> tuple[int, float]:
        """Score every kept epoch on every domain; return the epoch chosen on val and its value."""
        spec, experiment = self.spec, self.spec.experiment
        epochs = experiment.score.at(experiment.train.epochs)
        validation = spec.domains[0]
        parts: dict[tuple[int, Domain], Part] = {}
        for epoch in epochs:
            self.reports.phase("evaluating", epoch, 0, 0)
            cached = functools.cache(functools.partial(self._model, epoch))
            part = self._part(validation, epoch, None, cached)
            parts[epoch, validation] = part
            for domain in spec.domains[1:]:
                parts[epoch, domain] = self._part(domain, epoch, part.threshold_logit, cached)
        metric = experiment.score.threshold_metric
        scores = {epoch: parts[epoch, validation].value(POOLED, metric) for epoch in epochs}
        chosen = choose_epoch(scores)
        self._previews(chosen, {domain: parts[chosen, domain] for domain in spec.domains})
        return chosen, scores[chosen]

    def _part(
        self,
        domain: Domain,
        epoch: int,
        threshold_logit: float | None,
        model: Callable[[], nn.Module],
    ) -> Part:
        part = read_part(self._part_path(domain, epoch))
        if part is None:
            return self._make_part(domain, epoch, threshold_logit, model())
        return part

    def _make_part(
        self, domain: Domain, epoch: int, threshold_logit: float | None, model: nn.Module
    ) -> Part:
        part = evaluate(
            model,
            select(self.data.images(domain.store, self.view), domain),
            self.spec.experiment,
            threshold_logit=threshold_logit,
            device=self.device,
            dataset_statistics=self._statistics(),
        )
        write_part(self._part_path(domain, epoch), part)
        return part

    def _part_path(self, domain: Domain, epoch: int) -> Path:
        name = part_id(self.spec.run_id, epoch, domain, self.spec.experiment)
        return part_path(self.results, name)

    def _forget_parts(self) -> None:
        """A run that starts from nothing has no scores: those of a run that was reset go."""
        experiment = self.spec.experiment
        for epoch in experiment.score.at(experiment.train.epochs):
            for domain in self.spec.domains:
                self._part_path(domain, epoch).unlink(missing_ok=True)

    def _model(self, epoch: int) -> nn.Module:
        experiment = self.spec.experiment
        images = self.data.images(self.spec.domains[0].store, self.view)
        model = build_model(experiment, int(images[0].image.shape[0]), self.spec.seed)
        model.load_state_dict(load(self.record.read_weights(epoch)))
        return model.to(self.device).eval()

    def _previews(self, epoch: int, parts: dict[Domain, Part]) -> None:
        folder = self.record.previews_folder
        cached = functools.cache(functools.partial(self._model, epoch))
        for domain, part in parts.items():
            # Named as the evaluation is: other images or settings under the same name are new.
            done = folder / f".{self._part_path(domain, epoch).stem}"
            if done.exists():
                continue
            if not self.record.weights_path(epoch).is_file():
                # Pictures are no reason to train a run again whose scores are all there.
                self.reports.message(
                    f"{self.spec.label}: no previews: the weights of epoch {epoch} are lost"
                )
                return
            write_previews(
                folder,
                cached(),
                self.data.images(domain.store, self.view),
                domain,
                part,
                self.spec.experiment,
                device=self.device,
                dataset_statistics=self._statistics(),
            )
            done.touch()


class StepClock:
    """Hands micro-batches on and measures the seconds inside optimizer steps, and those alone.

    A step lasts from the moment at which its first micro-batch is asked for until `stop`, which
    is to be called after it; scoring, checkpoints and building the model are left out.

    Args:
        source: Where the micro-batches come from.

    Attributes:
        seconds: Of all steps so far.
    """

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self._began: float | None = None
        self.seconds = 0.0

    def batch(self, step: int, index: int) -> Batch:
        """Micro-batch `index` of step `step`."""
        if self._began is None:
            self._began = time.perf_counter()
        return self._source.batch(step, index)

    def stop(self) -> None:
        """A step has ended."""
        if self._began is not None:
            self.seconds += time.perf_counter() - self._began
            self._began = None


class LocalData:
    """Stores read into this process: for tests, notebooks and a bare machine."""

    def __init__(self, paths: dict[str, Path]) -> None:
        self._paths = paths
        self._kept: dict[tuple[str, str, View], Any] = {}

    def samples(self, store: str, view: View) -> Samples:
        """All samples of a store."""
        from vesselflow.feed.batches import load_samples

        return self._get("samples", store, view, load_samples)

    def images(self, store: str, view: View) -> WholeImages:
        """All whole images of a store."""
        from vesselflow.feed.batches import load_images

        return self._get("images", store, view, load_images)

    def batches(self, samples: Samples, rows: np.ndarray, order: Order) -> BatchSource:
        """Micro-batches gathered out of memory."""
        return order.gathered(samples, rows)

    def _get(self, kind: str, store: str, view: View, read: Callable[..., Any]) -> Any:
        name = (kind, store, view)
        if name not in self._kept:
            self._kept[name] = read(self._paths[store], view)
        return self._kept[name]


def settle_process(threads: int) -> None:
    """Fix what a worker process keeps through all its runs.

    The number of threads is fixed because the bits of a gradient depend on it. And glibc is told to
    keep large blocks: by default each tensor of 32 MB or more is mapped anew and faulted in page by
    page, which cost a third of a float32 step of the W-Net at 512 px.
    """
    torch.set_num_threads(threads)
    with contextlib.suppress(OSError, AttributeError):  # Another C library: nothing to tune.
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)


#: Parameters of mallopt(3).
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
