"""A mix of binary cross-entropy and soft Dice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vesselflow.config.scalars import Share
from vesselflow.losses.bce import BceArguments, bce_loss
from vesselflow.losses.dice import DiceArguments, dice_loss
from vesselflow.losses.loss import Loss, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor


class CombinedArguments(BceArguments, DiceArguments):
    """Arguments of `combined`: those of `bce` and of `dice`, and the mix.

    Attributes:
        beta: Share of `dice`: 0 is `bce` exactly, 1 is `dice` exactly.
    """

    beta: Share = 0.5


def combined_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    beta: float,
    pos_weight: float | Literal["balanced"],
    label_smoothing: float,
    smooth: float,
    per: Literal["image", "batch"],
) -> Tensor:
    """(1 - beta) * bce + beta * dice; see `bce_loss` and `dice_loss` for the terms.

    A beta of exactly 0 gives `bce_loss` to the bit, and 1 gives `dice_loss`: the other term then
    takes no part, not even as 0 times something (which is NaN where that is infinite).

    Args:
        logits: float (N, C, ...), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored. None: all count.
        beta: Share of the Dice term, in [0, 1].
        pos_weight: Of the cross-entropy term.
        label_smoothing: Of the cross-entropy term.
        smooth: Of the Dice term.
        per: Of the Dice term.

    Returns:
        Scalar; pooled as the terms are.

    Raises:
        ShapeError: The shapes do not fit each other.
    """
    terms = combined_terms(
        logits,
        target,
        fov,
        beta=beta,
        pos_weight=pos_weight,
        label_smoothing=label_smoothing,
        smooth=smooth,
        per=per,
    )
    return weighted_sum(terms, logits)


def combined_terms(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    beta: float,
    pos_weight: float | Literal["balanced"],
    label_smoothing: float,
    smooth: float,
    per: Literal["image", "batch"],
) -> dict[str, tuple[float, Tensor]]:
    """Weight and value of the two terms of `combined_loss`."""
    import torch

    # A term without a share is still logged, but costs no backward pass.
    with torch.set_grad_enabled(torch.is_grad_enabled() and beta < 1.0):
        bce = bce_loss(logits, target, fov, pos_weight=pos_weight, label_smoothing=label_smoothing)
    with torch.set_grad_enabled(torch.is_grad_enabled() and beta > 0.0):
        dice = dice_loss(logits, target, fov, smooth=smooth, per=per)
    return {"bce": (1.0 - beta, bce), "dice": (beta, dice)}


class Combined(Loss):
    """`combined_loss` with its arguments; its terms are logged apart."""

    name = "combined"
    function = staticmethod(combined_loss)

    def weighted(
        self, logits: Tensor, target: Tensor, fov: Tensor | None, progress: float
    ) -> dict[str, tuple[float, Tensor]]:
        """The terms `bce` and `dice`."""
        values = {**self._arguments, **self.scalars(progress)}
        return combined_terms(logits, target, fov, **values)
