"""What every registered optimizer and learning-rate schedule has to keep."""

from __future__ import annotations

import io
from typing import Any

import pytest
import torch

from vesselflow.errors import UserError
from vesselflow.optimizers import OPTIMIZERS
from vesselflow.optimizers.arguments import OptimizerArguments
from vesselflow.optimizers.learning_rates import LEARNING_RATES
from vesselflow.optimizers.learning_rates.warmed import WarmedArguments

torch.set_num_threads(1)

NAMES = OPTIMIZERS.names()


def start() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor([2.0, -1.0, 0.5]))


def step(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> float:
    """One step down (w - 1)^2; the loss before it."""
    away = weight.detach() - 1.0
    weight.grad = 2.0 * away
    optimizer.step()
    return float((away**2).sum())


def build(name: str, weight: torch.nn.Parameter, **arguments: Any) -> torch.optim.Optimizer:
    found: torch.optim.Optimizer = OPTIMIZERS.build(
        {"name": name, **arguments}, parameters=[weight]
    )
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_down(name: str) -> None:
    weight = start()
    optimizer = build(name, weight, lr=0.05)
    losses = [step(weight, optimizer) for _ in range(200)]
    assert losses[-1] < 0.05 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_its_arguments_have_a_rate_which_the_loop_may_set(name: str) -> None:
    assert issubclass(OPTIMIZERS.part(name).arguments, OptimizerArguments)
    weight = start()
    optimizer = build(name, weight)
    default = OPTIMIZERS.validate({"name": name})["lr"]
    assert [group["lr"] for group in optimizer.param_groups] == [default]
    before = weight.detach().clone()
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    step(weight, optimizer)
    assert torch.equal(weight, before)
    for group in optimizer.param_groups:
        group["lr"] = default
    step(weight, optimizer)
    assert not torch.equal(weight, before)


@pytest.mark.parametrize("lr", [0, -1, 11, "fast"])
@pytest.mark.parametrize("name", NAMES)
def test_a_rate_that_is_none_is_refused(name: str, lr: object) -> None:
    with pytest.raises(UserError, match=r"^optimizer\.lr: "):
        OPTIMIZERS.validate({"name": name, "lr": lr}, where="optimizer")


@pytest.mark.parametrize("name", NAMES)
def test_it_goes_on_from_its_state_to_the_same_bits(name: str) -> None:
    whole = start()
    optimizer = build(name, whole)
    for _ in range(6):
        step(whole, optimizer)
    cut = start()
    first = build(name, cut)
    for _ in range(3):
        step(cut, first)
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    file.seek(0)
    second = build(name, cut)
    second.load_state_dict(torch.load(file, weights_only=True))
    for _ in range(3):
        step(cut, second)
    assert torch.equal(cut, whole)


@pytest.mark.parametrize("name", LEARNING_RATES.names())
def test_a_schedule_is_a_pure_function_of_step_steps_and_losses(name: str) -> None:
    losses = [0.5] * 8
    once, again = (LEARNING_RATES.build({"name": name}) for _ in range(2))
    forward = [once(number, 50, losses[: number // 5]) for number in range(50)]
    back = [again(number, 50, losses[: number // 5]) for number in reversed(range(50))]
    assert forward == back[::-1]
    assert all(0 < factor <= 1 for factor in forward)
    assert [once(number, 50) for number in range(5)] == forward[:5]  # no epoch was over yet
    assert max(forward) > 0.9


@pytest.mark.parametrize(
    "name", [part.name for part in LEARNING_RATES if issubclass(part.arguments, WarmedArguments)]
)
def test_a_schedule_begins_at_the_top_after_its_warm_up(name: str) -> None:
    factor = LEARNING_RATES.build({"name": name, "warmup": 0.2})
    rise = [factor(number, 100) for number in range(21)]
    assert rise == sorted(rise)
    assert rise[0] == pytest.approx(1 / 21)
    assert rise[20] == 1.0
    assert max(factor(number, 100) for number in range(100)) == 1.0
    assert LEARNING_RATES.build({"name": name, "warmup": 0})(0, 100) == 1.0
    assert factor(0, 1) == 1.0  # one step, and no room for a warm-up
