"""What the machines of a sweep have cost since its command: a ledger, kept while it runs. Pure.

Other than the cost of attempts it has the whole machines in it: those that only lead, those that
start, idle or wait to be ended. A machine is paid from the moment at which it was first seen (or,
of a cloud, some time before) until it was last seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vesselflow.evaluation.cost_table import Pricing
from vesselflow.sweeps.cost_machine import MachineKind

#: Seconds for which a cloud's machine was paid before it joined, typically; not charged to those
#: that were there at the first look.
BOOT_S = 90.0


@dataclass
class _Held:
    """One machine.

    Attributes:
        since: When it was first seen, less what it was paid for before.
        upto: When it was last seen.
        kind: What it is; None while nobody said.
    """

    since: float
    upto: float
    kind: MachineKind | None = None


@dataclass
class Spending:
    """The ledger.

    Args:
        pricing: What machines cost.
    """

    pricing: Pricing
    _held: dict[str, _Held] = field(default_factory=dict)
    _alive: frozenset[str] = frozenset()
    _looked: bool = False

    def look(self, alive: Iterable[str], now: float) -> None:
        """Note which machines are there.

        Args:
            alive: Ids of all of them.
            now: Monotonic seconds.
        """
        self._alive = frozenset(alive)
        for node in self._alive:
            if node in self._held:
                self._held[node].upto = now
            else:
                self._held[node] = _Held(now - (BOOT_S if self._looked else 0.0), now)
        self._looked = True

    def known(self, node: str, kind: MachineKind) -> None:
        """Say what a machine is; one that was not seen yet is noted when it is."""
        if node in self._held:
            self._held[node].kind = kind

    @property
    def alive(self) -> frozenset[str]:
        """Machines that were there at the last look."""
        return self._alive

    def unpriced(self) -> tuple[str, ...]:
        """Kinds of machines that are held and have no price."""
        kinds = {str(held.kind) for held in self._held.values() if held.kind is not None}
        return tuple(sorted(kind for kind in kinds if math.isnan(self._price(_read(kind)))))

    def rate(self, node: str) -> float:
        """Dollars a second of a machine; of one that nobody knows those of the dearest known."""
        return self._of(self._held.get(node)) / 3600

    def spent(self, now: float) -> float:
        """Dollars so far; machines of a kind without a price cost nothing here.

        Args:
            now: Monotonic seconds; machines that were there at the last look are there still.
        """
        return math.fsum(
            self._seconds(node, held, now) * self._of(held) / 3600
            for node, held in self._held.items()
        )

    def rows(self, now: float) -> list[dict[str, Any]]:
        """Kind by kind: how many machines, their seconds, price and dollars (None if unknown)."""
        found: dict[str, dict[str, Any]] = {}
        for node, held in sorted(self._held.items()):
            name = "unknown" if held.kind is None else str(held.kind)
            row = found.setdefault(name, {"machine": name, "count": 0, "seconds": 0.0})
            row["count"] += 1
            row["seconds"] += self._seconds(node, held, now)
            price = math.nan if held.kind is None else self._price(held.kind)
            row["price"] = None if math.isnan(price) else price
            row["dollars"] = None if math.isnan(price) else row["seconds"] * price / 3600
        return list(found.values())

    def _seconds(self, node: str, held: _Held, now: float) -> float:
        return (now if node in self._alive else held.upto) - held.since

    def _of(self, held: _Held | None) -> float:
        """Dollars an hour of a machine; of an unknown one those of the dearest known."""
        if held is None or held.kind is None:
            return max((self._known_price(other) for other in self._held.values()), default=0.0)
        return self._known_price(held)

    def _known_price(self, held: _Held) -> float:
        price = math.nan if held.kind is None else self._price(held.kind)
        return 0.0 if math.isnan(price) else price

    def _price(self, kind: MachineKind) -> float:
        return self.pricing(kind.name, kind.market).paid


def _read(text: str) -> MachineKind:
    return MachineKind.read(text)


def spent_line(rows: Iterable[Mapping[str, Any]]) -> str:
    """What a start has paid for its machines, in words; "" where no price is known."""
    priced = [row for row in rows if row.get("dollars") is not None]
    if not priced:
        return ""
    total = math.fsum(row["dollars"] for row in priced)
    hours = math.fsum(row["seconds"] for row in priced) / 3600
    return (
        f"machines: ${total:.2f} for {hours:.2f} hours of machines since this command began, "
        "starting, waiting and leading included"
    )
