"""The second half of a run's execution: its weights scored on every domain, and the pictures."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path

from torch import nn

from vesselflow.evaluation.parts import POOLED, Part, part_id, part_path, read_part, write_part
from vesselflow.evaluation.previews import write_previews
from vesselflow.evaluation.scoring import evaluate, select
from vesselflow.evaluation.selection import choose_epoch
from vesselflow.runs.domains import Domain
from vesselflow.sweeps.context import Context
from vesselflow.training.loop import build_model, load


class ScoringJob:
    """Scores what is not scored; on rank 0 alone.

    Args:
        context: The run.

    Attributes:
        seconds: Spent on it so far.
    """

    def __init__(self, context: Context) -> None:
        self.context = context
        self.seconds = 0.0

    def lost_epoch(self) -> int | None:
        """The first epoch that is to be scored and of which no weights can be read."""
        experiment = self.context.spec.experiment
        for epoch in experiment.score.at(experiment.train.epochs):
            paths = (self._part_path(domain, epoch) for domain in self.context.spec.domains)
            if all(read_part(path) is not None for path in paths):
                continue
            try:
                load(self.context.record.read_weights(epoch))
            except Exception:
                # A file that is cut short raises one of many types.
                return epoch
        return None

    def validate(self, model: nn.Module, epoch: int, step: int) -> dict[str, float]:
        """Score an epoch on validation data while it trains; its pooled scores for the curve."""
        began = time.perf_counter()
        self.context.reports.phase("evaluating", epoch, step, 0)
        # Always anew: what stands there may be of an attempt that did this epoch before.
        part = self._make_part(self.context.spec.domains[0], epoch, None, model)
        self.seconds += time.perf_counter() - began
        pooled = {metric: value for source, metric, value in part.rows if source == POOLED}
        return {**{f"val/{name}": v for name, v in pooled.items()}, "val/threshold": part.threshold}

    def run(self) -> tuple[int, float]:
        """Score every kept epoch on every domain; return the epoch chosen on val and its value."""
        began = time.perf_counter()
        spec, experiment = self.context.spec, self.context.spec.experiment
        epochs = experiment.score.at(experiment.train.epochs)
        validation = spec.domains[0]
        parts: dict[tuple[int, Domain], Part] = {}
        for epoch in epochs:
            self.context.reports.phase("evaluating", epoch, 0, 0)
            cached = functools.cache(functools.partial(self._model, epoch))
            part = self._part(validation, epoch, None, cached)
            parts[epoch, validation] = part
            for domain in spec.domains[1:]:
                parts[epoch, domain] = self._part(domain, epoch, part.threshold_logit, cached)
        metric = experiment.score.threshold_metric
        scores = {epoch: parts[epoch, validation].value(POOLED, metric) for epoch in epochs}
        chosen = choose_epoch(scores)
        self._previews(chosen, {domain: parts[chosen, domain] for domain in spec.domains})
        self.seconds += time.perf_counter() - began
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
            select(self.context.data.images(domain.store, self.context.view), domain),
            self.context.spec.experiment,
            threshold_logit=threshold_logit,
            device=self.context.device,
            dataset_statistics=self.context.statistics,
        )
        write_part(self._part_path(domain, epoch), part)
        return part

    def _part_path(self, domain: Domain, epoch: int) -> Path:
        name = part_id(self.context.spec.run_id, epoch, domain, self.context.spec.experiment)
        return part_path(self.context.results, name)

    def forget(self) -> None:
        """A run that starts from nothing has no scores: those of a run that was reset go."""
        experiment = self.context.spec.experiment
        for epoch in experiment.score.at(experiment.train.epochs):
            for domain in self.context.spec.domains:
                self._part_path(domain, epoch).unlink(missing_ok=True)

    def _model(self, epoch: int) -> nn.Module:
        experiment = self.context.spec.experiment
        images = self.context.data.images(self.context.spec.domains[0].store, self.context.view)
        model = build_model(experiment, int(images[0].image.shape[0]), self.context.spec.seed)
        model.load_state_dict(load(self.context.record.read_weights(epoch)))
        return model.to(self.context.device).eval()

    def _previews(self, epoch: int, parts: dict[Domain, Part]) -> None:
        folder = self.context.record.previews_folder
        cached = functools.cache(functools.partial(self._model, epoch))
        for domain, part in parts.items():
            # Named as the evaluation is: other images or settings under the same name are new.
            done = folder / f".{self._part_path(domain, epoch).stem}"
            if done.exists():
                continue
            if not self.context.record.weights_path(epoch).is_file():
                # Pictures are no reason to train a run again whose scores are all there.
                self.context.reports.message(
                    f"{self.context.spec.label}: no previews: the weights of epoch {epoch} are lost"
                )
                return
            write_previews(
                folder,
                cached(),
                self.context.data.images(domain.store, self.context.view),
                domain,
                part,
                self.context.spec.experiment,
                device=self.context.device,
                dataset_statistics=self.context.statistics,
            )
            done.touch()
