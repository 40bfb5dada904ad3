"""Squared distances of cells from keypoints, measured in standard deviations of the Gaussians."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vesselflow.targets.grid import Grid, to_cells
from vesselflow.targets.keypoints import Keypoints
from vesselflow.targets.ragged import Part


@dataclass(frozen=True)
class Distances:
    """What is needed for (c - x)^T S^-1 (c - x) of every keypoint x and cell c.

    Attributes:
        shape: Cells of the grid.
        along: float64 (K, cells along the axis) for each axis: its share of the distance, of which
            the distance is the sum; empty where axes are correlated.
        weights: float64 (K, f), and
        features: float64 (f, cells): the distance is their product, where axes are correlated.
        variance: float64 (K, D, D) or (K, D), in cells squared.
    """

    shape: tuple[int, ...]
    along: tuple[Tensor, ...]
    weights: Tensor | None
    features: Tensor | None
    variance: Tensor

    @classmethod
    def of(cls, keypoints: Keypoints, grid: Grid, sigma_voxels: Tensor | None) -> Distances:
        """Prepare the distances of keypoints.

        Args:
            keypoints: With covariances, if `sigma_voxels` is None.
            grid: The patch and its cells.
            sigma_voxels: float64 (K, D), standard deviations along the axes.
        """
        device = keypoints.coordinates.device
        factor = torch.tensor(grid.ds_factor, dtype=torch.float64, device=device)
        centre = to_cells(keypoints.coordinates.double(), factor)
        axes = [torch.arange(n, dtype=torch.float64, device=device) for n in grid.cells]
        if sigma_voxels is not None:
            sigma = sigma_voxels / factor
            along = tuple(
                ((cells - centre[:, axis, None]) / sigma[:, axis, None]) ** 2
                for axis, cells in enumerate(axes)
            )
            return cls(grid.cells, along, None, None, sigma**2)
        assert keypoints.covariance is not None
        variance = keypoints.covariance.double() / (factor[:, None] * factor)
        # Measured from the middle of the grid, so that little is lost where squares cancel.
        middle = torch.tensor([(n - 1) / 2 for n in grid.cells], dtype=torch.float64, device=device)
        weights = _weights(centre - middle, variance)
        mesh = torch.meshgrid(
            *(cells - middle[axis] for axis, cells in enumerate(axes)), indexing="ij"
        )
        return cls(grid.cells, (), weights, _features([m.flatten() for m in mesh]), variance)

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return math.prod(self.shape)

    @property
    def separable(self) -> bool:
        """Whether the distance is a sum over the axes."""
        return self.weights is None

    def least_sigma(self) -> Tensor:
        """The least standard deviation of each keypoint, in cells; NaN or 0 where there is none."""
        if self.variance.ndim == 2:
            return self.variance.amin(dim=1).sqrt()
        known = torch.isfinite(self.variance).flatten(1).all(dim=1)
        some = torch.where(known[:, None, None], self.variance, 0.0)
        least = torch.linalg.eigvalsh(some)[:, 0]
        return least.clamp(min=0).sqrt()

    def factors(self, part: Part) -> tuple[Tensor, Tensor]:
        """Factors of separable Gaussians: of the first axis (g, k, n), of all others (g, k, m).

        float64; 0 where there is no keypoint.
        """
        # Few numbers take part before their products are made, and many after.
        gains = [torch.exp(axis / -2)[part.rows] for axis in self.along]
        first, rest = gains[0], gains[1]
        if part.absent is not None:
            first = first.masked_fill(part.absent[..., None], 0.0)
        for axis in gains[2:]:
            rest = (rest[..., None] * axis[..., None, :]).flatten(2)
        return first, rest

    def squared(self, part: Part, exact: bool = False) -> Tensor:
        """Squared distances (g, k, cells); infinite where there is no keypoint.

        Rounding may leave those of correlated axes a little below 0.

        Args:
            part: Which keypoints.
            exact: Add them up in float64. Otherwise in float32, whose sums are the same on every
                machine, too, and take less time.
        """
        if self.separable:
            along = self.along if exact else tuple(axis.float() for axis in self.along)
            first, rest = along[0][part.rows], along[1][part.rows]
            if part.absent is not None:
                first = first.masked_fill(part.absent[..., None], math.inf)
            for axis in along[2:]:
                rest = (rest[..., None] + axis[part.rows][..., None, :]).flatten(2)
            return (first[..., None] + rest[..., None, :]).flatten(2)
        assert self.weights is not None
        assert self.features is not None
        found = self.weights[part.rows] @ self.features
        if part.absent is not None:
            found.masked_fill_(part.absent[..., None], math.inf)
        return found


def _weights(centre: Tensor, variance: Tensor) -> Tensor:
    """Coefficients of the quadratic form, for `_features`; NaN where there is no inverse."""
    precision, _ = torch.linalg.inv_ex(variance)
    count, axes = centre.shape
    towards = (precision @ centre[..., None])[..., 0]
    squares = [
        precision[:, i, j] * (1 if i == j else 2) for i in range(axes) for j in range(i, axes)
    ]
    constant = (towards * centre).sum(dim=1)
    return torch.stack([*squares, *(-2 * towards).unbind(dim=1), constant], dim=1).reshape(
        count, -1
    )


def _features(points: list[Tensor]) -> Tensor:
    axes = len(points)
    squares = [points[i] * points[j] for i in range(axes) for j in range(i, axes)]
    return torch.stack([*squares, *points, torch.ones_like(points[0])])
