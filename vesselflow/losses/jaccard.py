"""Soft Jaccard loss, one minus intersection over union."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Positive
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import pixels

if TYPE_CHECKING:
    from torch import Tensor


class JaccardArguments(Arguments):
    """Arguments of `jaccard`.

    Attributes:
        smooth: Pixels added above and below the line.
    """

    smooth: Positive = 1.0


def jaccard_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    smooth: float,
) -> Tensor:
    """Soft Jaccard loss: 1 - (TP + s) / (TP + FP + FN + s).

    TP = sum p t, FP = sum p (1 - t), FN = sum (1 - p) t, p = sigmoid(logits). Computed as
    (FP + FN) / (TP + FP + FN + s). In [0, 1); with soft targets above 0 even where p = t. With D =
    `dice_loss` of smooth 2 s it is 2 D / (1 + D): least where D is, with a steeper way there. Empty
    target: sum(p) / (sum(p) + s).

    Args:
        logits: float (N, C, ...), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored. None: all count.
        smooth: s, in pixels, above 0.

    Returns:
        Scalar: per image and channel, then the mean. Images with an empty fov are left out; 0 when
        all are.

    Raises:
        ShapeError: The shapes do not fit each other.

    Reference:
        Rahman and Wang, ISVC 2016, https://doi.org/10.1007/978-3-319-50835-1_22. Deviates:
        `smooth`.
    """
    import torch

    px = pixels(logits, target, fov)
    hit, false_alarm, missed = px.counts(torch.sigmoid(px.logits))
    wrong = false_alarm + missed
    return px.mean_over_images(wrong / (hit + wrong + smooth))


class Jaccard(Loss):
    """`jaccard_loss` with its arguments."""

    name = "jaccard"
    function = staticmethod(jaccard_loss)
