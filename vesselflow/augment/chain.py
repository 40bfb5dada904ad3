"""Several parts that resample one sample, as one resampling: each alone would smooth it anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vesselflow.augment.arguments import Border


@dataclass(frozen=True)
class Lookup:
    """Where one part finds what it shows.

    Attributes:
        axes: A, how many of the last axes of the sample it moves.
        back: Places (A, *S) in voxels to places (A, *S): what the part shows at the ones was at the
            others.
        border: What is beyond the frame.
    """

    axes: int
    back: Callable[[Tensor], Tensor]
    border: Border


def affine_lookup(matrix: Tensor, border: Border) -> Lookup:
    """The lookup of an affine map.

    Args:
        matrix: float64 (A, A + 1), over the axes: voxels of the sample to voxels of the result.
        border: What is beyond the frame.
    """
    axes = len(matrix)
    inverse = torch.linalg.inv(matrix[:, :axes])
    shift = -inverse @ matrix[:, axes]

    def back(places: Tensor) -> Tensor:
        turn, away = (each.to(places.device, places.dtype) for each in (inverse, shift))
        return torch.addmm(away[:, None], turn, places.flatten(1)).view_as(places)

    return Lookup(axes, back, border)


def displaced_lookup(displacement: Tensor, border: Border) -> Lookup:
    """The lookup of a displacement, linear between voxels.

    Args:
        displacement: float (A, *S) in px: the voxel at y shows what was at y + displacement.
        border: What is beyond the frame.
    """

    def back(places: Tensor) -> Tensor:
        grid = _grid(places, displacement.shape[1:])
        # A plane's displacement is that of all slices: their rows are one long picture.
        rows = grid.reshape(1, -1, grid.shape[-2], 2) if len(displacement) == 2 else grid[None]
        found = functional.grid_sample(
            displacement[None], rows, padding_mode="border", align_corners=False
        )
        return places + found.view_as(places)

    return Lookup(len(displacement), back, border)


def resample(
    image: Tensor, target: Tensor, fov: Tensor, lookups: Sequence[Lookup]
) -> tuple[Tensor, Tensor, Tensor]:
    """What parts give one after another, in one resampling.

    Each part's border is that of the frame before it, as if the parts had been applied one by one:
    what one of them lost, the next does not bring back.

    Args:
        image: float (C, *S).
        target: float (K, *S); K may be 0.
        fov: float (1, *S), 0 or 1.
        lookups: Of the parts, in the order in which they are applied.

    Returns:
        image and target, linear, and fov, nearest; all 0 where they come from beyond the frame of a
        part with the border `outside`.
    """
    axes = max(each.axes for each in lookups)
    size = image.shape[-axes:]
    lines = [torch.arange(n, device=image.device, dtype=image.dtype) for n in size]
    places = torch.stack(torch.meshgrid(*lines, indexing="ij"))
    inside = torch.ones(size, device=image.device, dtype=torch.bool)
    for each in reversed(lookups):
        still = axes - each.axes
        moved = each.back(places[still:])
        for place, n in zip(moved, size[still:], strict=True):
            if each.border == "reflect":
                # Mirrored at the outer faces of the border voxels.
                phase = torch.remainder(place + 0.5, 2 * n)
                place.copy_(torch.minimum(phase, 2 * n - phase) - 0.5)
            else:
                inside &= (place >= -0.5) & (place <= n - 0.5)
                place.clamp_(-0.5, n - 0.5)
        places = torch.cat([places[:still], moved]) if still else moved
    grid = _grid(places, size)[None]

    def sampled(values: Tensor, mode: str) -> Tensor:
        # Zeros as border would darken the pixels along the frame's edge, which stay inside the fov.
        return functional.grid_sample(
            values.reshape(1, -1, *size),
            grid,
            mode=mode,
            padding_mode="border",
            align_corners=False,
        ).view_as(values)

    values = sampled(torch.cat([image, target]), "bilinear").mul_(inside)
    return values[: len(image)], values[len(image) :], sampled(fov, "nearest").mul_(inside)


def _grid(places: Tensor, size: Sequence[int]) -> Tensor:
    """Places (A, *S) in voxels in the convention of grid_sample: (*S, A), the last axis first."""
    return torch.stack(
        [(2 * places[axis] + 1) / n - 1 for axis, n in reversed(list(enumerate(size)))], dim=-1
    )
