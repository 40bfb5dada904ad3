"""Streaming: a store read ahead in a shuffled order, against h5py reading it in its own order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

#: Names of the peers.
WINDOW, KEYED = "stream, window", "stream, keyed"
#: What a stream in windows is held to: times the fastest way of h5py.
LEAST_OF_H5PY = 1.0
#: What a stream may hold and read ahead in the bench, less than either store.
AHEAD_BYTES = 256 * 2**20


def in_order(store: Path) -> dict[str, Callable[[], int]]:
    """Ways to read image and target of all sources with h5py, in the order of the file.

    Args:
        store: A store.

    Returns:
        By name: what reads everything once and returns how many bytes it gave.
    """
    ways = {"whole arrays": _whole, "into kept arrays": _kept, "chunk by chunk": _chunks}
    return {f"h5py in order, {name}": partial(_all, store, way) for name, way in ways.items()}


def _all(store: Path, way: Callable[[h5py.Dataset, dict[Any, np.ndarray]], int]) -> int:
    kept: dict[Any, np.ndarray] = {}
    with h5py.File(store, "r", locking=False) as file:
        sources = file["sources"]
        return sum(
            way(sources[f"{index}/{name}"], kept)
            for index in range(len(sources))
            for name in ("image", "target")
        )


def _whole(stored: h5py.Dataset, kept: dict[Any, np.ndarray]) -> int:
    return int(stored[()].nbytes)


def _kept(stored: h5py.Dataset, kept: dict[Any, np.ndarray]) -> int:
    kind = (stored.shape, stored.dtype)
    if kind not in kept:
        kept[kind] = np.empty(*kind)
    stored.read_direct(kept[kind])
    return kept[kind].nbytes


def _chunks(stored: h5py.Dataset, kept: dict[Any, np.ndarray]) -> int:
    return sum(int(stored[part].nbytes) for part in stored.iter_chunks())
