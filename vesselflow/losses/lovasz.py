"""Lovász loss: the convex surrogate of the Jaccard loss on errors sorted by size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Positive
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import Pixels, pixels

if TYPE_CHECKING:
    from torch import Tensor


class LovaszArguments(Arguments):
    """Arguments of `lovasz`.

    Attributes:
        errors: What is sorted: |p - t| of each ``probability``, or the ``hinge`` of its logit,
            which keeps its gradient where a logit is confidently wrong.
        smooth: Pixels added above and below the line of the Jaccard index.
    """

    errors: Literal["probability", "hinge"] = "probability"
    smooth: Positive = 1.0


def lovasz_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    errors: Literal["probability", "hinge"],
    smooth: float,
) -> Tensor:
    """Lovász extension of the Jaccard loss, at the errors of the pixels of an image.

    The Jaccard loss of a set M of wrong pixels is J(M) = |M| / (sum of t + sum over M of (1 - t) +
    s), soft targets included, which is submodular. With the errors e sorted from the largest on,
    the loss is the sum of e_k (J(the first k) - J(the first k - 1)). Where every error is 0 or 1 it
    is `jaccard_loss` exactly.

    ``probability``: e = |p - t|, p = sigmoid(logits): 0 exactly where p = t, soft targets included;
    in [0, 1). ``hinge``: e = max(0, 1 - x) where t > 1/2 and max(0, 1 + x) elsewhere, x the logit:
    a soft target has the side of the one that is cut at 1/2, and its value in J. Not bounded.

    Empty target: J(M) = |M| / (|M| + s): every pixel is drawn down, the worst by far the most. Of
    pixels with equal errors the first counts as the larger one, which is one of the subgradients.

    Args:
        logits: float (N, C, ...), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored. None: all count.
        errors: ``probability`` or ``hinge``.
        smooth: s, in pixels, above 0.

    Returns:
        Scalar: per image and channel, then the mean. Images with an empty fov are left out; 0 when
        all are.

    Raises:
        ShapeError: The shapes do not fit each other.

    Reference:
        Berman et al., CVPR 2018, https://arxiv.org/abs/1705.08790, algorithm 1;
        ``hinge``: Yu and Blaschko, ICML 2015, https://arxiv.org/abs/1512.07797. Deviates: `smooth`,
        and soft targets.
    """
    import torch
    from torch.nn import functional

    px = pixels(logits, target, fov)
    if errors == "hinge":
        side = torch.where(px.target > 0.5, 1.0, -1.0)
        error = functional.relu(1.0 - side * px.logits)
    else:
        error = (torch.sigmoid(px.logits) - px.target).abs()
    # Outside the fov there is no error: these pixels come last, and have no part in any sum.
    error = error * px.inside
    return px.mean_over_images((error * _steps(px, error.detach(), smooth)).sum(dim=-1))


def _steps(px: Pixels, error: Tensor, smooth: float) -> Tensor:
    """What each pixel adds to J when those with larger errors are wrong already, (N, C, P).

    J_k - J_(k-1) = (T - t_1 - ... - t_(k-1) + (k - 1) t_k) / (D_k D_(k-1)), with T = s + sum of t
    and D_k = T + the sum of (1 - t) up to k: the difference itself would be rounding in a large
    image.
    """
    import torch

    order = error.argsort(dim=-1, descending=True, stable=True)
    target = px.target.gather(-1, order)
    total = target.sum(dim=-1, keepdim=True) + smooth
    before = target.cumsum(dim=-1) - target
    rank = torch.arange(target.shape[-1], device=target.device, dtype=target.dtype)
    above = total - before + rank * target
    below = total + rank - before
    steps = above / (below * (below + 1.0 - target))
    return torch.empty_like(steps).scatter_(-1, order, steps)


class Lovasz(Loss):
    """`lovasz_loss` with its arguments."""

    name = "lovasz"
    function = staticmethod(lovasz_loss)
