"""From a YAML file to a space: everything is validated, every point included.

`load_space` reads the file with what it extends, lays the profile and ``--set`` over it, and tells
all that is wrong at once, so that nothing can be refused after the start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from vesselflow.config.axes import comparable
from vesselflow.config.axes_given import check_axis, check_order, grid_given, moved_by, set_by
from vesselflow.config.experiment import SECTIONS, Experiment, Registries, StoreView
from vesselflow.config.keys import key_tree
from vesselflow.config.overrides import Layers, merge, overlap
from vesselflow.config.paths import local
from vesselflow.config.registry import all_errors, listed
from vesselflow.config.set_values import lay_over, sets_given
from vesselflow.config.short_forms import STAND_IN, mapping, stores_given
from vesselflow.config.space import Space, check_stores
from vesselflow.config.space_files import profiles_of, read_files
from vesselflow.errors import Faults, UserError, closest


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
        registries: The parts that sections may name, by section; "importer", where given, checks
            the importers that stores name.

    Returns:
        The space; its points are valid.

    Raises:
        UserError: one line with file, key, value, what is allowed and the next step.
    """
    path = Path(path)
    faults, unsure = Faults(), set[str]()
    files = read_files(path, (), faults)
    raw: dict[str, Any] = {}
    for source, data in files:
        # A name is of one file: two spaces that extend one base must not share their results.
        inherited = data if source == path else {k: v for k, v in data.items() if k != "name"}
        raw = merge(raw, {k: v for k, v in inherited.items() if k != "profiles"})
    tree = key_tree(registries, Space)
    del tree["base"]
    profiles = profiles_of(files, tree, faults, unsure)
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
        sets=sets_given(overrides, tree, raw.get("grid"), faults, unsure),
    )
    known = {key: value for key, value in raw.items() if key in tree}
    space, inner = _build(known, layers, path, registries, tree, unsure if faults else None)
    for single in inner.errors:
        faults.add(single.at(layers.where(single.where)))
    faults.errors.sort(key=lambda single: layers.position(single.where))
    faults.tell()
    assert space is not None
    return space.came_from(path, profile)


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
        fixed = dict(mapping(raw.pop("fixed", None), "fixed"))
    with faults.gathered():
        grid = grid_given(raw, layers)
    if faults:
        unsure.update(sections)
    raw = lay_over(raw, grid, fixed, layers.sets, faults)
    base = {}
    for section in sections:
        if section == "stores":  # the stores themselves; how they are seen is taken from them below
            continue
        try:
            if section in raw:
                base[section] = mapping(raw.pop(section), section)
        except UserError as error:
            faults.add(error)
            unsure.add(section)
    base.setdefault("data", {})  # its one required key is then what is missing
    about = faults if "stores" not in unsure else Faults()
    stores = stores_given(raw.pop("stores", None), path, registries, about)
    views = {name: _view_given(entry) for name, entry in stores.items()}
    base["stores"] = {name: view for name, view in views.items() if view}
    if not stores:
        unsure.add("stores")
    elif len(stores) == 1 and base["data"].get("train") is None:
        base["data"] = {**base["data"], "train": next(iter(stores))}
    split_file = base.get("split", {}).get("file")
    if isinstance(split_file, str):
        with faults.gathered():
            file = local(split_file, path.resolve().parent, "split.file")
            base["split"] = {**base["split"], "file": file}
    for name in list(grid):
        try:
            check_axis(name, grid[name], tree, sections)
            check_order(name, grid)
        except UserError as error:
            faults.add(error)
            unsure |= {"grid", *moved_by(set_by(grid.pop(name)) or [name], tree)}
    empty = {key for key, value in raw.items() if value is None and key != "folds"}
    values = {key: value for key, value in raw.items() if key not in empty}
    values |= {"stores": stores or {"none": STAND_IN}, "base": base, "grid": grid, "fixed": fixed}
    values.setdefault("name", path.stem)
    context = {"registries": registries}
    space = _validated(values, faults, unsure, tree, context)
    for section, model in SECTIONS.items():
        # Where data.train is an axis, the fixed part has none.
        stand_in = {"train": ""} if "data.train" in grid else {}
        try:
            given = (stand_in if section == "data" else {}) | base.get(section, {})
            model.model_validate(given, context=context)
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
    space._registries = registries
    with faults.gathered():
        if whole and not faults:
            return _without_idle(space, layers), faults
        if "stores" not in unsure:
            check_stores(base["data"].get("train"), base["data"].get("ood"), stores, faults)
        space._axes(frozenset(unsure)).expand()
    return None, faults


def _view_given(store: Any) -> dict[str, Any]:
    """What a written-out store says of how it is seen, where that is no mistake."""
    try:
        view = StoreView.model_validate(
            {key: store[key] for key in StoreView.model_fields if key in store}
        )
    except (ValidationError, TypeError):
        return {}  # told where the store is looked at
    return view.model_dump(exclude_none=True)


def _validated(
    values: dict[str, Any],
    faults: Faults,
    unsure: set[str],
    tree: Mapping[str, Any],
    context: dict[str, Any],
) -> Space | None:
    """The space; what is wrong is gathered and left out, so that the rest can be looked at.

    What is left then serves to look at the points only, and is no space that anybody gets.
    """
    try:
        return Space.model_validate(values, context=context)
    except ValidationError as error:
        faults.add(all_errors(error, Space))
        places = [entry["loc"] for entry in error.errors(include_url=False)]
    rest = dict(values)
    for top, *inner in (place or ("search",) for place in places):
        if top == "stores":
            rest["stores"] = rest["stores"] | {inner[0]: STAND_IN} if inner else {"none": STAND_IN}
        elif top in ("grid", "fixed") and inner:
            axis = rest[top].get(inner[0])
            rest[top] = {key: entry for key, entry in rest[top].items() if key != inner[0]}
            unsure |= {"grid", *moved_by(set_by(axis) or [str(inner[0])], tree)}
        elif top == "name":
            rest["name"] = "space"
        else:
            rest.pop(str(top), None)
    ranged = any(isinstance(axis, dict) and "low" in axis for axis in rest["grid"].values())
    if ranged and "search" not in rest:
        rest["search"] = {"sampler": "random", "samples": 20}
    try:
        return Space.model_validate(rest, context=context)
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
                never[name] = listed(reachable)
        if space.search.kind.draws and not never:
            continue  # may hold at a draw that is not taken yet
        if any(overlap(name, given) for name in when for given in layers.sets):
            idle.append(key)
            continue
        name = next(iter(never or when))
        faults.add(
            UserError(
                f"this condition never holds: {name} is never {listed(when[name])}",
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
