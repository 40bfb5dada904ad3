"""Blobs by the Laplacian of Gaussian, as scikit-image finds them, and their best settings.

`blobs` finds the blobs that `skimage.feature.blob_log` finds for one sigma, which a test holds it
to; the response of a sigma is computed once for all that is tried on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from vesselflow.inference.peaks import find_peaks
from vesselflow.inference.refinement import refined

Floats = NDArray[np.float64]

#: Neighbouring sigmas of the first search are this many times apart.
STEP = 2 ** (1 / 3)
#: Of the second one, around the best of the first.
FINE = 2 ** (1 / 9)
#: Blobs of a volume at most, the strongest ones.
MOST = 2000
#: Fainter ones, as a share of the strongest, are none.
LEAST = 1e-3


@dataclass(frozen=True)
class Settings:
    """How the blobs of one class are found.

    Attributes:
        sigma: Standard deviation of the Gaussian, in `Volume.unit`.
        bright: Whether blobs are brighter than what is around them, or darker.
        mode: What lies beyond the border, by its name in scipy.ndimage ("reflect" is
            scikit-image's).
        border: Blobs nearer to the border than this many sigmas are left out.
        scaled: Whether the threshold is meant in standard deviations of each volume, or in its
            own numbers.
        apart: Of blobs nearer to each other than this many matching radii the strongest stays.
    """

    sigma: float
    bright: bool = True
    mode: str = "reflect"
    border: float = 0.0
    scaled: bool = True
    apart: float = 1.0


#: What the second search tries, beside sigmas.
CHOICES: Mapping[str, Sequence[Any]] = {
    "mode": ("reflect", "constant"),
    "border": (0.0, 0.5, 1.0),
    "scaled": (True, False),
    "apart": (0.0, 0.5, 1.0, 1.5),
}


@dataclass(frozen=True, eq=False)
class Volume:
    """What blobs are looked for in.

    Attributes:
        image: float32 (*S), of mean 0 and standard deviation 1 inside the field of view.
        unit: float64 (D,): units of a voxel along each axis; 1 where sigma is meant in voxels.
        deviation: By what the image was divided.
    """

    image: NDArray[np.float32]
    unit: Floats
    deviation: float = 1.0

    @classmethod
    def of(
        cls, image: NDArray[Any], fov: NDArray[np.uint8], spacing: Sequence[float] | None
    ) -> Volume:
        """A source as blobs are looked for in it.

        Args:
            image: (*S, C); channels are averaged.
            fov: (*S).
            spacing: Units of a voxel along each axis; None: sigma is in voxels.
        """
        grey = image.astype(np.float64).mean(axis=-1)
        inside = grey[fov > 0]
        deviation = max(float(inside.std()), 1e-12)
        scaled = (grey - inside.mean()) / deviation
        unit = np.ones(grey.ndim) if spacing is None else np.asarray(spacing, np.float64)
        return cls(scaled.astype(np.float32), unit, deviation)


@dataclass(frozen=True, eq=False)
class Blobs:
    """Blobs of one volume.

    Attributes:
        places: float64 (k, D) in voxels, between them: the top of a paraboloid through the
            logarithms of the response, as the picks of a model are refined.
        voxels: int64 (k, D): the voxels in which they are, as scikit-image gives them.
        score: float64 (k,), falling: the response, above 0.
    """

    places: Floats
    voxels: NDArray[np.int64]
    score: Floats

    def kept(self, rows: NDArray[Any]) -> Blobs:
        """Some of them, in their order."""
        return Blobs(self.places[rows], self.voxels[rows], self.score[rows])


def response(volume: Volume, sigma: float, mode: str = "reflect") -> NDArray[np.float32]:
    """The negative Laplacian of the Gaussian, times sigma squared: bright blobs are high.

    Args:
        volume: The volume.
        sigma: In its unit.
        mode: As of `Settings`.
    """
    voxels = sigma / volume.unit
    found: NDArray[np.float32] = -ndimage.gaussian_laplace(volume.image, voxels, mode=mode)
    return found * np.float32(np.mean(voxels) ** 2)


def tops(responded: NDArray[np.float32], bright: bool) -> Blobs:
    """All blobs of a response, the `MOST` strongest ones."""
    heights = np.maximum(responded if bright else -responded, 0).astype(np.float64)
    # A paraboloid has no top where all around a faint peak is 0.
    least = max(LEAST * float(heights.max()), float(np.finfo(np.float32).tiny))
    found = find_peaks(
        heights[None],
        ds_factor=1,
        threshold=least,
        radius_voxels=0,
        refinement="none",
        most=MOST,
    )
    voxels = np.rint(found.coordinates).astype(np.int64)
    nowhere = np.zeros(len(voxels), bool)
    places = refined(
        np.maximum(heights, least / 10), voxels, found.coordinates, nowhere, "paraboloid"
    )
    return Blobs(places, voxels, found.score)


def thinned(blobs: Blobs, volume: Volume, settings: Settings, radius: Floats) -> Blobs:
    """Without those near the border, and those near stronger ones; scores as they are meant.

    Args:
        blobs: Of `tops`.
        volume: In which they are.
        settings: How near is too near.
        radius: float64 (D,): the matching radius in voxels along each axis.
    """
    margin = settings.border * settings.sigma / volume.unit
    high = np.asarray(volume.image.shape) - 1 - margin
    inside = (blobs.voxels >= margin) & (blobs.voxels <= high)
    kept = blobs.kept(np.asarray(inside.all(axis=1)))
    if not settings.scaled:
        # The response is linear.
        kept = replace(kept, score=kept.score * volume.deviation)
    if settings.apart <= 0 or len(kept.score) < 2:
        return kept
    alive = np.ones(len(kept.score), bool)
    pairs = cKDTree(kept.places / radius).query_pairs(settings.apart, output_type="ndarray")
    # Stronger ones come first, so that whether they stay is known before whom they leave out.
    for strong, weak in pairs[np.lexsort(pairs.T[::-1])]:
        if alive[strong]:
            alive[weak] = False
    return kept.kept(alive)


def blobs(volume: Volume, settings: Settings, radius: Floats) -> Blobs:
    """The blobs of a volume by one set of settings."""
    found = tops(response(volume, settings.sigma, settings.mode), settings.bright)
    return thinned(found, volume, settings, radius)


class Search:
    """The best settings of one class, on validation volumes alone.

    Args:
        volumes: Of validation.
        radii: The class's matching radius in voxels along each axis, float64 (D,), of each volume.
        judge: How good blobs (one for each volume) are; larger is better, NaN never best.
    """

    def __init__(
        self,
        volumes: Sequence[Volume],
        radii: Sequence[Floats],
        judge: Callable[[Sequence[Blobs]], float],
    ) -> None:
        self._volumes, self._radii, self._judge = volumes, radii, judge
        self.tried = 0

    def best(self, tops_of: Callable[[float, bool, str], Sequence[Blobs]]) -> Settings:
        """First sigma and polarity, then a finer sigma with all `CHOICES`.

        Args:
            tops_of: Sigma, polarity, mode -> the blobs of each volume; may keep what it gave.
        """
        coarse = [
            Settings(sigma, bright) for sigma in sigmas(self._volumes) for bright in (True, False)
        ]
        first = self._highest(coarse, tops_of)
        return self._highest(list(_around(first)), tops_of)

    def _highest(
        self,
        tried: Sequence[Settings],
        tops_of: Callable[[float, bool, str], Sequence[Blobs]],
    ) -> Settings:
        values = []
        for settings in tried:
            found = tops_of(settings.sigma, settings.bright, settings.mode)
            kept = [
                thinned(each, volume, settings, radius)
                for each, volume, radius in zip(found, self._volumes, self._radii, strict=True)
            ]
            values.append(self._judge(kept))
        self.tried += len(tried)
        return tried[int(np.argmax(np.nan_to_num(values, nan=-1.0)))]


def sigmas(volumes: Sequence[Volume]) -> list[float]:
    """Of the first search: from 1 voxel to an eighth of the volumes' middle side, or 4 voxels."""
    voxel = min(float(volume.unit.min()) for volume in volumes)
    middle = min(
        float(np.median(np.asarray(volume.image.shape) * volume.unit)) for volume in volumes
    )
    count = int(np.log(max(4.0, middle / voxel / 8)) / np.log(STEP)) + 1
    return [voxel * STEP**step for step in range(count)]


def _around(first: Settings) -> Iterator[Settings]:
    for step, *values in itertools.product((0, -1, 1), *CHOICES.values()):
        given = dict(zip(CHOICES, values, strict=True))
        yield replace(first, sigma=first.sigma * FINE**step, **given)
