"""A learning rate that falls along cosines and starts again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from vesselflow.optimizers.learning_rates.cosine import CosineArguments, cosine
from vesselflow.optimizers.learning_rates.warmed import Warmed


class CyclicArguments(CosineArguments):
    """Arguments of `cyclic`."""

    cycles: int = Field(4, ge=1, description="Number of cosines, each from the top to the floor")


@dataclass(frozen=True, kw_only=True)
class Cyclic(Warmed):
    """Cosines with warm restarts, as nearly equal in length as whole steps allow.

    Reference: Loshchilov and Hutter, SGDR, ICLR 2017, https://arxiv.org/abs/1608.03983, eq. 5.
    """

    floor: float
    cycles: int

    def shape(self, step: int, steps: int, losses: Sequence[float]) -> float:
        """The cosine of the cycle that the step stands in."""
        # In whole numbers: in floats a restart may come out as the end of the cycle before it.
        cycle = step * self.cycles // steps
        start, end = (-(-number * steps // self.cycles) for number in (cycle, cycle + 1))
        return cosine(step - start, end - start, self.floor)
