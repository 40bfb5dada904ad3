"""One walker for the schemas of others: Ray's, EC2's and Google Compute Engine's.

Each comes as JSON Schema, or is put into its words (`schema_sources`). Of these are understood:
`type`, `properties`, `patternProperties`, `additionalProperties`, `required`, `items`, `enum`,
`minimum`, `maximum`, `pattern`, `minLength`, `maxLength`, `$ref`. What a schema says beyond them is
not looked at, so a value that passes here may still be refused; what fails here fails there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vesselflow.clusters.document import Keys
from vesselflow.errors import closest

#: Values and keys that are listed at most.
SHOWN = 12

_KINDS: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "number": (int, float),
    "null": (type(None),),
    "any": (object,),
}
_SAID = {
    dict: "a mapping",
    list: "a list",
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    type(None): "empty",
}


@dataclass(frozen=True)
class Fault:
    """Where a value does not fit its schema.

    Attributes:
        kind: "key" (unknown), "missing", "type" or "value".
        keys: The place.
        what: What is wrong, with the value.
        allowed: What would fit.
        hint: The nearest of what would fit.
    """

    kind: str
    keys: Keys
    what: str
    allowed: str = ""
    hint: str = ""


def faults(
    value: Any,
    schema: Mapping[str, Any],
    resolve: Callable[[str], Mapping[str, Any]],
    keys: Keys = (),
) -> Iterator[Fault]:
    """Everything in a value that its schema refuses.

    Args:
        value: Plain data.
        schema: What it is to fit.
        resolve: Finds what a `$ref` names.
        keys: The place of the value.
    """
    if "$ref" in schema:
        schema = {
            **resolve(str(schema["$ref"])),
            **{k: v for k, v in schema.items() if k != "$ref"},
        }
    kinds = _kinds(schema)
    if not any(_is(value, kind) for kind in kinds):
        allowed = " or ".join(_name(kind) for kind in kinds)
        yield Fault("type", keys, f"{said(value)} is of the wrong kind", allowed)
        return
    yield from _single(value, schema, keys)
    if isinstance(value, dict):
        yield from _mapping(value, schema, resolve, keys)
    elif isinstance(value, list) and "items" in schema:
        for index, entry in enumerate(value):
            yield from faults(entry, schema["items"], resolve, (*keys, index))


def said(value: Any) -> str:
    """A value as a message names it: "'spto'", "3", "a list"."""
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= 60 else f"'{value[:57]}...'"
    if isinstance(value, dict | list):
        return _SAID[type(value)]
    return (
        "nothing"
        if value is None
        else str(value).lower()
        if isinstance(value, bool)
        else str(value)
    )


def listed(names: list[str]) -> str:
    """Names with commas between, the first `SHOWN` of many."""
    more = len(names) - SHOWN
    return ", ".join(names) if more <= 0 else f"{', '.join(names[:SHOWN])} and {more} more"


def _mapping(
    value: dict[str, Any],
    schema: Mapping[str, Any],
    resolve: Callable[[str], Mapping[str, Any]],
    keys: Keys,
) -> Iterator[Fault]:
    known: Mapping[str, Any] = schema.get("properties", {})
    patterns: Mapping[str, Any] = schema.get("patternProperties", {})
    others = schema.get("additionalProperties", True)
    for name in schema.get("required", ()):
        if name not in value:
            yield Fault("missing", keys, f"'{name}' is missing", hint=f"write '{name}: ...' there")
    for name, entry in value.items():
        place = (*keys, str(name))
        if name in known:
            yield from faults(entry, known[name], resolve, place)
            continue
        fits = [part for pattern, part in patterns.items() if re.search(pattern, str(name))]
        if fits:
            yield from faults(entry, fits[0], resolve, place)
        elif isinstance(others, Mapping):
            yield from faults(entry, others, resolve, place)
        elif others is False:
            near = closest(name, known)
            yield Fault("key", place, f"unknown key '{name}'", listed(sorted(known)), near)


def _single(value: Any, schema: Mapping[str, Any], keys: Keys) -> Iterator[Fault]:
    choices = schema.get("enum")
    if choices and value not in choices:
        names = [str(choice) for choice in choices]
        near = closest(value, names)
        # Of hundreds only the near ones help.
        shown = names if len(names) <= SHOWN or not near else []
        yield Fault("value", keys, f"{said(value)} is not known", listed(shown), near)
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = schema.get("minimum"), schema.get("maximum")
        try:
            if low is not None and value < float(low):
                yield Fault("value", keys, f"{value} is too small", f"{low} or more")
            if high is not None and value > float(high):
                yield Fault("value", keys, f"{value} is too large", f"{high} or less")
        except ValueError:  # A limit that is no number says nothing.
            pass
    if isinstance(value, str) and "pattern" in schema and not choices:
        try:
            fits = re.search(f"^(?:{schema['pattern']})$", value)
        except re.error:  # Written for another dialect.
            fits = re.search("", value)
        if not fits:
            yield Fault(
                "value",
                keys,
                f"{said(value)} has not the form that is asked for",
                f"what matches {schema['pattern']}",
            )


def _kinds(schema: Mapping[str, Any]) -> list[str]:
    kind = schema.get("type", "any")
    kinds = [str(one) for one in kind] if isinstance(kind, list) else [str(kind)]
    return [*kinds, "null"] if schema.get("nullable") else kinds


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool) and kind not in ("boolean", "any"):
        return False
    return isinstance(value, _KINDS.get(kind, (object,)))


def _name(kind: str) -> str:
    return {"integer": "a whole number", "null": "nothing"}.get(
        kind, _SAID[_KINDS[kind][0]] if kind in _KINDS and kind != "any" else "anything"
    )
