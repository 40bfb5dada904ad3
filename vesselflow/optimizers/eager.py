"""Torch's optimizers without the detour through the machinery of `torch.compile`."""

from __future__ import annotations

import functools
import inspect
from typing import TypeVar

import torch

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
