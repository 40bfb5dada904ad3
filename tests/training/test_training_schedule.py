import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.config.experiment import Schedule
from vesselflow.training.schedule import lr_factor


def test_cosine_by_hand():
    # Without warm-up: 0.5 (1 + cos(pi s / S)); at a quarter (1 + sqrt(1/2)) / 2.
    schedule = Schedule(name="cosine", warmup=0.0)
    assert lr_factor(schedule, 0, 100) == 1.0
    assert lr_factor(schedule, 25, 100) == pytest.approx((1 + math.sqrt(0.5)) / 2)
    assert lr_factor(schedule, 50, 100) == pytest.approx(0.5)


def test_the_last_step_of_a_cosine_has_the_floor():
    schedule = Schedule(name="cosine", warmup=0.0, floor=0.1)
    factors = [lr_factor(schedule, step, 101) for step in range(101)]
    assert factors[0] == 1.0
    assert factors[50] == pytest.approx(0.55)
    assert factors[100] == pytest.approx(0.1)
    assert factors == sorted(factors, reverse=True)


def test_a_floor_of_zero_comes_one_step_after_the_last():
    # At a rate of 0 the last step would be lost.
    schedule = Schedule(name="cosine", warmup=0.0)
    assert lr_factor(schedule, 99, 100) == pytest.approx((1 - math.cos(math.pi / 100)) / 2)


def test_warmup_rises_linearly_and_never_starts_at_zero():
    schedule = Schedule(name="constant", warmup=0.04)
    assert [lr_factor(schedule, step, 100) for step in range(5)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0]
    )


def test_cyclic_restarts():
    schedule = Schedule(name="cyclic", cycles=4, warmup=0.0)
    assert [lr_factor(schedule, step, 100) for step in (0, 25, 50, 75)] == pytest.approx([1.0] * 4)
    assert lr_factor(schedule, 24, 100) < 0.01


@pytest.mark.parametrize("steps", [60, 217, 1000])
@pytest.mark.parametrize("floor", [0.0, 0.2])
def test_every_cycle_falls_from_the_top_to_the_floor(steps, floor):
    # In float64 the start of a cycle came out as the end of the one before from 22 cycles on.
    for cycles in range(1, 61):
        schedule = Schedule(name="cyclic", cycles=cycles, warmup=0.0, floor=floor)
        factors = [lr_factor(schedule, step, steps) for step in range(steps)]
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
    schedule = Schedule(name="cyclic", cycles=50, warmup=0.0)
    assert [lr_factor(schedule, step, 7) for step in range(7)] == [1.0] * 7


@pytest.mark.parametrize("name", ["constant", "cosine", "cyclic"])
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_the_longest_warmup_ends_at_the_top(name, steps):
    schedule = Schedule(name=name, warmup=0.99)
    assert lr_factor(schedule, steps - 1, steps) == 1.0
    assert lr_factor(schedule, 0, steps) == pytest.approx(1 / steps)


@given(
    st.sampled_from(["constant", "cosine", "cyclic"]),
    st.floats(0, 0.9),
    st.integers(1, 9),
    st.floats(0, 1),
    st.integers(1, 300),
)
def test_factor_is_positive_and_at_most_one(name, warmup, cycles, floor, steps):
    schedule = Schedule(name=name, warmup=warmup, cycles=cycles, floor=floor)
    for step in range(steps):
        assert 0 < lr_factor(schedule, step, steps) <= 1
