"""The files of a space: what they extend, and their profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vesselflow.config.paths import expand
from vesselflow.config.registry import shown
from vesselflow.config.short_forms import mapping, short_forms
from vesselflow.config.space import NAME
from vesselflow.config.yaml_files import load_yaml
from vesselflow.errors import Faults, UserError, closest, closest_name


def read_files(
    path: Path, above: tuple[Path, ...], faults: Faults
) -> list[tuple[Path, dict[str, Any]]]:
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
        base = Path(expand(name, f"{path.name}: extends"))
        known = {source for source, _ in files}
        files += [
            entry
            for entry in read_files(path.parent / base, (*above, here), faults)
            if entry[0] not in known
        ]
    data = short_forms(data, path.name, here.parent, faults)
    for name, entry in mapping(data.get("profiles"), f"{path.name}: profiles").items():
        where = f"{path.name}: profiles.{name}"
        data["profiles"][name] = short_forms(mapping(entry, where), where, here.parent, faults)
    return [*files, (path, data)]


def profiles_of(
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
            unsure.update(meant_by(key, tree))

    for source, data in files:
        for key in data:
            if key != "profiles":
                top_key(key, [*tree, "extends", "profiles"], f"{source.name}: {key}")
        for name, entry in (data.get("profiles") or {}).items():
            if not NAME.fullmatch(name):  # it becomes part of a folder's name
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


def meant_by(key: str, tree: Mapping[str, Any]) -> set[str]:
    """The top-level keys that a refused key may have been meant for: their content is not known."""
    section = key.partition(".")[0]
    near = section if section in tree else closest_name(section, tree)
    return {near} if near and near != "grid" else set(tree)
