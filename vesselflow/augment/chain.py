"""Resampling of a sample, by one part or by several at once: each by itself would smooth it anew.

Image and target are sampled smoothly, the field of view by the nearest voxel. Beyond the frame
either nothing is, and lies outside the fov, or the sample is mirrored at the outer faces of its
border voxels: ... 2 1 0 | 0 1 2 ... n-1 | n-1 n-2 ...
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from vesselflow.augment.arguments import Border
from vesselflow.augment.inside import is_full


@dataclass(frozen=True)
class Lookup:
    """Where one part finds what it shows.

    Places are a coordinate for each axis, in voxels, of shapes that broadcast to that of the
    sample.

    Attributes:
        axes: A, how many of the last axes of the sample it moves.
        back: Places along these axes, and whether they are the voxels of the sample themselves, to
            places: what the part shows at the ones was at the others.
        border: What is beyond the frame.
    """

    axes: int
    back: Callable[[Sequence[Tensor], bool], list[Tensor]]
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
    turn, away = inverse.tolist(), shift.tolist()

    def back(places: Sequence[Tensor], voxels: bool) -> list[Tensor]:
        found = []
        for row, constant in zip(turn, away, strict=True):
            # Short lines first: of voxels only the last sum is as large as the sample, and where an
            # axis is not mixed with others, none is.
            terms = [(factor, place) for factor, place in zip(row, places, strict=True) if factor]
            total = _line(constant, *terms[0])
            for factor, place in terms[1:]:
                total = torch.add(total, place, alpha=factor)
            found.append(total)
        return found

    return Lookup(axes, back, border)


def displaced_lookup(displacement: Tensor, border: Border) -> Lookup:
    """The lookup of a displacement, linear between voxels.

    Args:
        displacement: float (A, *S) in px: the voxel at y shows what was at y + displacement.
        border: What is beyond the frame.
    """
    axes = len(displacement)

    def back(places: Sequence[Tensor], voxels: bool) -> list[Tensor]:
        if voxels:
            return [place + away for place, away in zip(places, displacement, strict=True)]
        grid = _grid(places, displacement.shape[1:])
        # A plane's displacement is that of all slices: their rows are one long picture.
        rows = grid.reshape(1, -1, grid.shape[-2], 2) if axes == 2 else grid[None]
        found = functional.grid_sample(
            displacement[None], rows, padding_mode="border", align_corners=False
        ).view(axes, *grid.shape[:-1])
        return [place + away for place, away in zip(places, found, strict=True)]

    return Lookup(axes, back, border)


def resample_each(
    image: Tensor, target: Tensor, fov: Tensor, lookups: Mapping[int, Sequence[Lookup]]
) -> None:
    """Resample some samples of a batch in place, each by lookups of its own (see `resample`).

    Args:
        image: float (N, C, *S).
        target: float (N, K, *S); K may be 0.
        fov: float (N, 1, *S), 0 or 1.
        lookups: Sample -> of the parts, in the order in which they are applied.
    """
    for index, own in lookups.items():
        # One sample at a time: what is between then fits into the cache.
        image[index], target[index], fov[index] = resample(
            image[index], target[index], fov[index], own
        )


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
    places: list[Tensor] = [
        torch.arange(n, device=image.device, dtype=image.dtype).view(_along(axis, axes))
        for axis, n in enumerate(size)
    ]
    # Squares of how far beyond a frame they were, summed: cheaper than masks of each axis.
    beyond: Tensor | None = None
    for number, each in enumerate(reversed(lookups)):
        still = axes - each.axes
        moved = each.back(places[still:], number == 0)
        for axis, (place, n) in enumerate(zip(moved, size[still:], strict=True), start=still):
            if each.border == "reflect":
                # Mirrored at the outer faces of the border voxels.
                phase = torch.remainder(place + 0.5, 2 * n)
                places[axis] = torch.minimum(phase, 2 * n - phase).sub_(0.5)
            else:
                places[axis] = place.clamp(-0.5, n - 0.5)
                away = place.sub_(places[axis])
                beyond = away * away if beyond is None else torch.addcmul(beyond, away, away)
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

    values = sampled(torch.cat([image, target]), "bilinear")
    found = torch.ones_like(fov) if is_full(fov) else sampled(fov, "nearest")
    if beyond is not None:
        seen = (beyond == 0).to(fov.dtype)
        values *= seen
        found *= seen
    return values[: len(image)], values[len(image) :], found


def _along(axis: int, axes: int) -> list[int]:
    return [-1 if each == axis else 1 for each in range(axes)]


def _line(constant: float, slope: float, place: Tensor, out: Tensor | None = None) -> Tensor:
    """``constant + slope * place`` in one pass."""
    return torch.add(torch.tensor(constant, dtype=place.dtype), place, alpha=slope, out=out)


def _grid(places: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    """Places in voxels in the convention of grid_sample: (*S, A), the last axis first."""
    axes, like = len(places), places[0]
    shape = torch.broadcast_shapes(*(place.shape for place in places))
    grid = torch.empty(*shape, axes, device=like.device, dtype=like.dtype)
    for axis, (place, n) in enumerate(zip(places, size, strict=True)):
        there = grid[..., axes - 1 - axis]
        _line(1 / n - 1, 2 / n, place.expand(shape), out=there)
    return grid
