"""Explicit registries of parts: name, argument model, contract version, lazy target.

A registry imports neither torch nor ray: it knows a part by the text ``module:attribute`` and
imports it only when the part is built. So a bad name or value is refused within a second.
"""

from __future__ import annotations

import importlib
import types
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from vesselflow.errors import Faults, UserError, closest, closest_name


class Arguments(BaseModel):
    """Base of all argument models: unknown keys are errors, values are frozen, NaN is refused.

    No text for a number and no number for a truth value; a field that takes a list as a tuple says
    ``Field(strict=False)``, which leaves its entries strict.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)

    def changed(self) -> dict[str, Any]:
        """What is hashed of these values: those that differ from the defaults, as plain data.

        A subclass leaves out what has no effect beside its other values, so that one run is not
        computed under two names.
        """
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


@dataclass(frozen=True)
class Part:
    """One registered part.

    Attributes:
        name: What a config calls it.
        target: ``module:attribute``; called with the flat arguments when the part is built.
        arguments: Pydantic model of the flat arguments, the only place of their defaults.
        version: Contract version, hashed into the name of every run that uses the part; raised
            whenever its numbers change.
        revised: Where mended numbers reach some arguments only: the version that these have, and
            which they are. No other run is renamed.
        beside: Where numbers changed only for runs that have another part with such a version as
            well: the version of both in these. No other run is renamed.
        changes: Version, from 2 on -> what was mended with it, for people.
    """

    name: str
    target: str
    arguments: type[Arguments]
    version: int
    revised: tuple[int, Callable[[Any], bool]] | None = field(default=None, kw_only=True)
    beside: int | None = field(default=None, kw_only=True)
    changes: Mapping[int, str] = field(default_factory=dict, kw_only=True)

    def version_at(self, arguments: Arguments) -> int:
        """The contract version with these arguments."""
        if self.revised is not None and self.revised[1](arguments):
            return self.revised[0]
        return self.version

    def load(self) -> Any:
        """Import and return the target."""
        module, _, attribute = self.target.partition(":")
        return getattr(importlib.import_module(module), attribute)


class Registry:
    """The parts of one kind ("loss", "model", ...), by name."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._parts: MutableMapping[str, Part] = {}

    def add(
        self,
        name: str,
        *,
        target: str,
        arguments: type[Arguments] = Arguments,
        version: int = 1,
        revised: tuple[int, Callable[[Any], bool]] | None = None,
        beside: int | None = None,
        changes: Mapping[int, str] | None = None,
    ) -> None:
        """Register a part (see `Part`); a name that is taken is a ValueError."""
        if name in self._parts:
            raise ValueError(f"{self.kind} {name!r} is registered already")
        self._parts[name] = Part(
            name,
            target,
            arguments,
            version,
            revised=revised,
            beside=beside,
            changes=changes or {},
        )

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
                f"unknown {self.kind} {shown(name)}",
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
            raise all_errors(error, part.arguments, where=where) from None

    def validate(self, spec: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
        """``{name, **arguments}`` with all defaults filled in, as plain data."""
        rest = {key: value for key, value in spec.items() if key != "name"}
        model = self.arguments(spec.get("name"), rest, where=where)
        return {"name": spec["name"], **model.model_dump(mode="json", by_alias=True)}

    def canonical(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """What is hashed of a part: name, version and the arguments that differ from the defaults.

        Leaving defaults out lets a new option with a default that keeps the old behaviour arrive
        without renaming old runs; a default given explicitly hashes like one left out. Arguments
        that name other parts say themselves what they add (`Named.identity`).
        """
        rest = {key: value for key, value in spec.items() if key != "name"}
        part = self.part(spec.get("name"))
        model = part.arguments.model_validate(rest)
        changed = model.changed()
        for name, info in part.arguments.model_fields.items():
            for entry in info.metadata:
                if hasattr(entry, "identity"):
                    changed |= entry.identity(info.alias or name, getattr(model, name))
        return {"name": part.name, "version": part.version_at(model), **changed}

    def build(self, spec: Mapping[str, Any], **runtime: Any) -> Any:
        """Import the part and call it with its flat arguments and the runtime's (sizes, seeds)."""
        rest = {key: value for key, value in spec.items() if key != "name"}
        model = self.arguments(spec.get("name"), rest)
        values = {name: getattr(model, name) for name in type(model).model_fields}
        return self.part(spec.get("name")).load()(**values, **runtime)


def all_errors(error: ValidationError, model: type[BaseModel], *, where: str = "") -> UserError:
    """Turn pydantic's complaints into our lines, one for each thing that is wrong.

    Of the complaints about one value (the branches of a union each have one), a typo beats a bad
    value, which beats a missing key, which beats "not of this type". A required key whose name was
    mistyped is not said to be missing as well.

    Args:
        error: What pydantic raised.
        model: The model that was validated; its annotations say what is allowed.
        where: Key of the model itself, put before the keys inside it.

    Returns:
        The one error, or `UserErrors` with all of them.
    """
    rivals: dict[tuple[str, ...], list[_Complaint]] = {}
    faults = Faults()
    for entry in error.errors(include_url=False):
        if entry["type"] == _CARRIED:
            for single in entry["ctx"]["error"].each():
                faults.add(single.at(".".join(part for part in (where, single.where) if part)))
            continue
        path, hint_of, value = _walk(model, entry["loc"], entry["type"] == "extra_forbidden")
        rivals.setdefault(tuple(value), []).append(_Complaint(entry, path, hint_of))
    told = [min(group, key=_Complaint.rank) for group in rivals.values()]
    meant = {
        (*complaint.path[:-1], closest_name(complaint.path[-1], complaint.names()))
        for complaint in told
        if complaint.type == "extra_forbidden"
    }
    inside = {tuple(complaint.path[:-1]) for complaint in told}
    for complaint in told:
        place = tuple(complaint.path)
        # A list counts as too short without the entries that are wrong themselves.
        if (complaint.type == "missing" and place in meant) or (
            complaint.type == "too_short" and place in inside
        ):
            continue
        faults.add(complaint.told(where))
    return faults.joined()


def carried(error: UserError) -> PydanticCustomError:
    """A UserError for a validator to raise: a plain one would hide what else is wrong.

    Its `where` is the key, counted from the model that `all_errors` is told.
    """
    return PydanticCustomError(_CARRIED, "{error}", {"error": error})


_CARRIED = "user_error"

#: Type of a complaint about a name; what is expected are the names, with commas between.
UNKNOWN_NAME = "unknown_name"


@dataclass(frozen=True)
class _Complaint:
    """One complaint of pydantic: its entry, the key that it is about, what this key takes."""

    entry: Any
    path: list[str]
    hint_of: Any

    @property
    def type(self) -> str:
        return str(self.entry["type"])

    def names(self) -> list[str]:
        return [name for option in _models(self.hint_of) for name in _keys(option)]

    def rank(self) -> tuple[int, int]:
        depth = -len(self.path)
        if self.type == "extra_forbidden":
            return 0, depth
        if self.type == "missing":
            return 2, depth
        return (3 if _mismatch(self.type) and self.type != "literal_error" else 1), depth

    def told(self, where: str) -> UserError:
        first, path, hint_of = self.entry, self.path, self.hint_of
        place = ".".join([part for part in (where, *path) if part])
        if first["type"] == "extra_forbidden":
            names = self.names()
            return UserError(
                f"unknown key '{path[-1]}'",
                where=place,
                allowed=", ".join(names) or "no keys here",
                hint=closest(path[-1], names),
            )
        if first["type"] == "missing":
            return UserError("this key is required", where=place, allowed=allowed_values(hint_of))
        message = first["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
        if first["type"] in ("value_error", "assertion_error"):
            if isinstance(first.get("input"), Mapping | BaseModel):
                # A check of several keys together: its message names them.
                return UserError(message, where=place)
            return UserError(
                f"{shown(first.get('input'))} is not allowed", where=place, allowed=message
            )
        value = first.get("input")
        if first["type"] not in _LIMITS and not _mismatch(first["type"]):
            # A check of the part's own: it says best what it expects.
            expected = str((first.get("ctx") or {}).get("expected", message))
            hint = closest(value, expected.split(", ")) if first["type"] == UNKNOWN_NAME else ""
            return UserError(
                f"{shown(value)} is not allowed", where=place, allowed=expected, hint=hint
            )
        choices = _choices(hint_of)
        return UserError(
            f"{shown(value)} is not allowed",
            where=place,
            allowed=allowed_values(hint_of) or message,
            hint=closest(value, choices) if isinstance(value, str) else "",
        )


def shown(value: Any) -> str:
    """A value as one writes it in YAML, cut to 80 characters."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def listed(values: Sequence[Any]) -> str:
    """Values as one writes them in YAML, with commas between; texts without quotes."""
    return ", ".join(value if isinstance(value, str) else shown(value) for value in values)


def allowed_values(annotation: Any) -> str:
    """What a field takes, in words: "0 to 1", "none, bf16, fp16", "a whole number, 1 or more".

    Args:
        annotation: A FieldInfo or a type annotation, ``Annotated`` and unions included.

    Returns:
        The words; "" for a type that needs none (Any).
    """
    words: list[str] = []
    for kind, metadata in _options(annotation):
        own = next((entry.allowed for entry in metadata if hasattr(entry, "allowed")), None)
        if own is not None:  # an annotation that says best what it takes
            return str(own)
        text = _words(kind, metadata)
        if text and text not in words:
            words.append(text)
    if "null" in words:  # reads better at the end
        words.remove("null")
        return f"{' or '.join(words)}, or null" if words else "null"
    return " or ".join(words)


def _words(kind: Any, metadata: Sequence[Any]) -> str:
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is type(None):
        return "null"
    if origin is Literal:
        return ", ".join(str(choice) for choice in arguments)
    if kind is bool:
        return "true or false"
    if kind is int:
        limits = _limits(metadata)
        return f"a whole number, {limits}" if limits else "a whole number"
    if kind is float:
        return _limits(metadata) or "a number"
    if kind is str:
        return "text"
    if origin in (list, tuple, set, frozenset):
        inner = allowed_values(arguments[0]) if arguments else ""
        fixed = origin is tuple and Ellipsis not in arguments
        words = f"a list of {len(arguments)}" if fixed else "a list"
        return f"{words} ({inner})" if inner else words
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        more = ["..."] if kind.model_config.get("extra") == "allow" else []
        return f"a mapping ({', '.join(_keys(kind) + more)})"
    if kind is dict or origin is dict or (origin and issubclass(origin, Mapping)):
        return "a mapping"
    return ""


def _limits(metadata: Sequence[Any]) -> str:
    found: dict[str, Any] = {}
    for entry in metadata:
        for name in ("gt", "ge", "lt", "le"):
            if getattr(entry, name, None) is not None:
                found[name] = f"{getattr(entry, name):g}"
    low = found.get("ge", found.get("gt"))
    high = found.get("le", found.get("lt"))
    if low is None and high is None:
        return ""
    if high is None:
        return f"{low} or more" if "ge" in found else f"above {low}"
    if low is None:
        return f"{high} or less" if "le" in found else f"below {high}"
    text = f"{low} to {high}"
    if "gt" in found and "lt" in found:
        return f"{text} (both excluded)"
    if "gt" in found:
        return f"{text} ({low} excluded)"
    return f"{text} ({high} excluded)" if "lt" in found else text


def _options(annotation: Any) -> list[tuple[Any, list[Any]]]:
    """The branches of an annotation as (type, metadata)."""
    if isinstance(annotation, FieldInfo):
        outer = list(annotation.metadata)
        return [(kind, [*meta, *outer]) for kind, meta in _options(annotation.annotation)]
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        # A Field(...) inside Annotated of a union keeps its limits in its own metadata.
        flat = [m for x in metadata for m in (x.metadata if isinstance(x, FieldInfo) else [x])]
        return [(kind, [*meta, *flat]) for kind, meta in _options(inner)]
    if origin in (Union, types.UnionType):
        return [option for branch in get_args(annotation) for option in _options(branch)]
    return [(annotation, [])]


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models among the branches of a FieldInfo or a type annotation, mappings' values too."""
    found = []
    for kind, _ in _options(annotation):
        if get_origin(kind) is dict:
            found += models_in(get_args(kind)[1])
        elif isinstance(kind, type) and issubclass(kind, BaseModel):
            found.append(kind)
    return found


def _models(annotation: Any) -> list[type[BaseModel]]:
    return [
        kind
        for kind, _ in _options(annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    ]


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _choices(annotation: Any) -> list[str]:
    return [
        str(choice)
        for kind, _ in _options(annotation)
        if get_origin(kind) is Literal
        for choice in get_args(kind)
    ]


def _walk(
    model: type[BaseModel], loc: Sequence[Any], extra: bool
) -> tuple[list[str], Any, list[str]]:
    """The key that `loc` means, its type, and the outermost value that complaints are rivals about.

    Pydantic's names for the branches of a union are no part of the key; a value behind one of them
    is complained of by each branch.
    """
    path: list[str] = []
    value: list[str] | None = None
    current: Any = model
    for position, step in enumerate(loc):
        fields = {
            name: field
            for option in _models(current)
            for key, field in option.model_fields.items()
            for name in {key, field.alias or key}
        }
        inner = [
            get_args(kind)[0]
            for kind, _ in _options(current)
            if get_origin(kind) in (list, tuple, set, frozenset) and get_args(kind)
        ]
        if step in fields:
            path.append(str(step))
            current = fields[step]
        elif isinstance(step, int):
            path.append(str(step))
            current = inner[0] if inner else Any
        elif extra and position == len(loc) - 1:
            path.append(str(step))
        else:
            named = [option for option in _models(current) if option.__name__ == step]
            mappings = [
                get_args(kind)[1]
                for kind, _ in _options(current)
                if get_origin(kind) is dict and len(get_args(kind)) == 2
            ]
            if mappings and not named:
                path.append(str(step))
                current = mappings[0]
                continue
            if value is None:
                value = list(path)
            if named:
                current = named[0]
    return path, current, path if value is None else value


#: Pydantic's complaints about a bound, which `allowed_values` puts into words.
_LIMITS = (
    "greater_than",
    "greater_than_equal",
    "less_than",
    "less_than_equal",
    "finite_number",
    "too_short",
)


def _mismatch(kind: str) -> bool:
    """Whether pydantic complains that a value is not of a type at all."""
    return kind.endswith(("_type", "_parsing", "_from_float")) or kind == "literal_error"
