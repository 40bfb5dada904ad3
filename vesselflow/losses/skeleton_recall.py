"""Skeleton recall loss: are the target's thickened centre lines found?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Positive
from vesselflow.errors import UserError
from vesselflow.losses.loss import Loss
from vesselflow.losses.masked import pixels

if TYPE_CHECKING:
    from torch import Tensor


class SkeletonRecallArguments(Arguments):
    """Arguments of `skeleton_recall`.

    Attributes:
        radius: How far the skeleton is thickened, in px; it never leaves the target.
        smooth: Pixels added above and below the line.
    """

    radius: Annotated[int, Field(ge=0, le=100)] = 2
    smooth: Positive = 1.0


def skeleton_recall_loss(
    logits: Tensor,
    target: Tensor,
    fov: Tensor | None = None,
    *,
    radius: int,
    smooth: float,
) -> Tensor:
    """Skeleton recall loss: 1 - (sum p k + s) / (sum k + s), p = sigmoid(logits).

    k is the `tubed_skeleton` of the target cut at t > 1/2: thin vessels weigh as much as wide ones
    by their length. In [0, 1); 0 where p is 1 on k. What lies outside k has no effect: false
    alarms cost nothing, an empty target teaches nothing (0, with a gradient of 0). It is meant for
    a sum with a region loss (`compose`).

    Args:
        logits: float (N, C, H, W) or (N, C, D, H, W), before sigmoid.
        target: same shape, values in [0, 1].
        fov: bool or 0/1 (N, 1, ...); pixels outside are ignored, and count as no vessel. None: all
            count.
        radius: Of the tube, in px; an anisotropic spacing is ignored.
        smooth: s, in pixels, above 0.

    Returns:
        Scalar: per image and channel, then the mean. Images with an empty fov are left out; 0 when
        all are.

    Raises:
        ShapeError: The shapes do not fit each other.

    Reference:
        Kirchhoff et al., ECCV 2024, https://arxiv.org/abs/2404.03010. Deviates: 1 - recall rather
        than - recall, `smooth`, and a ball of `radius` for the tube.
    """
    import torch

    px = pixels(logits, target, fov)
    mask = (px.target > 0.5).unflatten(2, logits.shape[2:])
    tube = tubed_skeleton(mask, radius).to(px.logits).flatten(2)
    missed = px.sum(tube * torch.sigmoid(-px.logits))
    return px.mean_over_images(missed / (px.sum(tube) + smooth))


def tubed_skeleton(mask: Tensor, radius: int) -> Tensor:
    """The skeleton of the mask, thickened by `radius` px, inside the mask.

    The skeleton is scikit-image's (Zhang and Suen's in an image, Lee's in a volume; axes of length
    1 are none), on the CPU, for each image and channel.

    Args:
        mask: bool (N, C, H, W) or (N, C, D, H, W).
        radius: In px, Euclidean; 0 is the skeleton alone.

    Returns:
        bool, same shape, on the CPU.
    """
    import numpy as np
    import torch
    from scipy.ndimage import distance_transform_edt
    from skimage.morphology import skeletonize

    masks = mask.cpu().numpy()
    result = np.zeros(masks.shape, bool)
    for place in np.ndindex(*masks.shape[:2]):
        inside = masks[place]
        if not inside.any():
            continue
        flat = inside.squeeze()
        skeleton = skeletonize(flat) if flat.ndim in (2, 3) else flat
        tube = distance_transform_edt(~skeleton) <= radius if skeleton.any() else flat
        result[place] = (tube & flat).reshape(inside.shape)
    return torch.from_numpy(result)


class SkeletonRecall(Loss):
    """`skeleton_recall_loss` with its arguments; UserError where scikit-image is not installed."""

    name = "skeleton_recall"
    function = staticmethod(skeleton_recall_loss)
    spatial = True
    teaches_absence = False

    def __init__(self, *, radius: int, smooth: float) -> None:
        super().__init__(radius=radius, smooth=smooth)
        from importlib.util import find_spec

        if find_spec("skimage") is None:
            raise UserError(
                "scikit-image is not installed, which makes the skeletons",
                where="loss.name",
                hint="pip install 'vesselflow[skeletons]' on every machine that trains",
            )
