"""Runs that were made by parts that were mended since: which part, from which version, and why.

Nothing needs to be marked: a mended part has another version, and its runs other names. The old
ones are still there, under names that no space asks for any more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vesselflow.config.experiment import PARTS, SECTIONS, load_experiment
from vesselflow.config.fingerprint import SECTION_CHANGES, experiment_identity
from vesselflow.config.named import named_fields, specs_fields
from vesselflow.config.registry import Registry

#: Sections whose parts stand in an identity under names of their own.
_LISTS = ("augment",)


@dataclass(frozen=True)
class Mended:
    """A part that a run was made by, and that was mended since.

    Attributes:
        part: Section and name, "schedule cyclic"; a section alone, "normalise".
        was: Its version then.
        now: Its version today.
        why: What was mended, in one line.
    """

    part: str
    was: int
    now: int
    why: str

    def line(self) -> str:
        """All of it in one line."""
        return f"{self.part}, version {self.was}, is {self.now} now: {self.why}"


def mended_since(
    config: Mapping[str, Any], identity: Mapping[str, Any], registries: Mapping[str, Registry]
) -> list[Mended]:
    """The parts of a run that were mended since it was made.

    Args:
        config: Its experiment, as its record holds it.
        identity: What its name was made of.
        registries: Today's parts.

    Raises:
        UserError: The experiment is none for this vesselflow: nobody can tell.
    """
    experiment = load_experiment(config, registries=registries, fit=False)
    now = experiment_identity(experiment, registries)
    then = identity.get("experiment")
    return list(_compared(then if isinstance(then, Mapping) else {}, now, registries))


def _compared(
    then: Mapping[str, Any], now: Mapping[str, Any], registries: Mapping[str, Registry]
) -> Iterator[Mended]:
    for section, entry in now.items():
        old = then.get(section)
        old = old if isinstance(old, Mapping) else {}
        if section in _LISTS:
            for name, part in entry.items():
                yield from _part(section, _inside(old, name), part, registries[section])
        elif section in PARTS:
            yield from _part(section, old, entry, registries[section])
        else:
            yield from _mended(section, old, entry, "version", SECTION_CHANGES.get(section, {}))
            for field, named in named_fields(SECTIONS[section]):
                registry, key = named.among(registries), f"{field}_version"
                if registry is not None and key in entry:
                    part = registry.part(entry.get(field) or _default(section, field))
                    where = f"{section}.{field} {part.name}"
                    yield from _mended(where, old, entry, key, part.changes)


def _part(
    section: str, then: Mapping[str, Any], now: Mapping[str, Any], registry: Registry
) -> Iterator[Mended]:
    part = registry.part(now["name"])
    yield from _mended(f"{section} {part.name}", then, now, "version", part.changes)
    for field, held in specs_fields(part.arguments):
        for name, entry in now[field].items():
            before, changes = _inside(_inside(then, field), name), held.home.part(name).changes
            yield from _mended(f"{section}.{field} {name}", before, entry, "version", changes)


def _inside(entry: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    inner = entry.get(key)
    return inner if isinstance(inner, Mapping) else {}


def _mended(
    part: str, then: Mapping[str, Any], now: Mapping[str, Any], key: str, changes: Mapping[int, str]
) -> Iterator[Mended]:
    # The first version of what became a part later says nothing.
    was, today = then.get(key, 1), now[key]
    if isinstance(was, int) and was < today:
        told = [changes[number] for number in range(was + 1, today + 1) if number in changes]
        yield Mended(part, was, today, "; ".join(told) or "its numbers changed")


def _default(section: str, field: str) -> Any:
    return SECTIONS[section].model_fields[field].default
