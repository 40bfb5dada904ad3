"""A learning rate that falls in a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from vesselflow.optimizers.learning_rates.polynomial import polynomial
from vesselflow.optimizers.learning_rates.warmed import Warmed, WarmedArguments


class LinearArguments(WarmedArguments):
    """Arguments of `linear`."""

    floor: float = Field(0.0, ge=0, le=1, description="Lowest learning rate, as a share of lr")


@dataclass(frozen=True, kw_only=True)
class Linear(Warmed):
    """One line from the whole learning rate to the floor: `polynomial` of power 1."""

    floor: float

    def shape(self, step: int, steps: int, losses: Sequence[float]) -> float:
        """See `polynomial`."""
        return polynomial(step, steps, 1.0, self.floor)
