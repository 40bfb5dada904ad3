"""Keypoints of samples: kept per source, cut out with the patches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vesselflow.feed.layout import Size
from vesselflow.feed.order import key, unit_numbers
from vesselflow.feed.view import Frame, View, box_size, in_fov

if TYPE_CHECKING:
    from vesselflow.stores.store import Store

Floats = NDArray[np.float64]

#: Keypoints around a patch come with it, up to this share of its sides beyond it: the Gaussians of
#: those reach into it.
MARGIN = 0.5


@dataclass
class BatchPoints:
    """The keypoints of a batch, sample by sample.

    Attributes:
        positions: float64 (P, D), in working px of the sample; the centre of px i lies at i. Some
            lie around the sample, see `MARGIN`.
        sample: int64 (P,), which sample of the batch, rising.
        classes: int64 (P,).
        spacing_angstrom: float64 (m, D), angstrom per working px of each sample; NaN if not known.
    """

    positions: Floats
    sample: NDArray[np.int64]
    classes: NDArray[np.int64]
    spacing_angstrom: Floats


@dataclass(frozen=True)
class Points:
    """The keypoints of all sources of a store, in working px.

    Attributes:
        positions: float64 (K, D), in each source's padded working array.
        classes: int64 (K,).
        first: int64 (sources + 1,): those of source i are ``first[i]`` to ``first[i + 1]``.
        spacing_angstrom: float64 (sources, D), angstrom per working px; NaN if not known.
    """

    positions: Floats
    classes: NDArray[np.int64]
    first: NDArray[np.int64]
    spacing_angstrom: Floats

    @classmethod
    def of(cls, tables: Mapping[int, Floats], axes: int) -> Points:
        """Those of some sources, by their index.

        Args:
            tables: What `source_points` gave of each; others have none.
            axes: D.
        """
        count = max(tables, default=-1) + 1
        nothing = np.full((1, axes + 1), np.nan)
        given = [tables.get(index, nothing) for index in range(count)]
        rows = np.concatenate([np.zeros((0, axes + 1)), *(each[1:] for each in given)])
        return cls(
            rows[:, :axes],
            rows[:, axes].astype(np.int64),
            np.cumsum([0, *(len(each) - 1 for each in given)]),
            np.concatenate([np.zeros((0, axes)), *(each[:1, :axes] for each in given)]),
        )

    def of_source(self, source: int) -> slice:
        """Where the keypoints of a source are."""
        return slice(int(self.first[source]), int(self.first[source + 1]))

    def batch(
        self, source: NDArray[np.int32], corner: NDArray[np.int32], shape: Size
    ) -> BatchPoints:
        """The keypoints in and around samples.

        Args:
            source: int (m,).
            corner: int (m, D), in working px.
            shape: Of every sample.
        """
        size = np.asarray(shape, np.float64)
        low, high = -0.5 - MARGIN * size, (1 + MARGIN) * size - 0.5
        found, classes = [np.zeros((0, len(shape)))], [np.zeros(0, np.int64)]
        counts = []
        for index, at in zip(source.tolist(), corner, strict=True):
            own = self.of_source(index)
            places = self.positions[own] - at
            held = ((places >= low) & (places < high)).all(axis=1)
            found.append(places[held])
            classes.append(self.classes[own][held])
            counts.append(int(held.sum()))
        return BatchPoints(
            np.concatenate(found),
            np.repeat(np.arange(len(counts), dtype=np.int64), counts),
            np.concatenate(classes),
            self.spacing_angstrom[source],
        )


def source_points(store: Store, source: int, at: Frame) -> Floats:
    """The keypoints of a source in its working array, as one table.

    Returns:
        float64 (1 + k, D + 1): the first row is angstrom per working px along each axis (NaN if not
        known), then positions and, in the last column, classes.
    """
    held, info = store.keypoints(source), store.sources[source]
    native, inner = np.asarray(box_size(at.box), np.float64), np.asarray(at.inner, np.float64)
    axes = len(inner)
    table = np.zeros((1 + len(held), axes + 1))
    table[0] = np.nan
    if info.spacing_angstrom is not None:
        table[0, :axes] = at.working(info.spacing_angstrom)
    low = np.asarray(at.box[:axes], np.float64)
    table[1:, :axes] = (held.positions - low + 0.5) * (inner / native) - 0.5 + np.asarray(at.offset)
    table[1:, axes] = held.classes
    return table


def corners_around(
    view: View, fov: NDArray[np.uint8], points: Floats, source: int
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Patches around the keypoints of a source, moved so that they lie inside its array.

    How far each is from its keypoint is drawn by (source, keypoint, copy) alone: whoever reads the
    store cuts the same patches. Those with too little fov are left out, as on the grid.

    Args:
        view: With `around`, and patches in px.
        fov: uint8 (*S) at the working resolution, 0 or 1.
        points: What `source_points` gives of the source.
        source: Its index.

    Returns:
        int32 (k, D), lower corners; int32 (k,), class of the keypoint of each.
    """
    assert view.around is not None
    copies, axes = view.around.copies, fov.ndim
    size = np.array(view.patch_of(axes))
    places = np.repeat(points[1:, :axes], copies, axis=0)
    share = unit_numbers(key(source, "around"), places.size) * 2 - 1
    shift = share.reshape(places.shape) * (view.around.jitter * size)
    corners = np.floor(places - (size - 1) / 2 + shift + 0.5).astype(np.int64)
    corners = np.clip(corners, 0, np.array(fov.shape) - size)
    kept = in_fov(view, fov, corners)
    classes = np.repeat(points[1:, axes], copies)
    return corners[kept].astype(np.int32), classes[kept].astype(np.int32)
