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


def test_floor_is_the_limit_of_the_cosine():
    schedule = Schedule(name="cosine", warmup=0.0, floor=0.1)
    assert lr_factor(schedule, 50, 100) == pytest.approx(0.55)


def test_warmup_rises_linearly_and_never_starts_at_zero():
    schedule = Schedule(name="constant", warmup=0.04)
    assert [lr_factor(schedule, step, 100) for step in range(5)] == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0]
    )


def test_cyclic_restarts():
    schedule = Schedule(name="cyclic", cycles=4, warmup=0.0)
    assert [lr_factor(schedule, step, 100) for step in (0, 25, 50, 75)] == pytest.approx([1.0] * 4)
    assert lr_factor(schedule, 24, 100) < 0.01


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
