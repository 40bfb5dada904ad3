"""What differs between the settings that a sweep's folder holds the answer to, and the new ones.

Reads the folder, writes nothing, refuses nothing: runs are kept whatever the settings, only the
tables and the report of a folder are always those of the last start.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vesselflow.config.axes import comparable
from vesselflow.config.experiment import PARTS, SECTIONS
from vesselflow.config.fingerprint import RESULT_NEUTRAL
from vesselflow.config.registry import shown
from vesselflow.config.space import Space
from vesselflow.config.yaml_files import parse_yaml
from vesselflow.errors import UserError
from vesselflow.records.atomic import read_json_or_none
from vesselflow.records.paths import AnyPath
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.folder import PROVENANCE, sweep_folder
from vesselflow.sweeps.stores_made import store_path, used_stores
from vesselflow.tasks import TASKS

#: Keys of a resolved space that change no number of an answer.
NEUTRAL = (
    *("name", "question", "description", "hypotheses", "resources", "estimate", "prices"),
    *(
        key
        for key in RESULT_NEUTRAL
        if key.startswith("train.") and key not in ("train.init_from", "train.stack")
    ),
)
#: Lists that grow in normal use: what is there is kept, what is missing is run.
GROWING = ("seeds", "folds", "data.ood")
#: What null stands for in spaces that were resolved before it could: of masks, the only task.
_NULL = dict.fromkeys(
    ("score.threshold_metric", "objective.metric"), TASKS.task(TASKS.names()[0]).objective
)
#: Differences that are told one by one; the others are counted.
TOLD = 3
_LONGEST = 40


@dataclass(frozen=True)
class Change:
    """One difference.

    Attributes:
        text: What differs, as a person says it.
        grows: Whether everything that was there is there still.
        shared: False for a key that one of the two does not have.
    """

    text: str
    grows: bool = False
    shared: bool = True


def changes_line(space: Space, file: Path, profile: str | None, results: AnyPath) -> str:
    """One line on what differs from the settings that the sweep's folder holds the answer to.

    Args:
        space: The space as it is to be run.
        file: The YAML file that it came from.
        profile: Which profile was laid over it.
        results: The results folder.

    Returns:
        The line; "" where nothing differs, where the folder holds no answer yet, or where it is
        another space's (which `check_owner` refuses).
    """
    folder = sweep_folder(space, profile, results)
    head = read_json_or_none(folder / PROVENANCE)
    if not isinstance(head, dict) or head.get("space_file") != file.name:
        return ""
    if not (folder / "tables" / "points.parquet").is_file():
        return ""
    try:
        old = parse_yaml((folder / "resolved.yaml").read_text(encoding="utf-8"), where="")
        if not isinstance(old, dict):
            raise UserError("not a mapping")
    except (UserError, OSError, ValueError):
        return (
            "the resolved.yaml of this folder cannot be read: whether its tables answer other "
            "settings is not known; they are replaced, its runs are kept"
        )
    found = [*differences(old, space.resolved()), *_contents(space, results, head.get("stores"))]
    if not found:
        return ""
    told = ", ".join(change.text for change in found[:TOLD])
    if len(found) > TOLD:
        told += f" and {len(found) - TOLD} more"
    if all(change.grows for change in found):
        return f"this sweep has grown: {told}; what is done is kept, what is missing is run"
    return (
        f"this folder held the answer to other settings: {told}; its tables and report are "
        "replaced, its runs are kept"
    )


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Change]:
    """What differs between two resolved spaces in what can change an answer, in the new's order.

    Args:
        old: As read from a folder; nothing about it is taken for granted.
        new: As `Space.resolved` gives it.
    """
    found: list[Change] = []
    one, other = _part(old, "grid"), _part(new, "grid")
    held, holds = _fixed(old), _fixed(new)
    for axis in dict.fromkeys((*other, *one, *holds, *held)):
        before, after = one.get(axis, held.get(axis)), other.get(axis, holds.get(axis))
        if axis in one and axis in other:
            found += _listed(f"grid {axis}", before, after, grows=True)
        elif axis not in one and axis not in other:
            found += _compared(axis, before, after)
        elif axis not in held and axis not in one:
            found.append(Change(f"grid {axis} is a new axis"))
        elif axis not in holds and axis not in other:
            found.append(Change(f"grid {axis} is no axis any more"))
        else:
            found.append(Change(f"grid {axis} {_text(before)} -> {_text(after)}"))
    # Where an axis comes or goes, its section is filled in with other keys: that says it already.
    moved = {axis.split(".")[0] for axis in one.keys() ^ other.keys()}
    for name in dict.fromkeys((*new, *old)):
        if name not in ("grid", "fixed", "stores", *NEUTRAL):
            changes = _walk(str(name), old, new, name)
            found += (change for change in changes if change.shared or name not in moved)
    return found + list(_stores(_part(old, "stores"), _part(new, "stores")))


def _walk(key: str, old: Mapping[str, Any], new: Mapping[str, Any], name: str) -> Iterator[Change]:
    if key in NEUTRAL or (name not in old and _is_default(key, new[name], new)):
        return
    if name not in old or name not in new:
        # Of a part that has another name, the name says it all.
        if not _renamed(old, new):
            yield Change(f"{key} is {'gone' if name in old else 'new'}", shared=False)
        return
    if _renamed(old, new) and all(_is_default(key, each[name], each) for each in (old, new)):
        return  # each part's own default
    before, after = (_NULL.get(key) if v is None else v for v in (old[name], new[name]))
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for inner in dict.fromkeys((*after, *before)):
            yield from _walk(f"{key}.{inner}", before, after, inner)
    else:
        yield from _listed(key, before, after, grows=key in GROWING)


def _renamed(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    """Whether both are a part with its arguments, and not the same one."""
    return "name" in old and "name" in new and bool(old["name"] != new["name"])


def _is_default(key: str, value: Any, beside: Mapping[str, Any]) -> bool:
    """Whether a key that an older version did not know changes nothing.

    Args:
        key: With its section.
        value: Its value.
        beside: What it stands in: where that is a part, with the part's name.
    """
    section, _, field = key.partition(".")
    if key in Space.model_fields:
        own = Space.model_fields[key]
        return not own.is_required() and comparable(value) == comparable(own.get_default())
    if section in PARTS or section == "augment":
        part, _, inner = field.rpartition(".")
        return _is_default_of(section, part or beside.get("name"), inner or field, value)
    if section not in SECTIONS:
        return False
    fields = SECTIONS[section].model_fields
    if not field:
        return isinstance(value, Mapping) and all(
            _is_default(f"{section}.{name}", each, value) for name, each in value.items()
        )
    return field in fields and not fields[field].is_required() and value == fields[field].default


def _is_default_of(section: str, part: Any, field: str, value: Any) -> bool:
    """Whether a value is what an argument of a registered part has anyway."""
    registry = REGISTRIES[section]
    fields = registry.part(part).arguments.model_fields if part in registry else {}
    if field not in fields or fields[field].is_required():
        return False
    default = fields[field].get_default(call_default_factory=True)
    return comparable(value) == comparable(list(default) if isinstance(default, tuple) else default)


def _listed(key: str, before: Any, after: Any, *, grows: bool) -> Iterator[Change]:
    """The difference between two lists in numbers, where one holds the other."""
    if grows and isinstance(before, list) and isinstance(after, list):
        one, other = {comparable(v) for v in before}, {comparable(v) for v in after}
        if one < other:
            yield Change(f"{key} has {_values(len(other - one))} more", grows=True)
            return
        if other < one:
            yield Change(f"{key} has {_values(len(one - other))} less")
            return
        if one == other:
            return
    yield from _compared(key, before, after)


def _compared(key: str, before: Any, after: Any) -> Iterator[Change]:
    if comparable(before) != comparable(after):
        yield Change(f"{key} {_text(before)} -> {_text(after)}")


def _values(n: int) -> str:
    return f"{n} value" if n == 1 else f"{n} values"


def _stores(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    """Stores that are drawn otherwise; where a file stands says nothing of what is in it."""
    for name in dict.fromkeys((*new, *old)):
        if name in old and name in new:
            yield from _compared(f"stores.{name}", _drawn(old[name]), _drawn(new[name]))


def _drawn(store: Any) -> Any:
    return store.get("synth") if isinstance(store, Mapping) else store


def _contents(space: Space, results: AnyPath, noted: Any) -> Iterator[Change]:
    """Stores whose content is not the noted one; those that cannot be looked at are left out."""
    from vesselflow.stores.store import Store

    for name in used_stores(space) if isinstance(noted, Mapping) else ():
        entry, path = noted.get(name), store_path(space, name, results)
        if space.stores[name].synth is None and isinstance(entry, Mapping) and path.is_file():
            try:
                with Store.open(path) as store:
                    digest = store.digest
            except UserError:
                continue
            if digest != entry.get("digest"):
                yield Change(f"the store {name} has another content")


def _part(space: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    part = space.get(name)
    return part if isinstance(part, Mapping) else {}


def _fixed(space: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: entry.get("value") if isinstance(entry, Mapping) else entry
        for key, entry in _part(space, "fixed").items()
    }


def _text(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
