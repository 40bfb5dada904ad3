"""Writing into the field of view of a sample, in place; torch is imported when it is done."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def add_clamped(values: Tensor, more: Tensor) -> None:
    """Add something in place, clamped to [0, 1]."""
    values.add_(more).clamp_(0, 1)


def is_full(fov: Tensor) -> bool:
    """Whether all of a sample's fov is inside, so that no mask is needed.

    Of what lies on another device this is never said: it would have to be waited for, and a mask
    costs little there.
    """
    return fov.device.type == "cpu" and bool(fov.amin() > 0)


def mean_inside(image: Tensor, fov: Tensor) -> Tensor:
    """Mean of each channel of a sample over its fov, (C,); 0 where nothing is inside.

    Args:
        image: float (C, *S); what lies outside may be no number.
        fov: float (1, *S), 0 or 1.
    """
    if is_full(fov):
        return image.flatten(1).mean(dim=1)
    seen = image.masked_fill(~fov.bool(), 0)
    return seen.flatten(1).sum(dim=1) / fov.sum().clamp(min=1)


def change_inside(
    image: Tensor, index: int, fov: Tensor, change: Callable[[Tensor], object]
) -> None:
    """Change one sample in place, inside the fov only: what a warp opened stays 0.

    Args:
        image: float (N, C, *S).
        index: Of the sample.
        fov: float (N, 1, *S), 0 or 1.
        change: Changes values (C, *S) that it is given, in place.
    """
    if is_full(fov[index]):
        change(image[index])
        return
    values = image[index].clone()
    change(values)
    write_inside(image, index, fov, values)


def write_inside(image: Tensor, index: int, fov: Tensor, values: Tensor) -> None:
    """Put new values (C, *S) into one sample, inside the fov only."""
    import torch

    own = image[index]
    values = values.view_as(own)
    if is_full(fov[index]):
        own.copy_(values)
    else:
        torch.where(fov[index].bool(), values, own, out=own)
