"""Fields of a section, or of a part's arguments, that name other parts.

``method: Annotated[str, Named("normalisation")]`` is held against the registry that the validation
is given, so that a part is added without touching its section. The arguments of a part are
validated without one: ``norm: Annotated[str, Named("norm", NORMS)]``. Parts with arguments of
their own stand in a mapping: ``terms: Annotated[dict[str, Term], Specs(LOSSES, Term)]``.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    ValidationError,
    ValidationInfo,
    create_model,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from vesselflow.config.registry import (
    UNKNOWN_NAME,
    Arguments,
    Part,
    Registry,
    all_errors,
    allowed_values,
    carried,
    shown,
)
from vesselflow.errors import Faults, UserError, closest


@dataclass(frozen=True)
class Named:
    """Annotates a text, or a text or None: the name of a part.

    Attributes:
        kind: Under which key of ``context={"registries": ...}`` the registry stands. Where it is
            not given, the name is left to whoever looks the part up.
        home: The registry, where it is one that the section can know.
    """

    kind: str
    home: Registry | None = None

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """A text, then a name of the registry."""
        return core_schema.with_info_after_validator_function(self._known, handler(source))

    def among(self, registries: Mapping[str, Registry]) -> Registry | None:
        """The registry of the parts, where it is known."""
        return registries.get(self.kind, self.home)

    def identity(
        self, key: str, value: str | None, registries: Mapping[str, Registry] | None = None
    ) -> dict[str, Any]:
        """What the version of the named part adds to what is hashed, beside its name.

        The first version adds nothing, so that what becomes a registered part renames no run.

        Args:
            key: Of the field.
            value: Name of the part; None for none.
            registries: By kind, as `among` takes them.
        """
        registry = self.among(registries or {})
        if registry is None or value is None or (version := registry.part(value).version) == 1:
            return {}
        return {f"{key}_version": version}

    def _known(self, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        registry = self.among((info.context or {}).get("registries") or {})
        if registry is not None and value not in registry:
            names = ", ".join(registry.names())
            raise PydanticCustomError(UNKNOWN_NAME, "{expected}", {"expected": names})
        return value


def named_fields(model: type[BaseModel]) -> Iterator[tuple[str, Named]]:
    """(field, how it names) of the fields of a model that name a part."""
    for name, field in model.model_fields.items():
        for entry in field.metadata:
            if isinstance(entry, Named):
                yield name, entry


class Spec(Arguments):
    """A part inside the arguments of another: keys of its place, and its own arguments beside."""

    model_config = ConfigDict(extra="allow")

    @property
    def arguments(self) -> dict[str, Any]:
        """The part's own arguments, all filled in, as plain data."""
        return dict(self.model_extra or {})


@dataclass(frozen=True)
class Specs:
    """Annotates ``dict[str, S]``, S a `Spec`: name of a part -> keys of S and its arguments.

    Every part is held against the registry; what is kept has all defaults and is sorted by name,
    so that the order in a file says nothing. A part that itself holds such a mapping may not stand
    in one.

    Attributes:
        home: The registry, looked into when something is validated: it may be the one that the
            field's own part is added to later.
        spec: S.
    """

    home: Registry
    spec: type[Spec]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Each part's arguments first, then the mapping itself."""
        return core_schema.with_info_before_validator_function(self._filled, handler(source))

    @property
    def parts(self) -> dict[str, Part]:
        """The parts that may stand there, by name."""
        return {part.name: part for part in self.home if not list(specs_fields(part.arguments))}

    @property
    def allowed(self) -> str:
        """What is taken, in words, for errors and the reference of keys."""
        beside = ", ".join(self.spec.model_fields)
        return f"a mapping: {self.home.kind} -> its arguments and {beside}"

    def identity(self, key: str, value: Mapping[str, Spec]) -> dict[str, Any]:
        """What is hashed in place of the mapping: versions, and what differs from its default.

        Args:
            key: Of the field.
            value: The validated mapping.
        """
        found = {}
        for name, spec in value.items():
            chosen = self.home.canonical({"name": name, **spec.arguments})
            own = set(type(spec).model_fields)
            beside = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, include=own)
            found[name] = {key: value for key, value in chosen.items() if key != "name"} | beside
        return {key: found}

    def _filled(self, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, Mapping):
            return value
        faults, filled, parts = Faults(), {}, self.parts
        for name in sorted(value, key=str):
            where = f"{info.field_name}.{name}"
            spec = value[name].model_dump() if isinstance(value[name], Spec) else value[name]
            with faults.gathered():
                if name not in parts:
                    raise UserError(
                        f"{shown(name)} is not allowed",
                        where=where,
                        allowed=", ".join(parts),
                        hint="" if name in self.home else closest(name, parts),
                    )
                if not isinstance(spec, Mapping):
                    allowed = allowed_values(_together(self.spec, parts[name].arguments))
                    raise UserError(f"{shown(spec)} is not allowed", where=where, allowed=allowed)
                filled[name] = _validated(self.spec, parts[name].arguments, spec, where)
        if not value:
            faults.add(UserError("this is empty", where=f"{info.field_name}", allowed=self.allowed))
        if faults:
            raise carried(faults.joined())
        return filled


def _validated(
    spec: type[Spec], arguments: type[Arguments], values: Mapping[str, Any], where: str
) -> dict[str, Any]:
    model = _together(spec, arguments)
    try:
        valid = model.model_validate(dict(values))
    except ValidationError as error:
        raise all_errors(error, model, where=where) from None
    return valid.model_dump(mode="json", by_alias=True)


@functools.cache
def _together(spec: type[Spec], arguments: type[Arguments]) -> type[Arguments]:
    """One model of both, so that a typo is held against the keys of both."""
    return create_model(arguments.__name__, __base__=(spec, arguments))


def specs_fields(model: type[BaseModel]) -> Iterator[tuple[str, Specs]]:
    """(field, its annotation) of the fields of a model that hold parts with their arguments."""
    for name, field in model.model_fields.items():
        for entry in field.metadata:
            if isinstance(entry, Specs):
                yield name, entry
