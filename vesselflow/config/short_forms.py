"""What may be written short in a space, written out, so that layers merge.

A store is a path or ``synth:KIND?key=value``, an axis a list.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from vesselflow.config.experiment import Registries
from vesselflow.config.paths import bound, local
from vesselflow.config.registry import shown
from vesselflow.config.yaml_files import parse_yaml
from vesselflow.errors import Faults, UserError

#: In the place of a store with an error, so that its name is still known.
STAND_IN: dict[str, Any] = {"synth": {}}


def mapping(value: Any, where: str) -> dict[str, Any]:
    """A mapping as it is, null as an empty one; UserError for anything else."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{shown(value)} is not allowed", where=where, allowed="a mapping")
    return value


def short_forms(data: dict[str, Any], where: str, folder: Path, faults: Faults) -> dict[str, Any]:
    """Write out short forms, so that layers merge, and bind relative paths to their file's folder.

    Variables are expanded later, in what is left after merging: a profile that is not taken may
    name variables that are not set.
    """
    result = dict(data)
    if isinstance(result.get("stores"), dict):
        result["stores"] = dict(result["stores"])
        for name, entry in result["stores"].items():
            result["stores"][name] = STAND_IN
            with faults.gathered():
                result["stores"][name] = store_entry(entry, f"{where}: stores.{name}", folder)
    if isinstance(result.get("grid"), dict):
        result["grid"] = {
            key: {"values": axis} if isinstance(axis, list) else axis
            for key, axis in result["grid"].items()
        }
    split = result.get("split")
    if isinstance(split, dict) and isinstance(split.get("file"), str):
        result["split"] = {**split, "file": bound(split["file"], folder)}
    return result


def store_entry(entry: Any, where: str, folder: Path) -> Any:
    """A store written out as a mapping, its paths bound to a folder; anything else as it is."""
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
        return {"path": bound(entry, folder)}
    if not isinstance(entry, dict):
        return entry
    result = dict(entry)
    if isinstance(result.get("path"), str):
        result["path"] = bound(result["path"], folder)
    importer = result.get("import")
    if isinstance(importer, dict) and isinstance(importer.get("source"), str):
        result["import"] = {**importer, "source": bound(importer["source"], folder)}
    return result


def stores_given(given: Any, path: Path, registries: Registries, faults: Faults) -> dict[str, Any]:
    """Name -> store, paths absolute and defaults filled in; a stand-in for each that is wrong."""
    stores: dict[str, Any] = {}
    with faults.gathered():
        for name, entry in mapping(given, "stores").items():
            stores[name] = STAND_IN
            with faults.gathered():
                where = f"stores.{name}"
                stores[name] = filled_store(expanded_store(entry, where, path), registries, where)
        if not stores:
            raise UserError(
                "no store is given", where="stores", allowed="name: FILE.h5, or name: synth:fundus"
            )
    return stores


def filled_store(entry: Any, registries: Registries, where: str) -> Any:
    """A written-out store with the defaults of its generator; what is none is left as it is."""
    synth = entry.get("synth") if isinstance(entry, dict) else None
    if not isinstance(synth, dict) or "synth" not in registries:
        return entry
    kinds, kind = registries["synth"], synth.get("kind", "fundus")
    if kind not in kinds.names():  # left to the model, which names the key
        return entry
    arguments = {key: value for key, value in synth.items() if key != "kind"}
    filled = kinds.validate({"name": kind, **arguments}, where=f"{where}.synth")
    return {**entry, "synth": {"kind": filled.pop("name"), **filled}}


def expanded_store(entry: Any, key: str, path: Path) -> Any:
    """A written-out store with the variables in its paths expanded."""
    if not isinstance(entry, dict):
        raise UserError(
            f"{shown(entry)} is not allowed",
            where=key,
            allowed="FILE.h5, synth:KIND?key=value, or a mapping with path or synth",
        )
    folder = path.resolve().parent
    result = dict(entry)
    if isinstance(result.get("path"), str):
        result["path"] = local(
            result["path"], folder, f"{key}.path", buckets="import" not in result
        )
    importer = result.get("import")
    if isinstance(importer, dict) and isinstance(importer.get("source"), str):
        source = local(importer["source"], folder, f"{key}.import.source")
        result["import"] = {**importer, "source": source}
    return result
