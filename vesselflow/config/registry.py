"""Explicit registries of parts: name, argument model, contract version, lazy target.

A registry imports neither torch nor ray: it knows a part by the text ``module:attribute`` and
imports it only when the part is built. So a bad name or value is refused within a second.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from vesselflow.errors import UserError, closest


class Arguments(BaseModel):
    """Base of all argument models: unknown keys are errors, values are frozen, NaN is refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Part:
    """One registered part.

    Attributes:
        name: What a config calls it.
        target: ``module:attribute``; called with the flat arguments when the part is built.
        arguments: Pydantic model of the flat arguments, the only place of their defaults.
        version: Contract version, hashed into the name of every run that uses the part; raised
            whenever its numbers change.
    """

    name: str
    target: str
    arguments: type[Arguments]
    version: int

    def load(self) -> Any:
        """Import and return the target."""
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


class Registry:
    """The parts of one kind ("loss", "model", ...), by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: dict[str, Part] = {}

    def add(
        self, name: str, *, target: str, arguments: type[Arguments] = Arguments, version: int = 1
    ) -> None:
        """Register a part; a name that is taken is a ValueError."""
        if name in self._parts:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        self._parts[name] = Part(name, target, arguments, version)

    def names(self) -> list[str]:
        """All names, in order of registration."""
        return list(self._parts)

    def __contains__(self, name: object) -> bool:
        return name in self._parts

    def __iter__(self) -> Iterator[Part]:
        return iter(self._parts.values())

    def part(self, name: object, *, where: str = "") -> Part:
        """The part called `name`; UserError with the closest match otherwise."""
        if not isinstance(name, str) or name not in self._parts:
            raise UserError(
                f"unknown {self.kind} {name!r}",
                where=where,
                allowed=", ".join(self._parts),
                hint=closest(name, self._parts),
            )
        return self._parts[name]

    def arguments(self, name: object, values: Mapping[str, Any], *, where: str = "") -> Arguments:
        """Validate flat argument values; UserError names the key, the value and what is allowed."""
        part = self.part(name, where=f"{where}.name" if where else "")
        try:
            return part.arguments.model_validate(dict(values))
        except ValidationError as error:
            raise first_error(error, part.arguments, where=where) from None

    def validate(self, spec: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
        """``{name, **arguments}`` with all defaults filled in, as plain data."""
        rest = {key: value for key, value in spec.items() if key != "name"}
        model = self.arguments(spec.get("name"), rest, where=where)
        return {"name": spec["name"], **model.model_dump(mode="json")}

    def canonical(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """What is hashed of a part: name, version and the arguments that differ from the defaults.

        Leaving defaults out lets a new option with a default that keeps the old behaviour arrive
        without renaming old runs; a default given explicitly hashes like one left out.
        """
        rest = {key: value for key, value in spec.items() if key != "name"}
        part = self.part(spec.get("name"))
        model = part.arguments.model_validate(rest)
        changed = model.model_dump(mode="json", exclude_defaults=True)
        return {"name": part.name, "version": part.version, **changed}

    def build(self, spec: Mapping[str, Any], **runtime: Any) -> Any:
        """Import the part and call it with its flat arguments and the runtime's (sizes, seeds)."""
        rest = {key: value for key, value in spec.items() if key != "name"}
        model = self.arguments(spec.get("name"), rest)
        values = {name: getattr(model, name) for name in type(model).model_fields}
        return self.part(spec.get("name")).load()(**values, **runtime)


def first_error(
    error: ValidationError, model: type[BaseModel], *, where: str = "", file: str = ""
) -> UserError:
    """Turn pydantic's first complaint into our one line (key, value, what is allowed, next step)."""
    first = error.errors(include_url=False)[0]
    path = [str(step) for step in first["loc"]]
    key = ".".join([part for part in (where, *path) if part])
    place = f"{file}: {key}" if file and key else (file or key)
    if first["type"] == "extra_forbidden":
        names = list(model.model_fields)
        nested = _nested(model, path[:-1])
        names = nested or names
        return UserError(
            f"unknown key '{path[-1]}'",
            where=place,
            allowed=", ".join(names) or "no keys here",
            hint=closest(path[-1], names),
        )
    if first["type"] == "missing":
        return UserError("this key is required", where=place)
    message = first["msg"].removeprefix("Value error, ")
    value = repr(first.get("input"))
    value = value if len(value) <= 80 else value[:77] + "..."
    return UserError(f"{value} is not allowed", where=place, allowed=_allowed(first, message))


def _allowed(first: Any, message: str) -> str:
    context = first.get("ctx") or {}
    if "expected" in context:
        return str(context["expected"])
    text = message.removeprefix("Input should be ").removeprefix("a valid ")
    return text[:1].lower() + text[1:]


def _nested(model: type[BaseModel], path: list[str]) -> list[str]:
    current: Any = model
    for step in path:
        field = getattr(current, "model_fields", {}).get(step)
        if field is None:
            return []
        current = field.annotation
        for option in getattr(current, "__args__", ()):
            if isinstance(option, type) and issubclass(option, BaseModel):
                current = option
    return list(getattr(current, "model_fields", {}))
