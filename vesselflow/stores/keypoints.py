"""Points in a source: where they are and of which class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Keypoints:
    """The keypoints of one source; there may be none.

    Attributes:
        positions: float64 (k, D), voxels of the source in the order of its axes; the centre of
            voxel i lies at i, so a source of n voxels reaches from -0.5 to n - 0.5 (excluded).
        classes: int32 (k,), positions in the store's list of classes.
    """

    positions: NDArray[np.float64]
    classes: NDArray[np.int32]

    @classmethod
    def none(cls, dims: int) -> Keypoints:
        """No keypoint in a source of `dims` axes."""
        return cls(np.zeros((0, dims)), np.zeros(0, np.int32))

    def __len__(self) -> int:
        return len(self.positions)

    def on_grid(self, ds_factor: int) -> NDArray[np.float64]:
        """Positions (k, D) on the grid that is coarser by `ds_factor`, in its cells.

        The centre of cell j lies at ``f * j + (f - 1) / 2`` of the full resolution.
        """
        return (self.positions - (ds_factor - 1) / 2) / ds_factor

    def inside(self, window: Sequence[int]) -> Keypoints:
        """Those in a window (lows, then highs, end exclusive), relative to its first voxel.

        A point on the border of two windows belongs to the one with the higher coordinates.
        """
        low, high = np.split(np.asarray(window, np.float64), 2)
        held = ((self.positions >= low - 0.5) & (self.positions < high - 0.5)).all(axis=1)
        return Keypoints(self.positions[held] - low, self.classes[held])

    def counts(self, classes: int) -> tuple[int, ...]:
        """How many there are of each class."""
        return tuple(np.bincount(self.classes, minlength=classes).tolist())


def keypoint_faults(
    positions: NDArray[Any], classes: NDArray[Any], shape: Sequence[int], names: Sequence[str]
) -> list[str]:
    """What is wrong with the keypoints of a source; empty when all is well.

    Args:
        positions: (k, D).
        classes: (k,).
        shape: Spatial sizes of the source.
        names: The store's classes.
    """
    dims = len(shape)
    if positions.dtype != np.float64 or positions.ndim != 2 or positions.shape[1] != dims:
        return [f"keypoints must be float64 (k, {dims}), are {positions.dtype} {positions.shape}"]
    if classes.dtype != np.int32 or classes.shape != positions.shape[:1]:
        return [
            f"classes of keypoints must be int32 ({len(positions)},), "
            f"are {classes.dtype} {classes.shape}"
        ]
    faults = []
    broken = np.flatnonzero(~np.isfinite(positions).all(axis=1))
    # NaN lies nowhere: it is told once.
    out = ((positions < -0.5) | (positions >= np.asarray(shape) - 0.5)).any(axis=1)
    outside = np.setdiff1d(np.flatnonzero(out), broken)
    sizes = " x ".join(map(str, shape))
    for rows, what in (
        (broken, "have coordinates that are not finite"),
        (outside, f"lie outside the source of {sizes} voxels"),
    ):
        if rows.size:
            place = ", ".join(f"{value:g}" for value in positions[rows[0]])
            faults.append(
                f"{rows.size} keypoint(s) {what}, the first is number {rows[0]}: ({place})"
            )
    unknown = np.flatnonzero((classes < 0) | (classes >= len(names)))
    if unknown.size:
        faults.append(
            f"keypoint {unknown[0]} has class {int(classes[unknown[0]])}, "
            f"known are 0 to {len(names) - 1} ({', '.join(names)})"
        )
    return faults
