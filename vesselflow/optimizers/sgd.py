"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from vesselflow.config.registry import carried
from vesselflow.errors import UserError
from vesselflow.optimizers.arguments import OptimizerArguments

if TYPE_CHECKING:
    import torch


class SgdArguments(OptimizerArguments):
    """Arguments of `sgd`."""

    lr: float = Field(0.01, gt=0, le=10, description="Highest learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="Decay of summed gradients; 0: none")
    nesterov: bool = Field(False, description="Look ahead by one step of the momentum")
    weight_decay: float = Field(
        0.0, ge=0, le=1, description="Share of the weights that is added to the gradient"
    )

    @model_validator(mode="after")
    def _ahead_of_something(self) -> SgdArguments:
        if self.nesterov and self.momentum == 0:
            raise carried(
                UserError(
                    "there is no momentum to look ahead of",
                    where="nesterov",
                    allowed="false, or true with a momentum above 0",
                )
            )
        return self


def sgd(
    parameters: Iterable[torch.nn.Parameter],
    *,
    lr: float,
    momentum: float,
    nesterov: bool,
    weight_decay: float,
) -> torch.optim.Optimizer:
    """SGD: b = momentum * b + g, weights -= lr * b (Nesterov: lr * (g + momentum * b)).

    Args:
        parameters: What is trained.
        lr: Learning rate, above 0.
        momentum: Decay of the summed gradients, in [0, 1); the first step has b = g.
        nesterov: Nesterov's momentum, as Sutskever et al. write it; `momentum` is above 0 then.
        weight_decay: Times the weights, added to the gradient g.

    Reference: Sutskever et al., On the importance of initialization and momentum, ICML 2013,
    https://proceedings.mlr.press/v28/sutskever13.html.
    """
    import torch

    from vesselflow.optimizers.eager import fused

    return fused(torch.optim.SGD)(
        parameters,
        lr=lr,
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        fused=True,
    )
