"""Predictions as pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shown:
    """A prediction beside the truth, in native px.

    Attributes:
        probability: float (*S) in [0, 1]: the surest class of each voxel.
        prediction: bool (*S).
        target: bool (*S).
    """

    probability: NDArray[np.floating[Any]]
    prediction: NDArray[np.bool_]
    target: NDArray[np.bool_]


def balls(
    places: NDArray[np.float64], radii: NDArray[np.float64], shape: tuple[int, ...]
) -> NDArray[np.bool_]:
    """Balls around points, bool (*S).

    Args:
        places: (k, D), in voxels.
        radii: (k, D), in voxels along each axis; at least one voxel is shown.
        shape: S.
    """
    found: NDArray[np.bool_] = np.zeros(shape, dtype=bool)
    for place, radius in zip(places, np.maximum(radii, 0.75), strict=True):
        low = np.maximum(0, np.ceil(place - radius)).astype(int)
        high = np.minimum(shape, np.floor(place + radius).astype(int) + 1)
        if (high <= low).any():
            continue
        axes = (
            ((np.arange(a, b) - c) / r) ** 2
            for a, b, c, r in zip(low, high, place, radius, strict=True)
        )
        inside = np.zeros(())
        for axis in axes:
            inside = inside[..., None] + axis
        window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        found[window] = found[window] | (inside <= 1)
    return found
