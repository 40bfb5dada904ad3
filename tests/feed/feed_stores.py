"""Small real stores for the tests of the feed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vesselflow.feed.batches import Batch
from vesselflow.stores.store import Source, write_store


def noise_source(index: int, *, group: str | None = None, split: str = "") -> Source:
    """A source of noise, whose size and fov depend on its index; nothing in it repeats."""
    random = np.random.default_rng(index)
    height, width = 150 + 10 * index, 170 - 7 * index
    fov = np.zeros((height, width), dtype=np.uint8)
    fov[20:-15, 10 : width - 21] = 1
    return Source(
        id=f"s{index}",
        group=group or f"g{index // 2}",
        image=random.integers(0, 256, (height, width, 3), dtype=np.uint8),
        target=(random.random((height, width)) < 0.1).astype(np.uint8),
        fov=fov,
        split=split,
    )


def noise_store(path: Path, count: int = 6) -> Path:
    """A store of `count` sources of noise."""
    sources = [noise_source(index) for index in range(count)]
    write_store(path, sources, domain="noise", importer={"name": "test"})
    return path


def vessel_source(size: int = 256) -> Source:
    """Crossing bands of 3 to 9 px inside a round fov that leaves a margin."""
    y, x = np.mgrid[:size, :size].astype(np.float64)
    target = np.zeros((size, size), dtype=np.uint8)
    for number, width in enumerate((3, 5, 7, 9)):
        slope, start = 0.3 + 0.4 * number, 30 + 45 * number
        target |= (np.abs(y - start - slope * (x - size / 2)) < width / 2).astype(np.uint8)
    fov = ((y - size / 2) ** 2 + (x - size / 2) ** 2 < (0.45 * size) ** 2).astype(np.uint8)
    target &= fov
    image = np.stack([200 - 120 * target, 120 - 60 * target, 60 - 20 * target], axis=2)
    return Source("v", "v", image.astype(np.uint8), target, fov)


def assert_same_batch(left: Batch, right: Batch) -> None:
    """Every array of two batches is equal, bit for bit."""
    for name in ("image", "target", "fov", "centre", "scale", "source"):
        one, other = getattr(left, name), getattr(right, name)
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one, other, err_msg=name)
