"""Exponential moving average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Ema:
    """Average of parameters and floating buffers: ``average = d * average + (1 - d) * value``.

    The decay of update number n (from 0) is ``d = min(decay, (1 + n) / (10 + n))``: 0.1 at first,
    then rising, so that a short training does not end near its initial weights (a plain 0.999
    keeps 65 % of them after 434 steps). Buffers that are not floating (counters) are copied.

    Args:
        model: Its present weights are the first average; tensors live on its device.
        decay: Upper limit of the decay, in [0, 1).

    Raises:
        ValueError: `decay` is outside [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.updates = 0
        self._average = {name: value.detach().clone() for name, value in _tensors(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present weights into the average."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in _tensors(model).items():
            average = self._average[name]
            if average.is_floating_point():
                average.lerp_(value.detach(), 1.0 - decay)
            else:
                average.copy_(value)
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Overwrite the model's parameters and buffers with the average."""
        for name, value in _tensors(model).items():
            value.copy_(self._average[name])

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Within the block the model holds the average; afterwards its own weights, bit for bit."""
        own = {name: value.detach().clone() for name, value in _tensors(model).items()}
        self.copy_to(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for name, value in _tensors(model).items():
                    value.copy_(own[name])

    def state_dict(self, *, copy: bool = True) -> dict[str, Any]:
        """What continues the average exactly: number of updates and all tensors.

        Args:
            copy: Without, the tensors are the average's own: the next update changes them.
        """
        average = self._average.items()
        return {
            "updates": self.updates,
            "average": {name: value.clone() if copy else value for name, value in average},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`.

        Raises:
            ValueError: The names or shapes are not those of this model.
        """
        average = state["average"]
        if {n: v.shape for n, v in average.items()} != {
            n: v.shape for n, v in self._average.items()
        }:
            raise ValueError("the averaged weights belong to another model")
        for name, value in self._average.items():
            value.copy_(average[name])
        self.updates = int(state["updates"])


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def count_parameters(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Number of a model's parameters (scalars); a shared parameter counts once."""
    return sum(
        parameter.numel()
        for parameter in model.parameters()
        if parameter.requires_grad or not trainable_only
    )
