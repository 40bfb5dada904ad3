"""What a sweep cost, in one or two lines and as plain data."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from vesselflow.errors import UserError
from vesselflow.evaluation.cost_table import KINDS, CostSummary, summarise
from vesselflow.reporting.sweep_tables import SweepTables, read_table
from vesselflow.reporting.wording import MISSING, count, duration, listing

_WORDS = {
    "useful": "training",
    "repeated": "repeating steps",
    "start": "starting",
    "idle": "waiting",
    "evaluate": "scoring",
    "save": "saving",
}
#: Shares below this are not worth a word.
_LEAST = 0.0005


def read_cost(tables: SweepTables) -> CostSummary | None:
    """What the runs of a sweep cost; None where no attempt noted anything.

    Raises:
        UserError: The table is torn.
    """
    path = tables.folder / "tables" / "cost.parquet"
    rows = read_table(path, "cost", required=False).to_dict("records")
    if not rows:
        return None
    # A table of an older version lacks columns: what they would say is not known.
    return summarise({str(key): value for key, value in row.items()} for row in rows)


def cost_lines(tables: SweepTables) -> list[str]:
    """The cost in words: dollars and hours, then where the time went; empty without any.

    A table that cannot be read is no reason to withhold the answer: the line says so.
    """
    try:
        cost = read_cost(tables)
    except UserError as error:
        return [f"cost: unknown: {error}"]
    return [] if cost is None else [_money(cost), _time(cost)]


def cost_json(tables: SweepTables) -> dict[str, Any] | None:
    """The cost as plain data; dollars are None where no price is known.

    None without any, and where the table cannot be read.
    """
    try:
        cost = read_cost(tables)
    except UserError:
        return None
    if cost is None:
        return None
    plain = asdict(cost)
    if _unknown(cost):
        plain |= {"dollars": None, "on_demand_dollars": None}
    return {**plain, "unpriced": list(cost.unpriced), "resumed": cost.resumed}


def dollars(amount: float) -> str:
    """Two decimals, more where two say nothing; a dash where it is undefined."""
    if not math.isfinite(amount):
        return MISSING
    digits = 2 if amount == 0 or amount >= 0.1 else 2 - math.floor(math.log10(amount) + 1)
    return f"${amount:.{min(digits, 6)}f}"


def hours(seconds: float) -> str:
    """Seconds as hours, which is how machines are paid; shorter ones as `duration`."""
    value = seconds / 3600
    if value < 1:
        return duration(seconds)
    return f"{value:.1f} h" if value < 100 else f"{value:.0f} h"


def _money(cost: CostSummary) -> str:
    machines = listing(
        f"{hours(3600 * amount)} of {name}" for name, amount in cost.machine_hours.items()
    )
    if _unknown(cost):
        return (
            f"cost: {machines}; no price is known (prices: {{{cost.unpriced[0]}: 0.10}} in the "
            "space gives one)"
        )
    without = f", not counting {listing(cost.unpriced)}" if cost.unpriced else ""
    return (
        f"cost: {dollars(cost.dollars)} for {machines}{without}; "
        f"{dollars(cost.on_demand_dollars)} on demand without an interruption"
    )


def _time(cost: CostSummary) -> str:
    held = cost.seconds["held"]
    shares = [(kind, cost.seconds[kind] / held) for kind in KINDS] if held > 0 else []
    parts = [f"{_WORDS[kind]} {share:.1%}" for kind, share in shares if share >= _LEAST]
    line = f"time: {hours(held)} of slots: {', '.join(parts)}"
    if cost.resumed or cost.repeated_steps:
        line += (
            f"; {count(cost.resumed, 'attempt')} went on after an interruption and repeated "
            f"{count(cost.repeated_steps, 'step')} ({duration(cost.seconds['repeated'])})"
        )
    return line


def _unknown(cost: CostSummary) -> bool:
    """Whether of no machine a price is known."""
    return len(cost.unpriced) == len(cost.machine_hours)
