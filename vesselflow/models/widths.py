"""Scaling the widths of a model until it has as many parameters as another; imports no torch.

One factor scales all widths that a model's arguments declare (`Width`), so that they keep their
proportions but for rounding. What is given beside them stays: encoders of libraries, stems, depths,
and whatever else an ablation is about.
"""

from __future__ import annotations

import functools
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Any

from vesselflow.models import MODELS
from vesselflow.models.arguments import GROUPS, Ends, Width

#: Widths are made wider by this factor at most.
MOST = 16


class Ladder:
    """The widths of a model from the narrowest to the widest.

    On each rung one width is wider than on the rung before, by as little as the model takes. A
    width passes from a to b when the factor passes the middle of the two, which is rounding; of
    those that pass at the same factor, the finest goes first, so that no rung skips a step.

    Args:
        spec: Name and arguments of the model.

    Attributes:
        keys: Arguments that are scaled; none where the model has no widths.
    """

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec = MODELS.validate(spec)
        given = {key: value for key, value in self._spec.items() if key != "name"}
        arguments = MODELS.arguments(self._spec["name"], given)
        assert isinstance(arguments, Ends)
        widths = arguments.widths()
        self.keys = tuple(widths)
        self._narrowest: dict[str, list[int]] = {key: [] for key in widths}
        passes: list[tuple[float, int, int, str, int]] = []
        for place, (key, values) in enumerate(widths.items()):
            for index, value in enumerate(values):
                steps = list(_taken(arguments, key, value))
                self._narrowest[key].append(steps[0])
                passes += (
                    ((narrow + wide) / (2 * value), place, index, key, wide)
                    for narrow, wide in pairwise(steps)
                )
        self._passes = sorted(passes)

    def __len__(self) -> int:
        return len(self._passes) + 1

    def at(self, factor: float) -> int:
        """The rung of a factor; 1 for the widths as given."""
        return bisect_right(self._passes, factor, key=lambda entry: entry[0])

    def __getitem__(self, rung: int) -> dict[str, Any]:
        """The model on a rung, all arguments filled in."""
        if rung == self.at(1):
            return self._spec
        widths = {key: list(values) for key, values in self._narrowest.items()}
        for *_, index, key, wide in self._passes[:rung]:
            widths[key][index] = wide
        single = {key: values[0] for key, values in widths.items() if self._is_number(key)}
        return MODELS.validate({**self._spec, **widths, **single})

    def _is_number(self, key: str) -> bool:
        return isinstance(self._spec[key], int)


def _taken(arguments: Ends, key: str, value: int) -> Iterator[int]:
    """The numbers of channels that a width may have, rising, its own among them."""
    marks = type(arguments).model_fields[key].metadata
    normed = any(isinstance(mark, Width) and mark.normed for mark in marks)
    grouped = normed and getattr(arguments, "norm", None) == "group"
    for width in range(min(value, arguments.least_width), MOST * value + 1):
        # Otherwise a norm of 8 groups would become one of a single group, or the other way round.
        if not grouped or (width % GROUPS == 0) == (value % GROUPS == 0):
            yield width


def match(
    spec: Mapping[str, Any], wanted: int, count: Callable[[Mapping[str, Any]], int]
) -> tuple[dict[str, Any], int]:
    """The model with the widths at which it has a number of parameters as nearly as it can.

    Args:
        spec: Name and arguments; returned as they are where their number is as near as any.
        wanted: Parameters.
        count: Of a model, which must not fall when it gets wider.

    Returns:
        The model with all arguments filled in, and its parameters.
    """
    ladder = Ladder(spec)

    @functools.cache
    def parameters(rung: int) -> int:
        return count(ladder[rung])

    given = ladder.at(1)
    low, high, factor = 0, given, 1
    while parameters(high) < wanted and factor < MOST:
        low, factor = high, 2 * factor
        high = ladder.at(factor)
    found = bisect_left(range(len(ladder)), wanted, low, high, key=parameters)
    best = min(
        {given, found, max(found - 1, 0)},
        key=lambda rung: (abs(parameters(rung) - wanted), abs(rung - given)),
    )
    return ladder[best], parameters(best)
