"""Centre and scale of intensities inside the field of view, of one image or of several pooled."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vesselflow.stores.normalisations import NORMALISATIONS
from vesselflow.stores.normalisations.normalisation import Normalisation, Pair

#: Below this spread (intensities in [0, 1]; 1/255 is 4e-3) an image counts as constant.
MIN_SCALE = 1e-6


def centre_scale(
    image: NDArray[Any], fov: NDArray[Any] | None, method: str, per_channel: bool = True
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre and scale with which ``(image - centre) / scale`` is normalised.

    Args:
        image: (*S, C). Integers count as intensities over the largest value of their type, so a
            uint8 image gives results in [0, 1] like its float counterpart; floats as they are.
        fov: (*S); pixels that are 0 have no effect. None: all pixels count.
        method: Name of a normalisation.
        per_channel: One pair per channel; False pools all channels into one pair, repeated.

    Returns:
        centre (C,), scale (C,), float32, finite, scale > 0. Values that are not finite are left
        out. A constant image gets scale 1; with no pixel to count: centre 0, scale 1.

    Raises:
        UserError: unknown normalisation.
    """
    normalisation = _normalisation(method)
    channels = image.shape[-1]
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
        centre, scale = _moments(pixels, normalisation)
    return _usable(centre, scale, channels)


def intensities(
    image: NDArray[np.uint8] | NDArray[np.uint16], fov: NDArray[Any]
) -> NDArray[np.int64]:
    """Pixels inside the fov by channel and intensity: all that pooled statistics need; they add up.

    Args:
        image: uint8 or uint16 (*S, C).
        fov: (*S); pixels that are 0 have no effect.

    Returns:
        int64 (C, L), of the L = 256 or 65,536 values of the type.
    """
    inside = image[fov.astype(bool)]
    levels = int(np.iinfo(image.dtype).max) + 1
    channels = range(image.shape[-1])
    counts = [np.bincount(inside[:, channel], minlength=levels) for channel in channels]
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
        UserError: unknown normalisation.
    """
    normalisation = _normalisation(method)
    total = np.sum(counts, axis=0)
    channels = len(total)
    if not per_channel:
        total = total.sum(axis=0, keepdims=True)
    count = total.shape[1]
    levels = np.arange(count) / (count - 1)
    pairs = [normalisation.counted(levels, row) if row.any() else (np.nan, np.nan) for row in total]
    centre, scale = (np.array(part) for part in zip(*pairs, strict=True))
    return _usable(centre, scale, channels)


def _normalisation(name: str) -> Normalisation:
    found: Normalisation = NORMALISATIONS.build({"name": name})
    return found


def _usable(
    centre: NDArray[np.float64], scale: NDArray[np.float64], channels: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    centre = np.where(np.isfinite(centre), centre, 0.0)
    scale = np.where(np.isfinite(scale) & (scale >= MIN_SCALE), scale, 1.0)
    return (
        np.broadcast_to(centre, (channels,)).astype(np.float32),
        np.broadcast_to(scale, (channels,)).astype(np.float32),
    )


def _moments(pixels: NDArray[np.float64], method: Normalisation) -> Pair:
    """Centre and scale of each column; NaN where a column holds no value."""
    if not pixels.shape[0]:
        nothing = np.full(pixels.shape[1], np.nan)
        return nothing, nothing
    return method.columns(pixels)
