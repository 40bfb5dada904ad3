"""Which keys a space accepts: for refusing typos with the closest match, and for the docs."""

from __future__ import annotations

import ast
import functools
import importlib.util
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from vesselflow.config.experiment import PARTS, SECTIONS, Experiment, Registries
from vesselflow.config.named import named_fields
from vesselflow.config.registry import Part, allowed_values, models_in, shown
from vesselflow.config.space import FILE_KEYS, Space
from vesselflow.errors import UserError, closest, closest_name


class KeyDoc(NamedTuple):
    """One accepted key: dotted name, what it takes, default as in YAML, what it means."""

    key: str
    type: str
    default: str
    text: str


class Chapter(NamedTuple):
    """One table of the reference.

    Attributes:
        name: "train", "loss.fuzzy", "stores.import": what a user asks for.
        text: What it is, in a line.
        keys: Its keys, by their names inside it.
        prefix: What stands before its keys in the whole file: "train.", "loss[fuzzy].".
    """

    name: str
    text: str
    keys: tuple[KeyDoc, ...]
    prefix: str


#: A node below which any key is left to a later check.
FREE: dict[str, Any] = {}


def key_tree(registries: Registries, top: type[BaseModel] | None = None) -> dict[str, Any]:
    """Accepted keys as nested mappings; an empty mapping accepts anything below it.

    Args:
        registries: Parts by section; a part's section accepts the arguments of all its parts,
            because the part may be an axis (each point checks them against its own part).
        top: Model of the keys beside the experiment's sections; None for the sections alone.
    """
    # Where the top level is asked for, `stores` comes with it.
    own = [name for name in Experiment.model_fields if top is None or name != "stores"]
    tree: dict[str, Any] = dict.fromkeys(own, FREE)
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
    """Every accepted key of a space file with type, default and meaning.

    Args:
        registries: Given, the arguments of every registered part are listed too, under
            ``loss[fuzzy].beta`` and alike.
    """
    return [
        key._replace(key=f"{chapter.prefix}{key.key}")
        for chapter in reference(registries or {})
        for key in chapter.keys
    ]


def reference(registries: Registries) -> list[Chapter]:
    """Everything that a space may hold, in chapters.

    Args:
        registries: The parts by section, the importers under "importer", generators under "synth".
    """
    top = [KeyDoc(*entry) for entry in FILE_KEYS]
    for name in Space.model_fields:
        if name == "base":
            # Stores stand in the file once: how they are seen, beside what they are.
            top += [key for key in _fields(Experiment, registries) if key.key != "stores"]
        else:
            top += _fields(Space, registries, only=name)
    chapters = [Chapter("space", "The top level of a file", tuple(top), "")]
    nested = Space.nested()
    for key in [key for key in nested if key.startswith("stores.")]:
        chapters.append(_chapter(key, nested.pop(key), registries))
    for kind, key, named in (("synth", "synth", "kind"), ("importer", "import", "layout")):
        for part in registries.get(kind, ()):
            text = f"Keys of `{key}` for `{named}: {part.name}`: {_summary_of(part)}"
            keys = tuple(_fields(part.arguments, registries))
            prefix = f"stores.<name>.{key}[{part.name}]."
            chapters.append(Chapter(f"stores.{part.name}", text, keys, prefix))
    for section in Experiment.model_fields:
        if section == "stores":
            continue
        if section in SECTIONS:
            chapters.append(_chapter(section, SECTIONS[section], registries))
        else:
            chapters += _part_chapters(section, registries)
    chapters += [_chapter(key, model, registries) for key, model in nested.items()]
    for name in ("fixed", "search", "objective", "resources", "estimate"):
        (model,) = models_in(Space.model_fields[name])
        key = "fixed.<key>" if name == "fixed" else name
        chapters.append(_chapter(key, model, registries))
    return chapters


def _chapter(key: str, model: type[BaseModel], registries: Registries) -> Chapter:
    name = re.sub(r"\.<\w+>|\[\]", "", key)
    return Chapter(name, _first_line(model.__doc__), tuple(_fields(model, registries)), f"{key}.")


def _part_chapters(section: str, registries: Registries) -> Iterator[Chapter]:
    parts = list(registries.get(section, ()))
    text = Experiment.model_fields[section].description or ""
    names = [part.name for part in parts]
    if section in PARTS:
        what = f"Which {section}; its arguments stand beside it"
        keys = [KeyDoc("name", ", ".join(names) or "text", PARTS[section], what)]
    else:
        given = "its arguments, {}, or null"
        keys = [KeyDoc(part.name, given, "null", _summary_of(part)) for part in parts]
    yield Chapter(section, text, tuple(keys), f"{section}.")
    inner: dict[str, type[BaseModel]] = {}
    for part in parts:
        keys = _fields(part.arguments, registries)
        prefix = f"{section}[{part.name}]."
        yield Chapter(f"{section}.{part.name}", _summary_of(part), tuple(keys), prefix)
        for field in part.arguments.model_fields.values():
            inner |= {_called(model): model for model in models_in(field)}
    for name, model in inner.items():
        text = _first_line(model.__doc__)
        yield Chapter(
            f"{section}.{name}", text, tuple(_fields(model, registries)), f"{section}[{name}]."
        )


def _called(model: type[BaseModel]) -> str:
    """What the reference calls a model inside an argument: its title, or the name of its class."""
    return str(model.model_config.get("title") or model.__name__.lower())


def _fields(model: type[BaseModel], registries: Registries, only: str = "") -> list[KeyDoc]:
    texts, named = _attribute_texts(model), dict(named_fields(model))
    docs = []
    for name, field in model.model_fields.items():
        if only in ("", name):
            text = (field.description or texts.get(name, "")).rstrip(".")
            text = text[:1].upper() + text[1:]
            allowed = allowed_values(field) or "anything"
            parts = named[name].among(registries) if name in named else None
            if parts is not None:
                allowed = ", ".join(parts.names())
            docs.append(KeyDoc(field.alias or name, allowed, _default(field), text))
    return docs


def _default(field: FieldInfo) -> str:
    """A field's default as in YAML, or its own words for one that depends on other keys."""
    extra = field.json_schema_extra
    if isinstance(extra, Mapping) and "default" in extra:
        return str(extra["default"])
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return "{}" if "mapping" in allowed_values(field) else "[]"
    value = field.default
    return shown(list(value) if isinstance(value, tuple) else value).strip("'")


def _attribute_texts(model: type[BaseModel]) -> dict[str, str]:
    """Field -> what the docstring of its class says under ``Attributes:``."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        doc = inspect.cleandoc(vars(kind).get("__doc__") or "")
        block = re.search(r"^Attributes:\n((?:[ ]+.*\n?|\n)*)", doc, re.MULTILINE)
        entries = re.split(r"^    (?=\w+:)", block[1], flags=re.MULTILINE) if block else []
        for entry in filter(str.strip, entries):
            name, _, text = entry.partition(":")
            found[name.strip()] = _plain(text)
    return found


def _summary_of(part: Part) -> str:
    """What a part is, in a line: from its arguments, its target, or the function it stands for."""
    text = _first_line(part.arguments.__doc__)
    if text and not text.startswith(("Arguments of", "Base of")):
        return text
    module, _, name = part.target.partition(":")
    docs = _docstrings(module)
    text = _first_line(docs.get(name))
    stands_for = re.match(r"`(\w+)` with its arguments", text)
    return _first_line(docs.get(stands_for[1])) if stands_for else text


@functools.cache
def _docstrings(module: str) -> dict[str, str]:
    """Name -> docstring of a module's classes and functions, read without importing it."""
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        return {}
    if spec is None or spec.origin is None:
        return {}
    tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    kinds = (ast.ClassDef, ast.FunctionDef)
    return {
        node.name: ast.get_docstring(node) or "" for node in tree.body if isinstance(node, kinds)
    }


def _first_line(doc: str | None) -> str:
    lines = inspect.cleandoc(doc or "").splitlines()
    return _plain(lines[0]).rstrip(".") if lines else ""


def _plain(text: str) -> str:
    """A docstring's text as a user of YAML reads it."""
    return re.sub(r"\bNone\b", "null", " ".join(text.split()).replace("``", "`"))


def _names(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> list[str]:
    return [
        leaf
        for name, inner in tree.items()
        for leaf in [f"{prefix}{name}", *_leaves(inner, f"{prefix}{name}.")]
    ]
