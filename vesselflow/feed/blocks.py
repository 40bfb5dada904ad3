"""Arrow tables in which samples and whole images travel, made and read back; no Ray here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from vesselflow.feed.batches import (
    SampleTable,
    StorePath,
    WholeImage,
    read_image,
    read_source,
    resident_bytes,
    store_frames,
)
from vesselflow.feed.view import View, native_patch, sample_shape, working_planes
from vesselflow.stores.store import Store

Kind = Literal["samples", "images", "index"]

#: Bytes of the tables in which ordered samples are handed over.
_TABLE_BYTES = 32 * 2**20


@dataclass(frozen=True)
class Rows:
    """Samples to read, in order: `row` numbers them for the reader of the blocks.

    Attributes:
        row: int64 (k,), number of each sample in store order.
        source: int32 (k,).
        y: int32 (k,).
        x: int32 (k,).
    """

    row: np.ndarray
    source: np.ndarray
    y: np.ndarray
    x: np.ndarray


def table_bytes(store: Store, view: View, kind: Kind) -> int:
    """Bytes of all rows of a kind, at most, from the store's geometry alone."""
    if kind == "samples":
        return resident_bytes(store, view)
    if kind == "index":
        return 64 * len(store.sources)
    # Native target and fov, and at most as many bytes again for the working image.
    return sum((s.channels + 3) * s.height * s.width for s in store.sources)


def tables(path: StorePath, view: View, sources: Sequence[int], kind: Kind) -> Iterable[pa.Table]:
    """Read some sources of a store: a table for each.

    Args:
        path: The store.
        view: How sources are seen.
        sources: Their numbers, in the order in which the tables come.
        kind: "samples": a row per sample (source, ordinal within its source, y, x, centre, scale,
            planes). "index": the same without planes. "images": a row per source, whole.
    """
    if kind == "images":
        return _image_tables(path, view, sources)
    return _sample_tables(path, view, sources, planes=kind == "samples")


def _binary(planes: np.ndarray) -> pa.Array:
    """uint8 (k, ...) as k values of fixed size over one contiguous buffer."""
    size = planes[0].nbytes if len(planes) else int(np.prod(planes.shape[1:]))
    buffer = pa.py_buffer(np.ascontiguousarray(planes))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), len(planes), [None, buffer])


def _floats(values: np.ndarray) -> pa.Array:
    flat = pa.array(np.ascontiguousarray(values, dtype=np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _sample_tables(
    path: StorePath, view: View, sources: Sequence[int], *, planes: bool
) -> Iterable[pa.Table]:
    with Store.open(path) as store:
        frames = store_frames(store, view)
        for source in sources:
            part = read_source(store, view, source, frames[source])
            count, shape = len(part.corners), part.planes.shape[1:]
            columns: dict[str, Any] = {
                "source": np.full(count, source, dtype=np.int32),
                "ordinal": np.arange(count, dtype=np.int32),
                "y": part.corners[:, 0],
                "x": part.corners[:, 1],
                "centre": _floats(np.repeat(part.centre[None], count, axis=0)),
                "scale": _floats(np.repeat(part.scale[None], count, axis=0)),
            }
            if planes:
                sides = np.broadcast_to(np.array(shape, dtype=np.int32), (count, 3))
                columns |= {
                    "depth": sides[:, 0].copy(),
                    "height": sides[:, 1].copy(),
                    "width": sides[:, 2].copy(),
                    "planes": _binary(part.planes),
                }
            yield pa.table(columns)


def _image_tables(path: StorePath, view: View, sources: Sequence[int]) -> Iterable[pa.Table]:
    with Store.open(path) as store:
        for source in sources:
            whole = read_image(store, view, source)
            geometry = [*whole.image.shape, *whole.target.shape]
            geometry += [*whole.box, *whole.inner, *whole.offset]
            working = np.concatenate([whole.image, whole.fov_working[None]])
            native = np.stack([whole.target, whole.fov])
            yield pa.table(
                {
                    "source": np.array([source], dtype=np.int32),
                    "ordinal": np.zeros(1, dtype=np.int32),
                    "id": [whole.source_id],
                    "group": [whole.group],
                    "geometry": pa.array([geometry], type=pa.list_(pa.int32())),
                    "centre": _floats(whole.centre[None]),
                    "scale": _floats(whole.scale[None]),
                    # Sizes differ between sources; large: a block may hold more than 2 GiB.
                    "working": pa.array([working.tobytes()], type=pa.large_binary()),
                    "native": pa.array([native.tobytes()], type=pa.large_binary()),
                }
            )


def ordered_tables(path: StorePath, view: View, rows: Rows) -> Iterable[pa.Table]:
    """Samples in a given order, with their numbers."""
    with Store.open(path) as store:
        planes = gather_from_store(store, view, rows)
    per_table = max(1, _TABLE_BYTES // max(1, planes[0].nbytes))
    for start in range(0, len(planes), per_table):
        part = slice(start, start + per_table)
        yield pa.table({"row": rows.row[part], "planes": _binary(planes[part])})


def gather_from_store(store: Store, view: View, rows: Rows) -> np.ndarray:
    """Read samples straight from a store, source by source.

    Patches of sources that are not resized are read alone; otherwise a source is read and resized
    once for all its samples.

    Returns:
        uint8 (k, C + 2, H, W), in the order of `rows`.
    """
    frames = store_frames(store, view)
    height, width = sample_shape(view, frames)
    planes = np.empty((len(rows.row), store.sources[0].channels + 2, height, width), np.uint8)
    order = np.lexsort((rows.x, rows.y, rows.source))
    last, whole = -1, planes[:0]
    for place in order.tolist():
        source, y, x = int(rows.source[place]), int(rows.y[place]), int(rows.x[place])
        at = frames[source]
        if view.patch != "full" and at.native_scale:
            planes[place] = native_patch(store, source, at, y, x, height)
            continue
        if source != last:
            last, whole = source, working_planes(store, source, at)
        planes[place] = whole[:, y : y + height, x : x + width]
    return planes


# Back from blocks to arrays, without a copy


def binary_rows(column: pa.ChunkedArray, shape: tuple[int, ...]) -> list[np.ndarray]:
    """The chunks of a fixed-size binary column as uint8 arrays (k, *shape) over the same memory."""
    size = int(np.prod(shape))
    found = []
    for chunk in column.chunks:
        flat = np.frombuffer(chunk.buffers()[1], dtype=np.uint8)
        start = chunk.offset * size
        found.append(flat[start : start + len(chunk) * size].reshape(len(chunk), *shape))
    return found


def values(column: pa.ChunkedArray, dtype: type[np.generic]) -> np.ndarray:
    """A column of numbers without nulls, copied into one array.

    Buffers are read themselves: asked for numpy, pyarrow imports pandas (0.4 s in each worker).
    """
    assert column.type == pa.from_numpy_dtype(dtype), column.type
    size = np.dtype(dtype).itemsize
    parts = [np.zeros(0, dtype)]
    for chunk in column.chunks:
        start = chunk.offset * size
        flat = np.frombuffer(chunk.buffers()[1], np.uint8)[start : start + len(chunk) * size]
        parts.append(flat.view(dtype))
    return np.concatenate(parts)


def float_rows(column: pa.ChunkedArray) -> np.ndarray:
    """A column of fixed-size lists as float32 (n, C)."""
    parts = [
        values(pa.chunked_array([chunk.flatten()]), np.float32).reshape(-1, chunk.type.list_size)
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(parts)


def sample_table(tables: Sequence[pa.Table]) -> tuple[SampleTable, np.ndarray]:
    """The rows of all tables in store order, and the order that brings them there."""
    columns = {
        name: np.concatenate([values(table[name], np.int32) for table in tables])
        for name in ("source", "ordinal", "y", "x")
    }
    order = np.lexsort((columns["ordinal"], columns["source"]))
    floats = {
        name: np.concatenate([float_rows(table[name]) for table in tables])[order]
        for name in ("centre", "scale")
    }
    source, y, x = (columns[name][order] for name in ("source", "y", "x"))
    return SampleTable(source, y, x, floats["centre"], floats["scale"]), order


def whole_image(table: pa.Table, row: int) -> WholeImage:
    """One row of an "images" block; its arrays lie in the block's memory."""
    geometry = table["geometry"][row].as_py()
    channels, height, width, full_height, full_width = geometry[:5]
    working = _bytes(table["working"], row).reshape(channels + 1, height, width)
    native = _bytes(table["native"], row).reshape(2, full_height, full_width)
    y0, x0, y1, x1, inner_height, inner_width, top, left = geometry[5:]
    return WholeImage(
        source_id=table["id"][row].as_py(),
        group=table["group"][row].as_py(),
        image=working[:-1],
        fov_working=working[-1],
        centre=np.array(table["centre"][row].as_py(), dtype=np.float32),
        scale=np.array(table["scale"][row].as_py(), dtype=np.float32),
        target=native[0],
        fov=native[1],
        box=(y0, x0, y1, x1),
        inner=(inner_height, inner_width),
        offset=(top, left),
    )


def _bytes(column: pa.ChunkedArray, row: int) -> np.ndarray:
    """One value of a large binary column, over the column's memory (a pyarrow scalar copies)."""
    for chunk in column.chunks:
        if row < len(chunk):
            _, offsets, data = chunk.buffers()
            start, stop = np.frombuffer(offsets, dtype=np.int64)[chunk.offset + row :][:2].tolist()
            return np.frombuffer(data, dtype=np.uint8)[start:stop]
        row -= len(chunk)
    raise IndexError("no such row")
