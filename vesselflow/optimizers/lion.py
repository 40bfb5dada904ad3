"""Lion: steps of one length for all weights, in the direction of a sign."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from vesselflow.optimizers.eager import eager


class Lion(torch.optim.Optimizer):
    """With c = beta1 m + (1 - beta1) g: w -= lr (sign(c) + weight_decay w), then m of beta2.

    ``m = beta2 m + (1 - beta2) g`` is all that is kept, half of what Adam keeps. It starts at 0, so
    that the first step goes by the sign of the gradient; where c is 0, by the decay alone. A
    parameter without a gradient stays.

    Args:
        parameters: What is trained.
        lr: Learning rate, above 0: how far each weight moves.
        betas: Weight of m in the direction, and its decay; both in [0, 1).
        weight_decay: Decoupled: times `lr`, the share of the weights that a step takes off.

    Reference: Chen et al., Symbolic discovery of optimization algorithms, NeurIPS 2023,
    https://arxiv.org/abs/2302.06675, algorithm 2.
    """

    def __init__(
        self,
        parameters: Iterable[torch.nn.Parameter],
        *,
        lr: float,
        betas: tuple[float, float],
        weight_decay: float,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient; closures are not taken."""
        assert closure is None
        for group in self.param_groups:
            lr, (beta1, beta2) = group["lr"], group["betas"]
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["mean"] = torch.zeros_like(weight)
                mean, gradient = state["mean"], weight.grad
                direction = mean.mul(beta1).add_(gradient, alpha=1 - beta1).sign_()
                weight.mul_(1 - lr * group["weight_decay"]).add_(direction, alpha=-lr)
                mean.mul_(beta2).add_(gradient, alpha=1 - beta2)


def lion(
    parameters: Iterable[torch.nn.Parameter],
    *,
    lr: float,
    weight_decay: float,
    beta1: float,
    beta2: float,
) -> torch.optim.Optimizer:
    """`Lion` with its arguments, as they stand in a space."""
    return eager(Lion)(parameters, lr=lr, betas=(beta1, beta2), weight_decay=weight_decay)
