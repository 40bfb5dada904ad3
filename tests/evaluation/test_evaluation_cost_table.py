"""What attempts cost: hand-made attempts, killed, handed back, resumed, on two machines."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.evaluation.cost_table import (
    KINDS,
    NUMBERS,
    Quote,
    attempt_cost,
    no_prices,
    summarise,
)

SPOT, ON_DEMAND = 0.10, 0.40


def prices(machine: str, market: str) -> Quote:
    known = {"aws:big": 1.0, "aws:small": 0.5}
    if machine not in known:
        return Quote()
    paid = SPOT if market == "spot" else ON_DEMAND
    return Quote(known[machine] * paid, known[machine] * ON_DEMAND, "here")


def noted(attempt: int = 1, **changes: Any) -> dict[str, Any]:
    """An attempt of 100 steps of a second each: 120 s of a quarter of a big machine."""
    return {
        "attempt": attempt,
        "slot": "slot-0",
        "host": "h",
        "machine": "aws:big",
        "market": "spot",
        "share": 0.25,
        "wall_s": 115.0,
        "idle_s": 2.0,
        "slot_start_s": 3.0,
        "start_s": 4.0,
        "train_s": 100.0,
        "evaluate_s": 8.0,
        "save_s": 1.0,
        "from_step": 0.0,
        "reached": 0.0,
        "steps": 100.0,
        "steps_per_s": 1.0,
        **changes,
    }


def row(run: str, **changes: Any) -> dict[str, Any]:
    return {"run_id": run, **attempt_cost(noted(**changes), prices)}


def test_an_undisturbed_attempt_is_paid_for_all_the_time_that_its_slot_was_held() -> None:
    cost = attempt_cost(noted(), prices)
    assert cost["held_s"] == 2 + 3 + 115
    assert (cost["start_s"], cost["useful_s"], cost["repeated_s"]) == (7, 100, 0)
    assert cost["dollars"] == pytest.approx(120 / 3600 * 0.25 * SPOT)
    assert cost["on_demand_dollars"] == pytest.approx(120 / 3600 * 0.25 * ON_DEMAND)
    assert cost["price_from"] == "here"


def test_what_a_killed_attempt_had_done_beyond_its_checkpoint_is_repeated_by_the_next() -> None:
    """The run was last heard at step 80 and resumed at 60; it then did 40 steps in 80 s."""
    cost = attempt_cost(
        noted(2, from_step=60.0, reached=80.0, steps=40.0, train_s=80.0, wall_s=95.0), prices
    )
    assert (cost["repeated_steps"], cost["repeated_s"], cost["useful_s"]) == (20, 40, 40)
    # On demand nothing would have interrupted it: neither its start nor these steps.
    held, again = 2 + 3 + 95, 40 + 7
    assert cost["dollars"] == pytest.approx(held / 3600 * 0.25 * SPOT)
    assert cost["on_demand_dollars"] == pytest.approx((held - again) / 3600 * 0.25 * ON_DEMAND)


def test_an_attempt_that_was_killed_while_it_caught_up_repeated_what_it_did() -> None:
    cost = attempt_cost(noted(2, from_step=60.0, reached=80.0, steps=5.0, train_s=5.0), prices)
    assert (cost["repeated_steps"], cost["repeated_s"], cost["useful_s"]) == (5, 5, 0)


@pytest.mark.parametrize("reached", [60.0, 59.0, 0.0])
def test_after_a_hand_back_nothing_is_repeated(reached: float) -> None:
    """The last beat may lag behind the checkpoint that the agreed stop wrote."""
    cost = attempt_cost(noted(2, from_step=60.0, reached=reached, steps=40.0), prices)
    assert (cost["repeated_steps"], cost["repeated_s"]) == (0, 0)


def test_an_attempt_without_a_step_repeated_none() -> None:
    cost = attempt_cost(noted(2, reached=50.0, steps=0.0, train_s=0.0), prices)
    assert (cost["repeated_steps"], cost["repeated_s"], cost["useful_s"]) == (0, 0, 0)


def test_what_an_older_version_did_not_note_is_undefined() -> None:
    old = {name: noted()[name] for name in ("wall_s", "train_s", "steps", "start_s")}
    cost = attempt_cost({"attempt": 1, **old}, prices)
    assert (cost["wall_s"], cost["steps"]) == (115, 100)
    for name in ("held_s", "repeated_s", "useful_s", "dollars", "on_demand_dollars", "price"):
        assert math.isnan(cost[name]), name
    assert "machine" not in cost


def test_without_a_price_dollars_are_undefined_and_seconds_are_not() -> None:
    cost = attempt_cost(noted(), no_prices)
    assert cost["held_s"] == 120
    assert math.isnan(cost["dollars"])
    assert cost["price_from"] == ""


def test_a_run_on_two_machines_costs_what_each_of_them_costs() -> None:
    rows = [
        row("a", steps=60.0, train_s=60.0, wall_s=70.0),
        row("a", attempt=2, machine="aws:small", market="on-demand", from_step=50.0, reached=60.0),
    ]
    total = summarise(rows)
    assert (total.runs, total.attempts, total.resumed, total.repeated_steps) == (1, 2, 1, 10)
    assert total.machine_hours == pytest.approx(
        {"aws:big:spot": 0.25 * 75 / 3600, "aws:small:on-demand": 0.25 * 120 / 3600}
    )
    assert total.dollars == pytest.approx(0.25 / 3600 * (75 * SPOT + 120 * 0.5 * ON_DEMAND))
    assert total.unpriced == ()


def test_a_run_that_two_points_share_is_paid_once() -> None:
    once = summarise([row("a"), row("b")])
    shared = summarise([row("a"), row("b"), {**row("a"), "point": "other"}])
    assert shared == once
    assert once.runs == 2


def test_machines_without_a_price_are_named_and_left_out_of_the_dollars() -> None:
    total = summarise([row("a"), row("b", machine="local", market="own")])
    assert total.unpriced == ("local",)
    assert total.dollars == pytest.approx(row("a")["dollars"])
    assert total.seconds["held"] == 240


def test_of_nothing_the_sum_is_nothing() -> None:
    total = summarise([])
    assert (total.runs, total.attempts, total.resumed, total.dollars) == (0, 0, 0, 0)


counts = st.integers(0, 10_000).map(float)
seconds = st.floats(0, 1e6)


@given(counts, counts, counts, seconds, seconds, seconds)
def test_seconds_are_divided_and_none_is_lost(
    begin: float, reached: float, steps: float, train: float, start: float, rest: float
) -> None:
    if steps == 0:
        train = 0.0
    cost = attempt_cost(
        noted(
            from_step=begin,
            reached=reached,
            steps=steps,
            train_s=train,
            start_s=start,
            wall_s=train + start + rest,
            evaluate_s=rest,
            save_s=0.0,
        ),
        prices,
    )
    assert 0 <= cost["repeated_steps"] <= steps
    assert 0 <= cost["repeated_s"] <= train * (1 + 1e-9)
    assert math.fsum(cost[f"{kind}_s"] for kind in KINDS) == pytest.approx(cost["held_s"])
    assert 0 <= cost["on_demand_dollars"] <= cost["dollars"] * (ON_DEMAND / SPOT) * (1 + 1e-9)
    assert {name for name in NUMBERS if name not in cost} == set()
