"""What the arguments of several augmentations have in common; imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from vesselflow.config.scalars import Positive, ScalarSchedule, Share
from vesselflow.config.scalars import Range as Limits

Probability = Share
#: Smallest and largest value; drawn uniformly in the logarithm, so that x and 1/x are as likely.
Range = Annotated[tuple[Positive, Positive], Field(strict=False)]
_Part = Annotated[float | ScalarSchedule, Limits(0.0, 1.0, open_low=True)]
#: The same of shares of a whole.
Shares = Annotated[tuple[_Part, _Part], Field(strict=False)]
#: What moves of a volume: the plane of its slices, which all move alike, or all axes.
Axes = Literal["plane", "all"]
#: What comes in from beyond the frame: nothing, outside the fov; or the mirror image.
Border = Literal["outside", "reflect"]


def ordered(value: Range) -> Range:
    """A validator: the range itself; ValueError when its ends are the wrong way round.

    Of schedules the largest value counts for the smaller end and the least for the other one: so
    they are in order at any progress, whatever their curves.
    """
    low, high = value
    largest = max(low.from_, low.to) if isinstance(low, ScalarSchedule) else low
    least = min(high.from_, high.to) if isinstance(high, ScalarSchedule) else high
    if largest > least:
        raise ValueError("two numbers above 0, the smaller one first, throughout training")
    return value
