"""Fuzzy Tversky loss: set counts under the minimum t-norm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import pixels
from vesselflow.losses.tversky import TverskyArguments

if TYPE_CHECKING:
    from torch import Tensor


class FuzzyArguments(TverskyArguments):
    """Arguments of `fuzzy`: those of `tversky`."""


def fuzzy_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    beta: float,
    smooth: float,
) -> Tensor:
    """Fuzzy Tversky loss: 1 - (TP + s) / (TP + (1 - beta) FP + beta FN + s).

    TP = sum min(p, t), FP = sum max(p - t, 0), FN = sum max(t - p, 0), p = sigmoid(logits).
    Computed as ((1 - beta) FP + beta FN) / (TP + (1 - beta) FP + beta FN + s), the same number:
    exactly 0, with a gradient of 0, when p = t, soft targets included. On hard targets it equals
    `tversky_loss`. In [0, 1). beta 0.5 is the fuzzy Dice 1 - (2 sum min(p, t) + 2 s) /
    (sum(p) + sum(t) + 2 s). Empty target: (1 - beta) sum(p) / ((1 - beta) sum(p) + s).

    Args:
        logits: float (N, C, ...), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored. None: all count.
        beta: Weight of what was missed, in [0, 1]; above 0.5 favours recall. At 1 false alarms cost
            nothing, at 0 misses do not.
        smooth: s, in pixels, above 0.

    Returns:
        Scalar: per image and channel, then the mean. Images with an empty fov are left out; 0 when
        all are.

    Raises:
        ShapeError: The shapes do not fit each other.

    Reference:
        Tversky index with fuzzy set operations; index: Salehi et al., MLMI 2017,
        https://arxiv.org/abs/1706.05721, eq. 2. Deviates: minimum for the product, and `smooth`.
    """
    import torch
    from torch.nn import functional

    px = pixels(logits, target, fov)
    p = torch.sigmoid(px.logits)
    hit = px.sum(torch.minimum(p, px.target))
    false_alarm = px.sum(functional.relu(p - px.target))
    missed = px.sum(functional.relu(px.target - p))
    wrong = (1.0 - beta) * false_alarm + beta * missed
    return px.mean_over_images(wrong / (hit + wrong + smooth))


class Fuzzy(Loss):
    """`fuzzy_loss` with its arguments."""

    name = "fuzzy"
    function = staticmethod(fuzzy_loss)
