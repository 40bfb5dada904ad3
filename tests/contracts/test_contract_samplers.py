"""What every registered sampler has to keep."""

from __future__ import annotations

import pytest
from contract_parts import chosen

from vesselflow.config.samplers import SAMPLERS, Search


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_an_axis_is_chosen_where_it_counts_and_left_out_elsewhere(name: str) -> None:
    points = chosen(name, samples=40)
    for point in points:
        assert list(point)[:2] == ["optimizer.lr", "loss.name"]
        assert ("loss.beta" in point) == (point["loss.name"] == "fuzzy")
        assert 1e-4 <= point["optimizer.lr"] <= 1e-1
    assert {point["loss.name"] for point in points} == {"bce", "fuzzy"}


@pytest.mark.parametrize("name", SAMPLERS.names())
def test_it_is_a_pure_function_and_more_samples_keep_the_earlier_ones(name: str) -> None:
    assert chosen(name) == chosen(name)
    few, many = chosen(name, samples=3), chosen(name, samples=9)
    if Search(sampler=name).kind.draws:
        assert many[:3] == few
        assert len(many) == 9
        assert chosen(name, seed=1) != chosen(name, seed=0)
    else:
        assert many == few
