"""Reads a store; refuses every file that is not a whole one of a known schema."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vesselflow.errors import ShapeError, UserError
from vesselflow.stores.arrays import expected
from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.layout import KINDS, Layout
from vesselflow.stores.schema import (
    HEADER_BYTES,
    MAGIC,
    PLAIN,
    SCHEMA,
    Box,
    Bytes,
    SourceInfo,
    seal_of,
)

#: What h5py, json and the entries of an index raise on a file that is no whole store.
_BROKEN = (
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    RuntimeError,
    ArithmeticError,
    MemoryError,
)
_AGAIN = "make it again with 'vesselflow data import' or 'vesselflow data synth'"


class Store:
    """A store, opened read-only; voxels are read when asked for.

    Use it as a context manager. It holds an open file and does not travel between processes: send
    the path and open it there.

    Attributes:
        path: The file.
        layout: What all its sources are made of.
        kind: "patch" or "keypoint", as the layout says.
        domain: Name of the data set.
        digest: Logical digest of layout, ids, groups, splits and arrays.
        importer: What made the store: name and arguments.
        sources: What is known about each source, in the order of the store.
    """

    def __init__(self, path: Path, file: h5py.File) -> None:
        self.path = path
        self._file = file
        attributes = file.attrs
        schema = attributes.get("schema")
        if "digest" not in attributes or not isinstance(schema, (int, np.integer)):
            raise _foreign(path)
        if schema > SCHEMA:
            raise UserError(
                f"the store has schema {int(schema)}, newer than this version of vesselflow",
                where=str(path),
                allowed=f"schema 1 to {SCHEMA}",
                hint="update vesselflow",
            )
        self.kind = _text(attributes["kind"])
        if self.kind not in (KINDS if schema > 1 else KINDS[:1]):
            allowed = ", ".join(KINDS if schema > 1 else KINDS[:1])
            raise UserError(f"a store of kind '{self.kind}'", where=str(path), allowed=allowed)
        self.domain = _text(attributes["domain"])
        self.digest = _text(attributes["digest"])
        self.importer: dict[str, Any] = json.loads(_text(attributes["importer"]))
        listing = bytes(_plain_array(file["index"], np.dtype(np.uint8), 1))
        if schema > 1:
            names = ("kind", "domain", "digest", "importer", "layout")
            texts = {name: _text(attributes[name]) for name in names}
            if seal_of(texts, listing) != _text(attributes["seal"]):
                raise ValueError("the seal does not fit the index")
        entries = json.loads(listing)
        self.sources = tuple(_entry(index, values) for index, values in enumerate(entries))
        if schema > 1:
            self.layout = Layout.of(json.loads(_text(attributes["layout"])))
        else:
            channels = self.sources[0].channels if self.sources else 1
            self.layout = dataclasses.replace(PLAIN, channels=max(channels, 1))
        if self.layout.kind != self.kind:
            raise ValueError("the layout is of another kind")

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Store:
        """Open a store.

        Raises:
            UserError: missing, not HDF5, truncated at any byte, damaged, of a newer schema, of
                another kind, or an HDF5 file that vesselflow did not make.
        """
        path = Path(path)
        _check_header(path)
        file = None
        try:
            # No lock: a store never changes under its name, and some filesystems cannot lock.
            file = h5py.File(path, "r", locking=False)
            return cls(path, file)
        except UserError:
            if file is not None:
                file.close()
            raise
        except _BROKEN as error:
            if file is not None:
                file.close()
            raise UserError("the store is damaged", where=str(path), hint=_AGAIN) from error

    def close(self) -> None:
        """Close the file."""
        self._file.close()

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
        count = sum(source.keypoint_counts)
        kind, shape = expected(self.layout, name, source.shape, source.channels, count)
        try:
            stored = self._file[f"sources/{source.index}/{name}"]
            found = (stored.dtype, stored.shape)
            values: NDArray[Any] = stored[part] if found == (kind, shape) else np.empty(0)
        except _BROKEN as error:
            raise UserError(f"{name} is damaged", where=where, hint=_AGAIN) from error
        if found != (kind, shape):
            raise UserError(
                f"{name} is {found[0]} {found[1]}, the index says {kind} {shape}",
                where=where,
                hint=_AGAIN,
            )
        return values


def _text(value: object) -> str:
    """A text attribute; HDF5 gives those of fixed length as bytes."""
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        return value
    raise ValueError("an attribute is no text")


def _plain_array(stored: Any, kind: np.dtype[Any], dims: int) -> NDArray[Any]:
    """A whole dataset that has to be of a type and number of axes; ValueError otherwise."""
    if stored.dtype != kind or len(stored.shape) != dims:
        raise ValueError("a dataset is of another type")
    values: NDArray[Any] = stored[()]
    return values


def _entry(index: int, values: dict[str, Any]) -> SourceInfo:
    """An entry of the index; what is a tuple came as a list."""
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    source = SourceInfo(index=index, **plain)
    if len(source.fov_box) != 2 * len(source.shape):
        raise ValueError("the fov's box has other axes than the source")
    return source


def _foreign(path: Path) -> UserError:
    return UserError(
        "an HDF5 file, but not a vesselflow store",
        where=str(path),
        hint="make one with 'vesselflow data import'",
    )


def _check_header(path: Path) -> None:
    """Refuse what is missing, foreign or of another size than the writer left it."""
    where = str(path)
    if path.is_dir():
        raise UserError(
            "is a folder, not a store", where=where, hint="'vesselflow data import' makes one of it"
        )
    try:
        with path.open("rb") as file:
            header = file.read(HEADER_BYTES)
            size = file.seek(0, os.SEEK_END)
    except FileNotFoundError:
        raise UserError("no such store", where=where, hint=_AGAIN) from None
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", where=where) from error
    if not header:
        raise UserError("the file is empty", where=where, hint=_AGAIN)
    if not header.startswith(MAGIC) and not (size < len(MAGIC) and MAGIC.startswith(header)):
        if h5py.is_hdf5(path):
            raise _foreign(path)
        raise UserError(
            "not an HDF5 file", where=where, hint="make one with 'vesselflow data import'"
        )
    match = re.match(rb"(\d+) bytes\n", header[len(MAGIC) :])
    if match is None and size >= HEADER_BYTES:
        raise UserError("the store is damaged", where=where, hint=_AGAIN)
    if match is None or int(match[1]) > size:
        whole = f" of {int(match[1])}" if match else ""
        raise UserError(f"the store is truncated: {size}{whole} bytes", where=where, hint=_AGAIN)
    if int(match[1]) < size:
        raise UserError(
            f"the store is damaged: {size} bytes instead of {int(match[1])}",
            where=where,
            hint=_AGAIN,
        )
