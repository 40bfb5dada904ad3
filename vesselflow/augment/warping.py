"""Resampling of one sample: image and target smoothly, the field of view by the nearest pixel.

Beyond the frame either nothing is, and lies outside the fov, or the sample is mirrored at the outer
faces of its border pixels: ... 2 1 0 | 0 1 2 ... n-1 | n-1 n-2 ...
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from kornia.geometry.transform import warp_affine
from torch import Tensor
from torch.nn import functional

from vesselflow.augment.arguments import Border

Warped = tuple[Tensor, Tensor, Tensor]
#: Values (C, *S), how they are interpolated and what is beyond the frame, to values (C, *S).
_Sampled = Callable[[Tensor, str, str], Tensor]


def warp(
    image: Tensor, target: Tensor, fov: Tensor, matrix: Tensor, border: Border = "outside"
) -> Warped:
    """Warp the plane of one sample, all slices alike.

    Args:
        image: float (C, H, W) or (C, D, H, W).
        target: float (K, H, W) or (K, D, H, W); K may be 0.
        fov: float (1, H, W) or (1, D, H, W), 0 or 1.
        matrix: float (2, 3): pixel (x, y) of the sample to pixel (x, y) of the result.
        border: What is beyond the frame.

    Returns:
        image and target, bilinear, and fov, nearest; with the border `outside` all 0 where they
        come from beyond the frame.
    """
    size = (image.shape[-2], image.shape[-1])

    def sampled(values: Tensor, mode: str, padding: str) -> Tensor:
        found: Tensor = warp_affine(
            values.reshape(1, -1, *size),
            matrix[None],
            size,
            mode=mode,
            padding_mode=padding,
            align_corners=False,
        )
        return found.view_as(values)

    return _warped(image, target, fov, border, sampled)


def warp_volume(
    image: Tensor, target: Tensor, fov: Tensor, matrix: Tensor, border: Border = "outside"
) -> Warped:
    """Warp one volume.

    kornia's `warp_affine3d` is not used: in its release 0.9 it normalises as with align_corners,
    whether asked to or not.

    Args:
        image: float (C, D, H, W).
        target: float (K, D, H, W); K may be 0.
        fov: float (1, D, H, W), 0 or 1.
        matrix: float64 (3, 4): voxel (z, y, x) of the sample to voxel (z, y, x) of the result.
        border: As of `warp`.

    Returns:
        As of `warp`, trilinear.
    """
    size = image.shape[1:]
    whole = torch.eye(4, dtype=torch.float64)
    whole[:3] = matrix
    # Voxels to the range of grid_sample, in which the frame is -1 to 1: (2 x + 1) / n - 1.
    scale = 2 / torch.tensor(size, dtype=torch.float64)
    normal = torch.diag(torch.cat([scale, torch.ones(1, dtype=torch.float64)]))
    normal[:3, 3] = scale / 2 - 1
    back = (normal @ torch.linalg.inv(whole) @ torch.linalg.inv(normal))[:3]
    # grid_sample counts axes from the last.
    back = torch.cat([back[:, :3].flip(0, 1), back[:, 3:].flip(0)], dim=1)
    grid = functional.affine_grid(
        back[None].to(image.device, image.dtype), [1, 1, *size], align_corners=False
    )
    return _warped(image, target, fov, border, _at(grid))


def displace(
    image: Tensor, target: Tensor, fov: Tensor, displacement: Tensor, border: Border = "outside"
) -> Warped:
    """Take each pixel from somewhere near it.

    Args:
        image: float (C, *S).
        target: float (K, *S); K may be 0.
        fov: float (1, *S), 0 or 1.
        displacement: float (D, *S) in px, in the order of the axes: the pixel at y shows what was
            at y + displacement. D = 2 moves the plane of a volume, (2, H, W), all slices alike.
        border: As of `warp`.

    Returns:
        As of `warp`.
    """
    axes, size = displacement.shape[0], displacement.shape[1:]
    grid = torch.stack(
        [
            (2 * (_line(n, displacement).view(_along(axis, axes)) + displacement[axis]) + 1) / n - 1
            for axis, n in reversed(list(enumerate(size)))
        ],
        dim=-1,
    )
    return _warped(image, target, fov, border, _at(grid[None]))


def _line(n: int, like: Tensor) -> Tensor:
    return torch.arange(n, device=like.device, dtype=like.dtype)


def _along(axis: int, axes: int) -> list[int]:
    return [-1 if each == axis else 1 for each in range(axes)]


def _at(grid: Tensor) -> _Sampled:
    """Values at the places of a grid, (1, *S, D) in the convention of grid_sample."""
    size = grid.shape[1:-1]

    def sampled(values: Tensor, mode: str, padding: str) -> Tensor:
        return functional.grid_sample(
            values.reshape(1, -1, *size),
            grid,
            mode=mode,
            padding_mode=padding,
            align_corners=False,
        ).view_as(values)

    return sampled


def _warped(
    image: Tensor, target: Tensor, fov: Tensor, border: Border, sampled: _Sampled
) -> Warped:
    channels, values = len(image), torch.cat([image, target])
    if border == "reflect":
        smooth = sampled(values, "bilinear", "reflection")
        return smooth[:channels], smooth[channels:], sampled(fov, "nearest", "reflection")
    # Zeros as border would darken the pixels along the frame's edge, which stay inside the fov.
    smooth = sampled(values, "bilinear", "border")
    both = sampled(torch.cat([fov, torch.ones_like(fov)]), "nearest", "zeros")
    valid, frame = both[:1], both[1:]
    smooth *= frame
    return smooth[:channels], smooth[channels:], valid
