"""How numbers and names are written: the same words in terminal, Markdown and figures."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vesselflow.metrics import ALL_METRICS
from vesselflow.metrics.registry import OF_CLASS, base_of

#: What stands where a number is undefined or missing, or where an axis does not apply.
MISSING = "—"


class _Null(str):
    """The type of `NULL`: text, so that figures take it for a category and JSON can write it."""

    __slots__ = ()

    def __repr__(self) -> str:
        # Not that of the text 'null', which keys that are made of reprs must tell apart.
        return "null"

    def __reduce__(self) -> str:
        return "NULL"


#: The value null of an axis ("train.ema: null"). None says that the axis does not apply.
NULL = _Null("null")


def duration(seconds: float | None) -> str:
    """Seconds in at most two units: "8 s", "3 min 12 s", "2 h 05 min"; None or NaN: the dash."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    total = max(0, round(seconds))
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    if total < 86400:
        return f"{total // 3600} h {total % 3600 // 60:02d} min"
    return f"{total // 86400} d {total % 86400 // 3600:02d} h"


def number(value: float | None, digits: int = 3) -> str:
    """A score with a fixed number of digits; the dash when undefined or missing."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if float(text) == 0 else text


def spread(mean: float | None, std: float | None, n: int, digits: int = 3) -> str:
    """Mean and standard deviation; a single run says "n = 1" and never "± 0".

    >>> spread(0.8123, 0.0042, 4)
    '0.812 ± 0.004'
    >>> spread(0.8123, float("nan"), 1)
    '0.812 (n = 1)'
    """
    if mean is None or not math.isfinite(mean):
        return MISSING
    if std is None or not math.isfinite(std) or n < 2:
        return f"{number(mean, digits)} (n = {n})"
    return f"{number(mean, digits)} ± {number(std, digits)}"


def metric_label(name: str) -> str:
    """A metric as it is printed; the name of one that is not registered here."""
    base, _, kind = name.partition(OF_CLASS)
    label = ALL_METRICS.metric(base).label if base in ALL_METRICS else base
    return f"{label} of {kind}" if kind else label


def metric_digits(name: str) -> int:
    """Decimals of a metric; three of one that is not registered here."""
    base = base_of(name)
    return ALL_METRICS.metric(base).digits if base in ALL_METRICS else 3


def score_text(metric: str, value: float) -> str:
    """A score with its metric: "IoU 0.812"."""
    return f"{metric_label(metric)} {number(value, metric_digits(metric))}"


def count(n: int, one: str, many: str = "") -> str:
    """A number with its noun: "1 run", "4 runs"."""
    return f"{n} {one if n == 1 else many or one + 's'}"


def printable(text: object) -> str:
    """One line without control characters: what came from outside cannot steer a terminal."""
    line = " ".join(str(text).split())
    return "".join(char if char.isprintable() else "�" for char in line)


def decode(text: object) -> Any:
    """The value of an axis out of its JSON text; None where the axis does not apply.

    The value null is `NULL`.
    """
    if text is None or (isinstance(text, float) and math.isnan(text)):
        return None
    if not isinstance(text, str):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return NULL if value is None else value


def plain(value: Any) -> Any:
    """The value of an axis as plain data: None for `NULL`, everything else as it is."""
    return None if value is NULL else value


def value_text(value: Any) -> str:
    """An axis value as a person writes it; a schedule as its name and its two ends.

    None, where the axis does not apply, is the dash; `NULL`, and None within a value, is "null".

    >>> value_text({"schedule": "linear", "from": 0.0, "to": 1.0})
    'linear 0→1'
    """
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        if "schedule" in value and {"from", "to"} <= set(value):
            return f"{value['schedule']} {_inner(value['from'])}→{_inner(value['to'])}"
        if "name" in value:
            rest = {key: item for key, item in value.items() if key != "name"}
            return f"{value['name']} {_inner(rest)}" if rest else str(value["name"])
        return " ".join(f"{key}={_inner(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inner(item) for item in value) + "]"
    return printable(value)


def _inner(value: Any) -> str:
    return NULL if value is None else value_text(value)


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The shortest clear name of each config key: "loss.beta" -> "beta", "loss.name" -> "loss".

    Where two keys would get the same short name, both keep the whole key.
    """
    short: dict[str, str] = {}
    for key in keys:
        parts = key.split(".")
        short[key] = parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]
    taken = list(short.values())
    return {key: name if taken.count(name) == 1 else key for key, name in short.items()}


def point_text(values: Mapping[str, Any], names: Mapping[str, str], *, between: str = ", ") -> str:
    """A point by its axes: "loss=combined, beta=0.5, ema=null"; what does not apply is left out."""
    return between.join(
        f"{names[key]}={value_text(value)}" for key, value in values.items() if value is not None
    )


def listing(words: Iterable[str]) -> str:
    """Words as a list in a sentence: "a", "a and b", "a, b and c"."""
    items = list(words)
    if len(items) < 2:
        return "".join(items)
    return f"{', '.join(items[:-1])} and {items[-1]}"
