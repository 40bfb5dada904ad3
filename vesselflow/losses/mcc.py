"""Soft loss of Matthews' correlation coefficient, which counts the background too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Positive
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import pixels

if TYPE_CHECKING:
    from torch import Tensor


class MccArguments(Arguments):
    """Arguments of `mcc`.

    Attributes:
        smooth: Pixels of either class that are added as if they were classified rightly.
    """

    smooth: Positive = 1.0


def mcc_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    smooth: float,
) -> Tensor:
    """Soft MCC loss: 1 - (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)).

    TP = s + sum p t, TN = s + sum (1 - p) (1 - t), FP = sum p (1 - t), FN = sum (1 - p) t, p =
    sigmoid(logits). The same for a target and its complement. In [0, 2): 0 where hard p = t, 1 for
    chance, above 1 for worse. With soft targets above 0 even where p = t. Without s the coefficient
    of an empty or full target is 0 / 0; with it, it is 1 where p = t, and less elsewhere.

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
        Abhishek and Hamarneh, ISBI 2021, https://arxiv.org/abs/2010.13454. Deviates:
        `smooth`, and per image rather than over the batch.
    """
    import torch

    px = pixels(logits, target, fov)
    p = torch.sigmoid(px.logits)
    hit, false_alarm, missed = px.counts(p)
    hit = hit + smooth
    rest = px.sum((1.0 - p) * (1.0 - px.target)) + smooth
    # Two roots: the product of all four sums overflows float32 from volumes of 2000^3 on.
    scale = ((hit + false_alarm) * (rest + missed)).sqrt()
    scale = scale * ((hit + missed) * (rest + false_alarm)).sqrt()
    return px.mean_over_images(1.0 - (hit * rest - false_alarm * missed) / scale)


class Mcc(Loss):
    """`mcc_loss` with its arguments."""

    name = "mcc"
    function = staticmethod(mcc_loss)
