"""Normalisation of batches inside the field of view.

Images come as floats in [0, 1], after augmentation; centre and scale are in the same units. The
statistics of sources and data sets are computed by `vesselflow.stores.statistics`; here are those
of each sample by itself (scope `patch`), by the same definitions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vesselflow.errors import ShapeError
from vesselflow.stores.normalisations import NORMALISATIONS
from vesselflow.stores.statistics import MIN_SCALE


def normalise(image: Tensor, fov: Tensor, *, centre: Tensor, scale: Tensor) -> Tensor:
    """``(image - centre) / scale`` inside the fov, 0 outside.

    Args:
        image: float (N, C, *S) in [0, 1].
        fov: float or bool (N, 1, *S); 0 is outside.
        centre: float (N, C), in units of the [0, 1] image.
        scale: float (N, C), likewise; a scale that is not finite or below 1e-6 counts as 1.

    Returns:
        float (N, C, *S), finite: pixels that are not finite become 0, as if outside.

    Raises:
        ShapeError: The shapes do not fit each other.
    """
    _check(image, fov)
    if centre.shape != image.shape[:2] or scale.shape != image.shape[:2]:
        raise ShapeError(
            f"centre {tuple(centre.shape)} and scale {tuple(scale.shape)} do not fit image "
            f"{tuple(image.shape)}"
        )
    centre = torch.where(torch.isfinite(centre), centre, 0.0).to(image)
    factor = 1.0 / _usable(scale.to(image))
    # Multiply and add in one pass over the pixels.
    each = (*centre.shape, *[1] * (image.ndim - 2))
    values = torch.addcmul((-centre * factor).view(each), image, factor.view(each))
    return torch.where((fov > 0) & torch.isfinite(values), values, 0.0)


def patch_statistics(
    image: Tensor, fov: Tensor, method: str = "standard", per_channel: bool = True
) -> tuple[Tensor, Tensor]:
    """Centre and scale of each sample, over the finite values inside its fov.

    Args:
        image: float (N, C, *S).
        fov: float or bool (N, 1, *S); 0 is outside.
        method: Name of a normalisation.
        per_channel: One pair per channel; False pools the channels of a sample into one pair.

    Returns:
        centre (N, C), scale (N, C), finite, scale > 0: a constant sample has scale 1, a sample
        without a value centre 0 and scale 1.

    Raises:
        ShapeError: The shapes do not fit each other.
        UserError: Unknown normalisation.
    """
    _check(image, fov)
    normalisation = NORMALISATIONS.build({"name": method})
    samples, channels = image.shape[:2]
    values = image.detach().float()
    valid = (fov > 0) & torch.isfinite(values)
    rows = channels if per_channel else 1
    values, valid = values.reshape(samples, rows, -1), valid.reshape(samples, rows, -1)
    centre, scale = normalisation.rows(values, valid)
    return (
        centre.expand(samples, channels).to(image.dtype),
        _usable(scale).expand(samples, channels).to(image.dtype),
    )


def _usable(scale: Tensor) -> Tensor:
    return torch.where(torch.isfinite(scale) & (scale >= MIN_SCALE), scale, 1.0)


def _check(image: Tensor, fov: Tensor) -> None:
    if image.ndim not in (4, 5) or fov.shape != (image.shape[0], 1, *image.shape[2:]):
        raise ShapeError(
            "expected image (N, C, *S) and fov (N, 1, *S), got "
            f"{tuple(image.shape)} and {tuple(fov.shape)}"
        )
