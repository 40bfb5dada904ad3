"""What a machine costs: what the user says, else the shipped table."""

from __future__ import annotations

import math
from collections.abc import Mapping

from vesselflow.clusters.machines import Price, load_machines, prices_as_of
from vesselflow.config.prices import PriceSpec
from vesselflow.evaluation.cost_table import Quote

#: What a price is given for: a number is what is paid, on whatever market.
Given = float | PriceSpec | Price


class PriceList:
    """Prices by machine and market, as attempts note them; a `Pricing`.

    Args:
        given: Kind of machine ("m5.large", "aws:m5.large", "local") -> price, from the space.
        cluster: Kind of machine -> price, from a cluster file; what the space says goes before it.
    """

    def __init__(
        self,
        given: Mapping[str, float | PriceSpec] | None = None,
        cluster: Mapping[str, Price] | None = None,
    ) -> None:
        self._given: list[tuple[str, Mapping[str, Given]]] = [
            ("prices of the space", dict(given or {})),
            ("prices of the cluster file", dict(cluster or {})),
        ]

    def __call__(self, machine: str, market: str) -> Quote:
        """The price of a machine; undefined where nobody knows it.

        Args:
            machine: "aws:m5.large", "local".
            market: "spot"; of any other the machine stays.
        """
        cloud, _, name = machine.rpartition(":")
        known = load_machines().get((cloud, name))
        listed = known.on_demand if known else math.nan
        paid = (known.spot if market == "spot" else listed) if known else math.nan
        source = f"table of {prices_as_of()}" if known else ""
        for said_by, prices in self._given:
            price = prices.get(machine, prices.get(name))
            if price is None:
                continue
            if isinstance(price, int | float):
                return Quote(float(price), float(price) if math.isnan(listed) else listed, said_by)
            on_demand = listed if price.on_demand is None else price.on_demand
            spot = paid if price.spot is None else price.spot
            if market != "spot":
                return Quote(on_demand, on_demand, said_by)
            return Quote(on_demand if math.isnan(spot) else spot, on_demand, said_by)
        return Quote(paid, listed, source)
