"""How wide the Gaussians are: per class and axis, in coarse cells or in angstrom."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

import torch
from torch import Tensor

from vesselflow.errors import ShapeError, UserError
from vesselflow.targets.grid import LEAST_CELLS, Grid
from vesselflow.targets.keypoints import Keypoints

#: One number, or one per axis.
Widths = float | Sequence[float]


@dataclass(frozen=True)
class Sigma:
    """Standard deviations of the Gaussians of each class.

    Attributes:
        values: One row per class, one number per axis.
        unit: Of the numbers: coarse cells, or angstrom.
    """

    values: tuple[tuple[float, ...], ...]
    unit: Literal["cells", "angstrom"]

    @classmethod
    def of(
        cls,
        *,
        axes: int,
        classes: int,
        ds_sigma: Widths | Mapping[int, Widths] | None = None,
        sigma_angstrom: Widths | Mapping[int, Widths] | None = None,
    ) -> Sigma:
        """Read a width as it is given.

        Args:
            axes: Spatial axes, 2 or 3.
            classes: How many classes there are.
            ds_sigma: In coarse cells: a number; one per axis; or class -> one of these, for every
                class.
            sigma_angstrom: The same in angstrom, in place of `ds_sigma`.

        Raises:
            UserError: None or both are given, a class is unknown or missing, a number is not
                positive and finite, or in cells below `LEAST_CELLS`.
        """
        if (ds_sigma is None) == (sigma_angstrom is None):
            raise UserError(
                "the width of keypoints is given once", allowed="ds_sigma or sigma_angstrom"
            )
        name = "ds_sigma" if sigma_angstrom is None else "sigma_angstrom"
        given: Any = ds_sigma if sigma_angstrom is None else sigma_angstrom
        if isinstance(given, Mapping):
            if set(given) != set(range(classes)):
                raise UserError(
                    f"{name} is given for the classes {', '.join(map(str, given))}",
                    allowed=f"each of the {classes} classes, from 0",
                )
            rows = [_per_axis(given[index], axes, name) for index in range(classes)]
        else:
            rows = [_per_axis(given, axes, name)] * classes
        if sigma_angstrom is None and (least := min(map(min, rows), default=1.0)) < LEAST_CELLS:
            raise _too_narrow(f"{name} {least:g}", "", f"{LEAST_CELLS:g}")
        return cls(tuple(rows), "cells" if sigma_angstrom is None else "angstrom")

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return len(self.values)

    def in_voxels(
        self, keypoints: Keypoints, grid: Grid, spacing_angstrom: Tensor | None = None
    ) -> Tensor:
        """Standard deviations of each keypoint, float64 (K, D), in full-resolution voxels.

        Args:
            keypoints: Of known classes and samples.
            grid: The coarse grid.
            spacing_angstrom: float (N, D), angstrom per voxel of each sample, or (D,) of all; a
                width in angstrom needs it.

        Raises:
            ShapeError: The numbers of axes or samples differ, or there is no spacing.
        """
        device = keypoints.coordinates.device
        table = torch.tensor(self.values, dtype=torch.float64, device=device)
        if table.shape[1] != grid.axes:
            raise ShapeError(f"sigma has {table.shape[1]} axes and the patch {grid.axes}")
        own = table[keypoints.class_index]
        if self.unit == "cells":
            return own * torch.tensor(grid.ds_factor, dtype=torch.float64, device=device)
        if spacing_angstrom is None:
            raise ShapeError("a width in angstrom needs the spacing of the voxels")
        spacing = spacing_angstrom.to(device, torch.float64)
        if spacing.shape[-1:] != (grid.axes,) or spacing.ndim > 2:
            raise ShapeError(
                f"spacing is (N, {grid.axes}) or ({grid.axes},), not {tuple(spacing.shape)}"
            )
        return own / (spacing if spacing.ndim == 1 else spacing[keypoints.sample])

    def covariance(
        self, keypoints: Keypoints, grid: Grid, spacing_angstrom: Tensor | None = None
    ) -> Tensor:
        """The same as covariances, float64 (K, D, D): what an affine map is to move along."""
        return torch.diag_embed(self.in_voxels(keypoints, grid, spacing_angstrom) ** 2)

    def check(self, grid: Grid, spacing_angstrom: Sequence[float] | None = None) -> None:
        """Refuse a width that would vanish between the centres of cells.

        Args:
            grid: The coarse grid.
            spacing_angstrom: Angstrom per voxel along each axis; a width in angstrom needs it.

        Raises:
            UserError: With the least width that is allowed, in the unit in which it was given.
        """
        if self.unit == "cells":
            return
        spacing = (math.nan,) * grid.axes if spacing_angstrom is None else tuple(spacing_angstrom)
        for index, row in enumerate(self.values):
            for axis, (sigma, space, factor) in enumerate(
                zip(row, spacing, grid.ds_factor, strict=True)
            ):
                if not (math.isfinite(space) and space > 0):
                    raise UserError(
                        f"sigma_angstrom needs the spacing of the voxels, which is {space:g}",
                        allowed="a positive number of angstrom along each axis",
                    )
                least = LEAST_CELLS * space * factor
                # A least width that was printed and typed in again is enough.
                if sigma < least * (1 - 1e-6):
                    raise _too_narrow(
                        f"sigma_angstrom {sigma:g}",
                        f" of class {index} along axis {axis}",
                        f"{least:g}",
                    )


def _per_axis(given: Any, axes: int, name: str) -> tuple[float, ...]:
    numbers = (given,) * axes if isinstance(given, Real) else given
    if (
        not isinstance(numbers, Sequence)
        or len(numbers) != axes
        or not all(isinstance(one, Real) and 0 < float(one) < math.inf for one in numbers)
    ):
        raise UserError(
            f"{name} {given!r} is not allowed",
            allowed=f"a positive number, or {axes} (one per axis); or one of these for each class",
        )
    return tuple(float(one) for one in numbers)


def _too_narrow(what: str, where: str, least: str) -> UserError:
    return UserError(
        f"{what}{where} is less than a tenth of a coarse cell: the target would vanish between "
        "the centres of cells",
        allowed=f"{least} or more",
        hint="half a cell is the least at which a keypoint between eight cells stays above 0.2",
    )
