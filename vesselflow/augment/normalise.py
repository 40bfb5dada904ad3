"""Normalisation of batches inside the field of view.

Images come as floats in [0, 1], after augmentation; centre and scale are in the same units. The
statistics of sources and data sets are computed by `vesselflow.stores.statistics`; here are those
of each sample by itself (scope `patch`), by the same definitions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vesselflow.errors import ShapeError, UserError
from vesselflow.stores.statistics import MAD_TO_STD, METHODS, MIN_SCALE, PERCENTILES


def normalise(image: Tensor, fov: Tensor, *, centre: Tensor, scale: Tensor) -> Tensor:
    """``(image - centre) / scale`` inside the fov, 0 outside.

    Args:
        image: float (N, C, H, W) in [0, 1].
        fov: float or bool (N, 1, H, W); 0 is outside.
        centre: float (N, C), in units of the [0, 1] image.
        scale: float (N, C), likewise; a scale that is not finite or below 1e-6 counts as 1.

    Returns:
        float (N, C, H, W), finite: pixels that are not finite become 0, as if outside.

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
    values = torch.addcmul((-centre * factor)[:, :, None, None], image, factor[:, :, None, None])
    return torch.where((fov > 0) & torch.isfinite(values), values, 0.0)


def patch_statistics(
    image: Tensor, fov: Tensor, method: str = "standard", per_channel: bool = True
) -> tuple[Tensor, Tensor]:
    """Centre and scale of each sample, over the finite values inside its fov.

    Args:
        image: float (N, C, H, W).
        fov: float or bool (N, 1, H, W); 0 is outside.
        method: "standard": mean and standard deviation (ddof 0). "percentile": middle and half
            distance of the 1st and the 99th percentile. "median": median and 1.4826 times the
            median absolute deviation.
        per_channel: One pair per channel; False pools the channels of a sample into one pair.

    Returns:
        centre (N, C), scale (N, C), finite, scale > 0: a constant sample has scale 1, a sample
        without a value centre 0 and scale 1.

    Raises:
        ShapeError: The shapes do not fit each other.
        UserError: Unknown method.
    """
    _check(image, fov)
    if method not in METHODS:
        raise UserError(
            f"unknown method {method!r}", where="normalise.method", allowed=", ".join(METHODS)
        )
    samples, channels = image.shape[:2]
    values = image.detach().float()
    valid = (fov > 0) & torch.isfinite(values)
    rows = channels if per_channel else 1
    values, valid = values.reshape(samples, rows, -1), valid.reshape(samples, rows, -1)
    if method == "standard":
        centre, scale = _mean_std(values, valid)
    else:
        spread = _percentile if method == "percentile" else _median
        pairs = [
            spread(row[keep])
            for sample, mask in zip(values, valid, strict=True)
            for row, keep in zip(sample, mask, strict=True)
        ]
        centre, scale = (torch.stack(part).view(samples, rows) for part in zip(*pairs, strict=True))
    return (
        centre.expand(samples, channels).to(image.dtype),
        _usable(scale).expand(samples, channels).to(image.dtype),
    )


def _mean_std(values: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    count = valid.sum(-1).clamp(min=1)
    mean = torch.where(valid, values, 0.0).sum(-1) / count
    away = torch.where(valid, values - mean[..., None], 0.0)
    return mean, (away.square_().sum(-1) / count).sqrt()


def _percentile(values: Tensor) -> tuple[Tensor, Tensor]:
    if not values.numel():
        return values.new_zeros(()), values.new_ones(())
    low, high = (_quantile(values, percent / 100) for percent in PERCENTILES)
    return (low + high) / 2, (high - low) / 2


def _median(values: Tensor) -> tuple[Tensor, Tensor]:
    if not values.numel():
        return values.new_zeros(()), values.new_ones(())
    centre = _quantile(values, 0.5)
    return centre, MAD_TO_STD * _quantile((values - centre).abs(), 0.5)


def _quantile(values: Tensor, q: float) -> Tensor:
    """Interpolated linearly. `torch.quantile` sorts, which is slower, and refuses large inputs."""
    position = q * (values.numel() - 1)
    below = int(position)
    low = values.kthvalue(below + 1).values
    high = values.kthvalue(min(below + 2, values.numel())).values
    return torch.lerp(low, high, position - below)


def _usable(scale: Tensor) -> Tensor:
    return torch.where(torch.isfinite(scale) & (scale >= MIN_SCALE), scale, 1.0)


def _check(image: Tensor, fov: Tensor) -> None:
    if image.ndim != 4 or fov.shape != (image.shape[0], 1, *image.shape[2:]):
        raise ShapeError(
            "expected image (N, C, H, W) and fov (N, 1, H, W), got "
            f"{tuple(image.shape)} and {tuple(fov.shape)}"
        )
