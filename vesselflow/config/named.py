"""Fields of a section, or of a part's arguments, that name a part without arguments of its own.

``method: Annotated[str, Named("normalisation")]`` is held against the registry that the validation
is given, so that a part is added without touching its section. The arguments of a part are
validated without one: ``norm: Annotated[str, Named("norm", NORMS)]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from vesselflow.config.registry import UNKNOWN_NAME, Registry


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
