"""What most learning-rate schedules share: a linear warm-up, then a shape."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from vesselflow.config.registry import Arguments


class WarmedArguments(Arguments):
    """Base of the arguments of schedules that warm up linearly."""

    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps with a linear rise")


def warms_to_the_end(arguments: Any) -> bool:
    """Whether rounding could give all steps of a short run to the warm-up."""
    return bool(arguments.warmup >= 0.5)


@dataclass(frozen=True, kw_only=True)
class Warmed(ABC):
    """A schedule: a linear warm-up, then the shape that a subclass gives; a pure function.

    Attributes:
        warmup: Share of the steps with a linear rise, in [0, 1); never all of them.
    """

    warmup: float

    def __call__(self, step: int, steps: int, losses: Sequence[float] = ()) -> float:
        """Factor on the learning rate for one optimizer step.

        Args:
            step: 0-based index of the step.
            steps: Number of steps of the whole run, 1 or more.
            losses: Mean training loss of each epoch before this one.

        Returns:
            A factor in (0, 1]: never 0, so that no step is without effect.
        """
        warm = min(round(self.warmup * steps), steps - 1)
        if step < warm:
            return (step + 1) / (warm + 1)
        return self.shape(step - warm, steps - warm, losses)

    @abstractmethod
    def shape(self, step: int, steps: int, losses: Sequence[float]) -> float:
        """The factor `step` of `steps` after the warm-up; in (0, 1]."""
