"""Particles of a synthetic tomogram: shapes, places without overlap, density on a grid.

Lengths are in angstrom, places in voxels of the grid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: The shell: outer and inner radius.
SHELL = (80.0, 50.0)
#: The rod: half of its length, and its radius.
ROD = (80.0, 45.0)
#: The two lobes: their radii, and how far apart their centres lie.
LOBES, LOBE_DISTANCE = (60.0, 45.0), 80.0
#: Free space between two particles at least.
GAP = 10.0
#: Places are multiples of this part of a voxel: they do not hang on a processor's last bits.
PLACES = 1024
#: Places tried for each particle before the volume counts as full.
ATTEMPTS = 200


def _lobe_offsets() -> tuple[float, float]:
    """Where the lobes' centres lie along the axis, from the centre of both masses."""
    first, second = (radius**3 for radius in LOBES)
    share = second / (first + second)
    return -LOBE_DISTANCE * share, LOBE_DISTANCE * (1 - share)


#: Radius of the sphere around the centre that holds a particle, by class.
REACH = (
    SHELL[0],
    math.hypot(*ROD),
    max(abs(at) + radius for at, radius in zip(_lobe_offsets(), LOBES, strict=True)),
)


@dataclass(frozen=True)
class Particle:
    """One particle.

    Attributes:
        kind: Its class: 0 shell, 1 rod, 2 dimer.
        centre: Its centre of mass (3,), voxels.
        axis: Unit vector (3,) along its axis of symmetry.
    """

    kind: int
    centre: Floats
    axis: Floats


def place(rng: Generator, shape: Sequence[int], spacing: float, count: int) -> list[Particle]:
    """Put particles into a volume, none within reach of another.

    They are whole along z, and with half of their reach at least along y and x. Classes take turns.

    Args:
        rng: Draws places and orientations.
        shape: Voxels of the volume.
        spacing: Angstrom a voxel.
        count: How many, fewer where there is no room.
    """
    sizes = np.asarray(shape, np.float64)
    found: list[Particle] = []
    centres, reaches = np.zeros((count, 3)), np.zeros(count)
    for number in range(count):
        kind = number % len(REACH)
        reach = REACH[kind] / spacing
        margin = np.minimum(reach * np.array([1.0, 0.5, 0.5]), (sizes - 1) / 2)
        # All tries at once: the first that fits counts.
        tries = margin + rng.random((ATTEMPTS, 3)) * (sizes - 1 - 2 * margin)
        axis = rng.standard_normal(3)
        others = len(found)
        away = np.linalg.norm(tries[:, None] - centres[None, :others], axis=2)
        free = (away >= reach + reaches[:others] + GAP / spacing).all(axis=1)
        if not free.any():
            continue
        centre = np.rint(PLACES * tries[int(free.argmax())]) / PLACES
        centres[others], reaches[others] = centre, reach
        found.append(Particle(kind, centre, axis / np.linalg.norm(axis)))
    return found


def paint(density: Floats, particle: Particle, spacing: float) -> None:
    """Add a particle to a density in place: 1 inside, with an edge of one voxel.

    What reaches over the border of the grid is left out.
    """
    reach = REACH[particle.kind] / spacing + 1
    low = [max(0, math.floor(c - reach)) for c in particle.centre]
    high = [
        min(side, math.ceil(c + reach) + 1)
        for c, side in zip(particle.centre, density.shape, strict=True)
    ]
    axes = [
        (np.arange(a, b) - c) * spacing for a, b, c in zip(low, high, particle.centre, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    along = z * particle.axis[0] + y * particle.axis[1] + x * particle.axis[2]
    square = z * z + y * y + x * x
    outside = _distance(particle.kind, along, square)
    part = tuple(map(slice, low, high))
    density[part] += np.clip(0.5 - outside / spacing, 0.0, 1.0)


def _distance(kind: int, along: Floats, square: Floats) -> Floats:
    """How far outside a particle places lie; below 0 inside.

    Args:
        kind: Its class.
        along: Distance from the centre along the axis.
        square: Square of the distance from the centre.
    """
    if kind == 0:
        radius = np.sqrt(square)
        return np.maximum(radius - SHELL[0], SHELL[1] - radius)
    if kind == 1:
        across = np.sqrt(np.maximum(square - along * along, 0.0))
        return np.maximum(across - ROD[1], np.abs(along) - ROD[0])
    lobes = [
        np.sqrt(np.maximum(square - 2 * along * at + at * at, 0.0)) - radius
        for at, radius in zip(_lobe_offsets(), LOBES, strict=True)
    ]
    return np.minimum(*lobes)
