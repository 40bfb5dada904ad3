"""Binary cross-entropy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Range, ScalarSchedule, Share
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import Pixels, pixels

if TYPE_CHECKING:
    from torch import Tensor

#: Bounds of the balanced weight: one positive pixel in a large patch must not drown all others.
BALANCED_LIMIT = 256.0


class BceArguments(Arguments):
    """Arguments of `bce`.

    Attributes:
        pos_weight: Weight of the positive part, above 0, or ``balanced``.
        label_smoothing: Share of every target that is replaced by 1/2.
    """

    pos_weight: Annotated[
        float | ScalarSchedule | Literal["balanced"],
        Range(0.0, open_low=True, others=("balanced",)),
    ] = 1.0
    label_smoothing: Share = 0.0


def bce_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    pos_weight: float | Literal["balanced"],
    label_smoothing: float,
) -> Tensor:
    """Binary cross-entropy: mean of -(w t log p + (1 - t) log(1 - p)), p = sigmoid(logits).

    t is the target after smoothing, t (1 - e) + e / 2 with e = `label_smoothing`. Computed from
    logits, so it is finite and has a gradient however wrong a logit is. The best logit of a soft
    target is log(t / (1 - t)) + log w: a weight moves the logits of a heat-map and keeps its shape.

    Args:
        logits: float (N, C, ...), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored. None: all count.
        pos_weight: w, above 0. ``balanced``: negatives over positives of the image and channel
            (inside the fov, of the target before smoothing), held to [1/256, 256], and 1 where
            the target is empty or full, as there is nothing to balance.
        label_smoothing: e in [0, 1].

    Returns:
        Scalar: mean over the pixels of an image, then over channels and images. Nothing is pooled
        over the batch. Images with an empty fov are left out; 0 when all are.

    Raises:
        ShapeError: The shapes do not fit each other.
    """
    from torch.nn import functional

    px = pixels(logits, target, fov)
    weight = _balance(px) if pos_weight == "balanced" else px.logits.new_tensor(pos_weight)
    smoothed = px.target * (1.0 - label_smoothing) + 0.5 * label_smoothing
    values = functional.binary_cross_entropy_with_logits(
        px.logits, smoothed, pos_weight=weight, reduction="none"
    )
    return px.mean_over_images(px.mean(values))


def _balance(px: Pixels) -> Tensor:
    import torch

    positives = px.sum(px.target)
    negatives = px.count - positives
    ratio = negatives / positives.clamp(min=torch.finfo(positives.dtype).tiny)
    ratio = ratio.clamp(1.0 / BALANCED_LIMIT, BALANCED_LIMIT)
    both = (positives > 0) & (negatives > 0)
    return torch.where(both, ratio, torch.ones_like(ratio)).unsqueeze(-1)


class Bce(Loss):
    """`bce_loss` with its arguments."""

    name = "bce"
    function = staticmethod(bce_loss)
