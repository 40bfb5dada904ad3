"""Mean squared error of probabilities, the usual loss on heat-maps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Positive
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import pixels

if TYPE_CHECKING:
    from torch import Tensor


class MseArguments(Arguments):
    """Arguments of `mse`.

    Attributes:
        pos_weight: Weight of a pixel whose target is 1, above 0; where it is 0 the weight is 1.
    """

    pos_weight: Positive = 1.0


def mse_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    pos_weight: float,
) -> Tensor:
    """Mean squared error: mean of (1 + (w - 1) t) (p - t)^2, p = sigmoid(logits).

    Exactly 0, with a gradient of 0, when p = t, soft targets included. On a hard target the
    gradient vanishes where a logit is confidently wrong, that of `bce` does not.

    Args:
        logits: float (N, C, ...), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored. None: all count.
        pos_weight: w, above 0. The sum is divided by the number of pixels, not by the weights.

    Returns:
        Scalar: mean over the pixels of an image, then over channels and images. Images with an
        empty fov are left out; 0 when all are.

    Raises:
        ShapeError: The shapes do not fit each other.

    Reference:
        Heat-maps of keypoints: Tompson et al., NeurIPS 2014, https://arxiv.org/abs/1406.2984.
        Deviates: on probabilities rather than on the network's answer itself, and `pos_weight`.
    """
    import torch

    px = pixels(logits, target, fov)
    weight = 1.0 + (pos_weight - 1.0) * px.target
    error = torch.sigmoid(px.logits) - px.target
    return px.mean_over_images(px.mean(weight * error.square()))


class Mse(Loss):
    """`mse_loss` with its arguments."""

    name = "mse"
    function = staticmethod(mse_loss)
