"""`vesselflow sweep --budget DOLLARS`: what may be given, and what is told when it is used up."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vesselflow.errors import UserError

if TYPE_CHECKING:
    from vesselflow.config.space import Space
    from vesselflow.sweeps.outcome import Outcome

OPTION = "--budget"
#: Runs that are named; the others are counted.
NAMED = 3


def read_budget(text: str | None) -> float | None:
    """The dollars that were given; None for no limit.

    Raises:
        UserError: It is no number of dollars above 0.
    """
    if text is None:
        return None
    try:
        dollars = float(text.strip().removeprefix("$"))
    except ValueError:
        dollars = math.nan
    if not 0 < dollars < math.inf:
        raise UserError(
            f"'{text}' is not allowed", where=OPTION, allowed="dollars above 0, such as 40"
        )
    return dollars


def check_priced(space: Space) -> None:
    """Refuse a budget where nobody knows what this machine costs."""
    from vesselflow.clusters.prices import PriceList
    from vesselflow.sweeps.cost_machine import machine_kind

    kind = machine_kind()
    if math.isnan(PriceList(space.prices)(kind.name, kind.market).paid):
        raise UserError(
            f"no price is known of this machine ('{kind.name}')",
            where=OPTION,
            hint=f"give one in the space: prices: {{'{kind.name}': 0.10}}",
        )


def budget_lines(outcome: Outcome, dollars: float) -> list[str]:
    """What is told when a budget ended a sweep: why, what is left undone, how to go on."""
    undone: Sequence[str] = outcome.undone
    named = ", ".join(undone[:NAMED])
    more = f" and {len(undone) - NAMED} more" if len(undone) > NAMED else ""
    runs = f"{len(undone)} run{'s' * (len(undone) != 1)}"
    return [
        f"budget: ${dollars:.2f} would be passed: {outcome.budget}",
        f"left undone: {runs}: {named}{more}" if undone else "left undone: nothing",
        f"the same command carries on, with a higher {OPTION} or with none",
    ]
