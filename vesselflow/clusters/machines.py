"""Kinds of machines of the clouds: what each offers, and what an hour of it costs."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files

from pydantic import BaseModel, ConfigDict, Field

from vesselflow.config.yaml_files import parse_yaml

#: The table that is shipped.
TABLE = "machines.yaml"


@dataclass(frozen=True)
class Machine:
    """One kind of machine.

    Attributes:
        cloud: "aws" or "gcp".
        name: As the cloud calls it: "c6i.4xlarge", "n2-standard-16".
        cpus: Virtual CPUs.
        memory_gb: GiB of memory.
        gpus: Graphics cards.
        on_demand: Dollars an hour, bought so that it stays.
        spot: Dollars an hour, typically, bought so that it may vanish.
    """

    cloud: str
    name: str
    cpus: int
    memory_gb: float
    gpus: int
    on_demand: float
    spot: float

    def price(self, spot: bool) -> float:
        """Dollars an hour."""
        return self.spot if spot else self.on_demand


class Price(BaseModel):
    """What a user says that a kind of machine costs, in dollars an hour; None keeps the table's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    on_demand: float | None = Field(None, ge=0, description="dollars an hour, on demand")
    spot: float | None = Field(None, ge=0, description="dollars an hour, spot")


def load_machines(
    prices: Mapping[str, Price] | None = None,
) -> Mapping[tuple[str, str], Machine]:
    """The shipped table, as {(cloud, name): machine}.

    Args:
        prices: By name of a machine: what is paid instead.
    """
    table = _table()[1]
    if not prices:
        return table
    return {
        key: replace(
            machine,
            on_demand=_first(prices[machine.name].on_demand, machine.on_demand),
            spot=_first(prices[machine.name].spot, machine.spot),
        )
        if machine.name in prices
        else machine
        for key, machine in table.items()
    }


def prices_as_of() -> str:
    """When the shipped prices were published: "2025-06"."""
    return _table()[0]


def prices_region(cloud: str) -> str:
    """Which region the shipped prices are of; "" for a cloud that is not in the table."""
    return _table()[2].get(cloud, "")


@functools.cache
def _table() -> tuple[str, dict[tuple[str, str], Machine], dict[str, str]]:
    text = files("vesselflow.clusters").joinpath(TABLE).read_text(encoding="utf-8")
    data = parse_yaml(text, where=TABLE)
    machines = {
        (cloud, name): Machine(cloud, name, *row)
        for cloud, rows in data["machines"].items()
        for name, row in rows.items()
    }
    return str(data["as_of"]), machines, data["regions"]


def _first(given: float | None, usual: float) -> float:
    return usual if given is None else given
