"""Affine maps as matrices over the axes of the samples, (y, x) or (z, y, x); all float64.

A map says where what lies at a voxel is afterwards; the centre of voxel i lies at i.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def of_axes(matrices: Tensor, axes: int) -> Tensor:
    """Maps of the plane, (x, y), as maps over the axes (y, x) or (z, y, x).

    Args:
        matrices: (k, 2, 3).
        axes: D, 2 or 3; z is left as it is.

    Returns:
        (k, D, D + 1).
    """
    order = [axes - 1, axes - 2]  # of x, then y
    found = torch.zeros(len(matrices), axes, axes + 1, dtype=matrices.dtype)
    found[:, range(axes), range(axes)] = 1
    for row, axis in enumerate(order):
        found[:, axis, order] = matrices[:, row, :2]
        found[:, axis, axes] = matrices[:, row, 2]
    return found


def rotation(angles: Tensor) -> Tensor:
    """Rotations of volumes about x, then y, then z.

    Args:
        angles: (k, 3) in radians, about z, y and x; positive from the earlier of the other two axes
            to the later.

    Returns:
        (k, 3, 3).
    """
    found = torch.eye(3, dtype=angles.dtype).expand(len(angles), 3, 3)
    for about in range(3):
        first, second = (axis for axis in range(3) if axis != about)
        cos, sin = torch.cos(angles[:, about]), torch.sin(angles[:, about])
        turn = torch.eye(3, dtype=angles.dtype).repeat(len(angles), 1, 1)
        turn[:, first, first] = turn[:, second, second] = cos
        turn[:, first, second], turn[:, second, first] = -sin, sin
        found = found @ turn
    return found


def shearing(angles: Tensor) -> Tensor:
    """Shears of volumes along all axes, (I + L) (I + U) with the tangents in L and U.

    So the volume of what is sheared stays as it is, whatever the angles. (kornia 0.9's
    `get_shear_matrix3d` does not leave the centre where it is.)

    Args:
        angles: (k, 6) in radians: three below the diagonal, three above.

    Returns:
        (k, 3, 3).
    """
    lower, upper = torch.eye(3, dtype=angles.dtype).repeat(2, len(angles), 1, 1)
    tangents = torch.tan(angles)
    for number, (row, column) in enumerate(itertools.combinations(range(3), 2)):
        lower[:, column, row] = tangents[:, number]
        upper[:, row, column] = tangents[:, 3 + number]
    return lower @ upper


def about_centre(linear: Tensor, size: Sequence[int], shift: Tensor) -> Tensor:
    """Maps that hold the centre of the frame but for a shift.

    Args:
        linear: (k, D, D).
        size: S, sizes of the samples.
        shift: (k, D) in voxels.

    Returns:
        (k, D, D + 1).
    """
    centre = (torch.tensor(size, dtype=linear.dtype) - 1) / 2
    return torch.cat([linear, (centre - linear @ centre + shift)[..., None]], dim=-1)


def seen_through(matrices: Tensor, size: Sequence[int]) -> Tensor:
    """The box of what the frame shows after a map, in coordinates from before it.

    Args:
        matrices: (k, D, D + 1).
        size: S, sizes of the samples.

    Returns:
        (k, 2, D): least and largest coordinates of the voxels' centres.
    """
    corners = torch.tensor(
        list(itertools.product(*((0.0, n - 1.0) for n in size))), dtype=matrices.dtype
    )
    linear, shift = matrices[..., :-1], matrices[..., -1:]
    places = torch.linalg.solve(linear, corners.T - shift)
    return torch.stack([places.amin(dim=-1), places.amax(dim=-1)], dim=1)
