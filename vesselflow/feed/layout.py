"""How the arrays of one sample lie together in memory: one contiguous record, one copy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: (y, x) or (z, y, x).
Size = tuple[int, ...]


class Arrays(NamedTuple):
    """The arrays of samples, as views of their records; ``...`` are the records' leading axes.

    Attributes:
        image: (..., C, *S), in the type of the store.
        target: uint8 (..., K, *S), soft: 0..255 stands for 0..1.
        fov: uint8 (..., 1, *S), 0 or 1. Where records hold none it is 1 everywhere: read-only,
            one byte of memory in all.
    """

    image: NDArray[np.generic]
    target: NDArray[np.uint8]
    fov: NDArray[np.uint8]


@dataclass(frozen=True)
class SampleLayout:
    """What a sample's record holds: image, then target, then fov, without gaps.

    Attributes:
        shape: Spatial size S of every array.
        channels: C, of the image.
        targets: K, planes of the target.
        dtype: Of the image: uint8, uint16, float16 or float32. The others are uint8.
        has_fov: Whether the fov is held; else every voxel of every sample lies in it.
    """

    shape: Size
    channels: int
    targets: int = 1
    dtype: str = "uint8"
    has_fov: bool = True

    @property
    def voxels(self) -> int:
        """Of one channel."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Of a record; whole numbers of the image's type, so that records can lie side by side."""
        item = np.dtype(self.dtype).itemsize
        used = self.voxels * (self.channels * item + self.targets + self.has_fov)
        return -(-used // item) * item

    def empty(self, *lead: int) -> NDArray[np.uint8]:
        """Records of zeros: uint8 (*lead, nbytes)."""
        return np.zeros((*lead, self.nbytes), dtype=np.uint8)

    def arrays(self, records: NDArray[np.uint8]) -> Arrays:
        """Views of records (..., nbytes), whose last axis is contiguous."""
        lead, n = records.shape[:-1], self.voxels
        first = n * self.channels * np.dtype(self.dtype).itemsize
        second, third = first + n * self.targets, first + n * (self.targets + 1)
        shape = (*lead, 1, *self.shape)
        return Arrays(
            records[..., :first].view(self.dtype).reshape(*lead, self.channels, *self.shape),
            records[..., first:second].reshape(*lead, self.targets, *self.shape),
            records[..., second:third].reshape(shape) if self.has_fov else _ones(shape),
        )


def _ones(shape: Size) -> NDArray[np.uint8]:
    """Ones of a shape over a single byte, read-only."""
    return np.broadcast_to(np.uint8(1), shape)
