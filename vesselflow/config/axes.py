"""The axes of a space as models: lists of values, joint settings, ranges."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from vesselflow.config.experiment import Section
from vesselflow.config.registry import shown


class Setting(Section):
    """One joint setting of several keys."""

    label: str = Field(
        "",
        description="Name of the setting in tables: letters, digits and _ . + -",
        json_schema_extra={"default": "made of what is set"},
    )
    assign: dict[str, Any] = Field(alias="set", description="Dotted key -> value")

    @model_validator(mode="before")
    @classmethod
    def _labelled(cls, data: Any) -> Any:
        if isinstance(data, Mapping) and isinstance(data.get("set"), Mapping):
            return {**data, "label": label_of(data)}
        return data

    @field_validator("label")
    @classmethod
    def _safe(cls, value: str) -> str:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", value):
            raise ValueError("letters, digits and _ . + -, a letter or digit first")
        return value


def label_of(setting: Mapping[str, Any]) -> Any:
    """A setting's own label, or one made of what it sets: "epochs-2+name-unet"."""
    if setting.get("label") is not None:
        return setting["label"]
    values = setting["set"]
    last = [key.rpartition(".")[2] for key in values]
    parts = [
        f"{short if last.count(short) == 1 else key}-{text_of(value)}"
        for short, (key, value) in zip(last, values.items(), strict=True)
    ]
    return "+".join(parts) or "none"


When = dict[str, Annotated[tuple[Any, ...], Field(strict=False)]]


def _as_lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: entry if isinstance(entry, list | tuple) else [entry]
            for key, entry in value.items()
        }
    return value


class Axis(Section):
    """One axis: a list of values, joint settings, or (random sampler) a range."""

    values: Annotated[tuple[Any, ...], Field(strict=False)] | None = Field(
        None, description="Values of the key, in this order"
    )
    settings: Annotated[tuple[Setting, ...], Field(strict=False)] | None = Field(
        None, description="Joint settings, each {label, set: {key: value}}; the axis's name is free"
    )
    low: float | None = Field(None, description="Lowest value of a range")
    high: float | None = Field(None, description="Highest value of a range, included")
    log: bool = Field(False, description="Whether a range is drawn evenly in its logarithm")
    step: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Distance between a range's values, from low on; null for any value"
    )
    integer: bool = Field(False, description="Whether a range holds whole numbers only")
    when: When | None = Field(
        None,
        description="Key -> value or values of earlier axes or fixed keys; the axis counts only "
        "where all hold",
    )

    @field_validator("when", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return _as_lists(value)

    @model_validator(mode="after")
    def _one_kind(self) -> Axis:
        ranged = self.low is not None or self.high is not None
        kinds = (self.values is not None) + (self.settings is not None) + ranged
        if kinds != 1:
            raise ValueError(
                "an axis is one of: a list of values, settings, a range with low and high"
            )
        if not ranged:
            if self.log or self.integer or self.step is not None:
                raise ValueError("log, step and integer belong to a range with low and high")
            if not (self.values or self.settings):
                raise ValueError("an axis without values; allowed: one value or more")
            if any(not setting.assign for setting in self.settings or ()):
                raise ValueError("a setting sets nothing; allowed: set: {key: value}")
            labels = [setting.label for setting in self.settings or ()]
            if len(set(labels)) < len(labels):
                raise ValueError("two settings have the same label; allowed: each label once")
            return self
        if self.low is None or self.high is None or self.low > self.high:
            raise ValueError(
                f"low {shown(self.low)} and high {shown(self.high)} are no range; "
                "allowed: both given, low at most high"
            )
        if self.log and (self.low <= 0 or self.step is not None):
            raise ValueError("a log range has low above 0 and no step")
        if self.integer and any(
            value is not None and value != int(value) for value in (self.low, self.high, self.step)
        ):
            raise ValueError("an integer range has a whole low, high and step")
        return self

    @property
    def ranged(self) -> bool:
        """Whether the axis is a range (for the random sampler only)."""
        return self.low is not None

    @property
    def choices(self) -> tuple[Any, ...]:
        """Values, or labels of settings, without repetitions; empty for a range."""
        entries = self.values or tuple(setting.label for setting in self.settings or ())
        first: dict[str, Any] = {}
        for entry in entries:
            first.setdefault(comparable(entry), entry)
        return tuple(first.values())

    @property
    def repeated(self) -> int:
        """How many values repeat an earlier one (0 and 0.0 are the same value)."""
        return len(self.values or ()) - len(self.choices) if self.values else 0

    def draw(self, u: float) -> Any:
        """The value at u in [0, 1): evenly over choices, or over the range.

        Floats are rounded to 6 significant digits: readable, and equal on machines whose
        logarithms differ in the last bit.
        """
        if self.low is None or self.high is None:
            choices = self.choices
            return choices[int(u * len(choices))]
        low, high = self.low, self.high
        step = self.step or (1.0 if self.integer and not self.log else None)
        if step is not None:
            value = low + step * int(u * (math.floor((high - low) / step + 1e-9) + 1))
        elif self.log:
            value = math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
        else:
            value = low + u * (high - low)
        if self.integer:
            return int(min(max(round(value), low), high))
        return min(max(float(f"{value:.6g}"), low), high)


class Fixed(Section):
    """A value that `--set` put over the grid."""

    value: Any = Field(None, description="Value of the key at every point")
    when: When | None = Field(None, description="Where it counts, as for an axis")

    @field_validator("when", mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        return _as_lists(value)


def comparable(value: Any) -> str:
    """Text that is equal for equal YAML values: 1 and 1.0 are, 1 and true are not."""
    if isinstance(value, bool) or value is None:
        return repr(value)
    if isinstance(value, int | float):
        return repr(float(value))
    if isinstance(value, Mapping):
        inner = sorted(f"{key!r}:{comparable(entry)}" for key, entry in value.items())
        return "{" + ",".join(inner) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(comparable(entry) for entry in value) + "]"
    return repr(str(value))


def text_of(value: Any) -> str:
    """A value as it stands in the name of a point."""
    if isinstance(value, Mapping):
        return "-".join(text_of(entry) for entry in value.values()) or "none"
    if isinstance(value, list | tuple):
        return "-".join(text_of(entry) for entry in value) or "none"
    if isinstance(value, float) and value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return safe(shown(value)) if not isinstance(value, str) else safe(value)


def safe(text: str) -> str:
    """A text with only such characters as stand in names of files."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "-", text).strip("-") or "none"
