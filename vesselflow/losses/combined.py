"""A mix of binary cross-entropy and soft Dice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from vesselflow.config.scalars import Share
from vesselflow.losses.bce import BceArguments, bce_loss
from vesselflow.losses.dice import DiceArguments, dice_loss
from vesselflow.losses.loss import Loss

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
    total, _ = combined_terms(
        logits,
        target,
        fov,
        beta=beta,
        pos_weight=pos_weight,
        label_smoothing=label_smoothing,
        smooth=smooth,
        per=per,
    )
    return total


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
) -> tuple[Tensor, dict[str, Tensor]]:
    """`combined_loss` and its two terms, detached and before their weights."""
    import torch

    # A term without a share is still logged, but costs no backward pass.
    with torch.set_grad_enabled(torch.is_grad_enabled() and beta < 1.0):
        bce = bce_loss(logits, target, fov, pos_weight=pos_weight, label_smoothing=label_smoothing)
    with torch.set_grad_enabled(torch.is_grad_enabled() and beta > 0.0):
        dice = dice_loss(logits, target, fov, smooth=smooth, per=per)
    shares = [(1.0 - beta, bce), (beta, dice)]
    parts = [term if share == 1.0 else share * term for share, term in shares if share > 0.0]
    total = parts[0] if len(parts) == 1 else parts[0] + parts[1]
    return total, {"bce": bce.detach(), "dice": dice.detach()}


class Combined(Loss):
    """`combined_loss` with its arguments; its terms are logged apart."""

    name = "combined"
    function = staticmethod(combined_loss)

    def evaluate(
        self, logits: Tensor, target: Tensor, fov: Tensor | None, values: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and the terms `bce` and `dice`, before their weights."""
        return combined_terms(logits, target, fov, **values)
