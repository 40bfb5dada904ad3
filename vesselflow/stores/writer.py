"""Writes a patch store: whole or not at all."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vesselflow.config.fingerprint import canonical_json
from vesselflow.errors import UserError
from vesselflow.stores.schema import (
    HEADER_BYTES,
    KIND,
    MAGIC,
    SCHEMA,
    Source,
    SourceInfo,
    describe,
    store_digest,
)

#: Side of a chunk in px: a patch of 256 touches at most four chunks, a chunk is 64 KiB a channel.
CHUNK_PX = 256


def write_store(
    path: str | os.PathLike[str],
    sources: Iterable[Source],
    *,
    domain: str,
    importer: Mapping[str, Any],
    overwrite: bool = False,
) -> str:
    """Write sources into a new store and return its logical digest.

    The file appears under its name only when it is complete (temporary name in the same folder,
    fsync, rename). Equal arguments give equal bytes. Sources are taken one at a time, so memory
    holds one of them.

    Args:
        path: File to make; its folder is made where missing.
        sources: At least one; ids are unique, all images have the same number of channels.
        domain: Name of the data set in tables and figures.
        importer: Name and arguments of what made the sources, plain data.
        overwrite: Replace a file that is there.

    Raises:
        UserError: the file exists, no sources, an id twice, arrays that do not fit, no permission,
            disk full.
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
        digest = _fill(temporary, first, queue, domain, importer)
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
    path: Path, first: Source, rest: Iterator[Source], domain: str, importer: Mapping[str, Any]
) -> str:
    entries: list[SourceInfo] = []
    ids: set[str] = set()
    with _new_file(path) as file:
        group_of_all = _new_group(file, "sources")
        source: Source | None = first
        while source is not None:
            entry = describe(len(entries), source)
            if entry.id in ids:
                raise UserError(f"two sources are called '{entry.id}'", hint="ids must be unique")
            if entries and entry.channels != entries[0].channels:
                raise UserError(
                    f"source '{entry.id}' has {entry.channels} channel(s), "
                    f"'{entries[0].id}' has {entries[0].channels}",
                    hint="a store holds images of one kind",
                )
            ids.add(entry.id)
            entries.append(entry)
            group = _new_group(group_of_all, str(entry.index))
            for name, array in (
                ("image", source.image),
                ("target", source.target.astype(np.uint8, copy=False)),
                ("fov", source.fov.astype(np.uint8, copy=False)),
            ):
                sides = tuple(min(CHUNK_PX, side) for side in array.shape[:2])
                # gzip, because every HDF5 tool reads it; level 1 is as small as 4 within 3 %.
                group.create_dataset(
                    name,
                    data=array,
                    chunks=sides + array.shape[2:],
                    compression="gzip",
                    compression_opts=1,
                    track_times=False,
                )
            source = next(rest, None)
        listing = canonical_json([_plain(entry) for entry in entries], escaped=False).encode()
        file.create_dataset("index", data=np.frombuffer(listing, np.uint8), track_times=False)
        digest = store_digest(entries)
        file.attrs["schema"] = SCHEMA
        texts = {
            "kind": KIND,
            "domain": domain,
            "digest": digest,
            "importer": canonical_json(dict(importer), escaped=False),
        }
        for name, text in texts.items():
            # Fixed length: texts of variable length lie in a heap that has no checksum.
            file.attrs[name] = np.bytes_(text.encode())
    return digest


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


def _plain(entry: SourceInfo) -> dict[str, Any]:
    values = dataclasses.asdict(entry)
    del values["index"]
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
