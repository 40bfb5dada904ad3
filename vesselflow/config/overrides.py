"""Layers of a space: what lies over what, and how.

From the lowest to the highest: the files named by `extends` (in their order), the file itself, the
profile, the grid's values at a point, ``--set``. Mappings merge, everything else (lists too) is
replaced.

A part's arguments belong to the part that its layer named. When a layer changes the `name` of
`model` or `loss` (or the `schedule` of a scheduled scalar) to another than the lower layers state,
the other arguments of the lower layers are dropped and those of the same layer kept: over
``loss: {name: combined, beta: 0.3}`` the layer ``loss: {name: bce}`` gives plain bce, and the axis
``loss.name: [combined, fuzzy]`` gives fuzzy its own default beta. Arguments of layers that state no
name are kept.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vesselflow.config.experiment import PARTS
from vesselflow.config.yaml_files import parse_yaml
from vesselflow.errors import Faults, UserError

#: Keys whose change drops the other keys of the mapping that they stand in, inside a part.
_DISCRIMINATORS = ("name", "schedule")

#: What kinds an axis or a store can be; a layer that gives another kind replaces the lower one's.
_AXIS_KINDS = {"values": "values", "settings": "settings", "low": "range", "high": "range"}
_STORE_KINDS = {"path": "path", "import": "path", "synth": "synth"}


def merge(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    """Lay `upper` over `lower` (top level of two space files); neither is changed.

    Null for a section says nothing, except `augment: null`, which clears it; null for an axis
    removes it. Axes and stores merge by name; one of another kind replaces the lower one (an axis
    keeps its `when`).
    """
    result = copy.deepcopy(dict(lower))
    for key, value in upper.items():
        below = result.get(key)
        if key in ("grid", "stores") and isinstance(value, Mapping):
            kinds = _AXIS_KINDS if key == "grid" else _STORE_KINDS
            result[key] = _merge_entries(below if isinstance(below, dict) else {}, value, kinds)
        elif value is None and isinstance(below, dict) and key not in ("augment", "grid"):
            continue
        else:
            result[key] = _merge_values(below, value, part=key in PARTS)
    return result


def _merge_values(lower: Any, upper: Any, *, part: bool) -> Any:
    if not (isinstance(lower, dict) and isinstance(upper, Mapping)):
        return copy.deepcopy(upper)
    if part and any(
        key in lower and key in upper and lower[key] != upper[key] for key in _DISCRIMINATORS
    ):
        return copy.deepcopy(dict(upper))
    result = dict(lower)
    for key, value in upper.items():
        result[key] = _merge_values(lower.get(key), value, part=part)
    return result


def _merge_entries(
    lower: dict[str, Any], upper: Mapping[str, Any], kinds: Mapping[str, str]
) -> dict[str, Any]:
    result = dict(lower)
    for name, value in upper.items():
        below = result.get(name)
        if value is None and name in result:
            del result[name]
        elif isinstance(below, dict) and isinstance(value, Mapping):
            old = {kinds[key] for key in below if key in kinds}
            new = {kinds[key] for key in value if key in kinds}
            kept = {
                key: entry
                for key, entry in below.items()
                if not new or old == new or (key == "when" and kinds is _AXIS_KINDS)
            }
            result[name] = _merge_values(kept, value, part=False)
        else:
            result[name] = copy.deepcopy(value)
    return result


def assign(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with each dotted key set to its value (replaced, not merged), as one layer.

    Args:
        base: Sections; not changed.
        values: Dotted key -> value, applied in their order after the rule of part names.
    """
    result = copy.deepcopy(dict(base))
    for section in PARTS:
        name, below = values.get(f"{section}.name"), result.get(section)
        if name is not None and isinstance(below, dict) and below.get("name", name) != name:
            result[section] = {}
    for key, value in values.items():
        *path, last = key.split(".")
        node = result
        for step in path:
            if not isinstance(node.get(step), dict):
                node[step] = {}
            node = node[step]
        node[last] = copy.deepcopy(value)
    return result


def look_up(data: Any, key: str) -> tuple[bool, Any]:
    """(is it there, its value) of a dotted key in nested mappings."""
    for step in key.split("."):
        if not isinstance(data, Mapping) or step not in data:
            return False, None
        data = data[step]
    return True, data


def parse_set(texts: Sequence[str], faults: Faults) -> dict[str, Any]:
    """``("loss.beta=0.5", ...)`` as dotted key -> value read as YAML; a later one wins.

    No "=", an empty key, and a value that is not YAML are added to `faults` and left out.
    """
    found: dict[str, Any] = {}
    for text in texts:
        with faults.gathered():
            key, equals, value = text.partition("=")
            key = key.strip()
            if not equals or not key or not all(key.split(".")):
                raise UserError(
                    f"'{text}' is not allowed", where="--set", allowed="key.path=value",
                    hint="for instance --set train.epochs=2",
                )  # fmt: skip
            found.pop(key, None)
            found[key] = parse_yaml(value, where=f"--set {key}")
    return found


def overlap(one: str, other: str) -> bool:
    """Whether two dotted keys are equal or one lies inside the other."""
    return f"{one}.".startswith(f"{other}.") or f"{other}.".startswith(f"{one}.")


@dataclass(frozen=True)
class Layers:
    """The layers of a loaded space, so that an error can name the place that a value came from.

    Attributes:
        file: Name of the space's own file.
        files: (name of the file, its data), lowest first; the space's own file is the last.
        profiles: (name of the file, name of the profile, its data), lowest first.
        sets: Dotted key -> value of ``--set``.
    """

    file: str
    files: tuple[tuple[str, Mapping[str, Any]], ...]
    profiles: tuple[tuple[str, str, Mapping[str, Any]], ...] = ()
    sets: Mapping[str, Any] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """Name the highest layer that gives `key` (or the nearest key around it): "file: key"."""
        if key.startswith("--set"):
            return key
        for given in reversed(list(self.sets)):
            if overlap(given, key.removeprefix("grid.")) or overlap(given, key):
                return f"--set {key}" if key.startswith(given) else f"--set {given}"
        steps = key.split(".")
        for length in range(len(steps), 0, -1):
            for file, name, data in reversed(self.profiles):
                if _given(data, steps[:length]):
                    return f"{file}: profiles.{name}.{key}"
            for file, data in reversed(self.files):
                if _given(data, steps[:length]):
                    return f"{file}: {key}"
        return f"{self.file}: {key}" if key else self.file

    def position(self, where: str) -> tuple[int, ...]:
        """Sorts places that `where` gave: the own file from top to bottom, what it extends, --set.

        A place that is not in the data (a key that is missing) comes last in what is around it.
        """
        if where.startswith("--set"):
            key = where.removeprefix("--set").strip()
            given = [overlap(key, name) for name in self.sets] if key else []
            return len(self.files), given.index(True) if True in given else -1
        name, _, key = where.partition(": ")
        for rank, (file, data) in enumerate(reversed(self.files)):
            if file == name:
                return rank, *_position(data, key.split(".") if key else [])
        return (-1,)


def _position(data: Any, steps: Sequence[str]) -> tuple[int, ...]:
    if not steps:
        return ()
    if isinstance(data, list) and steps[0].isdigit():
        index = int(steps[0])
        return index, *_position(data[index] if index < len(data) else None, steps[1:])
    if not isinstance(data, Mapping):
        return ()
    for count in range(1, len(steps) + 1):
        key = ".".join(steps[:count])
        if key in data:
            return list(data).index(key), *_position(data[key], steps[count:])
    return (len(data),)


def _given(data: Mapping[str, Any], steps: Sequence[str]) -> bool:
    """Whether nested data hold a path; names of axes hold dots themselves."""
    if not steps:
        return True
    if not isinstance(data, Mapping):
        return False
    return any(
        ".".join(steps[:count]) in data and _given(data[".".join(steps[:count])], steps[count:])
        for count in range(1, len(steps) + 1)
    )
