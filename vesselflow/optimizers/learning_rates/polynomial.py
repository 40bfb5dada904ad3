"""A learning rate that falls by a power of what is left of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from vesselflow.optimizers.learning_rates.warmed import Warmed, WarmedArguments


class PolynomialArguments(WarmedArguments):
    """Arguments of `polynomial`."""

    power: float = Field(0.9, gt=0, le=10, description="Power of the share of steps that are left")
    floor: float = Field(0.0, ge=0, le=1, description="Lowest learning rate, as a share of lr")


def polynomial(step: int, steps: int, power: float, floor: float) -> float:
    """Floor + (1 - floor) * (1 - share)^power: from 1 to `floor`, which the last step has.

    At a rate of 0 the last step would be lost: such a floor would come one step after it, as in
    nnU-Net.

    Args:
        step: 0-based index of the step.
        steps: Number of steps, 1 or more.
        power: Above 0; 1 falls in a line.
        floor: Lowest factor, in [0, 1].
    """
    last = steps - 1 if floor > 0 else steps
    left = 1 - step / last if last else 1.0
    return floor + (1 - floor) * left**power


@dataclass(frozen=True, kw_only=True)
class Polynomial(Warmed):
    """The polynomial decay of DeepLab and nnU-Net.

    Reference: Isensee et al., nnU-Net, Nature Methods 18, 2021,
    https://doi.org/10.1038/s41592-020-01008-z, which takes the power 0.9.
    """

    power: float
    floor: float

    def shape(self, step: int, steps: int, losses: Sequence[float]) -> float:
        """See `polynomial`."""
        return polynomial(step, steps, self.power, self.floor)
