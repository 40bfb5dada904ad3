"""A learning rate that rises once along a cosine and falls along another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from vesselflow.config.registry import Arguments


class OneCycleArguments(Arguments):
    """Arguments of `one_cycle`."""

    peak: float = Field(0.3, gt=0, lt=1, description="Share of the steps that the rise takes")
    start: float = Field(0.04, gt=0, le=1, description="First learning rate, as a share of lr")
    floor: float = Field(4e-6, gt=0, le=1, description="Last learning rate, as a share of lr")


def between(first: float, last: float, share: float) -> float:
    """The half cosine from `first` to `last`."""
    return last + (first - last) / 2 * (1 + math.cos(math.pi * share))


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Up to the whole rate in the first `peak` of the steps, down to the floor in the rest.

    The numbers are those of torch's ``OneCycleLR(anneal_strategy="cos")``, whose defaults are the
    defaults here; the momentum, which that moves the other way, stays. As there the top lies
    `peak` * steps - 1 steps after the first one, which may be between two steps. A run that is too
    short for a rise begins at the top.

    Reference: Smith and Topin, Super-convergence, 2018, https://arxiv.org/abs/1708.07120, whose
    rise and fall are straight.

    Attributes:
        peak: In (0, 1).
        start: First factor, in (0, 1].
        floor: Last factor, in (0, 1].
    """

    peak: float
    start: float
    floor: float

    def __call__(self, step: int, steps: int, losses: Sequence[float] = ()) -> float:
        """Factor on the learning rate, in (0, 1]; arguments as of `Warmed`."""
        top = max(0.0, self.peak * steps - 1)
        if step < top:
            return between(self.start, 1.0, step / top)
        rest = steps - 1 - top
        return between(1.0, self.floor, (step - top) / rest if rest > 0 else 0.0)
