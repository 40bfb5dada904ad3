"""What ``--set`` lays over a space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vesselflow.config.axes import label_of
from vesselflow.config.axes_given import moved_by, set_by
from vesselflow.config.experiment import PARTS
from vesselflow.config.keys import check_key
from vesselflow.config.overrides import assign, merge, overlap, parse_set
from vesselflow.config.registry import listed, shown
from vesselflow.config.short_forms import mapping, short_forms, store_entry
from vesselflow.errors import Faults, UserError, closest


def sets_given(
    overrides: Sequence[str], tree: dict[str, Any], grid: Any, faults: Faults, unsure: set[str]
) -> dict[str, Any]:
    """Dotted key -> value of ``key=value`` texts; an unknown key is a fault, and left out."""
    sets = parse_set(overrides, faults)
    joint = [key for key in (grid if isinstance(grid, dict) else {}) if set_by(grid[key])]
    for key in list(sets):
        try:
            check_key(key, tree | {name: {} for name in joint}, where="--set")
        except UserError as error:
            faults.add(error)
            del sets[key]
    refused = {text.partition("=")[0].strip() for text in overrides} - set(sets) - set(joint)
    unsure.update(moved_by(sorted(refused), tree))
    return sets


def lay_over(
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
                axes = mapping(value, "--set grid") if key == "grid" else {key[5:]: value}
                kept = {} if key == "grid" else dict(grid)
                new = short_forms({"grid": axes}, "--set", Path.cwd(), faults)
                grid.clear()
                grid.update(merge({"grid": kept}, new)["grid"])
                continue
            if set_by(grid.get(key)):
                _pick_setting(grid[key], key, value)
                continue
            if (key == "stores" or key.startswith("stores.")) and key not in grid:
                _set_store(raw, key, value)
                continue
            axis = grid.pop(key, None)
            when = axis.get("when") if isinstance(axis, dict) else None
            moving = [name for name, entry in grid.items() if not set_by(entry)]
            moving += [name for entry in grid.values() for name in set_by(entry)]
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
            allowed=listed(labels),
            hint=closest(label, map(str, labels)),
        )
    axis["settings"] = [axis["settings"][labels.index(label)]]


def _set_store(raw: dict[str, Any], key: str, value: Any) -> None:
    folder = Path.cwd()
    upper: Any = value
    for step in reversed(key.split(".")[1:]):
        upper = {step: upper}
    stores = {
        name: store_entry(entry, f"--set {key}", folder)
        for name, entry in mapping(upper, f"--set {key}").items()
    }
    raw["stores"] = merge({"stores": raw.get("stores") or {}}, {"stores": stores})["stores"]
