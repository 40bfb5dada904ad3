"""Reads a patch store; refuses every file that is not a whole one of a known schema."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np

from vesselflow.errors import ShapeError, UserError
from vesselflow.stores.schema import HEADER_BYTES, KIND, MAGIC, SCHEMA, Box, Bytes, SourceInfo

_AGAIN = "make it again with 'vesselflow data import' or 'vesselflow data synth'"


class Store:
    """A patch store, opened read-only; pixels are read when asked for.

    Use it as a context manager. It holds an open file and does not travel between processes: send
    the path and open it there.

    Attributes:
        path: The file.
        kind: "patch".
        domain: Name of the data set.
        digest: Logical digest of ids, groups, splits and arrays.
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
        if self.kind != KIND:
            raise UserError(f"a store of kind '{self.kind}'", where=str(path), allowed=KIND)
        self.domain = _text(attributes["domain"])
        self.digest = _text(attributes["digest"])
        self.importer: dict[str, Any] = json.loads(_text(attributes["importer"]))
        entries = json.loads(bytes(file["index"][()]))
        self.sources = tuple(_entry(index, values) for index, values in enumerate(entries))

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
        except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
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

    def image(self, index: int, window: Box | None = None) -> Bytes:
        """Image of a source, uint8 (H, W, C), or its window (y0, x0, y1, x1), end exclusive."""
        return self._read(index, "image", window)

    def target(self, index: int, window: Box | None = None) -> Bytes:
        """Target of a source, uint8 (H, W), 0 or 1, or its window."""
        return self._read(index, "target", window)

    def fov(self, index: int, window: Box | None = None) -> Bytes:
        """Field of view of a source, uint8 (H, W), 0 or 1, or its window."""
        return self._read(index, "fov", window)

    def fov_box(self, index: int) -> Box:
        """Bounding box of the fov (y0, x0, y1, x1), end exclusive; no pixel is read."""
        return self.sources[index].fov_box

    def _read(self, index: int, name: str, window: Box | None) -> Bytes:
        source = self.sources[index]
        y0, x0, y1, x1 = window or (0, 0, source.height, source.width)
        if not (0 <= y0 < y1 <= source.height and 0 <= x0 < x1 <= source.width):
            raise ShapeError(
                f"window {window} does not lie in source '{source.id}' "
                f"({source.height} x {source.width} px)"
            )
        try:
            values: Bytes = self._file[f"sources/{source.index}/{name}"][y0:y1, x0:x1]
        except (OSError, KeyError, RuntimeError) as error:
            raise UserError(
                f"{name} is damaged", where=f"{self.path}: source '{source.id}'", hint=_AGAIN
            ) from error
        return values


def _text(value: bytes | str) -> str:
    """A text attribute; HDF5 gives those of fixed length as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)


def _entry(index: int, values: dict[str, Any]) -> SourceInfo:
    y0, x0, y1, x1 = values.pop("fov_box")
    spacing = values.pop("spacing_um")
    return SourceInfo(
        index=index,
        fov_box=(y0, x0, y1, x1),
        spacing_um=None if spacing is None else (spacing[0], spacing[1]),
        **values,
    )


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
