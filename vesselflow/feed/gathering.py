"""Samples read straight from a store: what the samples of a source share is read once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from vesselflow.feed.batches import StorePath, store_frames
from vesselflow.feed.layout import SampleLayout
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


@dataclass(frozen=True)
class Box:
    """A part of a source, and the samples that lie in it.

    Attributes:
        places: int64 (m,), which of the samples that were asked for.
        corners: int64 (m, axes), their lower corners in it.
        image: (C, *S), in the type of the store.
        target: uint8 (K, *S).
        fov: uint8 (1, *S); None where it is 1 everywhere, or samples hold none.
    """

    places: np.ndarray
    corners: np.ndarray
    image: np.ndarray
    target: np.ndarray
    fov: np.ndarray | None

    @property
    def nbytes(self) -> int:
        """Of its arrays."""
        fov = 0 if self.fov is None else self.fov.nbytes
        return self.image.nbytes + self.target.nbytes + fov

    def fill(self, layout: SampleLayout, corner: Sequence[int], record: np.ndarray) -> None:
        """Copy a sample into its record, uint8 (nbytes,)."""
        parts, window = layout.arrays(record), (slice(None), *slices(corner, layout.shape))
        parts.image[...], parts.target[...] = self.image[window], self.target[window]
        if layout.has_fov:
            parts.fov[...] = 1 if self.fov is None else self.fov[window]


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
        """Read samples: their records, uint8 (k, nbytes), in the order of `rows`."""
        return self._records(self._boxes(rows), len(rows.row))

    def read(self, rows: Rows) -> list[Box] | np.ndarray:
        """Read samples for `Found`: as the boxes that hold them, or records if these are smaller.

        Boxes spare a copy of everything, and hold what patches share once.
        """
        found = list(self._boxes(rows))
        if sum(box.nbytes for box in found) <= len(rows.row) * self.layout.nbytes:
            return found
        return self._records(found, len(rows.row))

    def _records(self, held: Iterable[Box], count: int) -> np.ndarray:
        records = np.empty((count, self.layout.nbytes), np.uint8)
        for box in held:
            for place, corner in zip(box.places.tolist(), box.corners.tolist(), strict=True):
                box.fill(self.layout, corner, records[place])
        return records

    def _boxes(self, rows: Rows) -> Iterator[Box]:
        """What holds the samples, source by source in the order of the store.

        Sources that are resized are read and resized once for all their samples. Of others the
        patches are read, those that lie side by side as one box, so that the chunks that they share
        are unpacked once.
        """
        order = np.lexsort((rows.row, rows.source))
        ends = np.flatnonzero(np.diff(rows.source[order])) + 1
        for places in np.split(order, ends) if len(order) else ():
            yield from self._source(int(rows.source[places[0]]), rows.corner[places], places)

    def _source(self, source: int, corners: np.ndarray, places: np.ndarray) -> Iterator[Box]:
        """The boxes of one source, whose samples are in store order."""
        at, shape, held = self._frames[source], self.layout.shape, self.layout.has_fov
        if not at.native_scale:
            whole, record = working_source(self._store, source, at)
            image, target, fov = whole.arrays(record)
            yield Box(places, corners, image, target, fov if held else None)
            return
        most = BOX_BYTES * self.layout.voxels // self.layout.nbytes
        for low, high in pairwise(boxes(corners, shape, most)):
            part = corners[low:high]
            lower = part.min(axis=0)
            sides = tuple((part.max(axis=0) - lower + shape).tolist())
            read_fov = held and source not in self._full
            layout = replace(self.layout, shape=sides, has_fov=read_fov)
            found = native_box(self._store, source, at, lower.tolist(), layout)
            if read_fov and sides == at.shape == at.inner and found.fov.all():
                self._full.add(source)
                read_fov = False
            kept = found.fov if read_fov else None
            yield Box(places[low:high], part - lower, found.image, found.target, kept)


class Found:
    """Samples that a `Gatherer` has read, to be copied one by one.

    Args:
        layout: Of the samples.
        given: What `Gatherer.read` gave.
    """

    def __init__(self, layout: SampleLayout, given: list[Box] | np.ndarray) -> None:
        self._layout, self._given = layout, given
        self._where: dict[int, tuple[Box, list[int]]] = {}
        if isinstance(given, list):
            self._where = {
                place: (box, corner)
                for box in given
                for place, corner in zip(box.places.tolist(), box.corners.tolist(), strict=True)
            }

    def fill(self, row: int, record: np.ndarray) -> None:
        """Copy the sample that was asked for at `row` into a record, uint8 (nbytes,)."""
        if isinstance(self._given, list):
            box, corner = self._where[row]
            box.fill(self._layout, corner, record)
        else:
            record[...] = self._given[row]


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
