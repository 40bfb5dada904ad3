"""What a registered metric says of itself: all that tables, figures and words need to know."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vesselflow.config.registry import Arguments, Part, Registry

#: Between a metric and the class that its value is of: "f1/rod".
OF_CLASS = "/"


def base_of(name: str) -> str:
    """The registered metric of which a value is: "f1" of "f1/rod"."""
    return name.partition(OF_CLASS)[0]


def names_of(metrics: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Metrics over all classes, and where there are several, of each of them."""
    if len(classes) < 2:
        return list(metrics)
    return [
        name
        for metric in metrics
        for name in (metric, *(f"{metric}{OF_CLASS}{each}" for each in classes))
    ]


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
        over_classes: What is made of the values of several classes: their "mean", or "sum".
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
    over_classes: Literal["mean", "sum"] = "mean"


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
        over_classes: Literal["mean", "sum"] = "mean",
        changes: Mapping[int, str] | None = None,
    ) -> None:
        """Register a metric.

        Raises:
            ValueError: The name is taken, the range is empty, or it is to choose a threshold on
                which it does not depend.
        """
        if chooses and not thresholded:
            raise ValueError(f"{self.kind} {name!r} depends on no threshold and can choose none")
        if not low < high:
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
            over_classes=over_classes,
        )

    def __iter__(self) -> Iterator[Metric]:
        return (self.metric(name) for name in self.names())

    def metric(self, name: object, *, where: str = "") -> Metric:
        """The metric called `name`; UserError with the closest match otherwise."""
        found = self.part(name, where=where)
        assert isinstance(found, Metric)
        return found

    def joined(self, *others: Metrics) -> Metrics:
        """These and others as one registry, in this order; later ones of each included.

        Raises:
            ValueError: A name is in two of them.
        """
        found, given = Metrics(), (self, *others)
        names = [name for each in given for name in each.names()]
        if len(set(names)) < len(names):
            raise ValueError("a metric is registered twice")
        # Looked up where they are: what is registered later is here, too. The last is told first.
        found._parts = ChainMap(*(each._parts for each in reversed(given)))
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
