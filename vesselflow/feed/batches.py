"""Batches of samples and whole images, gathered out of memory."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from vesselflow.errors import ShapeError, UserError
from vesselflow.feed.contents import planes_held, points_held
from vesselflow.feed.layout import SampleLayout, Size
from vesselflow.feed.points import BatchPoints, Points, corners_around, source_points
from vesselflow.feed.view import (
    Box,
    Frame,
    View,
    image_frame,
    most_patches,
    no_samples,
    patch_positions,
    sample_frames,
)
from vesselflow.feed.working import cut, native_target, sample_layout, working_source
from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.schema import in_angstrom
from vesselflow.stores.statistics import centre_scale
from vesselflow.stores.store import Store

#: Of a store's file, as each process opens it: also a `SharedStore`, which finds it anywhere.
StorePath: TypeAlias = str | os.PathLike[str]


@dataclass
class Batch:
    """Some samples (m), as stored; what the device turns into floats.

    `image`, `target` and `fov` of a gathered batch are views of one array, in which those of a
    sample lie side by side.

    Attributes:
        image: (m, C, *S), in the type of the store.
        target: uint8 (m, K, *S), soft: 0..255 stands for 0..1.
        fov: uint8 (m, 1, *S), 0 or 1; read-only where the layout holds none.
        centre: float32 (m, C), of each sample's source, in units of the [0, 1] image.
        scale: float32 (m, C), likewise.
        source: int32 (m,), index of each sample's source in its store.
        points: Keypoints, of a store that has them; K is 0 then.
        full_fov: Every voxel lies in the fov: `fov` is 1 everywhere, and need not be copied.
        unlabelled: Samples of another store that come with these, of whose labels nothing is used.
    """

    image: np.ndarray
    target: np.ndarray
    fov: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    source: np.ndarray
    points: BatchPoints | None = None
    full_fov: bool = False
    unlabelled: Batch | None = None


class Samples(Protocol):
    """Samples of all sources of a store, in store order."""

    @property
    def n(self) -> int:
        """How many samples."""

    @property
    def source(self) -> np.ndarray:
        """int32 (n,): the source index of each sample; a fold selects by it."""

    @property
    def table(self) -> SampleTable:
        """What is known of each sample besides its pixels."""

    def gather(self, indices: np.ndarray) -> Batch:
        """Copy the asked samples, in the asked order."""


@dataclass(frozen=True)
class SampleTable:
    """What is known of each sample besides its pixels, row by row in store order.

    Attributes:
        layout: How a sample's arrays lie in its record.
        source: int32 (n,), index of the source in its store.
        corner: int32 (n, axes), lower corner in working px.
        centre: float32 (n, C).
        scale: float32 (n, C).
        points: Keypoints of the sources, of a store that has them.
        held: uint8 (n, K): 1 where the sample holds the class, see `contents`; None where nobody
            has looked.
        centred: int32 (n,): class of the keypoint that the sample was cut around, -1 for samples of
            the grid; None: all are.
    """

    layout: SampleLayout
    source: np.ndarray
    corner: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    points: Points | None = None
    held: np.ndarray | None = None
    centred: np.ndarray | None = None

    def of_grid(self, rows: np.ndarray) -> np.ndarray:
        """Those of `rows` that are samples of the grid: once through them is an epoch."""
        return rows if self.centred is None else rows[self.centred[rows] < 0]

    def batch(self, records: np.ndarray, indices: np.ndarray) -> Batch:
        """A batch of gathered records (m, nbytes) with what is known of its samples."""
        image, target, fov = self.layout.arrays(records)
        points = None
        if self.points is not None:
            chosen = self.source[indices], self.corner[indices]
            points = self.points.batch(*chosen, self.layout.shape)
        return Batch(
            image=image,
            target=target,
            fov=fov,
            centre=self.centre[indices],
            scale=self.scale[indices],
            source=self.source[indices],
            points=points,
            full_fov=not self.layout.has_fov,
        )


class ArraySamples:
    """Samples in memory: this process's own, or shared and read-only.

    Args:
        blocks: Records, uint8 (k, nbytes) each. Together they hold every sample.
        block: int32 (n,), the block of each sample.
        row: int32 (n,), its row there.
        table: What else is known of each sample.
    """

    def __init__(
        self, blocks: Sequence[np.ndarray], block: np.ndarray, row: np.ndarray, table: SampleTable
    ) -> None:
        self._blocks, self._block, self._row, self._table = list(blocks), block, row, table

    @property
    def n(self) -> int:
        """How many samples."""
        return len(self._block)

    @property
    def table(self) -> SampleTable:
        """What is known of each sample besides its pixels."""
        return self._table

    @property
    def source(self) -> np.ndarray:
        """int32 (n,): the source index of each sample."""
        return self._table.source

    @property
    def blocks(self) -> tuple[np.ndarray, ...]:
        """The arrays that hold the samples."""
        return tuple(self._blocks)

    def gather(self, indices: np.ndarray, out: np.ndarray | None = None) -> Batch:
        """Copy the asked samples, and nothing else, in the asked order.

        Args:
            indices: int (m,), values in [0, n).
            out: uint8 (m, nbytes), contiguous, to be filled and used by the batch (pinned memory,
                for instance); a new array when None.

        Raises:
            ShapeError: `out` has another shape or type.
            IndexError: An index is not that of a sample.
        """
        indices = np.asarray(indices, dtype=np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= self.n):
            raise IndexError(f"samples are 0..{self.n - 1}, asked for {indices.tolist()}")
        shape = (len(indices), self.table.layout.nbytes)
        if out is None:
            out = np.empty(shape, dtype=np.uint8)
        elif out.shape != shape or out.dtype != np.uint8:
            raise ShapeError(f"out is {out.dtype} {out.shape}, the samples are uint8 {shape}")
        blocks = self._blocks
        # One contiguous copy per sample; np.take would need the blocks joined into one array.
        for place, (block, row) in enumerate(
            zip(self._block[indices].tolist(), self._row[indices].tolist(), strict=True)
        ):
            out[place] = blocks[block][row]
        return self.table.batch(out, indices)


@dataclass
class WholeImage:
    """One source, whole: what a model sees of it, and what its prediction is scored against.

    Attributes:
        source_id: Its name in the store.
        group: What must stay on one side of a split.
        image: (C, *s), in the type of the store, at the working resolution, padded to the divisor.
        fov_working: uint8 (*s), 0 or 1.
        centre: float32 (C,), in units of the [0, 1] image.
        scale: float32 (C,), likewise.
        target: uint8 (*S), native, untouched, 0 or 1; of several classes (K, *S), of a keypoint
            store (0, *S).
        fov: uint8 (*S), native, 0 or 1.
        box: The fov's bounding box in native px.
        inner: Size of the resized box inside the padded array.
        offset: Lower corner of the resized box inside the padded array.
        keypoints: In native voxels, of a keypoint store.
        spacing_um: Of a native voxel along each axis, where known.
    """

    source_id: str
    group: str
    image: np.ndarray
    fov_working: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    target: np.ndarray
    fov: np.ndarray
    box: Box
    inner: Size
    offset: Size
    keypoints: Keypoints | None = None
    spacing_um: tuple[float, ...] | None = None

    @property
    def spacing_angstrom(self) -> tuple[float, ...] | None:
        """Of a native voxel along each axis in angstrom, where known."""
        return in_angstrom(self.spacing_um)


class WholeImages(Protocol):
    """The sources of a store, whole, in store order."""

    @property
    def ids(self) -> tuple[str, ...]:
        """Their names."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> WholeImage: ...


class ArrayImages:
    """Whole images in memory."""

    def __init__(self, images: Sequence[WholeImage]) -> None:
        self._images = list(images)
        self.ids: tuple[str, ...] = tuple(image.source_id for image in images)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> WholeImage:
        return self._images[index]

    def __iter__(self) -> Iterator[WholeImage]:
        return iter(self._images)


class StoreImages:
    """Whole images read one at a time, for stores that do not fit in memory; nothing is kept."""

    def __init__(self, path: StorePath, view: View) -> None:
        self._path, self._view = path, view
        with Store.open(path) as store:
            self.ids: tuple[str, ...] = tuple(source.id for source in store.sources)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> WholeImage:
        with Store.open(self._path) as store:
            return read_image(store, self._view, index)


@dataclass(frozen=True)
class SourceSamples:
    """All samples of one source.

    Attributes:
        source: Its index in the store.
        corners: int32 (k, axes): lower corner of each sample.
        layout: How a sample's arrays lie in its record.
        records: uint8 (k, nbytes).
        centre: float32 (C,).
        scale: float32 (C,).
        points: Of a keypoint store: see `source_points`.
        held: uint8 (k, K): 1 where the sample holds the class.
        centred: int32 (k,): as in `SampleTable`.
    """

    source: int
    corners: np.ndarray
    layout: SampleLayout
    records: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    held: np.ndarray
    centred: np.ndarray
    points: np.ndarray | None = None


def store_frames(store: Store, view: View) -> list[Frame]:
    """Geometry of the samples of every source of a store.

    Raises:
        UserError: A source without a spacing, where the view needs one.
    """
    try:
        return sample_frames(store.sources, view)
    except UserError as error:
        raise error.at(str(store.path)) from None


def _statistics(image: np.ndarray, fov: np.ndarray, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale (C,) of an image (C, *S); 0 and 1 for scopes that need nothing of it."""
    if view.scope != "source":
        return np.zeros(len(image), dtype=np.float32), np.ones(len(image), dtype=np.float32)
    return centre_scale(np.moveaxis(image, 0, -1), fov, view.method, view.per_channel)


def read_source(
    store: Store, view: View, source: int, at: Frame, layout: SampleLayout
) -> SourceSamples:
    """Read one source and cut all its samples, patches row by row.

    Args:
        store: The store.
        view: How its sources are seen.
        source: Index of the source.
        at: Its geometry.
        layout: Of all samples of the store: see `sample_layout`.
    """
    whole, record = working_source(store, source, at)
    image, _, (fov,) = whole.arrays(record)
    centre, scale = _statistics(image, fov, view)
    corners = patch_positions(view, fov)
    centred = np.full(len(corners), -1, np.int32)
    points = source_points(store, source, at) if store.kind == "keypoint" else None
    if points is not None and view.around is not None:
        more, classes = corners_around(view, fov, points, source)
        corners, centred = np.concatenate([corners, more]), np.concatenate([centred, classes])
    records = cut(whole, record, corners, layout)
    if points is None:
        held = planes_held(layout, records)
    else:
        held = points_held(points, corners, layout.shape, len(store.layout.classes))
    return SourceSamples(source, corners, layout, records, centre, scale, held, centred, points)


def read_image(store: Store, view: View, source: int) -> WholeImage:
    """Read one source whole."""
    info = store.sources[source]
    at = image_frame(info.fov_box, view, info.spacing_um)
    whole, record = working_source(store, source, at)
    image, _, (fov,) = whole.arrays(record)
    centre, scale = _statistics(image, fov, view)
    return WholeImage(
        source_id=info.id,
        group=info.group,
        image=image,
        fov_working=fov,
        centre=centre,
        scale=scale,
        target=native_target(store, source),
        fov=store.fov(source),
        box=at.box,
        inner=at.inner,
        offset=at.offset,
        keypoints=store.keypoints(source) if store.kind == "keypoint" else None,
        spacing_um=info.spacing_um,
    )


def load_samples(path: StorePath, view: View) -> ArraySamples:
    """The samples of all sources of a store, in this process's memory.

    A fold selects those of its sources by `ArraySamples.source`.

    Raises:
        UserError: The store cannot be read, or gives not one sample.
    """
    with Store.open(path) as store:
        frames = store_frames(store, view)
        layout = sample_layout(store, view, frames)
        parts = [read_source(store, view, i, at, layout) for i, at in enumerate(frames)]
    sizes = [len(part.corners) for part in parts]
    if not sum(sizes):
        raise no_samples(view, str(path))
    table = SampleTable(
        layout=layout,
        source=np.repeat(np.arange(len(parts), dtype=np.int32), sizes),
        corner=np.concatenate([part.corners for part in parts]),
        centre=np.repeat(np.stack([part.centre for part in parts]), sizes, axis=0),
        scale=np.repeat(np.stack([part.scale for part in parts]), sizes, axis=0),
        points=_points(parts),
        held=np.concatenate([part.held for part in parts]),
        centred=np.concatenate([part.centred for part in parts]),
    )
    rows = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])
    return ArraySamples([part.records for part in parts], table.source, rows, table)


def _points(parts: Sequence[SourceSamples]) -> Points | None:
    given = [part.points for part in parts if part.points is not None]
    return Points.of(dict(enumerate(given)), given[0].shape[1] - 1) if given else None


def load_images(path: StorePath, view: View) -> ArrayImages:
    """All sources of a store, whole, in this process's memory.

    Raises:
        UserError: The store cannot be read.
    """
    with Store.open(path) as store:
        return ArrayImages([read_image(store, view, i) for i in range(len(store.sources))])


def resident_bytes(store: Store, view: View) -> int:
    """Bytes that the samples of a store take in memory, at most, from its geometry alone."""
    copies = 0 if view.around is None else view.around.copies
    frames = store_frames(store, view)
    most = sum(
        most_patches(view, at) + copies * sum(source.keypoint_counts)
        for source, at in zip(store.sources, frames, strict=True)
    )
    return most * sample_layout(store, view, frames).nbytes
