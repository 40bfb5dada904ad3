"""What a registered metric says of itself: all that tables, figures and words need to know."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from vesselflow.config.registry import Arguments, Part, Registry


@dataclass(frozen=True)
class Metric(Part):
    """One registered metric.

    Attributes:
        label: As it is printed: "IoU", "average precision".
        undefined: When its value is NaN, in words.
        direction: Which values are better: the larger ones ("max") or the smaller ones ("min").
        low: Its smallest possible value; -inf without a bound.
        high: Its largest possible value; inf without a bound.
        digits: Decimals that are printed.
        thresholded: Whether it depends on the threshold, so that it can choose one.
        chooses: Whether a threshold may be chosen by it: it depends on the threshold, and the best
            one does not predict every pixel, or none, whatever the images are.
        shown: Whether the answer table has a column for it; every other table has it anyway.
    """

    label: str
    undefined: str
    direction: Literal["max", "min"]
    low: float
    high: float
    digits: int
    thresholded: bool
    chooses: bool
    shown: bool


class Metrics(Registry):
    """The metrics, by name."""

    def __init__(self) -> None:
        super().__init__("metric")

    def add_metric(
        self,
        name: str,
        *,
        target: str,
        label: str,
        undefined: str,
        version: int = 1,
        direction: Literal["max", "min"] = "max",
        low: float = 0.0,
        high: float = 1.0,
        digits: int = 3,
        thresholded: bool = True,
        chooses: bool = False,
        shown: bool = False,
        changes: Mapping[int, str] | None = None,
    ) -> None:
        """Register a metric.

        Raises:
            ValueError: The name is taken, the range is empty, or it is to choose a threshold on
                which it does not depend.
        """
        if chooses and not thresholded:
            raise ValueError(f"{self.kind} {name!r} depends on no threshold and can choose none")
        if not low < high or math.isnan(low + high):
            raise ValueError(f"{self.kind} {name!r} has no range between {low} and {high}")
        if name in self._parts:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        self._parts[name] = Metric(
            name=name,
            target=target,
            arguments=Arguments,
            version=version,
            changes=changes or {},
            label=label,
            undefined=undefined,
            direction=direction,
            low=low,
            high=high,
            digits=digits,
            thresholded=thresholded,
            chooses=chooses,
            shown=shown,
        )

    def __iter__(self) -> Iterator[Metric]:
        return (self.metric(name) for name in self.names())

    def metric(self, name: object, *, where: str = "") -> Metric:
        """The metric called `name`; UserError with the closest match otherwise."""
        found = self.part(name, where=where)
        assert isinstance(found, Metric)
        return found

    def choosing(self) -> Registry:
        """Those by which a threshold may be chosen, as a registry of that name."""
        found = Registry("threshold metric")
        for metric in self:
            if metric.chooses:
                found.add(metric.name, target=metric.target, version=metric.version)
        return found

    def versions(self) -> dict[str, int]:
        """Metric -> version of its numbers, in order of registration."""
        return {metric.name: metric.version for metric in self}
