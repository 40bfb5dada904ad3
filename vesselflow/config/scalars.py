"""Scalars that change over training: pure Python, a pure function of progress in [0, 1]."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError, core_schema

from vesselflow.config.registry import Arguments

Kind = Literal["constant", "linear", "cosine", "step", "exponential", "warmup"]


@dataclass(frozen=True)
class Curve:
    """The shape of one kind of schedule.

    Attributes:
        value: (from, to, share) -> value; share in [0, 1] is the way from `start` to `end`.
        end: Progress at which `to` is reached when the schedule does not say.
        level: One value throughout: `to` may be left out, and has to equal `from`.
        geometric: Values are multiplied: both ends have to be positive.
    """

    value: Callable[[float, float, float], float]
    end: float = 1.0
    level: bool = False
    geometric: bool = False


def _blend(first: float, last: float, share: float) -> float:
    return (1.0 - share) * first + share * last


def _cosine(first: float, last: float, share: float) -> float:
    return _blend(first, last, 0.5 * (1.0 - math.cos(math.pi * share)))


def _step(first: float, last: float, share: float) -> float:
    return last if share >= 0.5 else first


def _exponential(first: float, last: float, share: float) -> float:
    return first * (last / first) ** share


#: The kinds. `step` jumps halfway, so that `linear`, `cosine` and `step` of the same ends have the
#: same mean over training, and an ablation over them compares shapes rather than amounts.
CURVES: dict[Kind, Curve] = {
    "constant": Curve(_blend, level=True),
    "linear": Curve(_blend),
    "cosine": Curve(_cosine),
    "step": Curve(_step),
    "exponential": Curve(_exponential, geometric=True),
    "warmup": Curve(_blend, end=0.1),
}


class ScalarSchedule(Arguments):
    """A scalar over training progress, ``{schedule, from, to, start, end}`` in YAML.

    With s = (progress - start) / (end - start), held to [0, 1] (so the value is `from` up to
    `start` and `to` from `end` on; with start = end every kind jumps there):

    - ``constant``: `from`; `to` may be left out.
    - ``linear``: from + s * (to - from).
    - ``cosine``: from + (1 - cos(pi * s)) / 2 * (to - from).
    - ``step``: `from` while s < 1/2, then `to`: one jump, halfway between `start` and `end`.
    - ``exponential``: from * (to / from) ** s; both ends above 0.
    - ``warmup``: as ``linear``, but over the first tenth of training unless `end` is given.

    Attributes:
        schedule: The kind.
        from_: Value up to `start`; the key in YAML is ``from``.
        to: Value from `end` on.
        start: Progress in [0, 1] at which the way begins.
        end: Progress in [0, 1] at which it ends; 1, for ``warmup`` 0.1.
    """

    model_config = ConfigDict(title="schedule")  # so the reference of keys calls it

    schedule: Kind
    from_: float = Field(alias="from")
    to: float = Field(json_schema_extra={"default": "required, but for constant"})
    start: float = Field(default=0.0, ge=0.0, le=1.0)
    end: float = Field(ge=0.0, le=1.0, json_schema_extra={"default": "1; 0.1 for warmup"})

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        # Compared rather than looked up: whatever a YAML file puts there need not be hashable.
        curves = (curve for kind, curve in CURVES.items() if kind == data.get("schedule"))
        curve = next(curves, CURVES["linear"])  # of an unknown kind, only the kind is complained of
        filled = {"end": curve.end, **data}
        first = filled.get("from")
        if curve.level and first is not None:
            filled.setdefault("to", first)
        return filled

    @model_validator(mode="after")
    def _check(self) -> ScalarSchedule:
        curve = CURVES[self.schedule]
        if self.start > self.end:
            raise _refusal(self.start, f"start at or before end ({self.end:g})", "start")
        if curve.level and self.to != self.from_:
            raise _refusal(self.to, f"{self.from_:g} (a {self.schedule} keeps `from`)", "to")
        for key, value in (("from", self.from_), ("to", self.to)):
            if curve.geometric and value <= 0.0:
                raise _refusal(value, f"a number above 0 (schedule {self.schedule})", key)
        return self

    @model_serializer(mode="wrap")
    def _dump(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Dumps are validated again (Registry.validate keeps them), so they speak as YAML does,
        # whether or not the caller remembers `by_alias`.
        return {"from" if key == "from_" else key: value for key, value in handler(self).items()}

    def value(self, progress: float) -> float:
        """The scalar at `progress`; never outside the interval that `from` and `to` span."""
        if progress >= self.end:
            return self.to
        if progress <= self.start:
            return self.from_
        share = (progress - self.start) / (self.end - self.start)
        value = CURVES[self.schedule].value(self.from_, self.to, share)
        # Rounding may step over an end by one unit in the last place; a range may not be left.
        return min(max(value, min(self.from_, self.to)), max(self.from_, self.to))


#: A schedule in an error's list of what is allowed.
SCHEDULE_WORDS = f"a schedule ({{schedule: {'|'.join(get_args(Kind))}, from, to, start, end}})"


@dataclass(frozen=True)
class Range:
    """What a scalar may be: numbers in an interval, a schedule within it, or words.

    Annotates ``float | ScalarSchedule`` (and more) in an argument model; both ends of a schedule
    are held to the interval, which its values then cannot leave.

    Attributes:
        low: Least value.
        high: Greatest value; infinity for no bound (infinity itself is refused).
        open_low: `low` itself is refused.
        others: Values that pass as they are, for example ``("balanced",)``.
        open_high: `high` itself is refused.
    """

    low: float
    high: float = math.inf
    open_low: bool = False
    others: tuple[str | None, ...] = ()
    open_high: bool = False

    @property
    def interval(self) -> str:
        """The interval in words: "a number in [0, 1]", "a number above 0"."""
        if math.isinf(self.high):
            return f"a number {'above' if self.open_low else 'of at least'} {self.low:g}"
        opening, closing = "(" if self.open_low else "[", ")" if self.open_high else "]"
        return f"a number in {opening}{self.low:g}, {self.high:g}{closing}"

    @property
    def allowed(self) -> str:
        """All that is taken, in words, for the reference of keys."""
        others = ["null" if other is None else other for other in self.others]
        return ", ".join([self.interval, *others, "or a schedule"])

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and math.isfinite(value)

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """Convert before the union of types is tried, so that errors name key and interval."""
        return core_schema.no_info_before_validator_function(self._convert, handler(source))

    def _convert(self, value: Any) -> float | str | ScalarSchedule | None:
        if isinstance(value, (Mapping, ScalarSchedule)):
            schedule = ScalarSchedule.model_validate(value)
            for key, end in (("from", schedule.from_), ("to", schedule.to)):
                if end not in self:
                    raise _refusal(end, self.interval, key)
            return schedule
        if value is None or isinstance(value, str):
            for other in self.others:
                if value == other:
                    return other
        number = _number(value)
        if number is None or number not in self:
            words = ["null" if other is None else other for other in self.others]
            raise _refusal(value, " or ".join([self.interval, *words, SCHEDULE_WORDS]))
        return number


def _number(value: Any) -> float | None:
    # True and false are no numbers, and neither is text: the YAML reader knows every number.
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _refusal(value: Any, expected: str, *path: str) -> ValidationError:
    # Pydantic keeps the path of a ValidationError raised inside a validator and puts the field's
    # own in front, so the user reads "loss.beta.to". A value_error's text is what is allowed
    # (`all_errors`).
    fault = PydanticCustomError("value_error", "{expected}", {"expected": expected})
    details = InitErrorDetails(type=fault, loc=path, input=value)
    return ValidationError.from_exception_data("scalar", [details])


#: A number in [0, 1] or a schedule within it.
Share = Annotated[float | ScalarSchedule, Range(0.0, 1.0)]
#: A number above 0 or a schedule of such.
Positive = Annotated[float | ScalarSchedule, Range(0.0, open_low=True)]


def resolve(value: float | ScalarSchedule, progress: float) -> float:
    """`value` itself, or its value at `progress` where it is a schedule."""
    return value.value(progress) if isinstance(value, ScalarSchedule) else float(value)
