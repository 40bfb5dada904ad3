"""AdamW: Adam with a decay of the weights that the moments do not see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from vesselflow.optimizers.arguments import Moments

if TYPE_CHECKING:
    import torch


class AdamWArguments(Moments):
    """Arguments of `adamw`."""

    weight_decay: float = Field(0.01, ge=0, le=1, description="Decoupled weight decay")


def adamw(
    parameters: Iterable[torch.nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
) -> torch.optim.Optimizer:
    """AdamW: Adam's moments, weights decayed by lr * weight_decay beside them.

    Args:
        parameters: What is trained.
        lr: Learning rate, above 0.
        weight_decay: Share of the weights that a step takes off, times `lr`.
        beta1: Decay of the mean gradient, in [0, 1).
        beta2: Decay of the mean squared gradient, in [0, 1).

    Reference: Loshchilov and Hutter, Decoupled weight decay regularization, ICLR 2019,
    https://arxiv.org/abs/1711.05101.
    """
    import torch

    from vesselflow.optimizers.eager import fused

    return fused(torch.optim.AdamW)(
        parameters, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, fused=True
    )
