"""When a training ends before its last epoch: its validation score gets no better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from vesselflow.config.experiment import Stop
from vesselflow.runs.resolved import metric_of
from vesselflow.tasks import TASKS
from vesselflow.tasks.spec import TaskSpec


@dataclass
class Patience:
    """A pure function of the validation scores so far, which are part of a checkpoint.

    Attributes:
        metric: Its pooled value on validation is looked at.
        rises: Whether larger values are better.
        patience: Scores in a row that are not better and end the training, 1 or more.
        threshold: By how much a score has to be better than the best one before, 0 or more.
        scores: Of the scored epochs so far, in their order; NaN where undefined.
    """

    metric: str
    rises: bool
    patience: int
    threshold: float
    scores: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, stop: Stop, task: TaskSpec) -> Patience:
        """What a config asks for; the task says what is meant where it names no metric."""
        part = TASKS.task(task.name)
        name = metric_of(stop.metric, part, where="train.stop.metric")
        rises = part.metrics.metric(name).direction == "max"
        return cls(name, rises, stop.patience, stop.threshold)

    def over(self, values: Mapping[str, float]) -> bool:
        """Add the score of an epoch, by its curve's values, and say whether that was the last."""
        self.scores.append(values.get(f"val/{self.metric}", math.nan))
        return self.ended

    @property
    def ended(self) -> bool:
        """Whether the last `patience` scores are no better than the best one before them."""
        return waited(self.scores, self.threshold, rises=self.rises) >= self.patience


def waited(scores: Sequence[float], threshold: float, *, rises: bool) -> int:
    """How many of the last scores in a row are not better than the best one before them.

    Args:
        scores: In their order; NaN is never better, and any number is better than none.
        threshold: By how much a score has to be better, 0 or more.
        rises: Whether larger scores are better.

    Returns:
        0 after none, and after one that was better.
    """
    best, count = -math.inf, 0
    for score in scores:
        value = score if rises else -score
        if value > best + threshold:
            best, count = value, 0
        else:
            count += 1
    return count
