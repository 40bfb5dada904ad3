"""Samplers, by name: how points are taken out of the axes.

All are pure: the grid in the file's order (the last axis varies fastest), a random draw as a
function of (seed, index, axis) alone, so that more samples extend the list and a new axis leaves
the draws of the others as they are.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from vesselflow.config.axes import Axis
from vesselflow.config.experiment import Section
from vesselflow.config.fingerprint import canonical_json
from vesselflow.config.named import Named
from vesselflow.config.registry import Registry
from vesselflow.errors import UserError

#: Combinations that a grid may have; more is a typing error, or needs `search.sampler: random`.
MAX_POINTS = 100_000

SAMPLERS = Registry("sampler")
SAMPLERS.add("grid", target="vesselflow.config.samplers:GRID")
SAMPLERS.add("random", target="vesselflow.config.samplers:RANDOM")


class Search(Section):
    """How points are taken out of the grid."""

    sampler: Annotated[str, Named("sampler", home=SAMPLERS)] = Field(
        "grid", description="All combinations, or keyed random draws"
    )
    samples: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Number of random draws; null for the grid"
    )
    seed: int = Field(0, ge=0, description="Seed of the random draws")

    @property
    def kind(self) -> Sampler:
        """The sampler."""
        found: Sampler = SAMPLERS.part(self.sampler, where="search.sampler").load()
        return found


#: Whether an axis counts at what is chosen so far: (its `when`, axis -> value).
Holds = Callable[[Mapping[str, tuple[Any, ...]] | None, dict[str, Any]], bool]


@dataclass(frozen=True)
class Sampler:
    """One way to take points out of axes.

    Attributes:
        choose: (axes, search, holds) -> axis -> value of each point, in order; axes that do not
            count at a point are left out.
        draws: It draws: axes may be ranges, and `search.samples` is needed. Otherwise neither.
    """

    choose: Callable[[Mapping[str, Axis], Search, Holds], Iterator[dict[str, Any]]]
    draws: bool


def too_many(count: int) -> UserError:
    """What is said of a grid with so many combinations."""
    return UserError(
        f"{count} combinations or more",
        where="grid",
        allowed=f"at most {MAX_POINTS}",
        hint="draw fewer with search: {sampler: random, samples: ...}",
    )


def _combinations(
    grid: Mapping[str, Axis], search: Search, holds: Holds
) -> Iterator[dict[str, Any]]:
    count = math.prod(len(axis.choices) for axis in grid.values() if axis.when is None)
    if count > MAX_POINTS:
        raise too_many(count)
    axes = list(grid.items())

    def below(depth: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if depth == len(axes):
            yield chosen
            return
        key, axis = axes[depth]
        if not holds(axis.when, chosen):
            yield from below(depth + 1, chosen)
            return
        for value in axis.choices:
            yield from below(depth + 1, {**chosen, key: value})

    yield from below(0, {})


def _draws(grid: Mapping[str, Axis], search: Search, holds: Holds) -> Iterator[dict[str, Any]]:
    for index in range(search.samples or 0):
        chosen: dict[str, Any] = {}
        for key, axis in grid.items():
            if holds(axis.when, chosen):
                chosen[key] = axis.draw(_uniform(search.seed, index, key))
        yield chosen


def _uniform(seed: int, index: int, axis: str) -> float:
    """A draw in [0, 1) keyed by its arguments."""
    text = canonical_json(["grid", seed, index, axis]).encode("ascii")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


GRID = Sampler(_combinations, draws=False)
RANDOM = Sampler(_draws, draws=True)
