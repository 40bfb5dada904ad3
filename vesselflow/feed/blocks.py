"""Arrow tables in which samples and whole images travel, made and read back; no Ray here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
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
from vesselflow.feed.layout import SampleLayout
from vesselflow.feed.points import Points
from vesselflow.feed.view import View, box_size
from vesselflow.feed.working import layout_of, sample_layout
from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.store import Store

Kind = Literal["samples", "images", "index"]

#: Columns of lists that make a `SampleTable`, and the types of their numbers.
_LISTS: tuple[tuple[str, type[np.generic]], ...] = (
    ("corner", np.int32),
    ("centre", np.float32),
    ("scale", np.float32),
    ("held", np.uint8),
)


def table_bytes(store: Store, view: View, kind: Kind) -> int:
    """Bytes of all rows of a kind, at most, from the store's geometry alone."""
    if kind == "samples":
        return resident_bytes(store, view)
    if kind == "index":
        return 64 * len(store.sources)
    # Native target and fov, and at most as many bytes again for the working image.
    return sum(
        layout_of(store, box_size(s.fov_box)).nbytes + math.prod(s.shape) for s in store.sources
    )


def tables(path: StorePath, view: View, sources: Sequence[int], kind: Kind) -> Iterable[pa.Table]:
    """Read some sources of a store: a table for each.

    Args:
        path: The store.
        view: How sources are seen.
        sources: Their numbers, in the order in which the tables come.
        kind: "samples": a row per sample (source, ordinal within its source, corner, centre,
            scale, classes held, layout, record). "index": the same without records. "images": a
            row per source, whole.
    """
    if kind == "images":
        return _image_tables(path, view, sources)
    return _sample_tables(path, view, sources, records=kind == "samples")


def _binary(records: np.ndarray) -> pa.Array:
    """uint8 (k, nbytes) as k values of fixed size over one contiguous buffer."""
    count, size = records.shape
    buffer = pa.py_buffer(np.ascontiguousarray(records))
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), count, [None, buffer])


def _lists(values: np.ndarray, dtype: type[np.generic]) -> pa.Array:
    """(k, m) as k lists of m numbers."""
    flat = pa.array(np.ascontiguousarray(values, dtype=dtype).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1])


def _floats(values: np.ndarray) -> pa.Array:
    return _lists(values, np.float32)


def _same(value: str | bytes, count: int) -> pa.Array:
    """The same value for every row of a table, once in memory: it travels with its blocks."""
    places = pa.array(np.zeros(count, np.int32))
    return pa.DictionaryArray.from_arrays(places, pa.array([value]))


def _points(tables: Sequence[pa.Table], axes: int) -> Points | None:
    """The keypoints of the sources of which there are rows."""
    found = {}
    for table in tables:
        if "points" not in table.column_names:
            return None
        sources, rows = np.unique(values(table["source"], np.int32), return_index=True)
        for source, row in zip(sources.tolist(), rows.tolist(), strict=True):
            flat = np.frombuffer(table["points"][row].as_py(), np.float64)
            found[source] = flat.reshape(-1, axes + 1)
    return Points.of(found, axes)


def _layout(column: pa.ChunkedArray) -> SampleLayout:
    values = json.loads(column[0].as_py())
    return SampleLayout(**{**values, "shape": tuple(values["shape"])})


def _sample_tables(
    path: StorePath, view: View, sources: Sequence[int], *, records: bool
) -> Iterable[pa.Table]:
    with Store.open(path) as store:
        frames = store_frames(store, view)
        layout = sample_layout(store, view, frames)
        for source in sources:
            part = read_source(store, view, source, frames[source], layout)
            count = len(part.corners)
            columns: dict[str, Any] = {
                "source": np.full(count, source, dtype=np.int32),
                "ordinal": np.arange(count, dtype=np.int32),
                "corner": _lists(part.corners, np.int32),
                "centre": _floats(np.repeat(part.centre[None], count, axis=0)),
                "scale": _floats(np.repeat(part.scale[None], count, axis=0)),
                "held": _lists(part.held, np.uint8),
                "centred": part.centred,
            }
            columns["layout"] = _same(json.dumps(asdict(part.layout)), count)
            if part.points is not None:
                columns["points"] = _same(part.points.tobytes(), count)
            if records:
                columns["record"] = _binary(part.records)
            yield pa.table(columns)


def _image_tables(path: StorePath, view: View, sources: Sequence[int]) -> Iterable[pa.Table]:
    with Store.open(path) as store:
        for source in sources:
            whole = read_image(store, view, source)
            geometry = {
                "image": [whole.image.dtype.str, whole.image.shape],
                "native": whole.fov.shape,
                "box": whole.box,
                "inner": whole.inner,
                "offset": whole.offset,
                "target": whole.target.shape,
                "spacing_um": whole.spacing_um,
            }
            if (points := whole.keypoints) is not None:
                geometry["keypoints"] = [points.positions.tolist(), points.classes.tolist()]
            working = whole.image.tobytes() + whole.fov_working.tobytes()
            native = whole.target.tobytes() + whole.fov.tobytes()
            yield pa.table(
                {
                    "source": np.array([source], dtype=np.int32),
                    "ordinal": np.zeros(1, dtype=np.int32),
                    "id": [whole.source_id],
                    "group": [whole.group],
                    "geometry": [json.dumps(geometry)],
                    "centre": _floats(whole.centre[None]),
                    "scale": _floats(whole.scale[None]),
                    # Sizes differ between sources; large: a block may hold more than 2 GiB.
                    "working": pa.array([working], type=pa.large_binary()),
                    "native": pa.array([native], type=pa.large_binary()),
                }
            )


# Back from blocks to arrays, without a copy


def binary_rows(column: pa.ChunkedArray) -> list[np.ndarray]:
    """The chunks of a fixed-size binary column as uint8 arrays (k, size) over the same memory."""
    size = column.type.byte_width
    found = []
    for chunk in column.chunks:
        flat = np.frombuffer(chunk.buffers()[1], dtype=np.uint8)
        start = chunk.offset * size
        found.append(flat[start : start + len(chunk) * size].reshape(len(chunk), size))
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


def list_rows(column: pa.ChunkedArray, dtype: type[np.generic]) -> np.ndarray:
    """A column of fixed-size lists as (n, m)."""
    parts = [
        values(pa.chunked_array([chunk.flatten()]), dtype).reshape(-1, chunk.type.list_size)
        for chunk in column.chunks
        if len(chunk)
    ]
    return np.concatenate(parts)


def sample_table(tables: Sequence[pa.Table]) -> tuple[SampleTable, np.ndarray]:
    """The rows of all tables in store order, and the order that brings them there."""
    columns = {
        name: np.concatenate([values(table[name], np.int32) for table in tables])
        for name in ("source", "ordinal", "centred")
    }
    order = np.lexsort((columns["ordinal"], columns["source"]))
    corner, centre, scale, held = (
        np.concatenate([list_rows(table[name], dtype) for table in tables])[order]
        for name, dtype in _LISTS
    )
    layout = _layout(tables[0]["layout"])
    points = _points(tables, corner.shape[1])
    source, centred = columns["source"][order], columns["centred"][order]
    return SampleTable(layout, source, corner, centre, scale, points, held, centred), order


def whole_image(table: pa.Table, row: int) -> WholeImage:
    """One row of an "images" block; its arrays lie in the block's memory."""
    geometry = json.loads(table["geometry"][row].as_py())
    (dtype, shape), size = geometry["image"], geometry["native"]
    spacing, keypoints = geometry["spacing_um"], None
    if "keypoints" in geometry:
        positions, classes = geometry["keypoints"]
        keypoints = Keypoints(
            np.array(positions, np.float64).reshape(-1, len(size)), np.array(classes, np.int32)
        )
    working, native = _bytes(table["working"], row), _bytes(table["native"], row)
    voxels, half = math.prod(shape[1:]), math.prod(size)
    return WholeImage(
        source_id=table["id"][row].as_py(),
        group=table["group"][row].as_py(),
        image=working[:-voxels].view(dtype).reshape(shape),
        fov_working=working[-voxels:].reshape(shape[1:]),
        centre=np.array(table["centre"][row].as_py(), dtype=np.float32),
        scale=np.array(table["scale"][row].as_py(), dtype=np.float32),
        target=native[:-half].reshape(geometry["target"]),
        fov=native[-half:].reshape(size),
        box=tuple(geometry["box"]),
        inner=tuple(geometry["inner"]),
        offset=tuple(geometry["offset"]),
        keypoints=keypoints,
        spacing_um=None if spacing is None else tuple(spacing),
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
