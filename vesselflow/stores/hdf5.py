"""One HDF5 file of a store; refuses every file that is not a whole one of a known schema."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vesselflow.errors import UserError
from vesselflow.stores.arrays import expected
from vesselflow.stores.layout import KINDS, Layout
from vesselflow.stores.schema import (
    HEADER_BYTES,
    MAGIC,
    PLAIN,
    SCHEMA,
    Head,
    Shard,
    SourceInfo,
    seal_of,
)

#: What h5py, json and the entries of an index raise on a file that is no whole store.
BROKEN = (
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


class StoreFile:
    """A store in one file, opened read-only.

    Args:
        path: The file.

    Attributes:
        path: The same.
        head: What it says of itself.
        shards: It alone.
        seal: Of its index; it has none.

    Raises:
        UserError: missing, not HDF5, truncated at any byte, damaged, of a newer schema, of
            another kind, or an HDF5 file that vesselflow did not make.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        size = _check_header(path)
        file = None
        try:
            # No lock: a store never changes under its name, and some filesystems cannot lock.
            file = h5py.File(path, "r", locking=False)
            self.head = _head(path, file)
        except UserError:
            if file is not None:
                file.close()
            raise
        except BROKEN as error:
            if file is not None:
                file.close()
            raise UserError("the store is damaged", where=str(path), hint=_AGAIN) from error
        self._file = file
        count = len(self.head.sources)
        self.seal = ""
        self.shards: tuple[Shard, ...] = (Shard(path.name, self.head.digest, range(count), size),)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def read(self, index: int, name: str, part: Any) -> NDArray[Any]:
        """An array of a source, which the layout has, or a part of it.

        Args:
            index: Of the source.
            name: One of `Layout.arrays`.
            part: Slices; () for all of it.

        Raises:
            UserError: it is damaged, or not what the index says.
        """
        source, layout = self.head.sources[index], self.head.layout
        where = f"{self.path}: source '{source.id}'"
        count = sum(source.keypoint_counts)
        kind, shape = expected(layout, name, source.shape, source.channels, count)
        try:
            stored = self._file[f"sources/{source.index}/{name}"]
            found = (stored.dtype, stored.shape)
            values: NDArray[Any] = stored[part] if found == (kind, shape) else np.empty(0)
        except BROKEN as error:
            raise UserError(f"{name} is damaged", where=where, hint=_AGAIN) from error
        if found != (kind, shape):
            raise UserError(
                f"{name} is {found[0]} {found[1]}, the index says {kind} {shape}",
                where=where,
                hint=_AGAIN,
            )
        return values

    def stored_bytes(self, index: int) -> int:
        """Bytes that the arrays of a source take in the file, packed as they are.

        Raises:
            UserError: one is damaged.
        """
        source = self.head.sources[index]
        try:
            stored = [
                self._file[f"sources/{index}/{name}"].id.get_storage_size()
                for name in self.head.layout.arrays()
            ]
        except BROKEN as error:
            where = f"{self.path}: source '{source.id}'"
            raise UserError("an array is damaged", where=where, hint=_AGAIN) from error
        return sum(stored)


def _head(path: Path, file: h5py.File) -> Head:
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
    kind = _text(attributes["kind"])
    if kind not in (KINDS if schema > 1 else KINDS[:1]):
        allowed = ", ".join(KINDS if schema > 1 else KINDS[:1])
        raise UserError(f"a store of kind '{kind}'", where=str(path), allowed=allowed)
    importer: dict[str, Any] = json.loads(_text(attributes["importer"]))
    listing = bytes(_plain_array(file["index"], np.dtype(np.uint8), 1))
    if schema > 1:
        names = ("kind", "domain", "digest", "importer", "layout")
        texts = {name: _text(attributes[name]) for name in names}
        if seal_of(texts, listing) != _text(attributes["seal"]):
            raise ValueError("the seal does not fit the index")
    entries = json.loads(listing)
    sources = tuple(SourceInfo.of(index, values) for index, values in enumerate(entries))
    if schema > 1:
        layout = Layout.of(json.loads(_text(attributes["layout"])))
    else:
        channels = sources[0].channels if sources else 1
        layout = dataclasses.replace(PLAIN, channels=max(channels, 1))
    if layout.kind != kind:
        raise ValueError("the layout is of another kind")
    domain, digest = _text(attributes["domain"]), _text(attributes["digest"])
    return Head(layout, domain, digest, importer, sources)


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


def _foreign(path: Path) -> UserError:
    return UserError(
        "an HDF5 file, but not a vesselflow store",
        where=str(path),
        hint="make one with 'vesselflow data import'",
    )


def _check_header(path: Path) -> int:
    """Refuse what is missing, foreign or of another size than the writer left it: its bytes."""
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
    return size
