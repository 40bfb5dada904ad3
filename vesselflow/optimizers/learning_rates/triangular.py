"""A learning rate that rises and falls in lines, again and again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field, model_validator

from vesselflow.config.registry import Arguments, carried
from vesselflow.errors import UserError


class TriangularArguments(Arguments):
    """Arguments of `triangular`."""

    minimum: float = Field(0.1, gt=0, le=1, description="Lowest learning rate, as a share of lr")
    maximum: float = Field(1.0, gt=0, le=1, description="Highest learning rate, as a share of lr")
    cycles: int = Field(4, ge=1, description="Number of triangles, each from minimum to minimum")

    @model_validator(mode="after")
    def _upright(self) -> TriangularArguments:
        if self.maximum <= self.minimum:
            raise carried(
                UserError(
                    f"{self.maximum:g} is not allowed",
                    where="maximum",
                    allowed=f"above minimum, which is {self.minimum:g}",
                )
            )
        return self


@dataclass(frozen=True, kw_only=True)
class Triangular:
    """From `minimum` up to `maximum` and down again in each cycle, as ``CyclicLR`` of torch.

    Where a cycle has an odd number of steps, its top lies between two of them.

    Reference: Smith, Cyclical learning rates for training neural networks, WACV 2017,
    https://arxiv.org/abs/1506.01186, section 3 ("triangular").

    Attributes:
        minimum: In (0, 1), below `maximum`.
        maximum: In (0, 1].
        cycles: 1 or more.
    """

    minimum: float
    maximum: float
    cycles: int

    def __call__(self, step: int, steps: int, losses: Sequence[float] = ()) -> float:
        """Factor on the learning rate, in (0, 1]; arguments as of `Warmed`."""
        share = step * self.cycles / steps % 1
        return self.minimum + (self.maximum - self.minimum) * (1 - abs(2 * share - 1))
