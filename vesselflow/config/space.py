"""A space: one question, its points, and what runs them. Made by `vesselflow.config.loading`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from vesselflow.config.axes import Axis, Fixed, Setting
from vesselflow.config.experiment import PARTS, SECTIONS, Experiment, Registries, Section, Split
from vesselflow.config.grid import Axes, Expansion
from vesselflow.config.objective import ObjectiveSpec
from vesselflow.config.overrides import overlap
from vesselflow.config.prices import Dollars, PriceSpec
from vesselflow.config.registry import carried
from vesselflow.config.samplers import Search
from vesselflow.config.store_specs import Import, StoreSpec, Synth
from vesselflow.errors import Faults, UserError, closest

#: Keys of a file that are gone once it is loaded, as (key, type, default, text).
FILE_KEYS = (
    ("extends", "text or a list (text)", "[]", "Files to lay this one over, relative to it"),
    ("profiles", "a mapping", "{}", "Profile -> any of the keys here, laid over the file"),
)

#: Names of spaces and profiles: they become names of folders.
NAME = re.compile(r"[a-z0-9_-]+")

#: What a results folder holds beside the sweeps; a space of such a name would write into it.
_TAKEN = ("runs", "evaluations", "stores", "weights", "bench", "published")


class Hypothesis(Section):
    """One expectation, written down before the sweep."""

    name: str = Field(description="Short name")
    text: str = Field("", description="What is expected, in words")


class SlotRange(Section):
    """How many slots there may be while machines come and go."""

    min: int = Field(1, ge=1, description="Slots that are asked for, whatever there is")
    max: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Most slots at a time; null for as many as fit"
    )

    @model_validator(mode="after")
    def _in_order(self) -> SlotRange:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max {self.max} is below min {self.min}")
        return self


class Resources(Section):
    """What the sweep may use; changes no result."""

    slots: Literal["auto"] | Annotated[int, Field(ge=1)] | SlotRange = Field(
        "auto", description="Runs at a time: auto (as many as fit), a number, or {min, max}"
    )
    workers: int = Field(1, ge=1, description="DDP workers per slot")
    threads: int = Field(1, ge=1, description="CPU threads per worker")
    gpu: float = Field(0.0, ge=0, le=1, description="Share of a GPU per worker")
    memory_gb: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Memory per worker in GB; null asks for none"
    )
    feed: Literal["auto", "resident", "stream"] = Field(
        "auto", description="Data in shared memory, or read as used; auto decides by size"
    )
    retries: int = Field(2, ge=0, description="Retries of a run whose worker was killed")


class Estimate(Section):
    """What the dry run computes the cost from."""

    seconds_per_step: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Measured seconds per optimizer step; null when not known"
    )


class Space(BaseModel):
    """A validated space. Made by `load_space`.

    Attributes:
        base: The experiment's sections as given (under every point), not filled in.
        fixed: Values that `--set` puts over the grid where a lower place would not be enough.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, strict=True, populate_by_name=True
    )

    name: str = Field(
        description="Names results/<name>; a-z, 0-9, _ and -",
        json_schema_extra={"default": "stem of the file"},
    )
    question: str = Field("", description="The question that the space answers")
    description: str = Field("", description="Whatever a reader should know")
    stores: dict[str, StoreSpec] = Field(description="Name -> store")
    base: dict[str, Any] = Field(description="Sections of the experiment")
    grid: dict[str, Axis] = Field(
        default_factory=dict, description="Axes: key -> list of values, or a mapping; in order"
    )
    fixed: dict[str, Fixed] = Field(
        default_factory=dict, description="Key -> {value, when} over the grid; written by --set"
    )
    search: Search = Field(default_factory=Search, description="How points are taken")
    match_parameters: bool = Field(
        False,
        description="Scale the widths of each point's model until it has as many parameters as the "
        "first point's, within 5 %, so that an ablation compares equals; loads torch before the "
        "start",
    )
    folds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] | None = Field(
        None, description="Folds that are run, counted from 0; null for all"
    )
    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] = Field(
        (0,), description="Seeds of every point and fold"
    )
    objective: ObjectiveSpec = Field(
        default_factory=ObjectiveSpec, description="By what validation chooses epochs and points"
    )
    hypotheses: Annotated[tuple[Hypothesis, ...], Field(strict=False)] = Field(
        (), description="Expectations, each {name, text}"
    )
    resources: Resources = Field(default_factory=Resources, description="What it may use")
    estimate: Estimate = Field(default_factory=Estimate, description="Basis of the cost")
    prices: dict[str, Dollars | PriceSpec] = Field(
        default_factory=dict,
        description="Kind of machine (m5.large, aws:m5.large, local) -> dollars an hour, or "
        "{on_demand, spot}; others cost what the shipped table says",
    )

    _registries: Registries = PrivateAttr(default_factory=dict)
    _file: Path = PrivateAttr(default_factory=Path)
    _profile: str | None = PrivateAttr(None)
    _expansion: Expansion | None = PrivateAttr(None)
    _given: Expansion | None = PrivateAttr(None)

    @property
    def file(self) -> Path:
        """The YAML file that it came from."""
        return self._file

    @property
    def profile(self) -> str | None:
        """Name of the profile that was laid over the file."""
        return self._profile

    def came_from(self, file: Path, profile: str | None) -> Space:
        """Note where it came from; returns itself."""
        self._file, self._profile = file, profile
        return self

    @property
    def slot_range(self) -> tuple[int, int | None]:
        """Fewest and most slots; None for as many as the machines carry."""
        slots = self.resources.slots
        if slots == "auto":
            return 1, None
        if isinstance(slots, SlotRange):
            return slots.min, slots.max
        return slots, slots

    @classmethod
    def nested(cls) -> dict[str, type[BaseModel]]:
        """Models inside mappings and lists, by the key that the docs show for them."""
        return {
            "stores.<name>": StoreSpec,
            "stores.<name>.synth": Synth,
            "stores.<name>.import": Import,
            "grid.<key>": Axis,
            "grid.<key>.settings[]": Setting,
            "hypotheses[]": Hypothesis,
            "prices.<machine>": PriceSpec,
        }

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        if not NAME.fullmatch(value):
            raise ValueError("lower-case letters, digits, _ and -")
        if value in _TAKEN:
            raise ValueError(f"any name but {', '.join(_TAKEN)}: a results folder has these itself")
        return value

    @field_validator("folds", "seeds")
    @classmethod
    def _distinct(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (not value or len(set(value)) < len(value)):
            raise ValueError("one whole number or more, each once")
        return value

    @field_validator("stores")
    @classmethod
    def _some(cls, value: dict[str, StoreSpec]) -> dict[str, StoreSpec]:
        for name in value:
            if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
                raise ValueError(f"letters, digits, _ and - in the name of a store, not '{name}'")
        if not value:
            raise ValueError("one store or more, such as a: synth:fundus")
        return value

    @model_validator(mode="after")
    def _sampler(self) -> Space:
        faults = Faults()
        if not self.search.kind.draws:
            if self.search.samples is not None:
                faults.add(
                    UserError(
                        f"{self.search.samples} has no meaning for the {self.search.sampler}",
                        where="search.samples",
                        allowed="null",
                        hint="set search.sampler: random",
                    )
                )
            for key, axis in self.grid.items():
                if axis.ranged:
                    faults.add(
                        UserError(
                            "a range needs the random sampler",
                            where=f"grid.{key}",
                            allowed="a list of values",
                            hint="set search: {sampler: random, samples: ...}",
                        )
                    )
        elif self.search.samples is None:
            faults.add(
                UserError(
                    f"this key is required when search.sampler is {self.search.sampler}",
                    where="search.samples",
                    allowed="a whole number, 1 or more",
                )
            )
        elif not self.grid:
            faults.add(
                UserError("there are no axes to draw from", where="search.sampler", allowed="grid")
            )
        if faults:
            raise carried(faults.joined())
        return self

    def expand(self) -> Expansion:
        """All points, in order, each validated; the same object at every call."""
        if self._expansion is None:
            self._expansion = self._axes().expand()
        return self._expansion

    @property
    def given(self) -> Expansion:
        """The points as the file gives them, whatever became of them since."""
        return self._given or self.expand()

    def settled(self, expansion: Expansion) -> Space:
        """The same space with its points as they turned out once its stores were known."""
        space = self.model_copy()
        space._given, space._expansion = self.given, expansion
        return space

    def run_folds(self, experiment: Experiment) -> tuple[int, ...]:
        """The folds on which an experiment is run: `folds`, or all that its split has."""
        return self.folds if self.folds is not None else tuple(range(experiment.split.count))

    def runs(self) -> Iterator[tuple[Any, int, int]]:
        """(point, fold, seed) of every run, in the order in which they are wanted."""
        for point in self.expand().points:
            for fold in self.run_folds(point.experiment):
                for seed in self.seeds:
                    yield point, fold, seed

    def resolved(self) -> dict[str, Any]:
        """The whole space as plain data with every default filled in, to be written as YAML.

        `load_space` reads an equal space back: no profile, no `extends`, no variable is left, and
        paths are absolute. A part whose name is an axis stays as given (its defaults differ from
        point to point), and `folds` stays null when the number of folds is an axis.
        """
        data = self.model_dump(mode="json", by_alias=True, exclude={"base", "grid", "fixed"})
        data["stores"] = {
            name: store.model_dump(mode="json", by_alias=True, exclude_none=True)
            for name, store in self.stores.items()
        }
        moving = self._moving()
        experiment = {}
        for section in Experiment.model_fields:
            if section == "stores":  # each stands in its store
                continue
            given = self.base.get(section) or {}
            if section in SECTIONS:
                stand_in = {"train": ""} if section == "data" else {}
                filled = SECTIONS[section].model_validate(stand_in | given)
                experiment[section] = filled.model_dump(mode="json", by_alias=True)
                if section == "data" and "train" not in given:  # an axis
                    del experiment[section]["train"]
            elif section in PARTS and not any(overlap(k, f"{section}.name") for k in moving):
                spec = {"name": PARTS[section], **given}
                try:
                    experiment[section] = self._registries[section].validate(spec)
                except UserError:  # complete only with the values of the grid
                    experiment[section] = spec
            else:
                experiment[section] = given
        if self.folds is None and not {"split.folds", "split.inner"} & set(moving):
            data["folds"] = list(range(Split.model_validate(experiment["split"]).count))
        head = ("name", "question", "description", "stores")
        result = {key: data[key] for key in head} | experiment
        if self.grid:
            result["grid"] = {key: _plain_axis(axis) for key, axis in self.grid.items()}
        if self.fixed:
            result["fixed"] = {
                key: entry.model_dump(mode="json", exclude_none=True) | {"value": entry.value}
                for key, entry in self.fixed.items()
            }
        return result | {key: value for key, value in data.items() if key not in head}

    def _moving(self) -> list[str]:
        keys = [key for key, axis in self.grid.items() if axis.settings is None]
        for axis in self.grid.values():
            keys += [key for setting in axis.settings or () for key in setting.assign]
        return keys + list(self.fixed)

    def _axes(self, unsure: frozenset[str] | None = None) -> Axes:
        return Axes(
            grid=self.grid,
            fixed=self.fixed,
            base=self.base,
            search=self.search,
            registries=self._registries,
            check=self._check,
            unsure=unsure,
        )

    def _check(self, experiment: Experiment) -> None:
        faults = Faults()
        data = experiment.data
        check_stores(data.train, data.ood, self.stores, faults, unlabelled=data.unlabelled)
        for name in experiment.stores:
            if name not in self.stores:
                faults.add(
                    UserError(
                        f"unknown store '{name}'",
                        where=f"stores.{name}",
                        allowed=", ".join(self.stores),
                        hint=closest(name, self.stores),
                    )
                )
        split = experiment.split
        if self.folds is not None and max(self.folds) >= split.count:
            inner = f", split.inner {split.inner}" if split.inner else ""
            faults.add(
                UserError(
                    f"fold {max(self.folds)} does not exist",
                    where="folds",
                    allowed=f"0 to {split.count - 1} (split.folds is {split.folds}{inner})",
                )
            )
        faults.tell()


def check_stores(
    train: Any, ood: Any, stores: Mapping[str, Any], faults: Faults, *, unlabelled: Any = None
) -> None:
    """Refuse names of stores that are not given; what is no name is left to its own check."""
    given = (("data.train", [train]), ("data.ood", ood), ("data.unlabelled", [unlabelled]))
    for key, names in given:
        for name in names if isinstance(names, list | tuple) else ():
            if isinstance(name, str) and name not in stores:
                faults.add(
                    UserError(
                        f"unknown store '{name}'",
                        where=key,
                        allowed=", ".join(stores),
                        hint=closest(name, stores),
                    )
                )


def _plain_axis(axis: Axis) -> Any:
    data = axis.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return data["values"] if list(data) == ["values"] else data
