"""Exponential moving average of a model's weights."""

from __future__ import annotations

from torch import nn

from vesselflow.models.averages import Average


class Ema(Average):
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
        super().__init__(model)
        self.decay = decay

    def share(self) -> float:
        """1 - d."""
        return 1.0 - min(self.decay, (1 + self.updates) / (10 + self.updates))


def count_parameters(model: nn.Module, *, trainable_only: bool = False) -> int:
    """Number of a model's parameters (scalars); a shared parameter counts once."""
    return sum(
        parameter.numel()
        for parameter in model.parameters()
        if parameter.requires_grad or not trainable_only
    )
