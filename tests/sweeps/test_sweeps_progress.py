"""Steps in all and the time that is left: pure functions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.sweeps.progress import PACE_S, eta


def test_the_pace_so_far_goes_on() -> None:
    assert eta(done=25, total=100, elapsed_s=10.0) == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("done", "total", "elapsed"), [(0, 100, 50.0), (5, 0, 50.0), (5, 100, PACE_S), (-1, 100, 9.0)]
)
def test_nothing_is_said_while_no_pace_is_known(done, total, elapsed) -> None:
    assert eta(done, total, elapsed) is None


def test_more_steps_than_expected_leave_nothing_rather_than_less() -> None:
    # As with patches: 40 steps were guessed from the images, 400 are done of the patches.
    assert eta(done=400, total=40, elapsed_s=60.0) == 0.0


@given(st.integers(-5, 10**6), st.integers(-5, 10**6), st.floats(0, 1e7))
def test_it_is_never_below_zero(done, total, elapsed) -> None:
    left = eta(done, total, elapsed)
    assert left is None or left >= 0.0


@given(st.integers(1, 10**5), st.integers(2, 10**5), st.floats(3, 1e6))
def test_it_shrinks_as_steps_are_done(done, more, elapsed) -> None:
    total = done + more
    before, after = eta(done, total, elapsed), eta(done + 1, total, elapsed)
    assert before is not None
    assert after is not None
    assert after < before
