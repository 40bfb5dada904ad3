"""Which keys a space accepts: for refusing typos with the closest match, and for the docs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from vesselflow.config.experiment import PARTS, SECTIONS, Experiment, Registries
from vesselflow.config.registry import allowed_values, shown
from vesselflow.errors import UserError, closest, closest_name


class KeyDoc(NamedTuple):
    """One accepted key: dotted name, what it takes, default as in YAML, what it means."""

    key: str
    type: str
    default: str
    text: str


#: A node below which any key is left to a later check.
FREE: dict[str, Any] = {}


def key_tree(registries: Registries, top: type[BaseModel] | None = None) -> dict[str, Any]:
    """Accepted keys as nested mappings; an empty mapping accepts anything below it.

    Args:
        registries: Parts by section; a part's section accepts the arguments of all its parts,
            because the part may be an axis (each point checks them against its own part).
        top: Model of the keys beside the experiment's sections; None for the sections alone.
    """
    tree: dict[str, Any] = dict.fromkeys(Experiment.model_fields, FREE)
    for section, model in SECTIONS.items():
        tree[section] = {name: FREE for name in model.model_fields}
    for section in PARTS:
        names = [name for part in registries[section] for name in _names(part.arguments)]
        tree[section] = {"name": FREE, **dict.fromkeys(names, FREE)}
    tree["augment"] = {
        part.name: dict.fromkeys(_names(part.arguments), FREE) for part in registries["augment"]
    }
    if top is not None:
        for name, field in top.model_fields.items():
            inner = field.annotation
            nested = isinstance(inner, type) and issubclass(inner, BaseModel)
            tree[field.alias or name] = dict.fromkeys(_names(inner), FREE) if nested else FREE  # type: ignore[arg-type]
    return tree


def check_key(key: str, tree: Mapping[str, Any], *, where: str) -> None:
    """UserError with the keys at the first unknown step and the closest one of all."""
    node: Mapping[str, Any] = tree
    done: list[str] = []
    for step in key.split("."):
        if step not in node:
            full = [".".join((*done, name)) for name in node]
            hint = closest(key, _leaves(tree)) or closest(".".join((*done, step)), full)
            raise UserError(f"unknown key '{key}'", where=where, allowed=", ".join(full), hint=hint)
        done.append(step)
        node = node[step]
        if not node:
            return


def nearest_key(key: str, tree: Mapping[str, Any]) -> str:
    """The accepted key that is nearest to `key`: itself, one that is spelt alike, or ""."""
    try:
        check_key(key, tree, where="")
    except UserError:
        return closest_name(key, _leaves(tree))
    return key


def describe_keys(registries: Registries | None = None) -> list[KeyDoc]:
    """Every accepted key of a space file with type, default and meaning, in the file's order.

    Args:
        registries: Given, the arguments of every registered part are listed too, under
            ``loss[fuzzy].beta`` and alike.
    """
    from vesselflow.config.space import FILE_KEYS, Space

    docs: list[KeyDoc] = [KeyDoc(*entry) for entry in FILE_KEYS]
    for name, field in Space.model_fields.items():
        if name == "base":
            for section in Experiment.model_fields:
                docs += _section(section, registries)
            continue
        found = _fields(Space, "", only=name)
        docs += [found[0]._replace(default="stem of the file")] if name == "name" else found
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            docs += _fields(inner, f"{name}.")
    for key, model in Space.nested().items():
        docs += _fields(model, f"{key}.")
    return docs


def _section(section: str, registries: Registries | None) -> list[KeyDoc]:
    if section in SECTIONS:
        return _fields(SECTIONS[section], f"{section}.")
    docs = _fields(Experiment, "", only=section)
    if section in PARTS:
        docs = [
            KeyDoc(section, "a mapping", f"{{name: {PARTS[section]}}}", docs[0].text),
            KeyDoc(f"{section}.name", "text", PARTS[section], f"Which {section}"),
        ]
    for part in (registries or {}).get(section, ()):
        docs += _fields(part.arguments, f"{section}[{part.name}].")
    return docs


def _fields(model: type[BaseModel], prefix: str, only: str = "") -> list[KeyDoc]:
    docs = []
    for name, field in model.model_fields.items():
        if only and name != only:
            continue
        if field.is_required():
            default = "required"
        elif field.default is not PydanticUndefined:
            value = field.default
            default = shown(list(value) if isinstance(value, tuple) else value).strip("'")
        else:
            default = "{}" if "mapping" in allowed_values(field) else "[]"
        text = field.description or ""
        docs.append(KeyDoc(f"{prefix}{field.alias or name}", allowed_values(field), default, text))
    return docs


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    return [
        leaf
        for name, inner in tree.items()
        for leaf in [f"{prefix}{name}", *_leaves(inner, f"{prefix}{name}.")]
    ]
