"""One small store of each kind, for the tests of what a store holds and of what damage does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from vesselflow.stores.sharding import shard_store
from vesselflow.stores.store import Keypoints, Layout, Source, write_store


def arrays(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def fov(*shape: int) -> np.ndarray:
    mask = np.zeros(shape, np.uint8)
    mask[tuple(slice(1, -2) for _ in shape)] = 1
    return mask


def plain(seed: int = 0) -> Source:
    image = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    target = (arrays(seed, 40, 50) > 1).astype(np.uint8)
    return Source(f"s{seed}", f"g{seed}", image, target, fov(40, 50), spacing_um=(7.5, 8.0))


def volume(seed: int = 0) -> Source:
    shape = (9 + seed, 20, 15)
    image = (1000 * np.abs(arrays(seed, *shape, 1))).astype(np.uint16)
    target = (arrays(seed, *shape) > 1).astype(np.uint8)
    return Source(f"s{seed}", f"g{seed}", image, target, fov(*shape), spacing_um=(4.0, 2.0, 2.0))


def planes(seed: int = 0) -> Source:
    image = arrays(seed, 30, 20, 2).astype(np.float32)
    target = (arrays(seed, 30, 20, 2) > 1).astype(np.uint8)
    return Source(f"s{seed}", f"g{seed}", image, target, fov(30, 20))


def labels(seed: int = 0) -> Source:
    target = np.random.default_rng(seed).integers(0, 3, (8, 12, 10)).astype(np.uint8)
    image = arrays(seed, 8, 12, 10, 1).astype(np.float16)
    return Source(f"s{seed}", f"g{seed}", image, target, fov(8, 12, 10))


def points(seed: int = 0) -> Source:
    shape = (10, 16 + seed, 12)
    count = (7, 0, 3)[seed]
    positions = np.random.default_rng(seed).random((count, 3)) * (np.array(shape) - 1)
    held = Keypoints(positions, (np.arange(count) % 2).astype(np.int32))
    image = arrays(seed, *shape, 1).astype(np.float16)
    return Source(
        f"s{seed}",
        f"g{seed}",
        image,
        None,
        fov(*shape),
        spacing_um=(1e-3, 1e-3, 1e-3),
        keypoints=held,
        origin=(0.0, 16.0 * seed, 0.0),
    )


def drawn(seed: int = 0) -> Source:
    """Points in an image of 2 axes, with a heat-map rendered beforehand."""
    positions = np.array([[3.25, 4.5], [10.0, 20.0]])[: 2 - seed]
    heat = np.random.default_rng(seed).random((4, 6, 1)).astype(np.float32)
    return Source(
        f"s{seed}",
        f"g{seed}",
        arrays(seed, 14, 22, 1).astype(np.float32),
        None,
        fov(14, 22),
        keypoints=Keypoints(positions, np.zeros(len(positions), np.int32)),
        heatmap=heat,
    )


#: Kind -> its sources, by number, and its layout.
STORES: dict[str, tuple[Callable[[int], Source], Layout]] = {
    "plain": (plain, Layout(channels=3)),
    "volume": (volume, Layout(axes="zyx", dtype="uint16")),
    "planes": (
        planes,
        Layout(dtype="float32", channels=2, classes=("artery", "vein"), target="planes"),
    ),
    "labels": (
        labels,
        Layout(axes="zyx", dtype="float16", classes=("artery", "vein"), target="labels"),
    ),
    "points": (
        points,
        Layout("keypoint", "zyx", "float16", 1, ("shell", "rod"), "", 4, 1.0, (40.0, 55.0)),
    ),
    "drawn": (
        drawn,
        Layout("keypoint", "yx", "float32", 1, ("cell",), "", ds_factor=4, heatmaps=True),
    ),
}


def sources_of(kind: str) -> list[Source]:
    make, _ = STORES[kind]
    return [make(seed) for seed in range(2 if kind == "drawn" else 3)]


def make_kind(path: Path, kind: str) -> str:
    importer = {"name": "test"}
    return write_store(
        path, sources_of(kind), domain=kind, importer=importer, layout=STORES[kind][1]
    )


def make_sharded(index: Path, kind: str) -> str:
    """The same store in two files of one or two sources; the files lie beside the index."""
    whole = index.with_name(f"{kind}-whole.h5")
    make_kind(whole, kind)
    made = shard_store(whole, index, sources_per_file=1 if kind == "drawn" else 2)
    whole.unlink()
    return made.digest
