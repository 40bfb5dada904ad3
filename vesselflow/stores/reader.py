"""Reads a store, in one file or several; refuses what is not a whole one of a known schema."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vesselflow.errors import ShapeError, UserError
from vesselflow.stores.hdf5 import StoreFile
from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.schema import Box, Bytes, Head, Shard, SourceInfo
from vesselflow.stores.shards import Finder, ShardedFiles, is_index


class Content(Protocol):
    """Where a store's arrays lie: one file, or the files of an index."""

    path: Path
    head: Head
    shards: tuple[Shard, ...]
    seal: str

    def read(self, index: int, name: str, part: Any) -> NDArray[Any]:
        """An array of a source, or a part of it."""

    def stored_bytes(self, index: int) -> int:
        """Bytes that the arrays of a source take where they lie."""

    def close(self) -> None:
        """Close all files."""


class Store:
    """A store, opened read-only; voxels are read when asked for.

    Use it as a context manager. It holds open files and does not travel between processes: send
    the path and open it there.

    Attributes:
        path: The file, or the index of several.
        layout: What all its sources are made of.
        kind: "patch" or "keypoint", as the layout says.
        domain: Name of the data set.
        digest: Logical digest of layout, ids, groups, splits and arrays; the same for the same
            sources in one file and in several.
        importer: What made the store: name and arguments.
        sources: What is known about each source, in the order of the store.
        shards: Its files; of a store in one file that alone.
        seal: Digest of an index; "" of a store in one file.
    """

    def __init__(self, content: Content) -> None:
        self._content = content
        head = content.head
        self.path = content.path
        self.layout, self.kind = head.layout, head.layout.kind
        self.domain, self.digest = head.domain, head.digest
        self.importer = head.importer
        self.sources: tuple[SourceInfo, ...] = head.sources
        self.shards = content.shards
        self.seal = content.seal

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Store:
        """Open a store: an HDF5 file, or an index of several, which are opened when needed.

        Args:
            path: The file. One that is a `Finder` as well finds the files of an index.

        Raises:
            UserError: missing, neither HDF5 nor an index, truncated at any byte, damaged, of a
                newer schema, of another kind, or an HDF5 file that vesselflow did not make.
        """
        found = Path(path)
        if is_index(found):
            return cls(ShardedFiles(found, path if isinstance(path, Finder) else None))
        return cls(StoreFile(found))

    @property
    def nbytes(self) -> int:
        """Bytes of all its files."""
        return sum(shard.nbytes for shard in self.shards)

    def check_shard(self, number: int) -> None:
        """Open one of its files, which is held to the index.

        Raises:
            UserError: it is missing, damaged, or not the one that the index names.
        """
        if isinstance(self._content, ShardedFiles):
            self._content.opened(number)

    def stored_bytes(self, index: int) -> int:
        """Bytes that the arrays of a source take in its file, packed as they are."""
        return self._content.stored_bytes(index)

    def close(self) -> None:
        """Close all files."""
        self._content.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.sources)

    def image(self, index: int, window: Box | None = None) -> NDArray[Any]:
        """Image of a source (*S, C), or its window (lows, then highs, end exclusive)."""
        return self._read(index, "image", window)

    def target(self, index: int, window: Box | None = None) -> Bytes:
        """Target of a source of a patch store, or its window: uint8 (*S), of planes (*S, K)."""
        return self._read(index, "target", window)

    def fov(self, index: int, window: Box | None = None) -> Bytes:
        """Field of view of a source, uint8 (*S), 0 or 1, or its window."""
        return self._read(index, "fov", window)

    def fov_box(self, index: int) -> Box:
        """Bounding box of the fov (lows, then highs), end exclusive; no voxel is read."""
        return self.sources[index].fov_box

    def keypoints(self, index: int, window: Box | None = None) -> Keypoints:
        """Keypoints of a source of a keypoint store; those in a window are relative to it."""
        positions, classes = (self._read(index, name, None) for name in ("keypoints", "classes"))
        held = Keypoints(positions, classes)
        if window is None:
            return held
        self._check_window(self.sources[index], window)
        return held.inside(window)

    def heatmap(self, index: int) -> NDArray[np.float32]:
        """The heat-map that was rendered beforehand (*S / ds_factor, K), of a store with them."""
        return self._read(index, "heatmap", None)

    def _check_window(self, source: SourceInfo, window: Box) -> None:
        shape, dims = source.shape, len(source.shape)
        low, high = window[:dims], window[dims:]
        fits = len(window) == 2 * dims and all(
            0 <= a < b <= side for a, b, side in zip(low, high, shape, strict=True)
        )
        if not fits:
            sizes = " x ".join(map(str, shape))
            raise ShapeError(f"window {window} does not lie in source '{source.id}' ({sizes} px)")

    def _read(self, index: int, name: str, window: Box | None) -> NDArray[Any]:
        source = self.sources[index]
        where = f"{self.path}: source '{source.id}'"
        if name not in self.layout.arrays():
            raise UserError(
                f"a {self.kind} store has no {name}",
                where=where,
                allowed=", ".join(self.layout.arrays()),
            )
        part: Any = ()
        if window is not None:
            self._check_window(source, window)
            dims = len(source.shape)
            part = tuple(map(slice, window[:dims], window[dims:]))
        return self._content.read(index, name, part)
