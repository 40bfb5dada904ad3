"""When a checkpoint is due: by Young's formula, from what was seen, within bounds."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.training.interval import (
    PRIOR_S,
    SHORTEST_S,
    Due,
    Survival,
    best_interval,
)


class World:
    """A clock, and a training whose steps take one second."""

    def __init__(self, longest_s: float = 600.0, survival: Survival | None = None) -> None:
        self.now = 1000.0
        self.due = Due(longest_s, survival or Survival(), lambda: self.now)

    def step(self, seconds: float = 1.0, *, writing: bool = False) -> None:
        self.now += seconds
        self.due.step(seconds, writing)

    def save(self, stood_s: float) -> None:
        began = self.now
        self.now += stood_s
        self.due.saved(began)


@given(st.floats(1e-3, 100), st.floats(1, 1e6))
def test_no_other_interval_loses_less(cost_s: float, mean_s: float) -> None:
    def lost(interval: float) -> float:
        """Share of the time that goes to checkpoints, and to half an interval per failure."""
        return cost_s / interval + interval / (2 * mean_s)

    best = best_interval(cost_s, mean_s)
    if cost_s >= 2 * mean_s:
        assert best == mean_s
    else:
        assert lost(best) <= min(lost(best * 1.01), lost(best * 0.99)) + 1e-9


def test_failures_are_expected_before_any_was_seen():
    assert Survival().mean_s() == PRIOR_S == 3600
    # Ten hours without one: eleven hours. Ten hours with four: eleven fifths of an hour.
    assert Survival(36_000, 0).mean_s() == 11 * 3600
    assert Survival(36_000, 4).mean_s() == pytest.approx(11 / 5 * 3600)
    assert Survival(18_000, 4).mean_s(18_000) == pytest.approx(11 / 5 * 3600)


def test_the_interval_follows_what_a_save_costs():
    world = World()
    assert world.due.interval_s() == SHORTEST_S
    for _ in range(10):
        world.step()
    world.save(0.5)
    # Steps beside the write: 1.0 s slower in all.
    for seconds in (1.75, 1.25):
        world.step(seconds, writing=True)
    expected = math.sqrt(2 * 1.5 * (3600 + 10 + 0.5 + 3.0))
    assert world.due.interval_s() == pytest.approx(expected)
    # The next ones cost 0.1 s each: the median counts.
    for _ in range(2):
        world.save(0.1)
        world.step(0.9, writing=True)  # quicker than usual is no gain
    assert world.due.interval_s() == SHORTEST_S
    assert best_interval(0.1, 3600) < SHORTEST_S


def test_it_is_due_so_long_after_the_last_copy_was_begun():
    world = World()
    world.now += 29.9
    assert not world.due.now()
    world.now += 0.1
    assert world.due.now()
    world.save(5.0)
    interval = world.due.interval_s()
    assert interval == pytest.approx(best_interval(5, 3635))
    # It grows a little as time goes by without a failure.
    world.now += interval - 5.1
    assert not world.due.now()
    world.now += 0.1 * interval
    assert world.due.now()


def test_the_run_s_own_limit_wins_over_both_bounds_and_holds_for_the_whole_file():
    world = World(longest_s=10.0)
    assert world.due.interval_s() == 10
    assert world.due.interval_s(write_s=4.0) == 6
    assert world.due.interval_s(write_s=40.0) == 0
    world.save(20.0)
    assert world.due.interval_s() == 10
    rare = World(longest_s=600.0, survival=Survival(1e9, 0))
    rare.save(5.0)
    assert rare.due.interval_s() == 600


def test_many_failures_make_it_shorter():
    survivals = [Survival(36_000, n) for n in (0, 3, 30)]
    intervals = []
    for survival in survivals:
        world = World(survival=survival)
        world.save(4.0)
        intervals.append(world.due.interval_s())
    assert intervals == sorted(intervals, reverse=True)
    assert len(set(intervals)) == 3
