"""What the parts of one run's execution share: what to do, where to write, whom to tell."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np

from vesselflow.augment.inputs import DatasetStatistics
from vesselflow.config.experiment import Experiment
from vesselflow.errors import Interrupted
from vesselflow.feed.batches import WholeImages
from vesselflow.feed.sources import Data
from vesselflow.feed.view import View
from vesselflow.records.paths import AnyPath
from vesselflow.records.runs import RunRecord
from vesselflow.runs.cells import Job
from vesselflow.runs.domains import Domain
from vesselflow.runs.specs import domain_view, view_of
from vesselflow.stores.statistics import intensities, pooled_centre_scale
from vesselflow.sweeps.cost_notes import Taken
from vesselflow.sweeps.faults import Fault
from vesselflow.sweeps.gate import Troubles
from vesselflow.tasks.task import build_task
from vesselflow.training.group import Group
from vesselflow.training.interval import NOTHING_SEEN, Survival
from vesselflow.training.loop import trained_model
from vesselflow.training.stacking import Stack

T = TypeVar("T")


@dataclass
class Reports:
    """What a worker tells while it works; every default does nothing.

    Attributes:
        phase: ``(phase, epoch, step, steps)``.
        epoch: ``(epoch, step, values)`` of the curve.
        should_stop: True when the run is to be handed back at the next step.
        message: A line that the person should see.
        storage: What is wrong with the storage; "" when that is over. The run waits for it, or goes
            on (`phase` says so) while a thread, which tells it then, waits to write a checkpoint.
    """

    phase: Callable[[str, int, int, int], None] = lambda phase, epoch, step, steps: None
    epoch: Callable[[int, int, dict[str, float]], None] = lambda epoch, step, values: None
    should_stop: Callable[[], bool] = lambda: False
    message: Callable[[str], None] = lambda text: None
    storage: Callable[[str], None] = lambda text: None


@dataclass
class Result:
    """How a run ended.

    Attributes:
        state: `finished`; `failed`, where another try would meet the same error; `stopped` on
            request; or `handed back`, where another try may succeed: `fault` says why.
        values: Point -> the objective's value at the epoch that validation chose, by the point's
            own protocol; NaN when undefined. Empty when not finished.
        message: Why it did not finish, in one line.
        fault: What kind of fault that was.
        place: ``file:line`` where the error was raised.
        log: The file that holds the whole story, if there is one.
        steps: Steps trained by this attempt.
        cost: Seconds by kind, for the cost table.
    """

    state: str
    values: dict[str, float] = field(default_factory=dict)
    message: str = ""
    fault: Fault | None = None
    place: str = ""
    log: str = ""
    steps: int = 0
    cost: dict[str, float] = field(default_factory=dict)


class Context:
    """One run in work on one rank.

    Args:
        job: The run, and how it is scored.
        results: The results folder.
        data: Where samples and images come from.
        group: The ranks that train it together.
        reports: Who is told.
        device: Where the model lives.
        slot: Name of the slot, for the cost.
        taken: How the slot came to the run, for the cost.
        survival: What was seen of failures, for the time between two checkpoints.
    """

    def __init__(
        self,
        job: Job,
        results: AnyPath,
        data: Data,
        group: Group,
        reports: Reports,
        device: str,
        slot: str,
        taken: Taken | None = None,
        survival: Survival = NOTHING_SEEN,
    ) -> None:
        self.job, self.spec = job, job.run
        self.results, self.data = results, data
        self.group, self.reports, self.device, self.slot = group, reports, device, slot
        self.taken = taken or Taken()
        self.record = RunRecord(results, job.run.run_id)
        self.survival = survival
        self.troubles = Troubles(reports.storage)
        #: Everything that is written for the run goes through it, or through the one beside it
        #: where it is written in a thread while the training goes on.
        self.gate = self.troubles.gate(reports.should_stop)
        self.gate_beside = self.troubles.gate(reports.should_stop)

    def unless_stopped(self, items: Iterable[T]) -> Iterator[T]:
        """The items, one by one; between two of them a stop is heard.

        Raises:
            Interrupted: A stop was asked.
        """
        for item in items:
            if self.reports.should_stop():
                raise Interrupted
            yield item

    @functools.cached_property
    def view(self) -> View:
        """How the run sees the store that it trains on."""
        return view_of(self.spec.experiment, stride=self.spec.task.stride)

    def images(self, domain: Domain) -> WholeImages:
        """All images of a domain's store, as the domain is seen."""
        return self.data.images(
            domain.store, domain_view(self.spec.experiment, domain, self.spec.task.stride)
        )

    @functools.cached_property
    def stack(self) -> Stack | None:
        """The networks that the run is stacked on, with their weights; each rank reads its own."""
        spec = self.spec
        if not spec.stack:
            return None
        images = self.images(self.job.validation)
        channels = int(images[0].image.shape[0])
        networks = []
        for base in spec.stack:
            record = RunRecord(base.results, base.run_id)
            payload = self.gate.keep(functools.partial(record.read_weights, base.epoch))
            network = trained_model(bare(base.experiment), channels, base.seed, spec.task, payload)
            networks.append(network.to(self.device))
        held = [base.held for base in spec.stack]
        return Stack(networks, held, build_task(spec.task), channels)

    @functools.cached_property
    def statistics(self) -> DatasetStatistics | None:
        """Centre and scale of all pixels of the training sources together, inside their fovs."""
        experiment = self.spec.experiment
        scheme = experiment.normalise
        if scheme.scope != "dataset":
            return None
        images = self.data.images(experiment.data.train, self.view)
        counts = [
            intensities(np.moveaxis(whole.image, 0, -1), whole.fov_working)
            for whole in (images[index] for index in self.spec.train)
        ]
        return pooled_centre_scale(counts, scheme.method, scheme.per_channel)


def bare(experiment: Experiment) -> Experiment:
    """The experiment without the weights that its encoder begins with: others take their place."""
    if "weights" not in experiment.model:
        return experiment
    return experiment.model_copy(update={"model": {**experiment.model, "weights": None}})
