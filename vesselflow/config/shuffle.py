"""`data.shuffle`: in which order samples come before any of them comes again."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from vesselflow.config.registry import Arguments, shown


class Window(Arguments):
    """Shuffled in windows of an order in which a store is read in sequence.

    Attributes:
        name: "window".
        samples: Of a window.
    """

    name: Literal["window"]
    samples: int = Field(ge=1)


@dataclass(frozen=True)
class _Allowed:
    """What messages and the reference say that a key takes."""

    allowed: str


_ALLOWED = _Allowed("keyed, window(n), or {name: window, samples: n}")


def _written_out(value: Any) -> Any:
    """``window(64)`` and ``{name: keyed}`` as what they stand for; anything else as it is."""
    if isinstance(value, str) and (given := re.fullmatch(r"window\(\s*(\d+)\s*\)", value)):
        return {"name": "window", "samples": int(given[1])}
    if value == {"name": "keyed"}:
        return "keyed"
    if isinstance(value, dict) and value.get("name", "window") != "window":
        # One complaint about the whole, not one that takes it for a window.
        raise ValueError(f"{shown(value)} is not allowed; allowed: {_ALLOWED.allowed}")
    return value


#: "keyed": all samples of the training part at once. `Window`: within windows.
Shuffle = Annotated[
    Literal["keyed"] | Window,
    BeforeValidator(_written_out),
    _ALLOWED,
]
