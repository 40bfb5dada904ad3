"""Boundary loss: errors weigh as much as they are far from the target's boundary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vesselflow.config.registry import Arguments
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import pixels

if TYPE_CHECKING:
    from torch import Tensor


class BoundaryArguments(Arguments):
    """Arguments of `boundary`: none. Its share stands in `compose`, mostly rising over training."""


def boundary_loss(logits: Tensor, target: Tensor, fov: Tensor | None = None) -> Tensor:
    """Boundary loss: mean of d (p - m) in px, p = sigmoid(logits), m the target cut at t > 1/2.

    d is the signed distance of a pixel's centre to the boundary of m (`signed_distance`), below 0
    inside, so that no summand is below 0. The paper's mean of d p differs by the mean of d m, which
    no prediction changes: here the loss is 0 where p = m. Not bounded; a false alarm far away
    counts most, and within vessels of a px or two little does: it is meant for a sum with a region
    loss (`compose`). An empty or full m has no boundary: every pixel counts as next to one.

    Args:
        logits: float (N, C, ...), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored, and count as no vessel: one that
            leaves the fov ends there. None: all count.

    Returns:
        Scalar, in px: mean over the pixels of an image, then over channels and images. Images with
        an empty fov are left out; 0 when all are.

    Raises:
        ShapeError: The shapes do not fit each other.

    Reference:
        Kervadec et al., MIDL 2019, https://arxiv.org/abs/1812.07032. Deviates: by a constant, and
        the distance to the edge between pixels rather than to the last pixel inside.
    """
    import torch

    px = pixels(logits, target, fov)
    mask = px.target > 0.5
    distance = signed_distance(mask.unflatten(2, logits.shape[2:])).to(px.logits).flatten(2)
    return px.mean_over_images(px.mean(distance * (torch.sigmoid(px.logits) - mask.to(distance))))


def signed_distance(mask: Tensor) -> Tensor:
    """Distance of pixels' centres to the edge of the mask, below 0 inside.

    It is the Euclidean distance to the nearest pixel of the other side, less half a px; 1/2 (-1/2)
    throughout where the mask is empty (full). In px: an anisotropic spacing is ignored. Computed by
    scipy on the CPU, for each image and channel.

    Args:
        mask: bool (N, C, ...).

    Returns:
        float32, same shape, on the CPU.
    """
    import numpy as np
    import torch
    from scipy.ndimage import distance_transform_edt

    masks = mask.cpu().numpy()
    result = np.empty(masks.shape, np.float32)
    for place in np.ndindex(*masks.shape[:2]):
        inside = masks[place]
        if inside.all() or not inside.any():
            result[place] = np.where(inside, -0.5, 0.5)
        else:
            there, beyond = distance_transform_edt(inside), distance_transform_edt(~inside)
            result[place] = np.where(inside, 0.5 - there, beyond - 0.5)
    return torch.from_numpy(result)


class Boundary(Loss):
    """`boundary_loss`, which has no arguments."""

    name = "boundary"
    function = staticmethod(boundary_loss)
    spatial = True
