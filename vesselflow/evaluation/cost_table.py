"""What attempts cost, from what they noted: seconds by kind, shares of machines, dollars. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

#: Columns of `cost.parquet` behind those that name the run and the attempt.
TEXTS = ("slot", "host", "machine", "market", "price_from")
NUMBERS = (
    *("held_s", "idle_s", "start_s", "useful_s", "repeated_s", "evaluate_s", "save_s"),
    *("wall_s", "train_s", "steps", "repeated_steps", "steps_per_s"),
    *("share", "price", "dollars", "on_demand_dollars"),
)
COLUMNS: list[tuple[str, pa.DataType]] = [
    ("attempt", pa.int64()),
    *((name, pa.string()) for name in TEXTS),
    *((name, pa.float64()) for name in NUMBERS),
]


@dataclass(frozen=True)
class Quote:
    """What an hour of a machine costs.

    Attributes:
        paid: Dollars, on the market that it was taken from; NaN where nobody knows.
        on_demand: Dollars, if it had been bought so that it stays; NaN where nobody knows.
        source: Who says so: "table of 2025-06", "prices of the space".
    """

    paid: float = math.nan
    on_demand: float = math.nan
    source: str = ""


#: (machine, market) as an attempt noted them -> the price.
Pricing = Callable[[str, str], Quote]


def no_prices(machine: str, market: str) -> Quote:
    """Of no machine a price is known."""
    return Quote()


def attempt_cost(noted: Mapping[str, Any], pricing: Pricing) -> dict[str, Any]:
    """One row of the cost table, without the columns that name the run.

    What was not noted is NaN, and what follows from it. ``held_s`` is all the time that the slot
    was held for the attempt: idle before it, its start, its steps, scoring, saving. Steps below the
    one that the run had reached before are repeated; their seconds are the attempt's own, at its
    own pace. What the attempt would have cost on demand is without its repeated steps, and for a
    resumed attempt without its start: nothing would have interrupted the run.

    Args:
        noted: As `RunRecord.costs` gives it.
        pricing: What machines cost.
    """
    seconds = {name: _number(noted, name) for name in ("wall_s", "train_s")}
    seconds |= {name: _number(noted, name) for name in ("evaluate_s", "save_s", "idle_s")}
    steps, slot_start_s = _number(noted, "steps"), _number(noted, "slot_start_s")
    ahead = _number(noted, "reached") - _number(noted, "from_step")
    repeated = _clipped(ahead, steps)
    repeated_s = seconds["train_s"] * repeated / steps if steps > 0 else repeated
    start_s = _number(noted, "start_s") + slot_start_s
    held_s = seconds["idle_s"] + slot_start_s + seconds["wall_s"]
    quote = pricing(_text(noted, "machine"), _text(noted, "market"))
    hours = _number(noted, "share") / 3600
    again_s = start_s if noted["attempt"] > 1 else 0.0
    return {
        "attempt": noted["attempt"],
        **{name: noted[name] for name in TEXTS if isinstance(noted.get(name), str)},
        **seconds,
        "held_s": held_s,
        "start_s": start_s,
        "useful_s": seconds["train_s"] - repeated_s,
        "repeated_s": repeated_s,
        "steps": steps,
        "repeated_steps": repeated,
        "steps_per_s": _number(noted, "steps_per_s"),
        "share": _number(noted, "share"),
        "price": quote.paid,
        "price_from": quote.source,
        "dollars": held_s * hours * quote.paid,
        "on_demand_dollars": (held_s - repeated_s - again_s) * hours * quote.on_demand,
    }


@dataclass
class CostSummary:
    """What a sweep cost: sums over the attempts of its runs, each once.

    Seconds are those of slots; an hour of half a machine is half a machine hour.

    Attributes:
        runs: That were tried.
        attempts: Of these runs.
        seconds: By kind: useful, repeated, start, idle, evaluate, save, held (all of them).
        repeated_steps: Steps that were done more than once.
        machine_hours: By machine and market ("aws:m5.large:spot", "local").
        dollars: Paid; of the machines whose price is known.
        on_demand_dollars: As `attempt_cost` says, of the machines whose price is known.
        unpriced: Machines whose price nobody knows.
    """

    runs: int = 0
    attempts: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    repeated_steps: int = 0
    machine_hours: dict[str, float] = field(default_factory=dict)
    dollars: float = 0.0
    on_demand_dollars: float = 0.0
    unpriced: tuple[str, ...] = ()

    @property
    def resumed(self) -> int:
        """Attempts beyond the first of their run."""
        return self.attempts - self.runs


#: Kinds of seconds of a summary, in the order in which they are told.
KINDS = ("useful", "repeated", "start", "idle", "evaluate", "save")


def summarise(rows: Iterable[Mapping[str, Any]]) -> CostSummary:
    """Sum up rows of the cost table; points that share a run share its cost.

    Undefined numbers are left out of the sums.
    """
    found = {(row["run_id"], row["attempt"]): row for row in rows}
    total = CostSummary(len({run for run, _ in found}), len(found))
    total.seconds = {
        kind: math.fsum(_known(row, f"{kind}_s") for row in found.values())
        for kind in (*KINDS, "held")
    }
    total.repeated_steps = round(math.fsum(_known(row, "repeated_steps") for row in found.values()))
    unpriced: dict[str, None] = {}
    for row in found.values():
        # Where it was not noted, pandas has no text but NaN.
        machine, market = _text(row, "machine") or "unknown", _text(row, "market") or "own"
        name = machine if market == "own" else f"{machine}:{market}"
        hours = _known(row, "held_s") * _known(row, "share") / 3600
        total.machine_hours[name] = total.machine_hours.get(name, 0.0) + hours
        if math.isnan(_number(row, "price")):
            unpriced[name] = None
        total.dollars += _known(row, "dollars")
        total.on_demand_dollars += _known(row, "on_demand_dollars")
    total.unpriced = tuple(unpriced)
    return total


def _number(values: Mapping[str, Any], name: str) -> float:
    value = values.get(name)
    return float(value) if isinstance(value, int | float) else math.nan


def _known(values: Mapping[str, Any], name: str) -> float:
    number = _number(values, name)
    return number if math.isfinite(number) else 0.0


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name)
    return value if isinstance(value, str) else ""


def _clipped(ahead: float, steps: float) -> float:
    """Steps that were repeated; NaN where it is not known."""
    return math.nan if math.isnan(ahead + steps) else min(max(ahead, 0.0), steps)
