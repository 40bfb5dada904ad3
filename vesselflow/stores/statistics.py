"""Centre and scale of intensities inside the field of view, of one image or of several pooled."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesselflow.errors import UserError

METHODS = ("standard", "percentile", "median")

#: A normal distribution's standard deviation over its median absolute deviation, 1 / PPF(3/4).
MAD_TO_STD = 1.482602218505602
#: Percentiles that the method of that name maps to -1 and 1.
PERCENTILES = (1.0, 99.0)
#: Below this spread (intensities in [0, 1]; 1/255 is 4e-3) an image counts as constant.
MIN_SCALE = 1e-6


def centre_scale(
    image: NDArray[Any], fov: NDArray[Any] | None, method: str, per_channel: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre and scale with which ``(image - centre) / scale`` is normalised.

    Methods: `standard` mean and standard deviation (ddof 0); `percentile` middle and half distance
    of the 1st and the 99th percentile, which then fall on -1 and 1; `median` median and 1.4826
    times the median absolute deviation.

    Args:
        image: (H, W, C). Integers count as intensities over the largest value of their type, so a
            uint8 image gives results in [0, 1] like its float counterpart; floats as they are.
        fov: (H, W); pixels that are 0 have no effect. None: all pixels count.
        method: "standard", "percentile" or "median".
        per_channel: One pair per channel; False pools all channels into one pair, repeated.

    Returns:
        centre (C,), scale (C,), float32, finite, scale > 0. Values that are not finite are left
        out. A constant image gets scale 1; with no pixel to count: centre 0, scale 1.

    Raises:
        UserError: unknown method.
    """
    _check(method)
    channels = image.shape[2]
    pixels = image.reshape(-1, channels) if fov is None else image[fov.astype(bool)]
    if np.issubdtype(image.dtype, np.integer):
        pixels = pixels / np.float64(np.iinfo(image.dtype).max)
    pixels = pixels.astype(np.float64, copy=False)
    if not per_channel:
        pixels = pixels.reshape(-1, 1)
    if not np.isfinite(pixels).all():
        pixels = np.where(np.isfinite(pixels), pixels, np.nan)
    with warnings.catch_warnings():
        # An all-NaN channel warns; it is mended below.
        warnings.simplefilter("ignore", RuntimeWarning)
        centre, scale = _moments(pixels, method)
    return _usable(centre, scale, channels)


def intensities(image: NDArray[np.uint8], fov: NDArray[Any]) -> NDArray[np.int64]:
    """Pixels inside the fov by channel and intensity: all that pooled statistics need; they add up.

    Args:
        image: uint8 (H, W, C).
        fov: (H, W); pixels that are 0 have no effect.

    Returns:
        int64 (C, 256).
    """
    inside = image[fov.astype(bool)]
    counts = [np.bincount(inside[:, channel], minlength=256) for channel in range(image.shape[2])]
    return np.stack(counts).astype(np.int64, copy=False)


def pooled_centre_scale(
    counts: Sequence[NDArray[np.int64]], method: str, per_channel: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre and scale of the pixels of several images together.

    Args:
        counts: `intensities` of each image.
        method: As in `centre_scale`.
        per_channel: Likewise.

    Returns:
        What `centre_scale` gives for one image that holds the pixels of all.

    Raises:
        UserError: unknown method.
    """
    _check(method)
    total = np.sum(counts, axis=0)
    channels = len(total)
    if not per_channel:
        total = total.sum(axis=0, keepdims=True)
    pairs = [_counted(np.arange(256) / 255, row, method) for row in total]
    centre, scale = (np.array(part) for part in zip(*pairs, strict=True))
    return _usable(centre, scale, channels)


def _check(method: str) -> None:
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}", allowed=", ".join(METHODS))


def _usable(
    centre: NDArray[np.float64], scale: NDArray[np.float64], channels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    centre = np.where(np.isfinite(centre), centre, 0.0)
    scale = np.where(np.isfinite(scale) & (scale >= MIN_SCALE), scale, 1.0)
    return (
        np.broadcast_to(centre, (channels,)).astype(np.float32),
        np.broadcast_to(scale, (channels,)).astype(np.float32),
    )


def _counted(
    values: NDArray[np.float64], counts: NDArray[np.int64], method: str
) -> tuple[float, float]:
    """Centre and scale of values that occur so often; NaN where none does."""
    n = int(counts.sum())
    if not n:
        return np.nan, np.nan
    if method == "standard":
        mean = float(values @ counts) / n
        return mean, float(np.sqrt((values - mean) ** 2 @ counts / n))
    if method == "percentile":
        low, high = (_quantile(values, counts, percent / 100) for percent in PERCENTILES)
        return (low + high) / 2, (high - low) / 2
    middle = _quantile(values, counts, 0.5)
    away = np.abs(values - middle)
    order = np.argsort(away, kind="stable")
    return middle, MAD_TO_STD * _quantile(away[order], counts[order], 0.5)


def _quantile(values: NDArray[np.float64], counts: NDArray[np.int64], q: float) -> float:
    """Interpolated linearly between ranks, as `numpy.percentile` does; values in rising order."""
    upto = np.cumsum(counts)
    position = q * (int(upto[-1]) - 1)
    below = int(position)
    ranks = np.minimum([below, below + 1], upto[-1] - 1)
    low, high = values[np.searchsorted(upto, ranks, side="right")]
    return float(low + (position - below) * (high - low))


def _moments(
    pixels: NDArray[np.float64], method: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centre and scale of each column; NaN where a column holds no value."""
    if not pixels.shape[0]:
        nothing = np.full(pixels.shape[1], np.nan)
        return nothing, nothing
    if method == "standard":
        return np.nanmean(pixels, axis=0), np.nanstd(pixels, axis=0)
    if method == "percentile":
        low, high = np.nanpercentile(pixels, PERCENTILES, axis=0)
        return (low + high) / 2, (high - low) / 2
    middle = np.nanmedian(pixels, axis=0)
    return middle, MAD_TO_STD * np.nanmedian(np.abs(pixels - middle), axis=0)
