"""What each point of a grid sets, with `null` and an axis that does not apply told apart."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from vesselflow.reporting.sweep_tables import PREFIX, DomainKey, SweepTables
from vesselflow.reporting.wording import decode, value_text

#: JSON text of a value; None where an axis does not apply to a point (its `when` does not hold).
State = str | None


class Settings:
    """The points of a sweep by the states of their axes.

    Attributes:
        tables: The sweep's tables.
        axes: The axes with two states or more, in the grid's order: those that tell points apart.
    """

    def __init__(self, tables: SweepTables) -> None:
        self.tables = tables
        rows = tables.points.drop_duplicates("point").set_index("point")
        self._states = {
            axis: {point: _state(rows.at[point, PREFIX + axis]) for point in tables.order}
            for axis in tables.axes
        }
        self._ordered = {axis: self._in_order(axis) for axis in tables.axes}
        self.axes = tuple(axis for axis in tables.axes if len(self._ordered[axis]) > 1)

    def state(self, point: str, axis: str) -> State:
        """What a point sets an axis to."""
        return self._states[axis][point]

    def states(self, axis: str) -> tuple[State, ...]:
        """The states of an axis: numbers ascending, then null; words in the grid's order.

        None, where the axis does not apply, is last.
        """
        return self._ordered[axis]

    def values(self, axis: str) -> tuple[str, ...]:
        """The states of an axis without "does not apply"."""
        return tuple(state for state in self._ordered[axis] if state is not None)

    def numbers(self, axis: str) -> dict[State, float]:
        """The states that are numbers, ascending."""
        found = {state: _number(state) for state in self._ordered[axis]}
        return {state: value for state, value in found.items() if value is not None}

    def numeric(self, axis: str) -> bool:
        """Whether an axis is a line of numbers: two or more, beside them at most null."""
        others = [state for state in self.values(axis) if state != "null"]
        return len(self.numbers(axis)) == len(others) > 1

    def everywhere(self, axis: str) -> bool:
        """Whether an axis applies to every point."""
        return None not in self._ordered[axis]

    def label(self, axis: str, state: State) -> str:
        """A state as a tick or an entry: "0.5", "fuzzy", "null", "no beta" (does not apply)."""
        if state is None:
            return f"no {self.tables.names[axis]}"
        return value_text(decode(state))

    def named(self, axis: str, state: State) -> str:
        """A state in a sentence: "ema 0.99"; the value of a name speaks for itself ("fuzzy")."""
        label = self.label(axis, state)
        if state is None or (axis.endswith(".name") and isinstance(decode(state), str)):
            return label
        return f"{self.tables.names[axis]} {label}"

    def text(self, point: str, axes: Sequence[str]) -> str:
        """The point in some of its axes: "ema 0.99, fuzzy"."""
        return ", ".join(self.named(axis, self.state(point, axis)) for axis in axes)

    def group(self, point: str, axes: Sequence[str]) -> tuple[State, ...]:
        """The point's states in some axes."""
        return tuple(self.state(point, axis) for axis in axes)

    @cached_property
    def ranked(self) -> tuple[str, ...]:
        """The points, the chosen one first, then by validation; undefined ones last."""
        tables = self.tables
        judges = tables.of_role("val")
        sign = -1.0 if tables.objective.direction == "max" else 1.0
        means = {
            point: tables.score(point, judges[0] if judges else None, tables.objective.metric).mean
            for point in tables.order
        }
        place = {point: index for index, point in enumerate(tables.order)}

        def rank(point: str) -> tuple[bool, bool, float, int]:
            mean = means[point]
            known = math.isfinite(mean)
            return (
                point != tables.selected,
                not known,
                sign * mean if known else 0.0,
                place[point],
            )

        return tuple(sorted(tables.order, key=rank))

    def runs(self, point: str, domain: DomainKey) -> list[float]:
        """The objective's metric of each run of a point on a domain, at its chosen epoch."""
        return self._runs.get((point, domain.role, domain.name), [])

    @cached_property
    def _runs(self) -> dict[tuple[str, str, str], list[float]]:
        scores = self.tables.run_scores
        found: dict[tuple[str, str, str], list[float]] = {}
        columns = ["point", "role", "domain", "value"]
        mine = scores["metric"] == self.tables.objective.metric
        for point, role, name, value in scores.loc[mine, columns].itertuples(index=False):
            found.setdefault((point, role, name), []).append(float(value))
        return found

    def reference(self, axis: str) -> State:
        """The state at the best point to which the axis applies: what it is held at."""
        found = (self.state(point, axis) for point in self.ranked)
        return next(state for state in found if state is not None)

    def _in_order(self, axis: str) -> tuple[State, ...]:
        found = dict.fromkeys(self._states[axis].values())
        states = [state for state in found if state is not None]
        numbers = {state: _number(state) for state in states if state != "null"}
        if len(numbers) > 1 and all(value is not None for value in numbers.values()):
            nothing = [state for state in states if state == "null"]
            states = [*sorted(numbers, key=lambda state: numbers[state] or 0.0), *nothing]
        return (*states, *([None] if None in found else []))


def _state(text: Any) -> State:
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return None
    return text if isinstance(text, str) else json.dumps(text, default=str)


def _number(state: State) -> float | None:
    value = None if state is None else decode(state)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
