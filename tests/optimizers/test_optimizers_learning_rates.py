"""Learning-rate schedules: shapes by hand, and what holds for all of them."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.optimizers.learning_rates import LEARNING_RATES


def factor(name: str, **arguments: Any) -> Callable[[int, int], float]:
    return LEARNING_RATES.build({"name": name, **arguments})


def test_cosine_by_hand():
    # Without warm-up: 0.5 (1 + cos(pi s / S)); at a quarter (1 + sqrt(1/2)) / 2.
    schedule = factor("cosine", warmup=0.0)
    assert schedule(0, 100) == 1.0
    assert schedule(25, 100) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert schedule(50, 100) == pytest.approx(0.5)


def test_the_last_step_of_a_cosine_has_the_floor():
    schedule = factor("cosine", warmup=0.0, floor=0.1)
    factors = [schedule(step, 101) for step in range(101)]
    assert factors[0] == 1.0
    assert factors[50] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)
    assert factors == sorted(factors, reverse=True)


def test_a_floor_of_zero_comes_one_step_after_the_last():
    # At a rate of 0 the last step would be lost.
    schedule = factor("cosine", warmup=0.0)
    assert schedule(99, 100) == pytest.approx((1 - math.cos(math.pi / 100)) / 2)


def test_warmup_rises_linearly_and_never_starts_at_zero():
    schedule = factor("constant", warmup=0.04)
    assert [schedule(step, 100) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_cyclic_restarts():
    schedule = factor("cyclic", cycles=4, warmup=0.0)
    assert [schedule(step, 100) for step in (0, 25, 50, 75)] == pytest.approx([1.0] * 4)
    assert schedule(24, 100) < 0.01


@pytest.mark.parametrize("steps", [60, 217, 1000])
@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_every_cycle_falls_from_the_top_to_the_floor(steps, floor):
    # In float64 the start of a cycle came out as the end of the one before from 22 cycles on.
    for cycles in range(1, 61):
        schedule = factor("cyclic", cycles=cycles, warmup=0.0, floor=floor)
        factors = [schedule(step, steps) for step in range(steps)]
        starts = [step for step in range(steps) if factors[step] == 1.0]
        assert len(starts) == cycles
        assert starts[0] == 0
        for start, end in zip(starts, [*starts[1:], steps], strict=True):
            assert end - start in (steps // cycles, steps // cycles + 1)
            cycle = factors[start:end]
            assert cycle == sorted(cycle, reverse=True)
            if floor and len(cycle) > 1:
                assert cycle[-1] == pytest.approx(floor)


def test_more_cycles_than_steps_stay_at_the_top():
    schedule = factor("cyclic", cycles=50, warmup=0.0)
    assert [schedule(step, 7) for step in range(7)] == [1.0] * 7


@pytest.mark.parametrize("name", LEARNING_RATES.names())
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_the_longest_warmup_ends_at_the_top(name, steps):
    schedule = factor(name, warmup=0.99)
    assert schedule(steps - 1, steps) == 1.0
    assert schedule(0, steps) == pytest.approx(1 / steps)


@given(
    st.sampled_from(LEARNING_RATES.names()),
    st.floats(0, 0.9),
    st.integers(1, 9),
    st.floats(0, 1),
    st.integers(1, 300),
)
def test_factor_is_positive_and_at_most_one(name, warmup, cycles, floor, steps):
    known = LEARNING_RATES.part(name).arguments.model_fields
    given_ = {"warmup": warmup, "cycles": cycles, "floor": floor}
    schedule = factor(name, **{key: value for key, value in given_.items() if key in known})
    for step in range(steps):
        assert 0 < schedule(step, steps) <= 1
