"""Soft F-beta loss: soft Dice that weighs recall against precision."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Positive
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import pixels

if TYPE_CHECKING:
    from torch import Tensor


class FbetaArguments(Arguments):
    """Arguments of `fbeta`.

    Attributes:
        beta: How many times as much as precision recall counts; 1 is `dice`.
        smooth: Pixels added above and below the line.
    """

    beta: Positive = 2.0
    smooth: Positive = 1.0


def fbeta_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    beta: float,
    smooth: float,
) -> Tensor:
    """Soft F-beta loss: 1 - ((1 + b^2) TP + s) / ((1 + b^2) TP + b^2 FN + FP + s), b = `beta`.

    TP = sum p t, FP = sum p (1 - t), FN = sum (1 - p) t, p = sigmoid(logits). In [0, 1); with soft
    targets above 0 even where p = t. b = 1 is `dice_loss` with the same s; in general it is
    `tversky_loss` with beta b^2 / (1 + b^2) and smooth s / (1 + b^2). Empty target:
    sum(p) / (sum(p) + s), whatever b.

    Args:
        logits: float (N, C, ...), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored. None: all count.
        beta: b, above 0; above 1 favours recall, below 1 precision.
        smooth: s, in pixels, above 0.

    Returns:
        Scalar: per image and channel, then the mean. Images with an empty fov are left out; 0 when
        all are.

    Raises:
        ShapeError: The shapes do not fit each other.

    Reference:
        The measure: van Rijsbergen, Information Retrieval, 1979, chapter 7; as a loss: Hashemi et
        al., IEEE Access 2018, https://arxiv.org/abs/1803.11078. Deviates: `smooth`.
    """
    import torch

    px = pixels(logits, target, fov)
    hit, false_alarm, missed = px.counts(torch.sigmoid(px.logits))
    square = beta * beta
    wrong = square * missed + false_alarm
    return px.mean_over_images(wrong / ((1.0 + square) * hit + wrong + smooth))


class Fbeta(Loss):
    """`fbeta_loss` with its arguments."""

    name = "fbeta"
    function = staticmethod(fbeta_loss)
