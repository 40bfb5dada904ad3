"""A tree of vessels that branches by Murray's law, and its distance field on a grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Radius of a root in micrometres, from and to.
ROOT_UM = (105.0, 140.0)
#: No vessel is thinner; below it a branch is not grown.
MIN_RADIUS_UM = 24.0
#: What is left of the radius at the end of a vessel: it falls between branches as well.
TAPER = 0.93
#: Vessels in a tree at most.
MOST_VESSELS = 2000


@dataclass(frozen=True)
class Vessel:
    """One vessel between two branchings.

    Attributes:
        points: Its centre line (n, 3), micrometres, n > 1.
        radii: Radius at each point (n,), falling.
        parent: Number of the vessel that it leaves, -1 for a root.
    """

    points: Floats
    radii: Floats
    parent: int


def grow(rng: Generator, extent: Sequence[float]) -> list[Vessel]:
    """Grow one tree from a side of a box into it.

    A vessel of radius r ends in two of radii r1 and r2 with r^3 = r1^3 + r2^3, which leave it at
    the angles of least work (Murray, The physiological principle of minimum work applied to the
    angle of branching of arteries, J Gen Physiol 9, 1926).

    Args:
        rng: Draws everything.
        extent: Sides of the box in micrometres (z, y, x).
    """
    box = np.asarray(extent, np.float64)
    side = int(rng.integers(1, 3))
    start = box * rng.uniform(0.25, 0.75, 3)
    start[side] = 0.0 if rng.random() < 0.5 else box[side]
    heading = _unit(box * rng.uniform(0.35, 0.65, 3) - start)
    vessels: list[Vessel] = []
    # Widest first: with all that a tree may hold, the finest are left out.
    waiting = [(rng.uniform(*ROOT_UM), start, heading, -1)]
    while waiting and len(vessels) < MOST_VESSELS:
        radius, start, heading, parent = waiting.pop(0)
        vessel, heading, inside = _run(rng, box, radius, start, heading, parent)
        vessels.append(vessel)
        if not inside:
            continue
        end = float(vessel.radii[-1])
        share = rng.uniform(0.25, 0.75)
        aside = _unit(np.cross(heading, rng.standard_normal(3)))
        first, second = end * share ** (1 / 3), end * (1 - share) ** (1 / 3)
        for child, other, sign in ((first, second, 1.0), (second, first, -1.0)):
            if child < MIN_RADIUS_UM:
                continue
            # Least work: the thinner of the two turns off, the wider goes nearly straight on.
            cosine = (end**4 + child**4 - other**4) / (2 * end**2 * child**2)
            angle = math.acos(min(1.0, max(-1.0, cosine)))
            way = heading * math.cos(angle) + sign * aside * math.sin(angle)
            waiting.append((child, vessel.points[-1], way, len(vessels) - 1))
    return vessels


def _run(
    rng: Generator, box: Floats, radius: float, start: Floats, heading: Floats, parent: int
) -> tuple[Vessel, Floats, bool]:
    """A vessel, its heading at the end, and whether it ends inside the box."""
    length = 60.0 + radius * rng.uniform(3.5, 6.0)
    step = max(0.9 * radius, 16.0)
    steps = max(2, round(length / step))
    bends = 0.16 * rng.standard_normal((steps, 3))
    points, inside = [start], True
    for bend in bends:
        heading = _unit(heading + bend)
        points.append(points[-1] + step * heading)
        inside = bool(((points[-1] >= 0) & (points[-1] <= box)).all())
        if not inside:
            break
    radii = radius * np.linspace(1.0, TAPER, steps + 1)[: len(points)]
    return Vessel(np.array(points), radii, parent), heading, inside


def _unit(vector: Floats) -> Floats:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def distances(
    vessels: Sequence[Vessel], shape: Sequence[int], spacing: Sequence[float], beyond: float
) -> Floats:
    """How far outside the nearest vessel each voxel's centre lies, in micrometres; < 0 inside.

    Args:
        vessels: What is drawn, as cones with round ends; voxel 0 has its centre at 0.
        shape: Voxels of the grid.
        spacing: Micrometres a voxel along each axis.
        beyond: What is farther away has this value.
    """
    field = np.full(tuple(shape), float(beyond))
    sizes = np.asarray(spacing, np.float64)
    for vessel in vessels:
        for k in range(len(vessel.points) - 1):
            _draw(field, vessel.points[k : k + 2], vessel.radii[k : k + 2], sizes, beyond)
    return field


def _draw(field: Floats, ends: Floats, radii: Floats, spacing: Floats, beyond: float) -> None:
    reach = float(radii.max()) + beyond
    low = np.maximum(np.floor((ends.min(axis=0) - reach) / spacing), 0).astype(int)
    high = np.minimum(np.ceil((ends.max(axis=0) + reach) / spacing) + 1, field.shape).astype(int)
    if (low >= high).any():
        return
    z, y, x = (
        (np.arange(a, b) * size - first).reshape([-1 if k == axis else 1 for k in range(3)])
        for axis, (a, b, size, first) in enumerate(zip(low, high, spacing, ends[0], strict=True))
    )
    way = ends[1] - ends[0]
    part = (z * way[0] + y * way[1] + x * way[2]) / float(way @ way)
    part = np.clip(part, 0.0, 1.0)
    square = (z - part * way[0]) ** 2 + (y - part * way[1]) ** 2 + (x - part * way[2]) ** 2
    outside = np.sqrt(square) - (radii[0] + part * (radii[1] - radii[0]))
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    field[window] = np.minimum(field[window], outside)
