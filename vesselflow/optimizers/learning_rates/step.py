"""A learning rate that falls in steps."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from vesselflow.config.registry import carried, listed, shown
from vesselflow.errors import UserError
from vesselflow.optimizers.learning_rates.warmed import Warmed, WarmedArguments


class StepArguments(WarmedArguments):
    """Arguments of `step`."""

    # With their limits, 99 falls leave a factor above 0.
    gamma: float = Field(0.1, ge=0.001, lt=1, description="Factor on the rate at each fall")
    every: Annotated[float, Field(ge=0.01, lt=1)] | None = Field(
        0.3, description="Share of the steps after the warm-up between two falls"
    )
    milestones: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(strict=False, max_length=99)
    ] = Field((), description="The falls themselves, as shares of these steps, in place of `every`")

    @model_validator(mode="after")
    def _one_of_two(self) -> StepArguments:
        places = self.milestones
        if places and self.every is not None:
            raise carried(
                UserError(
                    f"every ({self.every:g}) says already where the rate falls",
                    where="milestones",
                    allowed="one of the two",
                    hint="set every: null",
                )
            )
        if not places and self.every is None:
            raise carried(
                UserError(
                    "the rate would never fall",
                    where="every",
                    allowed="0.01 to 1 (1 excluded), or null beside milestones",
                )
            )
        if any(one >= other for one, other in itertools.pairwise(places)):
            raise carried(
                UserError(
                    f"[{listed(places)}] is not allowed",
                    where="milestones",
                    allowed=f"rising shares, such as {shown(sorted(set(places)))}",
                )
            )
        return self


@dataclass(frozen=True, kw_only=True)
class Stepped(Warmed):
    """gamma^n after n falls; each at the step that is nearest to its share, from the second on.

    Attributes:
        gamma: Factor at each fall, in (0, 1).
        every: Share of the steps between two falls; None beside `milestones`.
        milestones: Shares at which it falls.
    """

    gamma: float
    every: float | None
    milestones: tuple[float, ...]

    def shape(self, step: int, steps: int, losses: Sequence[float]) -> float:
        """The power of `gamma` by the falls so far."""
        falls = sum(step >= max(1, round(share * steps)) for share in self._shares())
        return self.gamma**falls

    def _shares(self) -> Iterator[float]:
        if self.every is None:
            return iter(self.milestones)
        shares = (number * self.every for number in itertools.count(1))
        return itertools.takewhile(lambda share: share < 1, shares)
