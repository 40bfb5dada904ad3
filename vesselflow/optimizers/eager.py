"""Torch's optimizers without the detour through the machinery of `torch.compile`."""

from __future__ import annotations

import functools
import inspect
from typing import Any, TypeVar

import torch
from torch import Tensor

_T = TypeVar("_T", bound=torch.optim.Optimizer)


@functools.cache
def eager(optimizer: type[_T]) -> type[_T]:
    """The class of an optimizer, for training that is not compiled.

    Torch wraps what an optimizer does so that a compiler leaves it alone. The first call of such a
    wrapper imports the compiler: 2 s and some 100 MB in each process that trains, for nothing. Here
    the wrapped functions are called themselves; the arithmetic, and so every bit, is the same.

    Args:
        optimizer: A class of `torch.optim`.

    Returns:
        A class of the same name whose objects do the same, and are no part of a compiled graph.
    """
    plain = {
        name: inspect.unwrap(getattr(optimizer, name))
        for name in ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    }
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), {**plain, "step": step})


@functools.cache
def fused(optimizer: type[_T]) -> type[_T]:
    """The class of an optimizer that has a fused kernel, for training that is not compiled.

    The kernel passes over the memory of a parameter once, where the plain loop does so five times
    and more. It takes a gradient and moments for laid out in memory as their parameter is, and
    does not look: kernels of images that lie channels last, and gradients that do not, would be
    trained on noise. Here they are laid out anew where they differ.

    Args:
        optimizer: A class of `torch.optim` that takes ``fused=True``.

    Returns:
        As of `eager`.
    """
    plain = eager(optimizer)  # type: ignore[arg-type]
    plain_step, plain_load = plain.step, plain.load_state_dict

    def step(self: Any, closure: None = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.grad = _laid_out(parameter.grad, parameter)
        plain_step(self, closure)

    def load_state_dict(self: Any, state_dict: dict[str, Any]) -> None:
        plain_load(self, state_dict)
        for parameter, state in self.state.items():
            for name, value in state.items():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    state[name] = _laid_out(value, parameter)

    return type(optimizer.__name__, (plain,), {"step": step, "load_state_dict": load_state_dict})


def _laid_out(value: Tensor, parameter: Tensor) -> Tensor:
    """A tensor in the memory layout of another one of its shape."""
    if value.stride() == parameter.stride():
        return value
    return torch.empty_like(parameter, dtype=value.dtype).copy_(value)
