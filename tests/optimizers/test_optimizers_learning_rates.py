"""Learning-rate schedules: shapes by hand, and what holds for all of them."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.errors import UserError
from vesselflow.optimizers.learning_rates import LEARNING_RATES
from vesselflow.optimizers.learning_rates.warmed import WarmedArguments

#: Schedules with the common warm-up.
WARMED = [part.name for part in LEARNING_RATES if issubclass(part.arguments, WarmedArguments)]


def factor(name: str, **arguments: Any) -> Callable[..., float]:
    return LEARNING_RATES.build({"name": name, **arguments})


def by_torch(kind: Any, steps: int, **arguments: Any) -> list[float]:
    """The factors of a schedule of torch at each of `steps` steps."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = kind(optimizer, **arguments), []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step < steps - 1:
            schedule.step()
    return rates


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


@pytest.mark.parametrize("steps", [1, 2, 7, 100])
@pytest.mark.parametrize("peak", [0.1, 0.3, 0.77])
def test_one_cycle_is_that_of_torch(steps: int, peak: float) -> None:
    if peak * steps < 1:  # torch would divide by nothing, or begin below the top
        assert factor("one_cycle", peak=peak)(0, steps) == 1.0
        return
    schedule = factor("one_cycle", peak=peak, start=0.1, floor=0.02)
    expected = by_torch(
        torch.optim.lr_scheduler.OneCycleLR,
        steps,
        max_lr=1.0,
        total_steps=steps,
        pct_start=peak,
        div_factor=10.0,
        final_div_factor=5.0,
        cycle_momentum=False,
    )
    assert [schedule(step, steps) for step in range(steps)] == pytest.approx(expected)
    assert schedule(0, steps) == pytest.approx(0.1 if peak * steps > 1 else 1.0)


def test_one_cycle_has_the_defaults_of_torch() -> None:
    schedule, kind = factor("one_cycle"), torch.optim.lr_scheduler.OneCycleLR
    expected = by_torch(kind, 50, max_lr=1.0, total_steps=50, cycle_momentum=False)
    found = [schedule(step, 50) for step in range(50)]
    assert found == pytest.approx(expected)
    assert found.index(1.0) == 14
    assert found[-1] == pytest.approx(4e-6)


@pytest.mark.parametrize(("cycles", "steps"), [(1, 20), (4, 40), (3, 42)])
def test_triangular_is_that_of_torch(cycles: int, steps: int) -> None:
    schedule = factor("triangular", minimum=0.2, maximum=0.8, cycles=cycles)
    expected = by_torch(
        torch.optim.lr_scheduler.CyclicLR,
        steps,
        base_lr=0.2,
        max_lr=0.8,
        step_size_up=steps // cycles // 2,
        cycle_momentum=False,
    )
    assert [schedule(step, steps) for step in range(steps)] == pytest.approx(expected)


@pytest.mark.parametrize("steps", [60, 217, 1000])
def test_every_triangle_begins_at_its_foot(steps: int) -> None:
    for cycles in range(1, steps // 8):
        schedule = factor("triangular", cycles=cycles)
        factors = [schedule(step, steps) for step in range(steps)]
        falls = [a > b for a, b in itertools.pairwise(factors)]
        # One turn down at each top; one up between two triangles.
        assert sum(a < b for a, b in itertools.pairwise(falls)) == cycles
        assert factors[0] == pytest.approx(0.1)


@pytest.mark.parametrize("maximum", [0.3, 0.1])
def test_a_triangle_on_its_head_is_refused(maximum: float) -> None:
    spec = {"name": "triangular", "minimum": 0.3, "maximum": maximum}
    with pytest.raises(UserError) as caught:
        LEARNING_RATES.validate(spec, where="schedule")
    expected = f"{maximum:g} is not allowed; allowed: above minimum, which is 0.3"
    assert str(caught.value) == f"schedule.maximum: {expected}"


@pytest.mark.parametrize(("name", "power"), [("polynomial", 0.9), ("linear", 1.0)])
def test_powers_are_those_of_torch(name: str, power: float) -> None:
    expected = by_torch(torch.optim.lr_scheduler.PolynomialLR, 30, total_iters=30, power=power)
    schedule = factor(name, warmup=0.0)
    assert [schedule(step, 30) for step in range(30)] == pytest.approx(expected)
    # With a floor the last step has it.
    ends = factor(name, warmup=0.0, floor=0.2)
    assert ends(10, 31) == pytest.approx(0.2 + 0.8 * (2 / 3) ** power)
    assert ends(30, 31) == 0.2


def test_steps_are_those_of_torch() -> None:
    scheduler = torch.optim.lr_scheduler.MultiStepLR
    for given_, places in (
        ({"every": 0.3}, [30, 60, 90]),
        ({"every": 0.2}, [20, 40, 60, 80]),
        ({"every": None, "milestones": [0.5, 0.75, 0.9]}, [50, 75, 90]),
    ):
        schedule = factor("step", warmup=0.0, gamma=0.3, **given_)
        expected = by_torch(scheduler, 100, milestones=places, gamma=0.3)
        assert [schedule(step, 100) for step in range(100)] == pytest.approx(expected)


def test_a_short_run_begins_at_the_top_and_takes_all_falls() -> None:
    schedule = factor("step", warmup=0.0, gamma=0.5, every=0.1)
    assert [schedule(step, 3) for step in range(3)] == [1.0, 0.5**4, 0.5**8]
    assert schedule(0, 1) == 1.0


@pytest.mark.parametrize(
    ("given_", "said"),
    [
        (
            {"milestones": [0.5]},
            "milestones: every (0.3) says already where the rate falls; allowed: one of the two; "
            "set every: null",
        ),
        (
            {"every": None},
            "every: the rate would never fall; allowed: 0.01 to 1 (1 excluded), or null beside "
            "milestones",
        ),
        (
            {"every": None, "milestones": [0.5, 0.5, 0.2]},
            "milestones: [0.5, 0.5, 0.2] is not allowed; allowed: rising shares, such as "
            "[0.2, 0.5]",
        ),
        ({"every": None, "milestones": [1.0]}, "milestones"),
        ({"every": 1}, "every"),
        ({"gamma": 1}, "gamma"),
    ],
)
def test_falls_that_are_none_are_refused(given_: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        LEARNING_RATES.validate({"name": "step", **given_}, where="schedule")
    assert str(caught.value).startswith(f"schedule.{said}")


@given(
    losses=st.lists(
        st.sampled_from([-1.0, 0.0, 0.1, 0.1005, 0.2, 0.5, 0.9, math.nan]), max_size=30
    ),
    patience=st.integers(1, 5),
    gamma=st.sampled_from([0.1, 0.5]),
)
def test_plateaus_are_those_of_torch(losses: list[float], patience: int, gamma: float) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(
        optimizer,
        factor=gamma,
        patience=patience - 1,
        threshold=0.001,
        threshold_mode="abs",
        min_lr=0.05,
        eps=0.0,
    )
    schedule = factor("plateau", warmup=0.0, gamma=gamma, patience=patience, floor=0.05)
    for number, loss in enumerate(losses):
        theirs.step(loss)
        expected = optimizer.param_groups[0]["lr"]
        # The past alone decides; the step does not.
        assert schedule(number, 40, losses[: number + 1]) == pytest.approx(expected)


def test_a_plateau_by_hand() -> None:
    schedule = factor("plateau", warmup=0.1, patience=2)
    losses = [0.9, 0.5, 0.5, 0.4995, 0.3, 0.3, 0.3]
    assert [schedule(50, 100, losses[:n]) for n in range(8)] == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    assert schedule(0, 100, losses) == pytest.approx(1 / 11)  # still warming up


@pytest.mark.parametrize("name", WARMED)
@pytest.mark.parametrize("steps", [1, 2, 3, 10])
def test_the_longest_warmup_ends_at_the_top(name, steps):
    schedule = factor(name, warmup=0.99)
    assert schedule(steps - 1, steps) == 1.0
    assert schedule(0, steps) == pytest.approx(1 / steps)


@given(
    st.sampled_from(LEARNING_RATES.names()),
    st.fixed_dictionaries(
        {
            "warmup": st.floats(0, 0.9),
            "cycles": st.integers(1, 9),
            "floor": st.floats(1e-9, 1) | st.just(0.0),
            "power": st.floats(0.1, 10),
            "gamma": st.floats(0.001, 0.9),
            "every": st.floats(0.01, 0.9),
            "peak": st.floats(0.01, 0.99),
            "start": st.floats(1e-9, 1),
            "patience": st.integers(1, 3),
        }
    ),
    st.integers(1, 300),
    st.lists(st.floats(-2, 2), max_size=20),
)
def test_factor_is_positive_and_at_most_one(name, drawn, steps, losses):
    known = LEARNING_RATES.part(name).arguments.model_fields
    arguments = {key: value for key, value in drawn.items() if key in known}
    if arguments.get("floor") == 0 and name in ("one_cycle", "plateau"):
        del arguments["floor"]
    schedule = factor(name, **arguments)
    for step in range(steps):
        assert 0 < schedule(step, steps, losses) <= 1
