"""From axes to points: the grid's expansion and the random sampler's draws.

Both are pure: the grid in the file's order (the last axis varies fastest), a random draw as a
function of (seed, index, axis) alone, so that more samples extend the list and a new axis leaves
the draws of the others as they are.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from vesselflow.config.experiment import (
    PARTS,
    SECTIONS,
    Experiment,
    Registries,
    Section,
    load_experiment,
)
from vesselflow.config.fingerprint import canonical_json, digest
from vesselflow.config.overrides import assign, look_up, overlap
from vesselflow.config.registry import shown
from vesselflow.errors import Faults, UserError

#: Combinations that a grid may have; more is a typing error, or needs `search.sampler: random`.
MAX_POINTS = 100_000

#: Points that are refused before no more are looked at: they mostly say the same.
MAX_BAD_POINTS = 1000

#: Longest name of a point; run folders and tables carry it.
MAX_NAME = 100


class Setting(Section):
    """One joint setting of several keys."""

    label: str = Field(
        "",
        description="Name of the setting in tables: letters, digits and _ . + -",
        json_schema_extra={"default": "made of what is set"},
    )
    assign: dict[str, Any] = Field(alias="set", description="Dotted key -> value")

    @model_validator(mode="before")
    @classmethod
    def _labelled(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("set"), Mapping):
            return {**data, "label": label_of(data)}
        return data

    @field_validator("label")
    @classmethod
    def _safe(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", value):
            raise ValueError("letters, digits and _ . + -, a letter or digit first")
        return value


def label_of(setting: Mapping[str, Any]) -> Any:
    """A setting's own label, or one made of what it sets: "epochs-2+name-unet"."""
    if setting.get("label") is not None:
        return setting["label"]
    values = setting["set"]
    last = [key.rpartition(".")[2] for key in values]
    parts = [
        f"{short if last.count(short) == 1 else key}-{_text(value)}"
        for short, (key, value) in zip(last, values.items(), strict=True)
    ]
    return "+".join(parts) or "none"


When = dict[str, Annotated[tuple[Any, ...], Field(strict=False)]]


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: entry if isinstance(entry, list | tuple) else [entry]
            for key, entry in value.items()
        }
    return value


class Axis(Section):
    """One axis: a list of values, joint settings, or (random sampler) a range."""

    values: Annotated[tuple[Any, ...], Field(strict=False)] | None = Field(
        None, description="Values of the key, in this order"
    )
    settings: Annotated[tuple[Setting, ...], Field(strict=False)] | None = Field(
        None, description="Joint settings, each {label, set: {key: value}}; the axis's name is free"
    )
    low: float | None = Field(None, description="Lowest value of a range")
    high: float | None = Field(None, description="Highest value of a range, included")
    log: bool = Field(False, description="Whether a range is drawn evenly in its logarithm")
    step: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Distance between a range's values, from low on; null for any value"
    )
    integer: bool = Field(False, description="Whether a range holds whole numbers only")
    when: When | None = Field(
        None,
        description="Key -> value or values of earlier axes or fixed keys; the axis counts only "
        "where all hold",
    )

    @field_validator("when", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return _as_lists(value)

    @model_validator(mode="after")
    def _one_kind(self) -> Axis:
        ranged = self.low is not None or self.high is not None
        kinds = (self.values is not None) + (self.settings is not None) + ranged
        if kinds != 1:
            raise ValueError(
                "an axis is one of: a list of values, settings, a range with low and high"
            )
        if not ranged:
            if self.log or self.integer or self.step is not None:
                raise ValueError("log, step and integer belong to a range with low and high")
            if not (self.values or self.settings):
                raise ValueError("an axis without values; allowed: one value or more")
            if any(not setting.assign for setting in self.settings or ()):
                raise ValueError("a setting sets nothing; allowed: set: {key: value}")
            labels = [setting.label for setting in self.settings or ()]
            if len(set(labels)) < len(labels):
                raise ValueError("two settings have the same label; allowed: each label once")
            return self
        if self.low is None or self.high is None or self.low > self.high:
            raise ValueError(
                f"low {shown(self.low)} and high {shown(self.high)} are no range; "
                "allowed: both given, low at most high"
            )
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a log range has low above 0 and no step")
        if self.integer and any(
            value is not None and value != int(value) for value in (self.low, self.high, self.step)
        ):
            raise ValueError("an integer range has a whole low, high and step")
        return self

    @property
    def ranged(self) -> bool:
        """Whether the axis is a range (for the random sampler only)."""
        return self.low is not None

    @property
    def choices(self) -> tuple[Any, ...]:
        """Values, or labels of settings, without repetitions; empty for a range."""
        entries = self.values or tuple(setting.label for setting in self.settings or ())
        first: dict[str, Any] = {}
        for entry in entries:
            first.setdefault(comparable(entry), entry)
        return tuple(first.values())

    @property
    def repeated(self) -> int:
        """How many values repeat an earlier one (0 and 0.0 are the same value)."""
        return len(self.values or ()) - len(self.choices) if self.values else 0

    def draw(self, u: float) -> Any:
        """The value at u in [0, 1): evenly over choices, or over the range.

        Floats are rounded to 6 significant digits: readable, and equal on machines whose
        logarithms differ in the last bit.
        """
        if self.low is None or self.high is None:
            choices = self.choices
            return choices[int(u * len(choices))]
        low, high = self.low, self.high
        step = self.step or (1.0 if self.integer and not self.log else None)
        if step is not None:
            value = low + step * int(u * (math.floor((high - low) / step + 1e-9) + 1))
        elif self.log:
            value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
        else:
            value = low + u * (high - low)
        if self.integer:
            return int(min(max(round(value), low), high))
        return min(max(float(f"{value:.6g}"), low), high)


class Fixed(Section):
    """A value that `--set` put over the grid."""

    value: Any = Field(None, description="Value of the key at every point")
    when: When | None = Field(None, description="Where it counts, as for an axis")

    @field_validator("when", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return _as_lists(value)


class Search(Section):
    """How points are taken out of the grid."""

    sampler: Literal["grid", "random"] = Field(
        "grid", description="All combinations, or keyed random draws"
    )
    samples: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Number of random draws; null for the grid"
    )
    seed: int = Field(0, ge=0, description="Seed of the random draws")


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
                faults.add(_too_many(count))
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
            yield from self._draws() if self.search.sampler == "random" else self._all()
        except UserError as error:
            for single in filter(self._is_sure, error.each()):
                faults.add(single)

    def _all(self) -> Iterator[dict[str, Any]]:
        count = math.prod(len(axis.choices) for axis in self.grid.values() if axis.when is None)
        if count > MAX_POINTS:
            raise _too_many(count)
        axes = list(self.grid.items())

        def below(depth: int, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if depth == len(axes):
                yield chosen
                return
            key, axis = axes[depth]
            if not self._holds(axis.when, chosen):
                yield from below(depth + 1, chosen)
                return
            for value in axis.choices:
                yield from below(depth + 1, {**chosen, key: value})

        yield from below(0, {})

    def _draws(self) -> Iterator[dict[str, Any]]:
        for index in range(self.search.samples or 0):
            chosen: dict[str, Any] = {}
            for key, axis in self.grid.items():
                if self._holds(axis.when, chosen):
                    chosen[key] = axis.draw(_uniform(self.search.seed, index, key))
            yield chosen

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


def _too_many(count: int) -> UserError:
    return UserError(
        f"{count} combinations or more",
        where="grid",
        allowed=f"at most {MAX_POINTS}",
        hint="draw fewer with search: {sampler: random, samples: ...}",
    )


def comparable(value: Any) -> str:
    """Text that is equal for equal YAML values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int | float):
        return repr(float(value))
    if isinstance(value, Mapping):
        inner = sorted(f"{key!r}:{comparable(entry)}" for key, entry in value.items())
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(comparable(entry) for entry in value) + "]"
    return repr(str(value))


def _uniform(seed: int, index: int, axis: str) -> float:
    """A draw in [0, 1) keyed by its arguments."""
    text = canonical_json(["grid", seed, index, axis]).encode("ascii")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64


def _name(params: Mapping[str, Any], axes: list[str]) -> str:
    """Last part of each key, or the whole key where two axes share it: "name=fuzzy,beta=0.5"."""
    if not params:
        return "base"
    last = [axis.rpartition(".")[2] for axis in axes]
    parts = []
    for key, value in params.items():
        short = key.rpartition(".")[2]
        parts.append(f"{_safe(short if last.count(short) == 1 else key)}={_text(value)}")
    name = ",".join(parts)
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 9]}~{digest(dict(params), 8)}"


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return "-".join(_text(entry) for entry in value.values()) or "none"
    if isinstance(value, list | tuple):
        return "-".join(_text(entry) for entry in value) or "none"
    if isinstance(value, float) and value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return _safe(shown(value)) if not isinstance(value, str) else _safe(value)


def _safe(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-") or "none"
