"""What averages of a model's weights share: their tensors, who holds them when, their state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Average(ABC):
    """Average of parameters and floating buffers; those that are not floating are copied.

    Args:
        model: Its present weights are the first average; tensors live on its device.

    Attributes:
        updates: How often weights were taken into the average.
    """

    def __init__(self, model: nn.Module) -> None:
        self.updates = 0
        self._average = {name: value.detach().clone() for name, value in _tensors(model).items()}

    @abstractmethod
    def share(self) -> float:
        """What the next weights count in the average; in [0, 1]."""

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take the model's present weights into the average."""
        share = self.share()
        for name, value in _tensors(model).items():
            average = self._average[name]
            if average.is_floating_point():
                average.lerp_(value.detach(), share)
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
