"""Adam, its weight decay a part of the gradient."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field

from vesselflow.optimizers.arguments import Moments

if TYPE_CHECKING:
    import torch


class AdamArguments(Moments):
    """Arguments of `adam`."""

    weight_decay: float = Field(
        0.0, ge=0, le=1, description="Share of the weights that is added to the gradient"
    )


def adam(
    parameters: Iterable[torch.nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
) -> torch.optim.Optimizer:
    """Adam: lr * m / (sqrt(v) + 1e-8), m and v the corrected means of gradient and its square.

    Args:
        parameters: What is trained.
        lr: Learning rate, above 0.
        weight_decay: Times the weights, added to the gradient before its moments (L2 penalty).
        beta1: Decay of the mean gradient, in [0, 1).
        beta2: Decay of the mean squared gradient, in [0, 1).

    Reference: Kingma and Ba, Adam, ICLR 2015, https://arxiv.org/abs/1412.6980, algorithm 1.
    """
    import torch

    from vesselflow.optimizers.eager import fused

    return fused(torch.optim.Adam)(
        parameters, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay, fused=True
    )
