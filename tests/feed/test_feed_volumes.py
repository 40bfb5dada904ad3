"""Volumes go the way of images: geometry, types, patches alone, in memory, in tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from feed_stores import assert_same_batch

from vesselflow.errors import UserError
from vesselflow.feed.batches import ArraySamples, load_images, load_samples, read_image
from vesselflow.feed.blocks import (
    binary_rows,
    sample_table,
    tables,
    whole_image,
)
from vesselflow.feed.gathering import Rows, gather_from_store
from vesselflow.feed.view import View, frame, patch_positions, sample_frames, sample_shape
from vesselflow.feed.working import layout_of, native_patch, resized, working_source
from vesselflow.stores.store import Source, Store, write_store

CUT = View(None, (8, 16, 16), None, 0.0, (4, 8, 8))
DTYPES = ("uint8", "uint16", "float16", "float32")


def volume_store(path: Path, dtype: str = "float32", count: int = 3) -> Path:
    """Volumes of noise, whose size and fov depend on their index."""
    sources = []
    for index in range(count):
        random = np.random.default_rng(index)
        size = (12 + index, 30 + 3 * index, 41 - index)
        values = random.random((*size, 2))
        if np.issubdtype(dtype, np.integer):
            values = values * np.iinfo(dtype).max
        fov = np.zeros(size, np.uint8)
        fov[1:-1, 2:, 3:-2] = 1
        sources.append(
            Source(
                id=f"v{index}",
                group=f"g{index}",
                image=values.astype(dtype),
                target=(random.random(size) < 0.2).astype(np.uint8),
                fov=fov,
                spacing_um=(4.0, 2.0, 2.0),
            )
        )
    write_store(path, sources, domain="volumes", importer={"name": "test"})
    return path


@pytest.fixture(scope="module", params=DTYPES)
def volumes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return volume_store(tmp_path_factory.mktemp("volumes") / "v.h5", request.param)


def test_samples_are_windows_of_their_volumes_in_the_stores_type(volumes: Path) -> None:
    samples = load_samples(volumes, CUT)
    batch = samples.gather(np.arange(samples.n))
    assert batch.image.shape == (samples.n, 2, 8, 16, 16)
    assert batch.target.shape == batch.fov.shape == (samples.n, 1, 8, 16, 16)
    with Store.open(volumes) as store:
        frames = sample_frames(store.sources, CUT)
        for row in range(samples.n):
            source, corner = int(samples.table.source[row]), samples.table.corner[row]
            at = frames[source]
            low = [c - o + b for c, o, b in zip(corner, at.offset, at.box[:3], strict=True)]
            high = [
                min(at.box[3 + axis], first + side)
                for axis, (first, side) in enumerate(zip(low, (8, 16, 16), strict=True))
            ]
            inside = tuple(
                slice(max(0, at.box[axis] - low[axis]), high[axis] - low[axis]) for axis in range(3)
            )
            held = tuple(slice(max(low[a], at.box[a]), high[a]) for a in range(3))
            image = store.image(source)[held]
            assert batch.image.dtype == image.dtype
            np.testing.assert_array_equal(
                np.moveaxis(batch.image[row][(slice(None), *inside)], 0, -1), image
            )
            np.testing.assert_array_equal(
                batch.target[row, 0][inside], 255 * store.target(source)[held]
            )
            np.testing.assert_array_equal(batch.fov[row, 0][inside], store.fov(source)[held])
            assert batch.fov[row].sum() == store.fov(source)[held].sum()


def test_a_patch_read_alone_is_the_window_of_the_whole(volumes: Path) -> None:
    samples = load_samples(volumes, CUT)
    with Store.open(volumes) as store:
        frames = sample_frames(store.sources, CUT)
        layout = layout_of(store, sample_shape(CUT, frames))
        rows = np.arange(samples.n)[::-1]
        table = samples.table
        asked = Rows(rows, table.source[rows], table.corner[rows])
        found = table.batch(gather_from_store(volumes, CUT, asked), rows)
        assert_same_batch(found, samples.gather(rows))
        record = native_patch(store, 1, frames[1], (3, 5, 7), layout)
        whole, every = working_source(store, 1, frames[1])
        window = (slice(None), slice(3, 11), slice(5, 21), slice(7, 23))
        for one, other in zip(layout.arrays(record), whole.arrays(every), strict=True):
            np.testing.assert_array_equal(one, other[window])


def test_tables_bring_the_same_back(volumes: Path) -> None:
    samples, images = load_samples(volumes, CUT), load_images(volumes, CUT)
    given = list(tables(volumes, CUT, [2, 0, 1], "samples"))
    known, order = sample_table(given)
    assert known.layout == samples.table.layout
    blocks = [block for table in given for block in binary_rows(pa.table(table)["record"])]
    sizes = [len(block) for block in blocks]
    block = np.repeat(np.arange(3, dtype=np.int32), sizes)[order]
    row = np.concatenate([np.arange(size, dtype=np.int32) for size in sizes])[order]
    again = ArraySamples(blocks, block, row, known)
    everything = np.arange(samples.n)
    assert_same_batch(again.gather(everything), samples.gather(everything))
    for source, table in enumerate(tables(volumes, CUT, range(3), "images")):
        one, other = whole_image(table, 0), images[source]
        for name, value in vars(other).items():
            found = getattr(one, name)
            if isinstance(value, np.ndarray):
                assert found.dtype == value.dtype
                np.testing.assert_array_equal(found, value, err_msg=name)
            else:
                assert found == value, name


def test_a_spacing_resamples_each_axis_by_itself(tmp_path: Path) -> None:
    path = volume_store(tmp_path / "v.h5")
    view = View(None, "full", None, 0.0, (1, 1, 1), spacing_um=(2.0,))
    with Store.open(path) as store:
        whole = read_image(store, view, 0)
        lows, highs = store.fov_box(0)[:3], store.fov_box(0)[3:]
        native = [high - low for low, high in zip(lows, highs, strict=True)]
        # 4 um along z, 2 in the plane.
        assert whole.inner == (2 * native[0], native[1], native[2])
        image = store.image(0, store.fov_box(0))
    # In the plane nothing changes: every second slice is near its own, and between its neighbours.
    slices = np.moveaxis(image, -1, 0)
    np.testing.assert_allclose(whole.image[:, 0], slices[:, 0], rtol=1e-6)
    inner = 0.75 * slices[:, :-1] + 0.25 * slices[:, 1:]
    np.testing.assert_allclose(whole.image[:, 1:-2:2], inner, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_resampling_keeps_the_type_and_constant_volumes(dtype: str) -> None:
    from PIL import Image

    values = np.full((3, 4, 5), 7, dtype=dtype)
    found = resized(values, (6, 3, 9), Image.Resampling.BILINEAR)
    assert (found.shape, found.dtype) == ((6, 3, 9), np.dtype(dtype))
    assert (found == 7).all()


def test_a_patch_of_other_axes_is_refused() -> None:
    with pytest.raises(UserError, match=r"data.patch: \[16, 16\] has 2 numbers"):
        frame((0, 0, 0, 20, 20, 20), replace(CUT, patch=(16, 16), divisor=1))


def test_positions_of_a_volume_by_hand() -> None:
    fov = np.zeros((4, 6, 6), np.uint8)
    fov[2:, :3, :] = 1
    view = View(None, (2, 3, 3), None, 0.5, 1)
    found = patch_positions(view, fov).tolist()
    assert found == [[2, 0, 0], [2, 0, 3]]
