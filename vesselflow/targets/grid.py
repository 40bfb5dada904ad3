"""The coarse grid on which keypoints are predicted, and where its cells lie in the patch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from vesselflow.errors import ShapeError, UserError

#: A Gaussian of fewer cells vanishes between the centres of cells.
LEAST_CELLS = 0.1


def to_voxels(cells: Any, ds_factor: Any) -> Any:
    """Full-resolution coordinates of coordinates on the coarse grid: f c + (f - 1) / 2.

    Args:
        cells: Numbers, arrays or tensors; the centre of cell j lies at j.
        ds_factor: f, a number or one per axis (of the same kind as `cells`).
    """
    return ds_factor * cells + (ds_factor - 1) / 2


def to_cells(voxels: Any, ds_factor: Any) -> Any:
    """Coordinates on the coarse grid of full-resolution coordinates: (x - (f - 1) / 2) / f.

    Args:
        voxels: Numbers, arrays or tensors; the centre of voxel i lies at i.
        ds_factor: f, a number or one per axis (of the same kind as `voxels`).
    """
    return (voxels - (ds_factor - 1) / 2) / ds_factor


@dataclass(frozen=True)
class Grid:
    """A patch, and the grid of cells that covers it.

    Attributes:
        shape: Voxels of the patch, (y, x) or (z, y, x).
        ds_factor: Voxels of a cell along each axis.
    """

    shape: tuple[int, ...]
    ds_factor: tuple[int, ...]

    @classmethod
    def of(cls, shape: Sequence[int], ds_factor: int | Sequence[int] = 16) -> Grid:
        """The grid of a patch.

        Args:
            shape: Voxels of the patch, (y, x) or (z, y, x).
            ds_factor: Voxels of a cell, at least 1: one number, or one per axis.

        Raises:
            ShapeError: The patch has other than 2 or 3 axes, or none of something.
            UserError: The factor is below 1 or has another number of axes.
        """
        sizes = tuple(int(size) for size in shape)
        if len(sizes) not in (2, 3) or min(sizes) < 1:
            raise ShapeError(f"a patch has 2 or 3 axes of at least one voxel, not {tuple(shape)}")
        given: Any = [ds_factor] * len(sizes) if isinstance(ds_factor, Integral) else ds_factor
        if len(given) != len(sizes) or any(int(one) != one or one < 1 for one in given):
            raise UserError(
                f"ds_factor {ds_factor} is not allowed",
                allowed=f"a whole number of at least 1, or {len(sizes)} of them",
            )
        return cls(sizes, tuple(int(one) for one in given))

    @property
    def axes(self) -> int:
        """How many spatial axes there are."""
        return len(self.shape)

    @property
    def cells(self) -> tuple[int, ...]:
        """Cells along each axis: shape / ds_factor, rounded up.

        The last cell may reach beyond the patch; its centre lies where that of a whole cell does.
        """
        return tuple(-(-n // f) for n, f in zip(self.shape, self.ds_factor, strict=True))
