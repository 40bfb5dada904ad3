"""Writes a store: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from vesselflow.config.fingerprint import canonical_json
from vesselflow.errors import UserError
from vesselflow.stores.layout import Layout
from vesselflow.stores.schema import (
    HEADER_BYTES,
    MAGIC,
    Source,
    SourceInfo,
    describe,
    layout_of,
    seal_of,
    store_digest,
)

#: Sides of a chunk, by the number of axes. In 2-D a patch of 256 px touches at most four chunks and
#: a chunk is 64 KiB a channel; in 3-D one of float32 is 512 KiB; flat, as volumes often are.
CHUNKS = {2: (256, 256), 3: (32, 64, 64)}
#: Keypoints in a chunk.
CHUNK_KEYPOINTS = 4096


def write_store(
    path: str | os.PathLike[str],
    sources: Iterable[Source],
    *,
    domain: str,
    importer: Mapping[str, Any],
    layout: Layout | None = None,
    overwrite: bool = False,
) -> str:
    """Write sources into a new store and return its logical digest.

    The file appears under its name only when it is complete (temporary name in the same folder,
    fsync, rename). Equal arguments give equal bytes. Sources are taken one at a time, so memory
    holds one of them.

    Args:
        path: File to make; its folder is made where missing.
        sources: At least one; ids are unique, all fit the layout; their sizes may differ.
        domain: Name of the data set in tables and figures.
        importer: Name and arguments of what made the sources, plain data.
        layout: What all sources are; None: what the arrays of the first one say.
        overwrite: Replace a file that is there.

    Raises:
        UserError: the file exists, no sources, an id twice, arrays or keypoints that do not fit,
            no permission, disk full.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError("is a folder", where=str(path), hint="give the name of a file")
    if path.exists() and not overwrite:
        raise UserError("exists already", where=str(path), hint="--overwrite replaces it")
    if not domain:
        raise UserError("a domain needs a name", where=str(path))
    queue = iter(sources)
    first = next(queue, None)
    if first is None:
        raise UserError("there are no sources to write", where=str(path))
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A first byte, written plainly: HDF5's own message for a missing permission is a paragraph.
        temporary.write_bytes(b"")
        digest = _fill(temporary, first, queue, domain, importer, layout or layout_of(first))
        _seal(temporary)
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        reason = _reason(error.strerror or str(error))
        raise UserError(
            f"cannot be written: {reason}",
            where=str(path),
            hint="check the folder's permissions and the space on the disk",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
    return digest


def _reason(text: str) -> str:
    """What the disk said, out of HDF5's paragraph."""
    said = re.search(r"errno = (\d+)", text)
    return os.strerror(int(said[1])) if said else text


def _fill(
    path: Path,
    first: Source,
    rest: Iterator[Source],
    domain: str,
    importer: Mapping[str, Any],
    layout: Layout,
) -> str:
    entries: list[SourceInfo] = []
    ids: set[str] = set()
    with _new_file(path) as file:
        group_of_all = _new_group(file, "sources")
        source: Source | None = first
        while source is not None:
            entry, arrays = describe(len(entries), source, layout)
            if entry.id in ids:
                raise UserError(f"two sources are called '{entry.id}'", hint="ids must be unique")
            if entry.channels != layout.channels:
                other = f"'{first.id}' has" if len(entries) else "the layout says"
                raise UserError(
                    f"source '{entry.id}' has {entry.channels} channel(s), "
                    f"{other} {layout.channels}",
                    hint="a store holds images of one kind",
                )
            ids.add(entry.id)
            entries.append(entry)
            group = _new_group(group_of_all, str(entry.index))
            for name, array in arrays.items():
                filters = _filters(name, array, layout.dims)
                group.create_dataset(name, data=array, track_times=False, **filters)
            source = next(rest, None)
        listing = canonical_json(
            [_plain(entry, layout.schema) for entry in entries], escaped=False
        ).encode()
        file.create_dataset("index", data=np.frombuffer(listing, np.uint8), track_times=False)
        digest = store_digest(entries, layout)
        file.attrs["schema"] = layout.schema
        texts = {
            "kind": layout.kind,
            "domain": domain,
            "digest": digest,
            "importer": canonical_json(dict(importer), escaped=False),
        }
        if layout.schema > 1:
            texts["layout"] = canonical_json(layout.plain(), escaped=False)
            texts["seal"] = seal_of(texts, listing)
        for name, text in texts.items():
            # Fixed length: texts of variable length lie in a heap that has no checksum.
            file.attrs[name] = np.bytes_(text.encode())
    return digest


def _filters(name: str, array: NDArray[Any], dims: int) -> dict[str, Any]:
    """Chunks of an array, and what guards them: gzip has a checksum, and so has fletcher32."""
    if not array.size:  # HDF5 has no chunks of nothing
        return {}
    if name in ("keypoints", "classes"):
        sides = (min(CHUNK_KEYPOINTS, len(array)), *array.shape[1:])
        return {"chunks": sides, "fletcher32": True}
    plain = dims == 2 and array.dtype == np.uint8
    within = map(min if plain else _even, CHUNKS[dims], array.shape)
    chunks = (*within, *array.shape[dims:])
    if array.dtype.kind == "f":
        # Noise in floats saves 7 % as gzip, and is read five to eight times slower.
        return {"chunks": chunks, "fletcher32": True}
    # gzip, because every HDF5 tool reads it; level 1 is as small as 4 within 3 %.
    packed = {"chunks": chunks, "compression": "gzip", "compression_opts": 1}
    return {**packed, "shuffle": True} if array.dtype.itemsize > 1 else packed


def _even(most: int, side: int) -> int:
    """A side of chunks that are about equal: HDF5 stores all of one that reaches over the edge.

    A volume of 96 voxels in chunks of 64 would take 128, and nothing packs what is not needed.
    """
    return -(-side // -(-side // most))


def _new_file(path: Path) -> h5py.File:
    """An HDF5 file with a user block, checksums over all its metadata, and no times.

    In the format that h5py writes by default a single flipped bit in the metadata can send the HDF5
    library into an endless loop (seen in a test); since 1.10 the metadata carries checksums.
    """
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_libver_bounds(h5py.h5f.LIBVER_V110, h5py.h5f.LIBVER_V110)
    creation = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    creation.set_userblock(HEADER_BYTES)
    creation.set_obj_track_times(False)
    name = os.fsencode(path)
    return h5py.File(h5py.h5f.create(name, h5py.h5f.ACC_TRUNC, fcpl=creation, fapl=access))


def _new_group(parent: h5py.Group, name: str) -> h5py.Group:
    creation = h5py.h5p.create(h5py.h5p.GROUP_CREATE)
    creation.set_obj_track_times(False)
    return h5py.Group(h5py.h5g.create(parent.id, name.encode(), gcpl=creation))


def _plain(entry: SourceInfo, schema: int) -> dict[str, Any]:
    values = entry.plain()
    if schema == 1:
        for name in ("depth", "keypoint_counts", "origin", "fov_full"):
            del values[name]
    return values


def _seal(path: Path) -> None:
    """Write the size into the user block and bring everything to the disk."""
    header = MAGIC + f"{path.stat().st_size} bytes\n".encode()
    with path.open("r+b") as file:
        file.write(header.ljust(HEADER_BYTES, b" "))
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some filesystems cannot sync a folder
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
