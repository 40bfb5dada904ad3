"""Ways to draw training samples, by name; a way is its arguments here and its draws beside.

``SAMPLING.build({"name": "foreground", "share": 0.5}, table=..., rows=..., seed=...)`` gives the
draws of one run: see `vesselflow.feed.draws`. This module is light: it imports pydantic alone.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from vesselflow.config.registry import Arguments, Registry


class UniformArguments(Arguments):
    """Arguments of `uniform`."""


class ForegroundArguments(Arguments):
    """Arguments of `foreground`.

    Attributes:
        share: Share of the samples that are drawn from those with foreground.
    """

    share: float = Field(0.33, ge=0, le=1)


class ClassArguments(Arguments):
    """Arguments of `class`.

    Attributes:
        share: Share of the samples for which a class is drawn, and then a sample that holds it.
    """

    share: float = Field(0.5, ge=0, le=1)


class KeypointArguments(Arguments):
    """Arguments of `keypoint`.

    Attributes:
        share: Share of the samples that are cut around keypoints; the others are of the grid.
        jitter: Largest distance of the keypoint from the middle of its patch along each axis, as a
            share of the patch's side.
        copies: Patches that are cut around each keypoint. Each takes its memory.
    """

    share: float = Field(0.5, ge=0, le=1)
    jitter: float = Field(0.25, ge=0, le=0.45)
    copies: int = Field(1, ge=1, le=64)


class HardArguments(Arguments):
    """Arguments of `hard`.

    Attributes:
        share: Share of the samples that are drawn by their losses, from the second epoch on.
        power: To which losses are raised to be weights: 0.5 evens them out, 2 sharpens them.
    """

    share: float = Field(0.5, ge=0, le=1)
    power: float = Field(1.0, gt=0, le=8)


class BySourceArguments(Arguments):
    """Arguments of `by_source`.

    Attributes:
        samples: How many samples of one source come in a row: a multiple of train.micro_batch_size,
            so that each micro-batch is of one source.
    """

    #: The argument that has to hold whole micro-batches.
    whole_batches: ClassVar[str] = "samples"

    samples: int = Field(4, ge=1)


_HERE = "vesselflow.feed.draws"

SAMPLING = Registry("sampling")
SAMPLING.add("uniform", target=f"{_HERE}:Uniform", arguments=UniformArguments)
SAMPLING.add("foreground", target=f"{_HERE}:Foreground", arguments=ForegroundArguments)
SAMPLING.add("keypoint", target=f"{_HERE}:AroundKeypoints", arguments=KeypointArguments)
SAMPLING.add("class", target=f"{_HERE}:Classes", arguments=ClassArguments)
SAMPLING.add("hard", target="vesselflow.feed.hard:Hard", arguments=HardArguments)
SAMPLING.add("by_source", target="vesselflow.feed.by_source:BySource", arguments=BySourceArguments)
