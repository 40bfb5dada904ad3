"""Synthetic volumes of branching vessels with exact masks.

Three trees whose vessels fall in radius and branch by Murray's law fill a block of tissue, which
one of three scanners sees: uneven light that fades with depth, a blur, noise, 8 bits. All
arithmetic is float64 and every draw comes from a counter-based generator keyed by (seed, domain,
source); rounding to 8 bits last hides the last-digit differences between processors.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator, Philox, SeedSequence
from numpy.typing import NDArray
from scipy import ndimage

from vesselflow.stores.schema import Bytes, Source
from vesselflow.stores.synth import lineage, source_id
from vesselflow.stores.synth.arguments import VasculatureArguments
from vesselflow.stores.synth.vessel_tree import distances, grow

Floats = NDArray[np.float64]

TREES = 3


@dataclass(frozen=True)
class Scanner:
    """How a domain sees tissue.

    Attributes:
        blur_um: Standard deviation of the point spread along z, y and x in micrometres.
        background: Level of the tissue, in [0, 1].
        contrast: What a vessel adds to it.
        texture: Amplitude of the tissue's fine pattern, relative.
        unevenness: Amplitude of the slow field of light, relative.
        fading: Share of the light that is lost on the way to the last slice.
        noise: Standard deviation of the noise, in [0, 1].
        tube: Whether it sees a cylinder along z only: what lies outside is not in the fov.
    """

    blur_um: tuple[float, float, float]
    background: float
    contrast: float
    texture: float
    unevenness: float
    fading: float
    noise: float
    tube: bool


SCANNERS = {
    "a": Scanner((16.0, 16.0, 16.0), 0.20, 0.42, 0.18, 0.15, 0.30, 0.07, False),
    "b": Scanner((26.0, 26.0, 26.0), 0.32, 0.30, 0.14, 0.22, 0.10, 0.08, True),
    "c": Scanner((36.0, 18.0, 18.0), 0.16, 0.32, 0.25, 0.25, 0.50, 0.09, False),
}


def vasculature(
    *,
    sources: int,
    seed: int,
    domain: str,
    size_px: int | None = None,
    depth_px: int | None = None,
) -> Iterator[Source]:
    """Make synthetic volumes of vessels, one after another.

    Args:
        sources: How many.
        seed: Another seed, other vessels.
        domain: Scanner: "a" (20 um a voxel, sharp), "b" (25 um, blurred, pale, sees a cylinder),
            "c" (32 um along z, 20 um along y and x, fading with depth, noisy).
        size_px: Voxels along y and x; None: 96.
        depth_px: Voxels along z; None: 64.

    Yields:
        Source: image uint8 (D, S, S, 1), vessels bright; target uint8 (D, S, S): the voxels whose
        centres lie in a vessel; fov uint8 (D, S, S). Each source is its own group.
    """
    for index in range(sources):
        yield vasculature_source(seed, domain, index, size_px=size_px, depth_px=depth_px)


def vasculature_source(seed: int, domain: str, index: int, **given: int | None) -> Source:
    """One synthetic volume; depends on its arguments alone (see `vasculature`)."""
    values = {"seed": seed, "domain": domain, **given}
    arguments = VasculatureArguments.model_validate(values).filled()
    shape, spacing = arguments.shape(), arguments.spacing()
    key = SeedSequence([seed, ord(domain), index, 2])
    anatomy, scan = (Generator(Philox(child)) for child in key.spawn(2))
    extent = [side * size for side, size in zip(shape, spacing, strict=True)]
    vessels = [vessel for _ in range(TREES) for vessel in grow(anatomy, extent)]
    side = math.prod(spacing) ** (1 / 3)
    outside = distances(vessels, shape, spacing, beyond=2 * side)
    scanner = SCANNERS[domain]
    fov = _fov(scanner, shape)
    image = _scanned(scan, scanner, np.clip(0.5 - outside / side, 0.0, 1.0), spacing)
    name = source_id(domain, index)
    return Source(
        id=name,
        group=name,
        image=np.where(fov > 0, image, 0)[..., None].astype(np.uint8),
        target=((outside <= 0) & (fov > 0)).astype(np.uint8),
        fov=fov,
        lineage=lineage("vasculature", index, arguments.model_dump(exclude={"sources"})),
        spacing_um=spacing,
    )


def _fov(scanner: Scanner, shape: Sequence[int]) -> Bytes:
    if not scanner.tube:
        return np.ones(tuple(shape), np.uint8)
    rows, columns = np.mgrid[0 : shape[1], 0 : shape[2]] + 0.5
    disc = np.hypot(rows - shape[1] / 2, columns - shape[2] / 2) <= 0.49 * min(shape[1:])
    return np.broadcast_to(disc, tuple(shape)).astype(np.uint8)


def _scanned(rng: Generator, scanner: Scanner, cover: Floats, spacing: Sequence[float]) -> Bytes:
    """The volume (D, S, S) of 8 bits; `cover` is how much of each voxel is vessel."""
    shape = cover.shape
    tissue = scanner.background * (1 + scanner.texture * smooth(rng, shape, spacing, 45.0))
    # Contrast agent is not spread evenly.
    filled = scanner.contrast * (1 + 0.12 * smooth(rng, shape, spacing, 150.0))
    light = tissue * (1 - cover) + (tissue + filled) * cover
    light += _bodies(rng, scanner, shape, spacing)
    light *= 1 + scanner.unevenness * smooth(rng, shape, spacing, 500.0)
    light *= np.linspace(1.0, 1.0 - scanner.fading, shape[0])[:, None, None]
    sigmas = [blur / size for blur, size in zip(scanner.blur_um, spacing, strict=True)]
    light = np.clip(ndimage.gaussian_filter(light, sigmas), 0, None)
    # Photon noise grows with the root of the signal.
    light += scanner.noise * np.sqrt(0.3 + light) * rng.standard_normal(shape)
    return np.rint(np.clip(light, 0, 1) * 255).astype(np.uint8)


def _bodies(
    rng: Generator, scanner: Scanner, shape: Sequence[int], spacing: Sequence[float]
) -> Floats:
    """Round bodies that take up some of the agent: what a vessel finder must not take for one."""
    points = np.zeros(tuple(shape))
    count = int(rng.integers(10, 25))
    radius = rng.uniform(35.0, 60.0)
    for place in rng.random((count, 3)):
        points[tuple((place * shape).astype(int))] = 1.0
    sigmas = [radius / size for size in spacing]
    peak = (2 * math.pi) ** 1.5 * math.prod(sigmas)
    return 0.55 * scanner.contrast * peak * ndimage.gaussian_filter(points, sigmas, mode="constant")


def smooth(
    rng: Generator, shape: Sequence[int], spacing: Sequence[float], length_um: float
) -> Floats:
    """A random field of unit variance over a grid, correlated over `length_um`."""
    sigmas = [length_um / size for size in spacing]
    # Slow fields are made on a coarse grid, as blurring a full one takes long.
    coarse = [
        max(4, min(side, math.ceil(4 * side / max(sigma, 1.0))))
        for side, sigma in zip(shape, sigmas, strict=True)
    ]
    narrow = [s * c / side for s, c, side in zip(sigmas, coarse, shape, strict=True)]
    values = ndimage.gaussian_filter(rng.standard_normal(coarse), narrow, mode="reflect")
    values = (values - values.mean()) / max(float(values.std()), 1e-9)
    for axis, side in enumerate(shape):
        values = _stretched(values, axis, side)
    return values


def _stretched(values: Floats, axis: int, side: int) -> Floats:
    """Values along one axis at `side` places, linear between those that are there."""
    held = values.shape[axis]
    if held == side:
        return values
    places = np.clip((np.arange(side) + 0.5) * held / side - 0.5, 0, held - 1)
    low = np.minimum(np.floor(places).astype(int), held - 2)
    share = (places - low).reshape([-1 if k == axis else 1 for k in range(values.ndim)])
    return np.take(values, low, axis) * (1 - share) + np.take(values, low + 1, axis) * share
