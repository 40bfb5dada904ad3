"""Centre and scale of an image's intensities inside its field of view."""

from __future__ import annotations

import warnings
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
    if method not in METHODS:
        raise UserError(f"unknown method {method!r}", allowed=", ".join(METHODS))
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
    centre = np.where(np.isfinite(centre), centre, 0.0)
    scale = np.where(np.isfinite(scale) & (scale >= MIN_SCALE), scale, 1.0)
    return (
        np.broadcast_to(centre, (channels,)).astype(np.float32),
        np.broadcast_to(scale, (channels,)).astype(np.float32),
    )


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
