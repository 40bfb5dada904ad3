"""The axes of a space as they were given: what is refused before their values are looked at."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from vesselflow.config.experiment import PARTS
from vesselflow.config.keys import check_key, nearest_key
from vesselflow.config.overrides import Layers
from vesselflow.config.registry import shown
from vesselflow.config.short_forms import mapping
from vesselflow.errors import UserError


def grid_given(raw: dict[str, Any], layers: Layers) -> dict[str, Any]:
    """The axes as given; taken out of `raw`."""
    there, given = "grid" in raw, raw.pop("grid", None)
    if there and not given and not (isinstance(given, dict) and layers.profiles):
        raise UserError(
            "the grid is empty",
            where="grid",
            allowed="one axis or more, such as loss.beta: [0, 0.5, 1]",
            hint="leave the key out for a single point",
        )
    return dict(mapping(given, "grid"))


def check_axis(name: str, axis: Any, tree: Mapping[str, Any], sections: tuple[str, ...]) -> None:
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
        for key in set_by(axis):
            check_key(key, inner, where=f"grid.{name}")
    else:
        check_key(name, inner, where="grid")
    when = axis.get("when")
    for key in when if isinstance(when, dict) else {}:
        if key not in inner:
            free = key.partition(".")[0] not in inner and "." not in key
            if not free:
                check_key(key, inner, where=f"grid.{name}.when")


def check_order(name: str, grid: Mapping[str, Any]) -> None:
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


def set_by(axis: Any) -> list[str]:
    """Keys that an axis of joint settings sets; the axis may be malformed still."""
    entries = axis.get("settings") if isinstance(axis, dict) else None
    return [
        key
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict) and isinstance(entry.get("set"), dict)
        for key in entry["set"]
    ]


def moved_by(keys: Sequence[str], tree: Mapping[str, Any]) -> set[str]:
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
