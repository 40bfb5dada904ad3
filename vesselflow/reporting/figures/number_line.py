"""An axis's values on a number line, with slots at its end for null and "does not apply"."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes

from vesselflow.reporting.figures.layout import fitting_ticks
from vesselflow.reporting.figures.settings import Settings, State
from vesselflow.reporting.style import text_width

#: From this ratio of largest to smallest on, a positive axis (a learning rate) is logarithmic.
_LOG_RATIO = 50.0
_TICK_SIZE = 8.0
#: From here on values are drawn numbers rather than chosen ones: three digits place them.
_MANY = 12
#: Room at both ends and beside a slot's label, in inches.
_END, _APART = 0.15, 0.14


class NumberLine:
    """Where the states of a numeric axis stand.

    Numbers stand by their size, or by its logarithm where they span decades; a zero among those
    stands one step below the smallest. Points whose value is null, or to which the axis does not
    apply, stand in slots to the right, so that they can be compared with the line.

    Attributes:
        numbers: State -> place, ascending.
        slots: State -> place of null and of "does not apply", where there are such points.
    """

    def __init__(self, settings: Settings, axis: str, width: float) -> None:
        """Place the states on a line of `width` inches."""
        values = settings.numbers(axis)
        places = _scaled(list(values.values()))
        self.numbers: dict[State, float] = dict(zip(values, places, strict=True))
        apart: list[State] = ["null", None]
        apart = [state for state in apart if state in settings.states(axis)]
        self._labels = [settings.label(axis, state) for state in [*values, *apart]]
        if len(values) > _MANY:
            self._labels[: len(values)] = [f"{value:.3g}" for value in values.values()]
        halves = [text_width(label, _TICK_SIZE) / 2 for label in self._labels[len(values) - 1 :]]
        steps = [max(0.4, a + b + _APART) for a, b in pairwise(halves)]
        end = max(_END, halves[-1] - 0.1) if apart else _END
        self.per_inch = (places[-1] - places[0]) / max(0.8, width - sum(steps) - _END - end)
        self.slots: dict[State, float] = {}
        place = places[-1]
        for state, step in zip(apart, steps, strict=True):
            place += step * self.per_inch
            self.slots[state] = place
        self.limits = (places[0] - _END * self.per_inch, place + end * self.per_inch)

    def place(self, state: State) -> float:
        """Where a state stands."""
        return self.numbers[state] if state in self.numbers else self.slots[state]

    def dress(self, axes: Axes) -> None:
        """Set limits and ticks, and set the slots apart."""
        places = [*self.numbers.values(), *self.slots.values()]
        n = len(self.numbers)
        kept = [n + i for i in range(len(self.slots))]
        kept += fitting_ticks(places[:n], self._labels[:n], self.per_inch)
        axes.set_xticks([places[i] for i in kept], [self._labels[i] for i in kept])
        axes.minorticks_off()
        axes.set_xlim(*self.limits)
        if self.slots:
            edge = (places[n - 1] + places[n]) / 2
            axes.axvline(edge, color="#cfcfcf", linewidth=0.8, zorder=0.5)


def _scaled(values: Sequence[float]) -> list[float]:
    """Places of ascending values: themselves, or their logarithms where they span decades."""
    positive = [value for value in values if value > 0]
    if min(values) < 0 or len(positive) < 2 or positive[-1] / positive[0] < _LOG_RATIO:
        return list(values)
    places = [math.log10(value) for value in positive]
    step = (places[-1] - places[0]) / (len(places) - 1)
    return [places[0] - step] * (len(values) - len(positive)) + places
