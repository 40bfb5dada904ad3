"""By what validation chooses: the metric, its direction, and how a point's runs become one number.

It chooses the epoch of a run and the leading point, and is what a sweep reports while it runs.
Domains other than validation take part in none of it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from vesselflow.config.objective import ObjectiveSpec
from vesselflow.metrics import ALL_METRICS
from vesselflow.runs.resolved import metric_of
from vesselflow.tasks import TASKS
from vesselflow.tasks.registry import TaskPart

K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True)
class Objective:
    """See the module.

    Attributes:
        metric: Name of a registered metric, pooled over the validation images.
        direction: Whether larger ("max") or smaller ("min") values are better.
        reduction: What is made of a point's runs: "mean", "median" or "worst".
    """

    metric: str
    direction: Literal["max", "min"]
    reduction: Literal["mean", "median", "worst"] = "mean"

    @classmethod
    def of(cls, spec: ObjectiveSpec, part: TaskPart | None = None) -> Objective:
        """What a space asks for.

        Args:
            spec: The key `objective`.
            part: The task, which says what is meant where the space names no metric; None: the
                one whose metric is named, or the first one.

        Raises:
            UserError: A metric that is not registered, or of another task.
        """
        where = "objective.metric"
        if part is None:
            first = TASKS.task(TASKS.names()[0])
            part = first if spec.metric is None else TASKS.judging(spec.metric, where=where)
        metric = part.metrics.metric(metric_of(spec.metric, part, where=where))
        return cls(metric.name, spec.direction or metric.direction, spec.reduction)

    @property
    def label(self) -> str:
        """As it is printed: "val IoU"."""
        return f"val {ALL_METRICS.metric(self.metric).label}"

    @property
    def curve(self) -> str:
        """Name of its values among those of an epoch: "val/" and the metric."""
        return f"val/{self.metric}"

    @property
    def worst(self) -> float:
        """What no value is worse than, for searchers that take no NaN: -inf or inf."""
        return -math.inf if self.direction == "max" else math.inf

    def better(self, value: float, than: float) -> bool:
        """Whether `value` is strictly better; an undefined one never is, any other beats it."""
        if math.isnan(value) or math.isnan(than):
            return math.isnan(than) and not math.isnan(value)
        return value > than if self.direction == "max" else value < than

    def reduce(self, values: Iterable[float]) -> float:
        """One number of a point's runs; NaN of none, and where any is undefined."""
        given = list(values)
        if not given or any(math.isnan(value) for value in given):
            return math.nan
        if self.reduction == "median":
            return float(statistics.median(given))
        if self.reduction == "worst":
            return min(given) if self.direction == "max" else max(given)
        return sum(given) / len(given)

    def best(self, scores: Mapping[K, float]) -> K | None:
        """The key of the best defined value; the first of equals; None where none is defined."""
        chosen: K | None = None
        found = math.nan
        for key, value in scores.items():
            if self.better(value, found):
                chosen, found = key, value
        return chosen
