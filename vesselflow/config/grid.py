"""From axes to points: every combination that a sampler chooses, validated and named."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vesselflow.config.axes import Axis, Fixed, comparable, safe, text_of
from vesselflow.config.experiment import (
    PARTS,
    SECTIONS,
    Experiment,
    Registries,
    load_experiment,
)
from vesselflow.config.fingerprint import canonical_json, digest
from vesselflow.config.overrides import assign, look_up, overlap
from vesselflow.config.samplers import MAX_POINTS, Search, too_many
from vesselflow.errors import Faults, UserError

#: Points that are refused before no more are looked at: they mostly say the same.
MAX_BAD_POINTS = 1000

#: Longest name of a point; run folders and tables carry it.
MAX_NAME = 100


@dataclass(frozen=True)
class Point:
    """One configuration of a space.

    Attributes:
        index: Position in the expansion, counted from 0.
        name: Short, unique, safe in file systems: "name=fuzzy,beta=0.5".
        params: Axis -> value at this point (label for joint settings); axes whose `when` does not
            hold are left out.
        experiment: The validated experiment.
    """

    index: int
    name: str
    params: dict[str, Any]
    experiment: Experiment


@dataclass(frozen=True)
class Expansion:
    """The points of a space.

    Attributes:
        points: In order.
        duplicates: Combinations left out because they give the experiment of an earlier point.
        repeated: Values left out because their axis holds them already.
        idle: Axes whose `when` held at no point.
    """

    points: tuple[Point, ...]
    duplicates: int
    repeated: int = 0
    idle: tuple[str, ...] = ()


@dataclass(frozen=True)
class Axes:
    """All that the expansion depends on.

    Attributes:
        grid: Axis -> its definition, in the file's order.
        fixed: Keys that `--set` put over the grid.
        base: Sections as given, not filled in.
        search: Sampler.
        registries: Parts by section.
        check: Called with each experiment; raises UserError (key in `where`) when it does not fit
            the rest of the space.
        unsure: Given where something is known to be wrong already: top-level keys of which nothing
            can be said any more. What several keys have to agree on is then not looked at.
    """

    grid: Mapping[str, Axis]
    fixed: Mapping[str, Fixed]
    base: Mapping[str, Any]
    search: Search
    registries: Registries
    check: Callable[[Experiment], None]
    unsure: frozenset[str] | None = None

    def expand(self) -> Expansion:
        """Validate every combination and merge those with equal experiments.

        Raises:
            UserError: the value at a point is not allowed (`where` begins with "grid."), two axes
                set one key, or there are more than `MAX_POINTS` combinations; `UserErrors` with
                all that is wrong at the points, each thing once.
        """
        points: list[Point] = []
        seen: set[str] = set()
        names: set[str] = set()
        used: set[str] = set()
        duplicates = 0
        faults, bad = Faults(), 0
        for count, chosen in enumerate(self._combinations(faults), start=1):
            if count > MAX_POINTS:
                faults.add(too_many(count))
                break
            used.update(chosen)
            sources: dict[str, str] = {}
            try:
                assigned, sources = self._assigned(chosen)
                for key, fixed in self.fixed.items():
                    if self._holds(fixed.when, chosen):
                        assigned[key] = fixed.value
                experiment = self._experiment(assigned)
            except UserError as error:
                for single in error.each():
                    if self._is_sure(single):
                        faults.add(self._placed(single, sources))
                bad += 1
                if bad == MAX_BAD_POINTS:
                    break
                continue
            identity = canonical_json(experiment.plain())
            if identity in seen:
                duplicates += 1
                continue
            seen.add(identity)
            params = {key: self._param(key, chosen[key], experiment) for key in chosen}
            name = _name(params, list(self.grid))
            if name.lower() in names:
                name = f"{name[: MAX_NAME - 9]}~{digest(params, 8)}"
            names.add(name.lower())
            points.append(Point(len(points), name, params, experiment))
        faults.tell()
        idle = tuple(axis for axis in self.grid if axis not in used)
        repeated = sum(axis.repeated for axis in self.grid.values())
        return Expansion(tuple(points), duplicates, repeated, idle)

    def reachable(self, key: str) -> list[Any] | None:
        """Values that a key of a `when` can have; None when they cannot be listed."""
        if key in self.grid:
            return None if self.grid[key].ranged else list(self.grid[key].choices)
        movers = [*self.grid, *self.fixed]
        movers += [k for axis in self.grid.values() for s in axis.settings or () for k in s.assign]
        if any(overlap(key, mover) for mover in movers):
            return None
        return [self._value(key, {})]

    def _combinations(self, faults: Faults) -> Iterator[dict[str, Any]]:
        """What is chosen at each point; an error on the way there ends them."""
        try:
            yield from self.search.kind.choose(self.grid, self.search, self._holds)
        except UserError as error:
            for single in filter(self._is_sure, error.each()):
                faults.add(single)

    def _holds(self, when: Mapping[str, tuple[Any, ...]] | None, chosen: dict[str, Any]) -> bool:
        return all(
            comparable(self._value(key, chosen)) in {comparable(entry) for entry in allowed}
            for key, allowed in (when or {}).items()
        )

    def _value(self, key: str, chosen: dict[str, Any]) -> Any:
        """Value of a `when`'s key at a point that is chosen so far, defaults included."""
        if key in chosen:
            return chosen[key]
        values = self._assigned(chosen)[0]
        values |= {name: fixed.value for name, fixed in self.fixed.items() if fixed.when is None}
        data = assign(self.base, values)
        found, value = look_up(data, key)
        section, _, rest = key.partition(".")
        if found or not rest:
            return value
        if section in SECTIONS:
            field = SECTIONS[section].model_fields.get(rest)
            return None if field is None or field.is_required() else field.default
        if section in PARTS:
            spec = {"name": PARTS[section], **(data.get(section) or {})}
            return look_up(self.registries[section].validate(spec, where=section), rest)[1]
        return None

    def _assigned(self, chosen: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """(dotted key -> value, dotted key -> place in the file) of the chosen values."""
        values: dict[str, Any] = {}
        places: dict[str, str] = {}
        for key, choice in chosen.items():
            settings = self.grid[key].settings
            new = (
                {key: choice}
                if settings is None
                else next(entry.assign for entry in settings if entry.label == choice)
            )
            for name, value in new.items():
                rival = next((old for old in values if overlap(old, name)), None)
                if rival is not None and places[rival] != f"grid.{key}.{rival}":
                    raise UserError(
                        f"two axes set '{name}' at one point",
                        where=f"grid.{key}",
                        allowed="each key in one axis",
                        hint=f"the other place is {places[rival]}",
                    )
                values[name] = value
                places[name] = f"grid.{name}" if settings is None else f"grid.{key}.{name}"
        return values, places

    def _experiment(self, assigned: dict[str, Any]) -> Experiment:
        data, whole = assign(self.base, assigned), self.unsure is None
        experiment = load_experiment(data, registries=self.registries, fit=whole)
        if whole:
            self.check(experiment)
        return experiment

    def _is_sure(self, error: UserError) -> bool:
        return error.where.partition(".")[0] not in (self.unsure or ())

    def _placed(self, error: UserError, places: Mapping[str, str]) -> UserError:
        """An error with the axis that its value comes from as its place, where it is one's."""
        place = next((key for key in places if overlap(key, error.where)), None)
        if place is None or place in self.fixed:
            return error
        inner = error.where[len(place) :] if error.where.startswith(place) else ""
        return error.at(places[place] + inner)

    def _param(self, key: str, choice: Any, experiment: Experiment) -> Any:
        """The value as the experiment holds it, so that 0 and 0.0 give one table entry."""
        if self.grid[key].settings is not None:
            return choice
        found, value = look_up(experiment.plain(), key)
        return value if found else choice


def _name(params: Mapping[str, Any], axes: list[str]) -> str:
    """Last part of each key, or the whole key where two axes share it: "name=fuzzy,beta=0.5"."""
    if not params:
        return "base"
    last = [axis.rpartition(".")[2] for axis in axes]
    parts = []
    for key, value in params.items():
        short = key.rpartition(".")[2]
        parts.append(f"{safe(short if last.count(short) == 1 else key)}={text_of(value)}")
    name = ",".join(parts)
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 9]}~{digest(dict(params), 8)}"
