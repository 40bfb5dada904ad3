"""Tversky loss: soft Dice with weights on false alarms and misses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Positive, Share
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import pixels

if TYPE_CHECKING:
    from torch import Tensor


class TverskyArguments(Arguments):
    """Arguments of `tversky`.

    Attributes:
        beta: Weight of what was missed; 1 - beta is that of false alarms. Above 0.5 recall counts
            more.
        smooth: Pixels added above and below the line.
    """

    beta: Share = 0.5
    smooth: Positive = 1.0


def tversky_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    beta: float,
    smooth: float,
) -> Tensor:
    """Tversky loss: 1 - (TP + s) / (TP + (1 - beta) FP + beta FN + s).

    TP = sum p t, FP = sum p (1 - t), FN = sum (1 - p) t, p = sigmoid(logits). In [0, 1); with soft
    targets above 0 even where p = t. beta 0.5 with s is `dice_loss` with 2 s.

    Args:
        logits: float (N, C, ...), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored. None: all count.
        beta: Weight of what was missed, in [0, 1]; 1 - beta is that of false alarms.
        smooth: s, in pixels, above 0.

    Returns:
        Scalar: per image and channel, then the mean. Images with an empty fov are left out; 0 when
        all are.

    Raises:
        ShapeError: The shapes do not fit each other.

    Reference:
        Salehi et al., MLMI 2017, https://arxiv.org/abs/1706.05721, eq. 2 with alpha = 1 - beta.
        Deviates: `smooth`.
    """
    import torch

    px = pixels(logits, target, fov)
    hit, false_alarm, missed = px.counts(torch.sigmoid(px.logits))
    wrong = (1.0 - beta) * false_alarm + beta * missed
    return px.mean_over_images(wrong / (hit + wrong + smooth))


class Tversky(Loss):
    """`tversky_loss` with its arguments."""

    name = "tversky"
    function = staticmethod(tversky_loss)
