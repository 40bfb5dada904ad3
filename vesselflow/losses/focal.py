"""Focal loss: cross-entropy that turns down what is classified well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Range, ScalarSchedule
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import pixels

if TYPE_CHECKING:
    from torch import Tensor

#: Below this distance the exponent's derivative is cut: for gamma < 1 it grows without bound.
NEAREST = 1e-12


class FocalArguments(Arguments):
    """Arguments of `focal`.

    Attributes:
        gamma: Exponent that turns down well-classified pixels; 0 turns nothing down.
        alpha: Weight of positives (negatives weigh 1 - alpha); null weighs both by 1.
    """

    gamma: Annotated[float | ScalarSchedule, Range(0.0, 10.0)] = 2.0
    alpha: Annotated[float | ScalarSchedule | None, Range(0.0, 1.0, others=(None,))] = None


def focal_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    gamma: float,
    alpha: float | None,
) -> Tensor:
    """Focal loss: mean of a |t - p|^gamma * bce(p, t), p = sigmoid(logits).

    On hard targets |t - p| is the paper's 1 - p_t; on soft ones it is the form of the quality focal
    loss. a = alpha t + (1 - alpha) (1 - t), or 1 without alpha. gamma 0 without alpha: `bce_loss`.

    Args:
        logits: float (N, C, ...), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored. None: all count.
        gamma: Exponent, at least 0.
        alpha: Weight of positives in [0, 1]; None weighs positives and negatives by 1.

    Returns:
        Scalar: mean over the pixels of an image (not divided by the number of objects, as detectors
        do), then over channels and images. Images with an empty fov are left out; 0 when all are.

    Raises:
        ShapeError: The shapes do not fit each other.

    Reference:
        Lin et al., ICCV 2017, https://arxiv.org/abs/1708.02002, eq. 5; soft targets: Li et al.,
        NeurIPS 2020, https://arxiv.org/abs/2006.04388.
    """
    import torch
    from torch.nn import functional

    px = pixels(logits, target, fov)
    p = torch.sigmoid(px.logits)
    focus = (px.target - p).abs().clamp(min=NEAREST).pow(gamma)
    entropy = functional.binary_cross_entropy_with_logits(px.logits, px.target, reduction="none")
    values = focus * entropy
    if alpha is not None:
        values = values * (alpha * px.target + (1.0 - alpha) * (1.0 - px.target))
    return px.mean_over_images(px.mean(values))


class Focal(Loss):
    """`focal_loss` with its arguments."""

    name = "focal"
    function = staticmethod(focal_loss)
