"""Smooth displacement fields of images and volumes, and their exact inverse at single points.

A field is a uniform cubic B-spline over a coarse grid of control points, so that it and its
derivatives are known everywhere, and bounds of them, too: on one cell of the grid they are weighted
means of a few coefficients (Bernstein's), none of which they exceed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from vesselflow.targets.keypoints import Keypoints

#: Largest steepness of a field. Below 1 it has an inverse, and nothing folds; here, what lies next
#: to each other comes from places at least 0.2 and at most 1.8 times as far apart.
STEEPEST = 0.8
#: How near to its exact place a keypoint is moved, in px.
TOLERANCE_PX = 1e-4
#: Mean square of a cubic B-spline's values over one cell, of independent coefficients of 1.
_MEAN_SQUARE = 151 / 315


@dataclass(frozen=True)
class Displacement:
    """Where each pixel of a sample comes from: pixel y shows what was at y + u(y).

    Beyond the frame, u goes on as it is at its edge.

    Attributes:
        coefficients: float64 (A, *control points), px along each of A axes.
        size: Sizes of the sample along these axes.
        spacing_px: Between control points.
    """

    coefficients: Tensor
    size: tuple[int, ...]
    spacing_px: float

    @classmethod
    def drawn(
        cls, generator: torch.Generator, size: Sequence[int], spacing_px: float, std_px: float
    ) -> Displacement:
        """A random field, no steeper than `STEEPEST`: one that would be is made smaller as a whole.

        Args:
            generator: On the CPU.
            size: Sizes of the sample.
            spacing_px: Between control points.
            std_px: Root mean square of the field along each axis, over draws.
        """
        counts = [_cells(n, spacing_px) + 3 for n in size]
        normal = torch.randn((len(size), *counts), generator=generator, dtype=torch.float64)
        # A spline's values vary less than its coefficients do.
        field = cls(normal * (std_px / _MEAN_SQUARE ** (len(size) / 2)), tuple(size), spacing_px)
        return replace(
            field,
            coefficients=field.coefficients * min(1.0, STEEPEST / max(field.steepness(), 1e-9)),
        )

    def steepness(self) -> float:
        """A bound on the change of u between two points at a distance of 1 px.

        Distances are the largest along any axis; no two points are worse than this.
        """
        found = 0.0
        cells = [_cells(n, self.spacing_px) for n in self.size]
        values = [_bernstein(n, slope=False) for n in cells]
        slopes = [_bernstein(n, slope=True) / self.spacing_px for n in cells]
        for component in self.coefficients:
            total: Tensor | None = None
            for axis, slope in enumerate(slopes):
                along = [*values[:axis], slope, *values[axis + 1 :]]
                here = _product(component[None], along).abs_()
                total = here if total is None else total.add_(here)
            assert total is not None
            found = max(found, float(total.max()))
        return found

    def bounds(self) -> Tensor:
        """float64 (2, A): u is nowhere less and nowhere more along each axis."""
        return torch.stack(torch.aminmax(self.coefficients.flatten(1), dim=1))

    def dense(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """U at every pixel, (A, *S)."""
        weights = [_at_voxels(n, self.spacing_px).to(device, dtype) for n in self.size]
        return _product(self.coefficients.to(device, dtype), weights)

    def at(self, places: Tensor) -> Tensor:
        """U at some places, float64 (P, A) in px; they may lie beyond the frame."""
        return self._combined(places, slope=None)

    def jacobian(self, places: Tensor) -> Tensor:
        """Derivatives of u there, float64 (P, A, A): of component i along axis j."""
        axes = range(len(self.size))
        return torch.stack([self._combined(places, slope=axis) for axis in axes], dim=-1)

    def inverse(self, places: Tensor) -> Tensor:
        """The pixels that show what was at some places: y with y + u(y) = x.

        By y <- x - u(y), in which the error shrinks by the field's steepness each time.

        Args:
            places: float64 (P, A), x.

        Returns:
            float64 (P, A), y, to `TOLERANCE_PX`.
        """
        steepness = min(self.steepness(), STEEPEST)
        # Of a sequence that shrinks so, this step leaves no more than the tolerance.
        last_step = TOLERANCE_PX * (1 - steepness) / max(steepness, 1e-9)
        here = places
        for _ in range(100):
            there = places - self.at(here)
            step = float((there - here).abs().max()) if len(places) else 0.0
            here = there
            if step <= last_step:
                break
        return here

    def _combined(self, places: Tensor, slope: int | None) -> Tensor:
        found: Tensor | None = None
        for axis, n in enumerate(self.size):
            weights = _weights(places[:, axis], n, self.spacing_px, slope=axis == slope)
            if found is None:
                found = torch.einsum("pk,ak...->pa...", weights, self.coefficients)
            else:
                found = torch.einsum("pak...,pk->pa...", found, weights)
        assert found is not None
        return found


def displaced(keypoints: Keypoints, fields: Mapping[int, Displacement]) -> Keypoints:
    """Keypoints where the pixels that showed them are shown now.

    Covariances move by the inverse's derivative at the keypoint.

    Args:
        keypoints: Of the batch.
        fields: Sample -> its field, of its last axes; others stay bit-identical.
    """
    sample = keypoints.sample.cpu()
    coordinates = keypoints.coordinates.cpu().clone()
    spread = None if keypoints.covariance is None else keypoints.covariance.cpu().clone()
    for index, field in fields.items():
        mine = (sample == index).nonzero()[:, 0]
        ahead = keypoints.axes - len(field.size)
        there = field.inverse(coordinates[mine, ahead:].double())
        coordinates[mine, ahead:] = there.to(coordinates.dtype)
        if spread is not None:
            back = torch.eye(keypoints.axes, dtype=torch.float64).repeat(len(mine), 1, 1)
            back[:, ahead:, ahead:] += field.jacobian(there)
            onward = torch.linalg.inv(back)
            moved = onward @ spread[mine].double() @ onward.mT
            spread[mine] = ((moved + moved.mT) / 2).to(spread.dtype)
    device = keypoints.coordinates.device
    return replace(
        keypoints,
        coordinates=coordinates.to(device),
        covariance=None if spread is None else spread.to(device),
    )


def _cells(n: int, spacing: float) -> int:
    return math.ceil(n / spacing)


def _weights(places: Tensor, n: int, spacing: float, slope: bool = False) -> Tensor:
    """(P, control points): the share of each in the value, or in the slope per px, at places.

    The grid of control points is centred on the frame, -1/2 to n - 1/2.
    """
    cells = _cells(n, spacing)
    inside = places.clamp(-0.5, n - 0.5)
    offset = (inside + 0.5 - n / 2) / spacing + cells / 2
    away = offset[:, None] - torch.arange(-1, cells + 2, dtype=torch.float64)
    far = away.abs()
    if slope:
        near = away * (1.5 * far - 2)
        edge = -away.sign() * (2 - far).clamp(min=0) ** 2 / 2
        # Beyond the frame nothing changes any more.
        return torch.where(far < 1, near, edge) / spacing * (inside == places)[:, None]
    near = 2 / 3 - far**2 + far**3 / 2
    return torch.where(far < 1, near, (2 - far).clamp(min=0) ** 3 / 6)


@lru_cache(maxsize=16)
def _at_voxels(n: int, spacing: float) -> Tensor:
    """`_weights` of all voxels of a side; not to be written to."""
    return _weights(torch.arange(n, dtype=torch.float64), n, spacing)


@lru_cache(maxsize=32)
def _bernstein(cells: int, *, slope: bool) -> Tensor:
    """(4 cells, cells + 3): the B-spline's coefficients to Bernstein's of each cell, cubic.

    Of its values, or of its slope per cell, whose degree is raised to 3. Not to be written to.
    """
    value = torch.tensor([[1.0, 4, 1, 0], [0, 4, 2, 0], [0, 2, 4, 0], [0, 1, 4, 1]]) / 6
    if slope:
        raised = torch.tensor([[3.0, 0, 0], [1, 2, 0], [0, 2, 1], [0, 0, 3]]) / 3
        value = raised.double() @ (3 * value.double().diff(dim=0))
    windows = torch.eye(cells + 3, dtype=torch.float64).unfold(0, 4, 1)  # (cells, cells + 3, 4)
    return torch.einsum("bw,ckw->cbk", value.double(), windows).flatten(0, 1)


def _product(coefficients: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """(A, *K) and (S, K) for each axis to (A, *S)."""
    for each in weights:
        coefficients = torch.tensordot(coefficients, each, dims=([1], [1]))
    return coefficients
