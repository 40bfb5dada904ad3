"""Samples read straight from a store: what the samples of a source share is read once."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from vesselflow.feed.batches import StorePath, store_frames
from vesselflow.feed.layout import Arrays
from vesselflow.feed.view import View, slices
from vesselflow.feed.working import native_box, sample_layout, working_source
from vesselflow.stores.store import Store
from vesselflow.stores.writer import CHUNKS

#: Bytes of a box that is read at once, at most, where it holds more than one patch.
BOX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Rows:
    """Samples to read, in order.

    Attributes:
        row: int64 (k,), number of each sample in store order.
        source: int32 (k,).
        corner: int32 (k, axes).
    """

    row: np.ndarray
    source: np.ndarray
    corner: np.ndarray


class Gatherer:
    """Reads samples of a store that it holds open, as often as it is asked.

    Args:
        path: The store.
        view: How its sources are seen.
    """

    def __init__(self, path: StorePath, view: View) -> None:
        self._store, self._view = Store.open(path), view
        self._frames = store_frames(self._store, view)
        self.layout = sample_layout(self._store, view, self._frames)
        #: Sources whose fov was found to fill them: it is not read again.
        self._full: set[int] = set()

    def close(self) -> None:
        """Close the store."""
        self._store.close()

    def gather(self, rows: Rows) -> np.ndarray:
        """Read samples, source by source in the order of the store.

        Sources that are resized are read and resized once for all their samples. Of others the
        patches are read, those that lie side by side as one box, so that the chunks that they share
        are unpacked once.

        Returns:
            uint8 (k, nbytes), in the order of `rows`.
        """
        records = np.empty((len(rows.row), self.layout.nbytes), np.uint8)
        order = np.lexsort((rows.row, rows.source))
        ends = np.flatnonzero(np.diff(rows.source[order])) + 1
        for places in np.split(order, ends) if len(order) else ():
            self._read(int(rows.source[places[0]]), rows.corner[places], places, records)
        return records

    def _read(
        self, source: int, corners: np.ndarray, places: np.ndarray, records: np.ndarray
    ) -> None:
        """Samples of one source, in store order, into their places."""
        at, shape = self._frames[source], self.layout.shape
        if not at.native_scale:
            whole, record = working_source(self._store, source, at)
            self._cut(whole.arrays(record), corners, places, records)
            return
        most = BOX_BYTES * self.layout.voxels // self.layout.nbytes
        for low, high in pairwise(boxes(corners, shape, most)):
            part = corners[low:high]
            lower = part.min(axis=0)
            sides = tuple((part.max(axis=0) - lower + shape).tolist())
            has_fov = self.layout.has_fov and source not in self._full
            layout = replace(self.layout, shape=sides, has_fov=has_fov)
            box = native_box(self._store, source, at, lower.tolist(), layout)
            if has_fov and sides == at.shape == at.inner and box.fov.all():
                self._full.add(source)
            self._cut(box, part - lower, places[low:high], records)

    def _cut(
        self, whole: Arrays, corners: np.ndarray, places: np.ndarray, records: np.ndarray
    ) -> None:
        """Patches out of the arrays of a box, into their records."""
        parts, shape = self.layout.arrays(records), self.layout.shape
        for place, corner in zip(places.tolist(), corners.tolist(), strict=True):
            window = (slice(None), *slices(corner, shape))
            parts.image[place] = whole.image[window]
            parts.target[place] = whole.target[window]
            if self.layout.has_fov:
                parts.fov[place] = whole.fov[window]


def boxes(corners: np.ndarray, shape: tuple[int, ...], most: int) -> list[int]:
    """Divide patches into neighbours that are read as one box.

    Halved until a box holds no more voxels than are unpacked for its patches one by one (chunks are
    unpacked whole), and no more than `most`.

    Args:
        corners: int32 (k, axes), in store order (row by row).
        shape: Of a patch.
        most: Voxels of a box with more than one patch, at most.

    Returns:
        Rising from 0 to k: box `i` holds the patches ``found[i]:found[i + 1]``.
    """
    found, left = [0], [(0, len(corners))]
    chunk = CHUNKS.get(len(shape), shape)
    alone = math.prod(map(max, shape, chunk))
    while left:
        low, high = left.pop()
        part = corners[low:high]
        sides = part.max(axis=0) - part.min(axis=0) + np.array(shape, np.int64)
        if high - low > 1 and math.prod(sides.tolist()) > min(most, alone * (high - low)):
            middle = (low + high) // 2
            left += [(middle, high), (low, middle)]
        else:
            found.append(high)
    return found


def gather_from_store(path: StorePath, view: View, rows: Rows) -> np.ndarray:
    """Read samples once, as `Gatherer.gather` does."""
    reader = Gatherer(path, view)
    try:
        return reader.gather(rows)
    finally:
        reader.close()
