"""What a registered task says of itself."""

from __future__ import annotations

from dataclasses import dataclass

from vesselflow.config.registry import Arguments, Part, Registry
from vesselflow.errors import UserError, closest
from vesselflow.metrics.registry import Metrics


@dataclass(frozen=True)
class TaskPart(Part):
    """One registered task.

    Attributes:
        kind: Of the stores that it is for, and whose task it is where a space names none.
        metrics: By which its predictions are judged.
        objective: The metric that chooses thresholds, epochs and points where a space names none.
        pooled: What is counted together over the images of a domain, in words.
    """

    kind: str
    metrics: Metrics
    objective: str
    pooled: str


class Tasks(Registry):
    """The tasks, by name."""

    def __init__(self) -> None:
        super().__init__("task")

    def add_task(
        self,
        name: str,
        *,
        target: str,
        kind: str,
        metrics: Metrics,
        objective: str,
        pooled: str,
        version: int = 1,
    ) -> None:
        """Register a task.

        Raises:
            ValueError: The name is taken, or its objective is none of its metrics.
        """
        if name in self._parts or objective not in metrics:
            raise ValueError(f"task {name!r} with the objective {objective!r} cannot be registered")
        self._parts[name] = TaskPart(
            name=name,
            target=target,
            arguments=Arguments,
            version=version,
            kind=kind,
            metrics=metrics,
            objective=objective,
            pooled=pooled,
        )

    def task(self, name: object, *, where: str = "") -> TaskPart:
        """The task called `name`; UserError with the closest match otherwise."""
        found = self.part(name, where=where)
        assert isinstance(found, TaskPart)
        return found

    def judging(self, metric: str, *, where: str = "") -> TaskPart:
        """The task that a metric judges; UserError for a metric that no task has."""
        for name in self.names():
            if metric in (found := self.task(name)).metrics:
                return found
        known = [each for name in self.names() for each in self.task(name).metrics.names()]
        raise UserError(
            f"unknown metric {metric!r}",
            where=where,
            allowed=", ".join(known),
            hint=closest(metric, known),
        )

    def of_kind(self, kind: str) -> TaskPart:
        """The first task of a kind of stores.

        Raises:
            KeyError: There is none.
        """
        for name in self.names():
            if (found := self.task(name)).kind == kind:
                return found
        raise KeyError(kind)
