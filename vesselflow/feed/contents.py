"""What a sample holds, found once when its store is read: draws may depend on it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vesselflow.feed.layout import SampleLayout, Size


def planes_held(layout: SampleLayout, records: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Which classes samples hold: a target above 0 somewhere in the field of view.

    Args:
        layout: Of the records.
        records: uint8 (k, nbytes).

    Returns:
        uint8 (k, K), 0 or 1.
    """
    _, targets, fovs = layout.arrays(records)
    held = np.zeros((len(records), layout.targets), np.uint8)
    # Sample by sample: no second copy of all targets of a source.
    for row, target, fov in zip(held, targets, fovs, strict=True):
        for index, plane in enumerate(target):
            row[index] = np.any(plane & -fov[0])
    return held


def points_held(
    points: NDArray[np.float64], corners: NDArray[np.int32], shape: Size, classes: int
) -> NDArray[np.uint8]:
    """Which classes samples hold: a keypoint inside them.

    Args:
        points: (1 + p, D + 1), as `source_points` gives them.
        corners: int32 (k, D).
        shape: Of every sample.
        classes: K.

    Returns:
        uint8 (k, K), 0 or 1.
    """
    held = np.zeros((len(corners), classes), np.uint8)
    positions, kinds = points[1:, :-1], points[1:, -1].astype(np.int64)
    for row, corner in zip(held, corners, strict=True):
        low = corner - 0.5
        inside = ((positions >= low) & (positions < low + shape)).all(axis=1)
        row[kinds[inside]] = 1
    return held
