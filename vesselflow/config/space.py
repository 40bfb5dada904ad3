"""A space: one YAML file, one question, its points, and what runs them.

`load_space` reads the file with what it extends, lays the profile and ``--set`` over it, and
validates everything, every point included, so that nothing can be refused after the start.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
    model_validator,
)

from vesselflow.config.experiment import PARTS, SECTIONS, Experiment, Registries, Section
from vesselflow.config.grid import (
    Axes,
    Axis,
    Expansion,
    Fixed,
    Search,
    Setting,
    comparable,
    label_of,
)
from vesselflow.config.keys import check_key, key_tree, nearest_key
from vesselflow.config.objective import ObjectiveSpec, check_objective
from vesselflow.config.overrides import Layers, assign, merge, overlap, parse_set
from vesselflow.config.registry import all_errors, carried, shown
from vesselflow.config.yaml_files import load_yaml, parse_yaml
from vesselflow.errors import Faults, UserError, closest, closest_name

#: Keys of a file that are gone once it is loaded, as (key, type, default, text).
FILE_KEYS = (
    ("extends", "text or a list (text)", "[]", "Files to lay this one over, relative to it"),
    ("profiles", "a mapping", "{}", "Profile -> any of the keys here, laid over the file"),
)

_NAME = re.compile(r"[a-z0-9_-]+")
#: The address of an object store or of a server. A Windows drive ("C:/x") is none.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")

#: What a results folder holds beside the sweeps; a space of such a name would write into it.
_TAKEN = ("runs", "evaluations", "stores", "bench", "published")


class Synth(Section):
    """A synthetic store, made when it is needed."""

    kind: Literal["fundus"] = Field("fundus", description="Generator")
    domain: Literal["a", "b", "c"] = Field("a", description="Camera: colour, contrast, blur")
    sources: int = Field(12, ge=1, le=100_000, description="Number of images")
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all images")
    size_px: Annotated[int, Field(ge=64, le=4096)] | None = Field(
        None, description="Side of the images in px; null for the camera's own"
    )


class Import(BaseModel):
    """Where a store comes from when its file is missing; further keys go to the importer."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    layout: str = Field(description="Importer: how the source's files are laid out")
    source: str = Field(description="Folder of the data set, as it was published")


class StoreSpec(Section):
    """One named store: a file, or a synthetic one."""

    path: str | None = Field(
        None, description="HDF5 file, relative to the YAML; ${VARIABLES} and ~ are expanded"
    )
    synth: Synth | None = Field(None, description="Synthetic store, made when it is needed")
    importer: Import | None = Field(
        None, alias="import", description="How to make the file of `path` when it is missing"
    )

    @model_validator(mode="after")
    def _one(self) -> StoreSpec:
        if (self.path is None) == (self.synth is None):
            raise ValueError("a store has exactly one of path and synth")
        if self.importer is not None and self.path is None:
            raise ValueError("import belongs to a store with a path")
        return self


class Hypothesis(Section):
    """One expectation, written down before the sweep."""

    name: str = Field(description="Short name")
    text: str = Field("", description="What is expected, in words")


class Resources(Section):
    """What the sweep may use; changes no result."""

    slots: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(
        "auto", description="Runs at a time; auto counts what the cluster has"
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
    folds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(strict=False)] | None = Field(
        None, description="Folds that are run, counted from 0; null for all of split.folds"
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

    _registries: Registries = PrivateAttr(default_factory=dict)
    _expansion: Expansion | None = PrivateAttr(None)

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
        }

    @field_validator("name")
    @classmethod
    def _named(cls, value: str) -> str:
        if not _NAME.fullmatch(value):
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
        if self.search.sampler == "grid":
            if self.search.samples is not None:
                faults.add(
                    UserError(
                        f"{self.search.samples} has no meaning for the grid",
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
                    "this key is required when search.sampler is random",
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

    def run_folds(self, experiment: Experiment) -> tuple[int, ...]:
        """The folds on which an experiment is run: `folds`, or all that its split has."""
        return self.folds if self.folds is not None else tuple(range(experiment.split.folds))

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
        if self.folds is None and "split.folds" not in moving:
            data["folds"] = list(range(experiment["split"]["folds"]))
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
        _check_stores(experiment.data.train, experiment.data.ood, self.stores, faults)
        count = experiment.split.folds
        if self.folds is not None and max(self.folds) >= count:
            faults.add(
                UserError(
                    f"fold {max(self.folds)} does not exist",
                    where="folds",
                    allowed=f"0 to {count - 1} (split.folds is {count})",
                )
            )
        faults.tell()


def _check_stores(train: Any, ood: Any, stores: Mapping[str, Any], faults: Faults) -> None:
    """Refuse names of stores that are not given; what is no name is left to its own check."""
    for key, names in (("data.train", [train]), ("data.ood", ood)):
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


def load_space(
    path: str | Path,
    *,
    profile: str | None = None,
    overrides: Sequence[str] = (),
    registries: Registries,
) -> Space:
    """Read, complete and validate a space.

    Args:
        path: The YAML file.
        profile: Name of one of its profiles, laid over the file.
        overrides: ``key.path=value`` texts of ``--set``, laid over everything. On an axis the
            value fixes it: the axis leaves the grid (an axis of joint settings keeps the one that
            has this label; ``grid.KEY=[...]`` gives an axis other values).
            Paths are relative to the working directory.
        registries: The parts that `augment`, `model` and `loss` may name, by section; "importer",
            where given, checks the importers that stores name.

    Returns:
        The space; its points are valid.

    Raises:
        UserError: one line with file, key, value, what is allowed and the next step.
    """
    path = Path(path)
    faults, unsure = Faults(), set[str]()
    files = _read(path, (), faults)
    raw: dict[str, Any] = {}
    for source, data in files:
        # A name is of one file: two spaces that extend one base must not share their results.
        inherited = data if source == path else {k: v for k, v in data.items() if k != "name"}
        raw = merge(raw, {k: v for k, v in inherited.items() if k != "profiles"})
    tree = key_tree(registries, Space)
    del tree["base"]
    profiles = _profiles(files, tree, faults, unsure)
    if profile is not None and profile not in profiles:
        faults.add(
            UserError(
                f"unknown profile '{profile}'",
                where=path.name,
                allowed=", ".join(profiles) or "none, the file has no profiles",
                hint=closest(profile, profiles),
            )
        )
        faults.tell()
    chosen = profiles.get(profile, []) if profile is not None else []
    for _, data in chosen:
        raw = merge(raw, data)
    layers = Layers(
        file=path.name,
        files=tuple((source.name, data) for source, data in files),
        profiles=tuple((source.name, str(profile), data) for source, data in chosen),
        sets=_sets(overrides, tree, raw.get("grid"), faults, unsure),
    )
    known = {key: value for key, value in raw.items() if key in tree}
    space, inner = _build(known, layers, path, registries, tree, unsure if faults else None)
    for single in inner.errors:
        faults.add(single.at(layers.where(single.where)))
    faults.errors.sort(key=lambda single: layers.position(single.where))
    faults.tell()
    assert space is not None
    return space


def _read(path: Path, above: tuple[Path, ...], faults: Faults) -> list[tuple[Path, dict[str, Any]]]:
    """The files that `path` extends, lowest first, then itself; paths made absolute.

    What cannot be read is raised: it leaves too little to say what else is wrong.
    """
    here = path.resolve()
    if here in above:
        chain = " -> ".join(entry.name for entry in (*above[above.index(here) :], here))
        raise UserError(f"the files extend each other: {chain}", where=f"{path.name}: extends")
    data = load_yaml(path)
    extends = data.pop("extends", None)
    names = [] if extends is None else extends if isinstance(extends, list) else [extends]
    files: list[tuple[Path, dict[str, Any]]] = []
    for name in names:
        if not isinstance(name, str) or not name:
            raise UserError(
                f"{shown(name)} is not allowed",
                where=f"{path.name}: extends",
                allowed="a file name, or a list of them",
            )
        base = Path(_expand(name, f"{path.name}: extends"))
        known = {source for source, _ in files}
        files += [
            entry
            for entry in _read(path.parent / base, (*above, here), faults)
            if entry[0] not in known
        ]
    data = _short_forms(data, path.name, here.parent, faults)
    for name, entry in _mapping(data.get("profiles"), f"{path.name}: profiles").items():
        where = f"{path.name}: profiles.{name}"
        data["profiles"][name] = _short_forms(_mapping(entry, where), where, here.parent, faults)
    return [*files, (path, data)]


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{shown(value)} is not allowed", where=where, allowed="a mapping")
    return value


def _short_forms(data: dict[str, Any], where: str, folder: Path, faults: Faults) -> dict[str, Any]:
    """Write out short forms, so that layers merge, and bind relative paths to their file's folder.

    Variables are expanded later, in what is left after merging: a profile that is not taken may
    name variables that are not set.
    """
    result = dict(data)
    if isinstance(result.get("stores"), dict):
        result["stores"] = dict(result["stores"])
        for name, entry in result["stores"].items():
            result["stores"][name] = _STAND_IN
            with faults.gathered():
                result["stores"][name] = _store(entry, f"{where}: stores.{name}", folder)
    if isinstance(result.get("grid"), dict):
        result["grid"] = {
            key: {"values": axis} if isinstance(axis, list) else axis
            for key, axis in result["grid"].items()
        }
    split = result.get("split")
    if isinstance(split, dict) and isinstance(split.get("file"), str):
        result["split"] = {**split, "file": _bound(split["file"], folder)}
    return result


#: In the place of a store with an error, so that its name is still known.
_STAND_IN: dict[str, Any] = {"synth": {}}


def _store(entry: Any, where: str, folder: Path) -> Any:
    if isinstance(entry, str):
        kind, colon, rest = entry.partition(":")
        if kind == "synth" and colon:
            generator, _, query = rest.partition("?")
            try:
                pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
            except ValueError:
                raise UserError(
                    f"'{entry}' is not allowed",
                    where=where,
                    allowed="synth:KIND?key=value&key=value",
                ) from None
            values = {key: parse_yaml(value, where=where) for key, value in pairs}
            return {"synth": {"kind": generator, **values}}
        return {"path": _bound(entry, folder)}
    if not isinstance(entry, dict):
        return entry
    result = dict(entry)
    if isinstance(result.get("path"), str):
        result["path"] = _bound(result["path"], folder)
    importer = result.get("import")
    if isinstance(importer, dict) and isinstance(importer.get("source"), str):
        result["import"] = {**importer, "source": _bound(importer["source"], folder)}
    return result


def url_scheme(text: str) -> str:
    """The "s3" of the address of an object store or a server, "" of a path."""
    match = _URL.match(text)
    return match[1] if match else ""


def _bound(text: str, folder: Path) -> str:
    """An absolute path; what begins with a variable or ~ is left for `_local`, and so is a URL."""
    return text if not text or text[0] in "~$" or url_scheme(text) else str(folder / text)


def _local(text: str, folder: Path, where: str) -> str:
    """The path that a text means once its variables are expanded; a URL is refused."""
    found = _expand(text, where)
    scheme = url_scheme(found)
    if scheme:
        raise UserError(
            f"'{found}' is no path; {scheme}:// is not supported yet",
            where=where,
            allowed="a path of this machine, or below a folder that is mounted",
            hint="fetch it, or mount it",
        )
    return str(folder / found)


def _expand(text: str, where: str) -> str:
    def value(match: re.Match[str]) -> str:
        name = match[1] or match[2]
        if name not in os.environ:
            raise UserError(
                f"the environment variable {name} is not set", where=where,
                hint=f"export {name}=..., or write the path itself",
            )  # fmt: skip
        return os.environ[name]

    found = re.sub(r"\$(?:\{([A-Za-z_]\w*)\}|([A-Za-z_]\w*))", value, text)
    return os.path.expanduser(found)


def _profiles(
    files: Sequence[tuple[Path, dict[str, Any]]],
    tree: Mapping[str, Any],
    faults: Faults,
    unsure: set[str],
) -> dict[str, list[tuple[Path, dict[str, Any]]]]:
    """Profile -> its data in each file that has it, lowest first; unknown keys are errors."""
    found: dict[str, list[tuple[Path, dict[str, Any]]]] = {}

    def top_key(key: str, known: list[str], where: str) -> None:
        if key not in known:
            faults.add(
                UserError(
                    f"unknown key '{key}'",
                    where=where,
                    allowed=", ".join(known),
                    hint=closest(key, known),
                )
            )
            unsure.update(_meant(key, tree))

    for source, data in files:
        for key in data:
            if key != "profiles":
                top_key(key, [*tree, "extends", "profiles"], f"{source.name}: {key}")
        for name, entry in (data.get("profiles") or {}).items():
            if not _NAME.fullmatch(name):  # it becomes part of a folder's name
                faults.add(
                    UserError(
                        f"{shown(name)} cannot name a profile",
                        where=f"{source.name}: profiles",
                        allowed="lower-case letters, digits, _ and -",
                    )
                )
            for key in entry:
                top_key(key, list(tree), f"{source.name}: profiles.{name}.{key}")
            found.setdefault(name, []).append((source, entry))
    return found


def _meant(key: str, tree: Mapping[str, Any]) -> set[str]:
    """The top-level keys that a refused key may have been meant for: their content is not known."""
    section = key.partition(".")[0]
    near = section if section in tree else closest_name(section, tree)
    return {near} if near and near != "grid" else set(tree)


def _sets(
    overrides: Sequence[str], tree: dict[str, Any], grid: Any, faults: Faults, unsure: set[str]
) -> dict[str, Any]:
    sets = parse_set(overrides, faults)
    joint = [key for key in (grid if isinstance(grid, dict) else {}) if _settings(grid[key])]
    for key in list(sets):
        try:
            check_key(key, tree | {name: {} for name in joint}, where="--set")
        except UserError as error:
            faults.add(error)
            del sets[key]
    refused = {text.partition("=")[0].strip() for text in overrides} - set(sets) - set(joint)
    unsure.update(_moved_by(sorted(refused), tree))
    return sets


def _build(
    raw: dict[str, Any],
    layers: Layers,
    path: Path,
    registries: Registries,
    tree: Mapping[str, Any],
    unsure: set[str] | None,
) -> tuple[Space | None, Faults]:
    """The space, or all that is wrong with it; places are keys without a file.

    Args:
        raw: The layers below ``--set``, merged; known top-level keys only.
        layers: Where values come from.
        path: The space's own file.
        registries: The parts.
        tree: The keys that are accepted.
        unsure: None; or, where something is known to be wrong already, the top-level keys of which
            nothing can be said any more.
    """
    faults, whole = Faults(), unsure is None
    unsure = set(unsure or ())
    sections = tuple(Experiment.model_fields)
    raw = dict(raw)
    fixed, grid = {}, {}
    with faults.gathered():
        fixed = dict(_mapping(raw.pop("fixed", None), "fixed"))
    with faults.gathered():
        grid = _grid(raw, layers)
    if faults:
        unsure.update(sections)
    raw = _override(raw, grid, fixed, layers.sets, faults)
    base = {}
    for section in sections:
        try:
            if section in raw:
                base[section] = _mapping(raw.pop(section), section)
        except UserError as error:
            faults.add(error)
            unsure.add(section)
    base.setdefault("data", {})  # its one required key is then what is missing
    stores = _stores(raw.pop("stores", None), path, faults if "stores" not in unsure else Faults())
    if not stores:
        unsure.add("stores")
    elif len(stores) == 1 and base["data"].get("train") is None:
        base["data"] = {**base["data"], "train": next(iter(stores))}
    split_file = base.get("split", {}).get("file")
    if isinstance(split_file, str):
        with faults.gathered():
            file = _local(split_file, path.resolve().parent, "split.file")
            base["split"] = {**base["split"], "file": file}
    for name in list(grid):
        try:
            _check_axis(name, grid[name], tree, sections)
            _check_order(name, grid)
        except UserError as error:
            faults.add(error)
            unsure |= {"grid", *_moved_by(_settings(grid.pop(name)) or [name], tree)}
    empty = {key for key, value in raw.items() if value is None and key != "folds"}
    values = {key: value for key, value in raw.items() if key not in empty}
    values |= {"stores": stores or {"none": _STAND_IN}, "base": base, "grid": grid, "fixed": fixed}
    values.setdefault("name", path.stem)
    space = _validated(values, faults, unsure, tree)
    for section, model in SECTIONS.items():
        # Where data.train is an axis, the fixed part has none.
        stand_in = {"train": ""} if "data.train" in grid else {}
        try:
            model.model_validate((stand_in if section == "data" else {}) | base.get(section, {}))
        except ValidationError as error:
            if section not in unsure:
                faults.add(all_errors(error, model, where=section))
    if space is None:
        return None, faults
    for name, store in space.stores.items():
        if store.importer is not None and "importer" in registries:
            with faults.gathered():
                where, layouts = f"stores.{name}.import", registries["importer"]
                layouts.part(store.importer.layout, where=f"{where}.layout")
                extra = store.importer.model_extra or {}
                layouts.arguments(store.importer.layout, extra, where=where)
    with faults.gathered():
        check_objective(space.objective, registries)
    space._registries = registries
    with faults.gathered():
        if whole and not faults:
            return _without_idle(space, layers), faults
        if "stores" not in unsure:
            _check_stores(base["data"].get("train"), base["data"].get("ood"), stores, faults)
        space._axes(frozenset(unsure)).expand()
    return None, faults


def _grid(raw: dict[str, Any], layers: Layers) -> dict[str, Any]:
    """The axes as given; taken out of `raw`."""
    there, given = "grid" in raw, raw.pop("grid", None)
    if there and not given and not (isinstance(given, dict) and layers.profiles):
        raise UserError(
            "the grid is empty",
            where="grid",
            allowed="one axis or more, such as loss.beta: [0, 0.5, 1]",
            hint="leave the key out for a single point",
        )
    return dict(_mapping(given, "grid"))


def _stores(given: Any, path: Path, faults: Faults) -> dict[str, Any]:
    """Name -> store with its paths made absolute, a stand-in for each that is wrong."""
    stores: dict[str, Any] = {}
    with faults.gathered():
        for name, entry in _mapping(given, "stores").items():
            stores[name] = _STAND_IN
            with faults.gathered():
                stores[name] = _expanded(entry, f"stores.{name}", path)
        if not stores:
            raise UserError(
                "no store is given", where="stores", allowed="name: FILE.h5, or name: synth:fundus"
            )
    return stores


def _check_order(name: str, grid: Mapping[str, Any]) -> None:
    """Refuse a condition on an axis that comes later."""
    earlier = list(grid)[: list(grid).index(name)]
    when = grid[name].get("when")
    for key in when if isinstance(when, dict) else {}:
        if key in grid and key not in earlier:
            raise UserError(
                f"'{key}' is not an earlier axis",
                where=f"grid.{name}.when",
                allowed=", ".join(earlier) or "keys that are no axes",
                hint=f"move {key} above {name}",
            )


def _moved_by(keys: Sequence[str], tree: Mapping[str, Any]) -> set[str]:
    """Of what nothing can be said when the values of these keys (or misspellings) are not known.

    Without the name of a part, the arguments around it would be held against another one.
    """
    found: set[str] = set()
    for key in keys:
        meant = nearest_key(key, tree)
        section = meant.partition(".")[0]
        if section in PARTS and meant in (section, f"{section}.name"):
            found.add(section)
        elif meant in ("data", "data.train"):
            found.add("data")
        elif section in ("grid", "stores") or not meant:
            found.update(tree)
    return found


def _validated(
    values: dict[str, Any], faults: Faults, unsure: set[str], tree: Mapping[str, Any]
) -> Space | None:
    """The space; what is wrong is gathered and left out, so that the rest can be looked at.

    What is left then serves to look at the points only, and is no space that anybody gets.
    """
    try:
        return Space.model_validate(values)
    except ValidationError as error:
        faults.add(all_errors(error, Space))
        places = [entry["loc"] for entry in error.errors(include_url=False)]
    rest = dict(values)
    for top, *inner in (place or ("search",) for place in places):
        if top == "stores":
            rest["stores"] = (
                rest["stores"] | {inner[0]: _STAND_IN} if inner else {"none": _STAND_IN}
            )
        elif top in ("grid", "fixed") and inner:
            axis = rest[top].get(inner[0])
            rest[top] = {key: entry for key, entry in rest[top].items() if key != inner[0]}
            unsure |= {"grid", *_moved_by(_settings(axis) or [str(inner[0])], tree)}
        elif top == "name":
            rest["name"] = "space"
        else:
            rest.pop(str(top), None)
    ranged = any(isinstance(axis, dict) and "low" in axis for axis in rest["grid"].values())
    if ranged and "search" not in rest:
        rest["search"] = {"sampler": "random", "samples": 20}
    try:
        return Space.model_validate(rest)
    except ValidationError:
        return None


def _without_idle(space: Space, layers: Layers) -> Space:
    """Expand; an axis whose `when` cannot hold is an error, unless ``--set`` is the reason."""
    axes = space._axes()
    faults = Faults()
    idle = []
    for key in space.expand().idle:
        when = space.grid[key].when or {}
        never = {}
        for name, wanted in when.items():
            reachable = axes.reachable(name)
            if reachable is not None and not (
                {comparable(v) for v in wanted} & {comparable(v) for v in reachable}
            ):
                never[name] = _listed(reachable)
        if space.search.sampler == "random" and not never:
            continue  # may hold at a draw that is not taken yet
        if any(overlap(name, given) for name in when for given in layers.sets):
            idle.append(key)
            continue
        name = next(iter(never or when))
        faults.add(
            UserError(
                f"this condition never holds: {name} is never {_listed(when[name])}",
                where=f"grid.{key}.when",
                allowed=f"{name}: {never[name]}" if name in never else "values that occur together",
            )
        )
    faults.tell()
    if not idle:
        return space
    grid = {key: axis for key, axis in space.grid.items() if key not in idle}
    trimmed = space.model_copy(update={"grid": grid})
    trimmed._registries, trimmed._expansion = space._registries, None
    trimmed.expand()
    return trimmed


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(value if isinstance(value, str) else shown(value) for value in values)


def _override(
    raw: dict[str, Any],
    grid: dict[str, Any],
    fixed: dict[str, Any],
    sets: Mapping[str, Any],
    faults: Faults,
) -> dict[str, Any]:
    """Lay ``--set`` over everything; `grid` and `fixed` are changed in place."""
    plain: dict[str, Any] = {}
    for key, value in sets.items():
        with faults.gathered():
            if key == "grid" or key.startswith("grid."):
                axes = _mapping(value, "--set grid") if key == "grid" else {key[5:]: value}
                kept = {} if key == "grid" else dict(grid)
                new = _short_forms({"grid": axes}, "--set", Path.cwd(), faults)
                grid.clear()
                grid.update(merge({"grid": kept}, new)["grid"])
                continue
            if _settings(grid.get(key)):
                _pick_setting(grid[key], key, value)
                continue
            if key == "stores" or key.startswith("stores."):
                _set_store(raw, key, value)
                continue
            axis = grid.pop(key, None)
            when = axis.get("when") if isinstance(axis, dict) else None
            moving = [name for name, entry in grid.items() if not _settings(entry)]
            moving += [name for entry in grid.values() for name in _settings(entry)]
            section = key.split(".")[0]
            renamed = section in PARTS and any(overlap(name, f"{section}.name") for name in moving)
            if when is not None or renamed or any(overlap(key, name) for name in moving):
                fixed[key] = {"value": value} | ({"when": when} if when is not None else {})
            else:
                fixed.pop(key, None)
                plain[key] = value
    return assign(raw, plain)


def _pick_setting(axis: dict[str, Any], key: str, label: Any) -> None:
    """Leave the one joint setting of an axis that has this label."""
    labels = [
        label_of(entry) if isinstance(entry.get("set"), dict) else entry.get("label")
        for entry in axis["settings"]
        if isinstance(entry, dict)
    ]
    if label not in labels:
        raise UserError(
            f"unknown setting {shown(label)}",
            where=f"--set {key}",
            allowed=_listed(labels),
            hint=closest(label, map(str, labels)),
        )
    axis["settings"] = [axis["settings"][labels.index(label)]]


def _settings(axis: Any) -> list[str]:
    """Keys that an axis of joint settings sets; the axis may be malformed still."""
    entries = axis.get("settings") if isinstance(axis, dict) else None
    return [
        key
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("set"), dict)
        for key in entry["set"]
    ]


def _set_store(raw: dict[str, Any], key: str, value: Any) -> None:
    folder = Path.cwd()
    upper: Any = value
    for step in reversed(key.split(".")[1:]):
        upper = {step: upper}
    stores = {
        name: _store(entry, f"--set {key}", folder)
        for name, entry in _mapping(upper, f"--set {key}").items()
    }
    raw["stores"] = merge({"stores": raw.get("stores") or {}}, {"stores": stores})["stores"]


def _expanded(entry: Any, key: str, path: Path) -> Any:
    if not isinstance(entry, dict):
        raise UserError(
            f"{shown(entry)} is not allowed",
            where=key,
            allowed="FILE.h5, synth:KIND?key=value, or a mapping with path or synth",
        )
    folder = path.resolve().parent
    result = dict(entry)
    if isinstance(result.get("path"), str):
        result["path"] = _local(result["path"], folder, f"{key}.path")
    importer = result.get("import")
    if isinstance(importer, dict) and isinstance(importer.get("source"), str):
        source = _local(importer["source"], folder, f"{key}.import.source")
        result["import"] = {**importer, "source": source}
    return result


def _check_axis(name: str, axis: Any, tree: Mapping[str, Any], sections: tuple[str, ...]) -> None:
    """Refuse unknown keys of an axis before its values are looked at."""
    inner = {key: tree[key] for key in sections}
    if not isinstance(axis, dict):
        raise UserError(
            f"{shown(axis)} is not allowed",
            where=f"grid.{name}",
            allowed="a list of values, or a mapping with values, settings, or low and high",
        )
    if "settings" in axis:
        if name.split(".")[0] in inner or not re.fullmatch(r"[A-Za-z][\w-]*", name):
            raise UserError(
                f"'{name}' cannot name joint settings",
                where=f"grid.{name}",
                allowed="a free name of letters, digits, _ and - that is no section",
            )
        for key in _settings(axis):
            check_key(key, inner, where=f"grid.{name}")
    else:
        check_key(name, inner, where="grid")
    when = axis.get("when")
    for key in when if isinstance(when, dict) else {}:
        if key not in inner:
            free = key.partition(".")[0] not in inner and "." not in key
            if not free:
                check_key(key, inner, where=f"grid.{name}.when")
