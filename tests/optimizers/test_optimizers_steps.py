"""Optimizers: two steps by hand, from the papers' formulas in float64."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vesselflow.config.registry import Registry
from vesselflow.errors import UserError
from vesselflow.optimizers import OPTIMIZERS
from vesselflow.optimizers.arguments import OptimizerArguments

START, GRADIENTS = 2.0, (0.5, -1.0)


def after_two_steps(name: str, **arguments: float | bool) -> float:
    weight = torch.nn.Parameter(torch.tensor([START], dtype=torch.float64))
    optimizer = OPTIMIZERS.build({"name": name, **arguments}, parameters=[weight])
    for gradient in GRADIENTS:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
    return weight.item()


def adam_by_hand(lr: float, decay: float, *, decoupled: bool) -> float:
    w, m, v, beta1, beta2 = START, 0.0, 0.0, 0.9, 0.999
    for number, gradient in enumerate(GRADIENTS, start=1):
        if decoupled:
            w -= lr * decay * w
        else:
            gradient = gradient + decay * w
        m, v = beta1 * m + (1 - beta1) * gradient, beta2 * v + (1 - beta2) * gradient**2
        w -= lr * (m / (1 - beta1**number)) / (math.sqrt(v / (1 - beta2**number)) + 1e-8)
    return w


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_adam_and_adamw(decay: float) -> None:
    for name, decoupled in (("adam", False), ("adamw", True)):
        found = after_two_steps(name, lr=0.1, weight_decay=decay)
        assert found == pytest.approx(adam_by_hand(0.1, decay, decoupled=decoupled), abs=1e-12)


def test_sgd() -> None:
    # Without momentum: 2 - 0.1 * (0.5 - 1).
    assert after_two_steps("sgd", lr=0.1, momentum=0.0) == pytest.approx(2.05)
    # b = 0.5, then 0.9 * 0.5 - 1 = -0.55: 2 - 0.05 + 0.055.
    assert after_two_steps("sgd", lr=0.1, momentum=0.9) == pytest.approx(2.005)
    # g + 0.9 b: 0.95, then -1 - 0.495 = -1.495: 2 - 0.095 + 0.1495.
    nesterov = after_two_steps("sgd", lr=0.1, momentum=0.9, nesterov=True)
    assert nesterov == pytest.approx(2.0545)
    # g + 0.1 w: 0.7, w = 1.93, then -1 + 0.193 = -0.807.
    decayed = after_two_steps("sgd", lr=0.1, momentum=0.0, weight_decay=0.1)
    assert decayed == pytest.approx(1.93 + 0.0807)


def test_nesterov_without_a_momentum_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        OPTIMIZERS.validate({"name": "sgd", "momentum": 0, "nesterov": True}, where="optimizer")
    assert str(caught.value) == (
        "optimizer.nesterov: there is no momentum to look ahead of; "
        "allowed: false, or true with a momentum above 0"
    )


def test_a_version_that_reaches_some_arguments_only() -> None:
    registry = Registry("optimizer")
    registry.add(
        "odd",
        target="nowhere:nothing",
        arguments=OptimizerArguments,
        revised=(3, lambda arguments: arguments.lr > 1),
    )
    assert registry.canonical({"name": "odd", "lr": 0.5})["version"] == 1
    assert registry.canonical({"name": "odd", "lr": 2})["version"] == 3


KINDS = {
    "adamw": (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "adam": (torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "sgd": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.1, "nesterov": True}),
    "radam": (torch.optim.RAdam, {"lr": 0.01, "weight_decay": 0.1}),
}
#: What torch's own class needs beside them.
OTHERS: dict[str, dict[str, bool]] = {
    **{name: {"fused": True} for name in ("adamw", "adam", "sgd")},
    "radam": {"decoupled_weight_decay": True, "foreach": False},
}


@pytest.mark.parametrize("name", KINDS)
def test_the_bits_are_those_of_torch(name: str) -> None:
    kind, arguments = KINDS[name]
    draws = torch.Generator().manual_seed(0)
    start = torch.randn(50, generator=draws)
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    one = OPTIMIZERS.build({"name": name, **arguments}, parameters=[ours])
    other = kind([theirs], **arguments, **OTHERS[name])
    for step in range(9):  # radam is rectified from the sixth on
        gradient = torch.randn(50, generator=draws)
        for optimizer, weight in ((one, ours), (other, theirs)):
            optimizer.zero_grad()
            assert weight.grad is None
            weight.grad = gradient.clone()
            optimizer.step()
        if step == 2:
            # What a checkpoint does: each goes on from what the other one kept.
            kept, given = one.state_dict(), other.state_dict()
            one.load_state_dict(given)
            other.load_state_dict(kept)
    assert torch.equal(ours, theirs)
    assert isinstance(one, kind)
    assert not ours.grad_fn
    assert ours.requires_grad


def radam_by_hand(
    gradients: np.ndarray, lr: float, decay: float, beta1: float, beta2: float
) -> Any:
    """Weights from 0 in float64; Liu et al. 2020, algorithm 2."""
    w = m = v = np.zeros_like(gradients[0])
    longest = 2 / (1 - beta2) - 1
    for t, g in enumerate(gradients, start=1):
        w = w * (1 - lr * decay)
        m, v = beta1 * m + (1 - beta1) * g, beta2 * v + (1 - beta2) * g**2
        length = longest - 2 * t * beta2**t / (1 - beta2**t)
        step = m / (1 - beta1**t)
        if length > 5:
            r = (length - 4) * (length - 2) * longest
            r = math.sqrt(r / ((longest - 4) * (longest - 2) * length))
            step = r * step / (np.sqrt(v / (1 - beta2**t)) + 1e-8)
        w = w - lr * step
    return w


def lion_by_hand(gradients: np.ndarray, lr: float, decay: float, beta1: float, beta2: float) -> Any:
    """The same; Chen et al. 2023, algorithm 2."""
    w = m = np.zeros_like(gradients[0])
    for g in gradients:
        w = w - lr * (np.sign(beta1 * m + (1 - beta1) * g) + decay * w)
        m = beta2 * m + (1 - beta2) * g
    return w


BY_HAND = {"radam": radam_by_hand, "lion": lion_by_hand}


@given(
    name=st.sampled_from(sorted(BY_HAND)),
    seed=st.integers(0, 999),
    steps=st.integers(1, 12),
    lr=st.floats(1e-4, 0.1),
    decay=st.floats(0, 1),
    betas=st.tuples(st.floats(0, 0.95), st.floats(0, 0.999)),
)
def test_the_steps_of_the_papers(
    name: str, seed: int, steps: int, lr: float, decay: float, betas: tuple[float, float]
) -> None:
    gradients = np.random.default_rng(seed).normal(size=(steps, 4))
    gradients[:, 0] = 0.0  # one without a direction
    weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float64))
    arguments = {"lr": lr, "weight_decay": decay, "beta1": betas[0], "beta2": betas[1]}
    optimizer = OPTIMIZERS.build({"name": name, **arguments}, parameters=[weight])
    for gradient in gradients:
        weight.grad = torch.from_numpy(gradient)
        optimizer.step()
    expected = BY_HAND[name](gradients, lr, decay, *betas)
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=1e-6, atol=1e-9)


def test_all_weights_move_as_far_with_lion() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    still = torch.nn.Parameter(torch.ones(2))
    optimizer = OPTIMIZERS.build({"name": "lion", "lr": 0.5}, parameters=[weight, still])
    weight.grad = torch.tensor([1e-12, -1e6, 0.0])
    optimizer.step()
    assert weight.tolist() == [-0.5, 0.5, 0.0]
    assert still.tolist() == [1.0, 1.0]  # it had no gradient


def test_a_step_does_not_import_the_compiler() -> None:
    names = ", ".join(f"{name!r}" for name in OPTIMIZERS.names())
    code = f"""
import sys, torch
from vesselflow.optimizers import OPTIMIZERS
for name in ({names}):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = OPTIMIZERS.build({{"name": name}}, parameters=[weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
print("torch._dynamo" in sys.modules)
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize("name", [*KINDS, "lion"])
@pytest.mark.parametrize("resumed", [False, True])
def test_layouts_in_memory_change_no_weight(name: str, resumed: bool) -> None:
    """Fused kernels go through memory as it lies; gradients and moments may lie otherwise."""
    arguments = KINDS[name][1] if name in KINDS else {"lr": 0.01}
    draws = torch.Generator().manual_seed(0)
    start = torch.randn(4, 3, 5, 5, generator=draws)
    last, first = torch.channels_last, torch.contiguous_format
    found = []
    layouts = ((first, first), (last, first), (first, last), (last, last))
    for weights, gradients in layouts:
        weight = torch.nn.Parameter(start.clone(memory_format=weights))
        optimizer = OPTIMIZERS.build({"name": name, **arguments}, parameters=[weight])
        for step in range(4):
            noise = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(step))
            weight.grad = noise.contiguous(memory_format=gradients)
            optimizer.step()
            if resumed and step == 1:
                kept = copy.deepcopy(optimizer.state_dict())
                for state in kept["state"].values():
                    for key, value in state.items():
                        if isinstance(value, torch.Tensor) and value.ndim == 4:
                            state[key] = value.contiguous(memory_format=gradients)
                optimizer = OPTIMIZERS.build({"name": name, **arguments}, parameters=[weight])
                optimizer.load_state_dict(kept)
        found.append(weight.detach())
    for other in found[1:]:
        assert torch.allclose(found[0], other, atol=1e-6)
