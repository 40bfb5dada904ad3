"""A learning rate that falls along a cosine."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from vesselflow.optimizers.learning_rates.warmed import (
    Warmed,
    WarmedArguments,
    warms_to_the_end,
)


class CosineArguments(WarmedArguments):
    """Arguments of `cosine`."""

    floor: float = Field(0.0, ge=0, le=1, description="Lowest learning rate, as a share of lr")


def is_revised(arguments: Any) -> bool:
    """Whether the numbers are not those of version 1, which missed the floor by one step."""
    return arguments.floor > 0 or warms_to_the_end(arguments)


def cosine(step: int, steps: int, floor: float) -> float:
    """Floor + (1 - floor) * (1 + cos(pi * share)) / 2: from 1 to `floor`, which the last step has.

    At a rate of 0 the last step would be lost: such a floor would come one step after it.

    Args:
        step: 0-based index of the step.
        steps: Number of steps, 1 or more.
        floor: Lowest factor, in [0, 1].
    """
    last = steps - 1 if floor > 0 else steps
    progress = step / last if last else 0.0
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress))


@dataclass(frozen=True, kw_only=True)
class Cosine(Warmed):
    """One cosine from the whole learning rate to the floor."""

    floor: float

    def shape(self, step: int, steps: int, losses: Sequence[float]) -> float:
        """See `cosine`."""
        return cosine(step, steps, self.floor)
