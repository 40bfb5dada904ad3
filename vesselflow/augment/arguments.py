"""What the arguments of several augmentations have in common; imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

Probability = Annotated[float, Field(ge=0.0, le=1.0)]
#: Smallest and largest value; drawn uniformly in the logarithm, so that x and 1/x are as likely.
Range = Annotated[
    tuple[Annotated[float, Field(gt=0.0)], Annotated[float, Field(gt=0.0)]], Field(strict=False)
]
#: What moves of a volume: the plane of its slices, which all move alike, or all axes.
Axes = Literal["plane", "all"]
#: What comes in from beyond the frame: nothing, outside the fov; or the mirror image.
Border = Literal["outside", "reflect"]


def ordered(value: Range) -> Range:
    """A validator: the range itself; ValueError when its ends are the wrong way round."""
    if value[0] > value[1]:
        raise ValueError("two numbers above 0, the smaller one first")
    return value
