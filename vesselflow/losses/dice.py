"""Soft Dice loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Positive
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import pixels

if TYPE_CHECKING:
    from torch import Tensor


class DiceArguments(Arguments):
    """Arguments of `dice`.

    Attributes:
        smooth: Pixels added above and below the line. Above 0: without it, the gradient on an
            empty target is zero.
        per: Sums are taken per ``image`` and averaged, or over the whole micro-``batch``.
    """

    smooth: Positive = 1.0
    per: Literal["image", "batch"] = "image"


def dice_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    smooth: float,
    per: Literal["image", "batch"],
) -> Tensor:
    """Soft Dice loss: 1 - (2 sum(p t) + s) / (sum(p) + sum(t) + s), p = sigmoid(logits).

    Computed as sum(p (1 - t) + t (1 - p)) / (sum(p) + sum(t) + s), which is the same number without
    the cancellation near 0. In [0, 1). With soft targets it is above 0 even where p = t (`fuzzy` is
    not). Empty target: sum(p) / (sum(p) + s), which falls to 0 with p and has a gradient there.

    Args:
        logits: float (N, C, ...), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored. None: all count.
        smooth: s, in pixels, above 0.
        per: ``image``: the formula per image and channel, then the mean. ``batch``: the sums run
            over all images of the micro-batch, per channel; then the mean over channels.

    Returns:
        Scalar. ``image``: images with an empty fov are left out of the mean. Either way 0 when all
        are empty.

    Raises:
        ShapeError: The shapes do not fit each other.

    Reference:
        Milletari et al., V-Net, 3DV 2016, https://arxiv.org/abs/1606.04797. Deviates: sums of p
        and t rather than of their squares, and `smooth`.
    """
    import torch

    px = pixels(logits, target, fov)
    p = torch.sigmoid(px.logits)
    apart = px.sum(p * (1.0 - px.target) + px.target * (1.0 - p))
    mass = px.sum(p + px.target)
    if per == "batch":
        return (apart.sum(dim=0) / (mass.sum(dim=0) + smooth)).mean()
    return px.mean_over_images(apart / (mass + smooth))


class Dice(Loss):
    """`dice_loss` with its arguments."""

    name = "dice"
    function = staticmethod(dice_loss)
