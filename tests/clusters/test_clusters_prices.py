"""What a machine costs: the table, what the space says, what the cluster file says."""

from __future__ import annotations

import math

import pytest

from vesselflow.clusters.machines import Price, load_machines, prices_as_of
from vesselflow.clusters.prices import PriceList
from vesselflow.config.loading import load_space
from vesselflow.config.prices import PriceSpec
from vesselflow.errors import UserError
from vesselflow.evaluation.cost_table import Quote
from vesselflow.runs.registries import REGISTRIES

LARGE = load_machines()["aws", "m5.large"]
TABLE = f"table of {prices_as_of()}"
SPACE, FILE = "prices of the space", "prices of the cluster file"


@pytest.mark.parametrize(("market", "paid"), [("spot", LARGE.spot), ("on-demand", LARGE.on_demand)])
def test_the_table_knows_machines_of_the_clouds(market: str, paid: float) -> None:
    assert PriceList()("aws:m5.large", market) == Quote(paid, LARGE.on_demand, TABLE)
    assert LARGE.spot < LARGE.on_demand


@pytest.mark.parametrize("machine", ["local", "unknown", "m5.large", "gcp:m5.large", ""])
def test_of_others_no_price_is_known(machine: str) -> None:
    quote = PriceList()(machine, "own")
    assert math.isnan(quote.paid)
    assert math.isnan(quote.on_demand)
    assert quote.source == ""


@pytest.mark.parametrize("key", ["m5.large", "aws:m5.large"])
def test_a_number_is_what_is_paid_on_whatever_market(key: str) -> None:
    prices = PriceList({key: 0.03})
    assert prices("aws:m5.large", "spot") == Quote(0.03, LARGE.on_demand, SPACE)
    assert prices("aws:m5.large", "on-demand") == Quote(0.03, LARGE.on_demand, SPACE)


def test_a_machine_of_ones_own_costs_what_one_says() -> None:
    assert PriceList({"local": 0.05})("local", "own") == Quote(0.05, 0.05, SPACE)
    assert PriceList({"local": 0})("local", "own").paid == 0


def test_of_two_prices_each_stands_for_its_market() -> None:
    prices = PriceList({"m5.large": PriceSpec(spot=0.02)})
    assert prices("aws:m5.large", "spot") == Quote(0.02, LARGE.on_demand, SPACE)
    assert prices("aws:m5.large", "on-demand") == Quote(LARGE.on_demand, LARGE.on_demand, SPACE)
    unknown = PriceList({"new.huge": PriceSpec(on_demand=9.0)})
    assert unknown("aws:new.huge", "spot") == Quote(9.0, 9.0, SPACE)


def test_the_space_goes_before_the_cluster_file_and_both_before_the_table() -> None:
    cluster = {"m5.large": Price(spot=0.02), "c5.2xlarge": Price(on_demand=0.3, spot=0.1)}
    prices = PriceList({"m5.large": 0.01}, cluster)
    assert prices("aws:m5.large", "spot").source == SPACE
    assert prices("aws:c5.2xlarge", "spot") == Quote(0.1, 0.3, FILE)
    assert prices("aws:m5.xlarge", "spot").source == TABLE


SPACE_FILE = "stores: {a: synth:fundus}\nprices: {m5.large: 0.03, local: {on_demand: 0.1}}\n"


def test_prices_of_a_space_change_no_name(tmp_path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(SPACE_FILE)
    space = load_space(file, registries=REGISTRIES)
    assert PriceList(space.prices)("aws:m5.large", "spot").paid == 0.03
    assert PriceList(space.prices)("local", "own").paid == 0.1
    (point,) = space.expand().points
    assert "prices" not in point.experiment.plain()
    again = load_space(file, registries=REGISTRIES, overrides=("prices={local: 1}",))
    assert again.prices["local"] == 1
    assert again.expand().points[0].experiment == point.experiment


@pytest.mark.parametrize(
    ("prices", "told"),
    [
        ("{m5.large: -1}", "prices.m5.large: -1 is not allowed"),
        ("{m5.large: cheap}", "prices.m5.large: 'cheap' is not allowed"),
        ("{m5.large: .inf}", "prices.m5.large: inf is not allowed"),
        ("{m5.large: {sport: 1}}", "did you mean 'spot'?"),
        ("3", "prices: 3 is not allowed"),
    ],
)
def test_nonsense_is_refused(tmp_path, prices: str, told: str) -> None:
    file = tmp_path / "space.yaml"
    file.write_text(f"stores: {{a: synth:fundus}}\nprices: {prices}\n")
    with pytest.raises(UserError) as raised:
        load_space(file, registries=REGISTRIES)
    assert told in raised.value.lines()[0]
