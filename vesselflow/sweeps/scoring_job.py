"""The second half of a job's execution: weights scored by every evaluation, and the pictures."""

from __future__ import annotations

import functools
import time
from dataclasses import replace
from typing import Any

from torch import nn

from vesselflow.config.fingerprint import digest
from vesselflow.errors import StorageTrouble
from vesselflow.evaluation.evaluated import (
    Evaluated,
    evaluation_path,
    read_evaluated,
    write_evaluated,
)
from vesselflow.evaluation.long_tables import chosen_epoch, validation_curve
from vesselflow.evaluation.previews import safe_name, write_previews
from vesselflow.evaluation.scoring import evaluate, select
from vesselflow.records.atomic import write_bytes
from vesselflow.records.paths import AnyPath, names_in, remove_files
from vesselflow.records.runs import STOPPED
from vesselflow.runs.evaluations import Evaluation
from vesselflow.runs.protocols import Protocol
from vesselflow.sweeps.context import Context
from vesselflow.tasks.task import build_task
from vesselflow.training.loop import load_weights, trained_model


class ScoringJob:
    """Scores what is not scored; on rank 0 alone.

    Args:
        context: The job.

    Attributes:
        seconds: Spent on it so far.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.seconds = 0.0
        #: Name of an evaluation -> what stands in its file; each is read once.
        self._known: dict[str, Evaluated | None] = {}
        self._loaded: tuple[int, nn.Module] | None = None

    def lost_epoch(self) -> int | None:
        """The first epoch that is to be scored and of which no weights can be read."""
        checked: set[int] = set()
        for evaluation in self.context.job.evaluations:
            if evaluation.epoch in checked or self._whole(evaluation):
                continue
            checked.add(evaluation.epoch)
            try:
                load_weights(self.context.record.read_weights(evaluation.epoch))
            except StorageTrouble:
                raise  # What cannot be read now is not lost.
            except Exception:
                # A file that is cut short raises one of many types.
                return evaluation.epoch
        return None

    def validate(self, model: nn.Module, epoch: int, step: int) -> dict[str, float]:
        """Score an epoch on validation data while it trains; its pooled scores for the curve."""
        began = time.perf_counter()
        job = self.context.job
        self.context.reports.phase("evaluating", epoch, step, 0)
        # Always anew: what stands there may be of an attempt that did this epoch before.
        evaluation = self._validation(epoch, job.protocols[0])
        evaluated = self._make(evaluation, None, None, model)
        self.seconds += time.perf_counter() - began
        return validation_curve(evaluated)

    def run(self) -> dict[str, float]:
        """Make every evaluation that is missing; return point -> the objective's value.

        The value is that of the epoch which validation chooses, by the point's own protocol.
        """
        began = time.perf_counter()
        job = self.context.job
        scores: dict[str, Evaluated] = {}
        for evaluation in job.evaluations:
            self.context.reports.phase("evaluating", evaluation.epoch, 0, 0)
            frozen = None
            if evaluation.domain.role != "val":
                chosen_on = self._validation(evaluation.epoch, evaluation.protocol)
                frozen = scores[chosen_on.name].thresholds
            scores[evaluation.name] = self._scores(evaluation, frozen)
        values: dict[str, float] = {}
        for protocol in job.protocols:
            chosen, value = chosen_epoch(
                {epoch: scores[self._validation(epoch, protocol).name] for epoch in job.run.epochs},
                job.objective,
            )
            values |= {cell.point: value for cell in job.cells if cell.protocol == protocol}
            self._previews(
                {
                    evaluation: scores[evaluation.name]
                    for evaluation in job.evaluations
                    if (evaluation.epoch, evaluation.protocol) == (chosen, protocol)
                }
            )
        self.seconds += time.perf_counter() - began
        return values

    def forget(self) -> None:
        """A run that starts from nothing has no scores: those of a run that was reset go."""
        self._known.clear()
        remove_files([self._path(evaluation) for evaluation in self.context.job.evaluations])

    def _path(self, evaluation: Evaluation) -> AnyPath:
        return evaluation_path(self.context.results, evaluation)

    def _read(self, evaluation: Evaluation) -> Evaluated | None:
        if evaluation.name not in self._known:
            self._known[evaluation.name] = read_evaluated(self._path(evaluation))
        return self._known[evaluation.name]

    def _whole(self, evaluation: Evaluation) -> bool:
        known = self._read(evaluation)
        return known is not None and not self._lacks(evaluation, known)

    def _validation(self, epoch: int, protocol: Protocol) -> Evaluation:
        """The evaluation that makes the choices of an epoch by a protocol."""
        job = self.context.job
        return Evaluation(job.run.run_id, epoch, job.validation, protocol)

    def _lacks(self, evaluation: Evaluation, known: Evaluated) -> list[str]:
        """Metrics of its task of which no value is known."""
        return known.missing(evaluation.protocol.metrics.names())

    def _scores(self, evaluation: Evaluation, thresholds: tuple[float, ...] | None) -> Evaluated:
        known = self._read(evaluation)
        if known is not None and not self._lacks(evaluation, known):
            return known
        if self._stopped is not None and evaluation.epoch > self._stopped:
            # The weights are those of the last epoch that was trained, and so are its scores.
            known = self._scores(replace(evaluation, epoch=self._stopped), thresholds)
            self._keep(evaluation, known)
            return known
        return self._make(evaluation, known, thresholds, self._model(evaluation.epoch))

    def _make(
        self,
        evaluation: Evaluation,
        known: Evaluated | None,
        thresholds: tuple[float, ...] | None,
        model: nn.Module,
    ) -> Evaluated:
        """Score, and write; of what is known already only the metrics that are missing."""
        domain, spec = evaluation.domain, self.context.spec
        judge, kept = build_task(spec.task), {}

        def seen(source: str, predicted: Any) -> None:
            if (own := judge.kept(predicted)) is not None:
                kept[source] = own

        evaluated = evaluate(
            model,
            self.context.unless_stopped(select(self.context.images(domain), domain)),
            self.context.spec.experiment,
            evaluation.protocol,
            thresholds=thresholds if known is None else known.thresholds,
            task=self.context.spec.task,
            metrics=None if known is None else self._lacks(evaluation, known),
            device=self.context.device,
            dataset_statistics=self.context.statistics,
            seen=seen,
        )
        if (listing := judge.listing(kept, evaluated.thresholds)) is not None:
            self._list(evaluation, *listing)
        if known is not None:
            evaluated = known.joined(evaluated)
        self._keep(evaluation, evaluated)
        return evaluated

    def _keep(self, evaluation: Evaluation, evaluated: Evaluated) -> None:
        path = self._path(evaluation)
        self.context.gate.keep(lambda: write_evaluated(path, evaluated))
        self._known[evaluation.name] = evaluated

    @functools.cached_property
    def _stopped(self) -> int | None:
        """The epoch after which the trained run was ended early."""
        accepted = self.context.record.accepted()
        return None if accepted is None else accepted["summary"].get(STOPPED)

    def _list(self, evaluation: Evaluation, ending: str, text: str) -> None:
        """Keep what was predicted of each source, for whoever needs more than scores."""
        domain = evaluation.domain
        folder = self.context.record.listings_folder / evaluation.protocol.name
        path = folder / f"{domain.role}_{safe_name(domain.name)}_epoch{evaluation.epoch}{ending}"

        def write() -> None:
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(path, text.encode())

        self.context.gate.keep(write)

    def _model(self, epoch: int) -> nn.Module:
        """The model with the weights of an epoch; one is held at a time."""
        if self._loaded is not None and self._loaded[0] == epoch:
            return self._loaded[1]
        run = self.context.spec
        images = self.context.images(self.context.job.validation)
        channels = int(images[0].image.shape[0])
        payload = self.context.record.read_weights(epoch)
        model = trained_model(run.experiment, channels, run.seed, run.task, payload)
        if self.context.stack is not None:
            self.context.stack.attach(model)
        self._loaded = (epoch, model.to(self.context.device))
        return self._loaded[1]

    def _previews(self, scores: dict[Evaluation, Evaluated]) -> None:
        """Pictures of evaluations that share their epoch and their protocol."""
        objective = self.context.job.objective
        present: dict[AnyPath, list[str]] = {}
        for evaluation, evaluated in scores.items():
            epoch, domain, protocol = evaluation.epoch, evaluation.domain, evaluation.protocol
            folder = self.context.record.previews_folder / protocol.name
            # Named as the evaluation is: other images or settings under the same name are new.
            what = digest([evaluation.name, objective.metric, objective.direction])
            done = folder / f".{what}"
            if folder not in present:
                present[folder] = names_in(folder)
            if done.name in present[folder]:
                continue
            loaded = self._loaded is not None and self._loaded[0] == epoch
            if not loaded and not self.context.record.weights_path(epoch).is_file():
                # Pictures are no reason to train a run again whose scores are all there.
                self.context.reports.message(
                    f"{self.context.spec.label}: no previews: the weights of epoch {epoch} are lost"
                )
                return
            write = functools.partial(
                write_previews,
                folder,
                self._model(epoch),
                self.context.images(domain),
                domain,
                evaluated,
                self.context.spec.experiment,
                protocol,
                objective,
                task=self.context.spec.task,
                device=self.context.device,
                dataset_statistics=self.context.statistics,
                present=present[folder],
            )
            self.context.gate.keep(write)
            self.context.gate.keep(done.touch)
