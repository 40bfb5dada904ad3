"""What the parts of one run's execution share: what to do, where to write, whom to tell."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vesselflow.augment.inputs import DatasetStatistics
from vesselflow.feed.sources import Data
from vesselflow.feed.view import View
from vesselflow.records.runs import RunRecord
from vesselflow.runs.specs import RunSpec, view_of
from vesselflow.stores.statistics import intensities, pooled_centre_scale
from vesselflow.training.group import Group


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


class Context:
    """One run in work on one rank.

    Args:
        spec: The run.
        results: The results folder.
        data: Where samples and images come from.
        group: The ranks that train it together.
        reports: Who is told.
        device: Where the model lives.
        slot: Name of the slot, for the cost.
    """

    def __init__(
        self,
        spec: RunSpec,
        results: Path,
        data: Data,
        group: Group,
        reports: Reports,
        device: str,
        slot: str,
    ) -> None:
        self.spec, self.results, self.data = spec, results, data
        self.group, self.reports, self.device, self.slot = group, reports, device, slot
        self.record = RunRecord(results, spec.run_id)

    @functools.cached_property
    def view(self) -> View:
        """How the run sees its stores."""
        return view_of(self.spec.experiment)

    @functools.cached_property
    def statistics(self) -> DatasetStatistics | None:
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
