"""RAdam: Adam without its leaps while the mean squared gradient rests on few steps."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from vesselflow.optimizers.arguments import Moments

if TYPE_CHECKING:
    import torch


class RAdamArguments(Moments):
    """Arguments of `radam`."""

    weight_decay: float = Field(0.0, ge=0, le=1, description="Decoupled weight decay")


def radam(
    parameters: Iterable[torch.nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
) -> torch.optim.Optimizer:
    """RAdam: Adam's step times r_t, and lr * m / (1 - beta1^t) while r_t is undefined.

    r_t, in [0, 1), is small while few gradients were seen, as after a warm-up of its own; with the
    default `beta2` it is undefined in the first five steps, which are those of momentum.

    Args:
        parameters: What is trained.
        lr: Learning rate, above 0.
        weight_decay: Share of the weights that a step takes off, times `lr`. The paper has none;
            the code of its authors takes it off beside the moments, as here.
        beta1: Decay of the mean gradient, in [0, 1).
        beta2: Decay of the mean squared gradient, in [0, 1).

    Reference: Liu et al., On the variance of the adaptive learning rate and beyond, ICLR 2020,
    https://arxiv.org/abs/1908.03265, algorithm 2.
    """
    import torch

    from vesselflow.optimizers.eager import eager

    # There is no fused kernel of it.
    return eager(torch.optim.RAdam)(
        parameters,
        lr=lr,
        betas=(beta1, beta2),
        weight_decay=weight_decay,
        decoupled_weight_decay=True,
        foreach=False,
    )
