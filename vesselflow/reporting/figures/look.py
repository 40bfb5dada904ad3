"""How the points of a grid are told apart in a figure: hue, shade and mark, one axis each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from vesselflow.reporting.figures.layout import (
    WIDEST_ENTRY,
)
from vesselflow.reporting.figures.settings import Settings, State
from vesselflow.reporting.style import (
    CATEGORIES,
    CHOSEN,
    INK,
    MARKERS,
    SOFT,
    sequence,
    shorten_apart,
)
from vesselflow.reporting.wording import count

#: Entries of a legend; what goes beyond is counted in its last one.
MOST_ENTRIES = 12
#: A number's values in a legend: of more, some are named and the others counted.
_MOST_NUMBERS = 7

Colour = tuple[float, float, float]
#: The states beyond the palette, and those where the axis does not apply.
_OTHERS: Colour = to_rgb("#b4b4b4")
#: Up to here a number beside null is a choice rather than a scale: "ema none, 0.99, 0.999".
_FEW_STATES = 3


@dataclass(frozen=True)
class Look:
    """The axes that tell points apart, and the colours and marks that stand for their states.

    Attributes:
        settings: The points.
        hue: Axis with a colour per state: words in colours apart, numbers in an even sequence.
        shade: Numeric axis that lightens (low) or darkens (high) the hue.
        mark: Axis with a marker per state.
        dash: Axis with a line style per state.
    """

    settings: Settings
    hue: str | None = None
    shade: str | None = None
    mark: str | None = None
    dash: str | None = None

    @cached_property
    def _hues(self) -> dict[State, Colour]:
        """The colour of each state; those beyond the palette share a grey."""
        if self.hue is None:
            return {}
        states = self.settings.states(self.hue)
        found: dict[State, Colour] = dict.fromkeys(states, _OTHERS)
        if self.shade is None and self.settings.numeric(self.hue):
            numbers = self.settings.numbers(self.hue)
            found |= {s: c[:3] for s, c in zip(numbers, sequence(len(numbers)), strict=True)}
            return found | ({"null": to_rgb(INK)} if "null" in found else {})
        shown: list[State] = list(self.settings.values(self.hue))
        if len(shown) > len(CATEGORIES):
            ranked = (self.settings.state(p, self.hue) for p in self.settings.ranked)
            best = [state for state in dict.fromkeys(ranked) if state is not None]
            shown = [state for state in shown if state in best[: len(CATEGORIES)]]
        return found | {s: to_rgb(CATEGORIES[index]) for index, s in enumerate(shown)}

    def colour(self, point: str) -> Colour:
        """The colour of a point."""
        colour = to_rgb(CATEGORIES[0])
        if self.hue is not None:
            colour = self._hues[self.settings.state(point, self.hue)]
        if self.shade is None:
            return colour
        numbers = list(self.settings.numbers(self.shade))
        state = self.settings.state(point, self.shade)
        if state not in numbers:
            return colour
        place = numbers.index(state) / (len(numbers) - 1)
        if place < 0.5:
            return _mix(colour, (1.0, 1.0, 1.0), (0.5 - place) * 0.95)
        return _mix(colour, (0.0, 0.0, 0.0), (place - 0.5) * 0.9)

    def marker(self, point: str) -> str:
        """The marker of a point."""
        return MARKERS[_place(self.settings, self.mark, point) % len(MARKERS)]

    def line(self, point: str) -> str:
        """The line style of a point."""
        return DASHES[_place(self.settings, self.dash, point) % len(DASHES)]

    def rank(self, point: str) -> tuple[int, ...]:
        """Order of the points by hue, shade, mark and dash."""
        axes = (self.hue, self.shade, self.mark, self.dash)
        return tuple(_place(self.settings, axis, point) for axis in axes)

    def entries(self, kind: str, points: Sequence[str], *, ring: bool = False) -> list[Line2D]:
        """The legend's entries for these points.

        Args:
            kind: "line" or "dot": how a colour is shown.
            points: The points in the figure; states that none of them has are left out.
            ring: Whether the chosen point is ringed.
        """
        found = self._hue_entries(kind, points)
        chosen = [_ring()] if ring and self.settings.tables.selected in points else []
        for axis, draw in ((self.mark, _marked), (self.dash, _dashed)):
            if axis is None:
                continue
            shown = {self.settings.state(point, axis) for point in points}
            states = [state for state in self.settings.states(axis) if state in shown]
            room = MOST_ENTRIES - len(found) - len(chosen)
            kept = states if len(states) <= room else states[: max(1, room - 1)]
            for state, label in zip(kept, self._labels(axis, kept), strict=True):
                found.append(draw(self.settings.states(axis).index(state), label))
            if len(kept) < len(states):
                found.append(_blank(f"and {len(states) - len(kept)} more"))
        return found + chosen

    def _hue_entries(self, kind: str, points: Sequence[str]) -> list[Line2D]:
        if self.hue is None:
            return []
        shown = {self.settings.state(point, self.hue) for point in points}
        states = [state for state in self.settings.states(self.hue) if state in shown]
        if self.shade is None and self.settings.numeric(self.hue):
            numbers = [state for state in states if state in self.settings.numbers(self.hue)]
            rest = [state for state in states if state not in numbers]
            if len(numbers) > _MOST_NUMBERS:
                steps = _MOST_NUMBERS - 1
                picks = {round(i * (len(numbers) - 1) / (steps - 1)) for i in range(steps)}
                kept: list[State] = [numbers[index] for index in sorted(picks)]
            else:
                kept = list(numbers)
            entries = self._swatches(kind, kept)
            if len(kept) < len(numbers):
                entries.append(_blank(f"and {len(numbers) - len(kept)} between"))
            return entries + self._swatches(kind, rest)
        plain = [s for s in states if s is None or self._hues[s] != _OTHERS]
        entries = self._swatches(kind, plain)
        if len(plain) < len(states):
            entries.append(_swatch(kind, _OTHERS, count(len(states) - len(plain), "other")))
        return entries

    def _swatches(self, kind: str, states: Sequence[State]) -> list[Line2D]:
        assert self.hue is not None
        labels = self._labels(self.hue, states)
        return [
            _swatch(kind, self._hues[state], label)
            for state, label in zip(states, labels, strict=True)
        ]

    def _labels(self, axis: str, states: Sequence[State]) -> list[str]:
        named = [self.settings.named(axis, state) for state in states]
        return shorten_apart(named, WIDEST_ENTRY, 8.5)

    def words(self) -> list[str]:
        """What the legend's entries do not say: the meaning of light and dark."""
        if self.shade is None:
            return []
        numbers = list(self.settings.numbers(self.shade))
        low, high = (self.settings.label(self.shade, numbers[index]) for index in (0, -1))
        plain = " (none: plain)" if "null" in self.settings.states(self.shade) else ""
        return [f"light to dark: {self.settings.tables.names[self.shade]} {low} to {high}{plain}"]


#: Line styles, solid first.
DASHES = ("-", "--", ":", "-.")


def choose_axes(settings: Settings, axes: Sequence[str]) -> tuple[str | None, str | None, list]:
    """Which axes become hue and shade, and which are left, those with most states first.

    The hue goes to the axis of words with the most values (a palette can tell eight apart); a
    numeric axis beside it becomes its shade. Of numbers alone, the one with fewest values is
    coloured like words where they are few, and the one with most shades it.
    """
    size = {axis: len(settings.values(axis)) for axis in axes}
    words = [
        axis
        for axis in axes
        if not settings.numeric(axis)
        or ("null" in settings.states(axis) and size[axis] <= _FEW_STATES)
    ]
    numbers = sorted((axis for axis in axes if axis not in words), key=lambda a: -size[a])
    hue = shade = None
    if words:
        fitting = [axis for axis in words if size[axis] <= len(CATEGORIES)] or words
        hue = max(fitting, key=lambda axis: size[axis])
        shade = numbers[0] if numbers else None
    elif numbers:
        few = [axis for axis in numbers[1:] if size[axis] <= 6]
        hue, shade = (few[-1], numbers[0]) if few else (numbers[0], None)
    rest = [axis for axis in axes if axis not in (hue, shade)]
    return hue, shade, sorted(rest, key=lambda axis: -size[axis])


def _place(settings: Settings, axis: str | None, point: str) -> int:
    return 0 if axis is None else settings.states(axis).index(settings.state(point, axis))


def _mix(colour: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = ((1 - share) * a + share * b for a, b in zip(colour, other, strict=True))
    return red, green, blue


def _swatch(kind: str, colour: Colour, label: str) -> Line2D:
    if kind == "line":
        return Line2D([], [], color=colour, label=label)
    return Line2D([], [], ls="", marker="o", color=colour, label=label)


def _marked(index: int, label: str) -> Line2D:
    return Line2D([], [], ls="", marker=MARKERS[index % len(MARKERS)], color=SOFT, label=label)


def _dashed(index: int, label: str) -> Line2D:
    return Line2D([], [], ls=DASHES[index % len(DASHES)], color=SOFT, label=label)


def _blank(label: str) -> Line2D:
    return Line2D([], [], ls="", label=label)


def _ring() -> Line2D:
    return Line2D(
        [], [], ls="", marker="o", mfc="none", mec=CHOSEN, ms=9, mew=1.1, label="chosen on val"
    )
