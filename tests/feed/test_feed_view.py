from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feed_stores import noise_store, vessel_source
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.errors import UserError
from vesselflow.feed.batches import load_images
from vesselflow.feed.view import (
    View,
    frame,
    native_patch,
    patch_positions,
    sample_frames,
    sample_index,
    working_fov,
    working_planes,
)
from vesselflow.stores.schema import SourceInfo
from vesselflow.stores.store import Store, write_store

FULL = View(working_size_px=128, patch="full", stride=None, min_fov=0.0, divisor=32)


def patches(size: int, stride: int | None = None, **values: float) -> View:
    return replace(FULL, working_size_px=None, patch=size, stride=stride, divisor=1, **values)


def known(box: tuple[int, int, int, int], spacing: tuple[float, float] | None = None) -> SourceInfo:
    """A source of which the geometry is known."""
    return SourceInfo(0, "s", "g", "", 100, 100, 3, "d", "i", box, {}, spacing)


@pytest.fixture(scope="module")
def vessels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("vessels") / "v.h5"
    write_store(path, [vessel_source()], domain="v", importer={"name": "test"})
    return path


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_store(tmp_path_factory.mktemp("noise") / "n.h5")


def test_a_frame_by_hand() -> None:
    # Box 300 x 200: the longer side becomes 128, the other 200 * 128 / 300 = 85.33 -> 85.
    at = frame((10, 20, 310, 220), FULL)
    assert at.inner == (128, 85)
    assert at.shape == (128, 128)
    assert at.offset == (0, 21)  # (128 - 85) // 2
    assert not at.native_scale


def test_a_native_frame_is_padded_to_the_divisor() -> None:
    at = frame((0, 0, 33, 64), replace(FULL, working_size_px=None))
    assert (at.inner, at.shape, at.offset) == ((33, 64), (64, 64), (15, 0))
    assert at.native_scale


def test_the_fov_alone_is_that_of_the_planes(noise: Path) -> None:
    with Store.open(noise) as store:
        for view in (FULL, replace(FULL, working_size_px=None), patches(48)):
            for source in range(len(store.sources)):
                at = frame(store.fov_box(source), view)
                planes = working_planes(store, source, at)
                assert np.array_equal(working_fov(store, source, at), planes[-1])


def test_halves_round_up() -> None:
    # 5 * 2 / 4 = 2.5
    assert frame((0, 0, 4, 5), replace(FULL, working_size_px=5, divisor=1)).inner == (4, 5)
    assert frame((0, 0, 5, 4), replace(FULL, working_size_px=2, divisor=1)).inner == (2, 2)
    assert frame((0, 0, 4, 1), replace(FULL, working_size_px=2, divisor=1)).inner == (2, 1)


def test_whole_sources_of_any_size_get_one_shape() -> None:
    sources = [known((0, 0, 33, 90)), known((5, 5, 70, 40))]
    for size, expected in ((None, (96, 96)), (100, (128, 128))):
        frames = sample_frames(sources, replace(FULL, working_size_px=size))
        assert {at.shape for at in frames} == {expected}
        for at in frames:
            (top, left), (height, width) = at.offset, at.inner
            assert 0 <= at.shape[0] - height - 2 * top <= 1
            assert 0 <= at.shape[1] - width - 2 * left <= 1


def test_a_spacing_by_hand() -> None:
    view = replace(FULL, working_size_px=None, spacing_um=(20.0, 10.0))
    # 300 px of 8 um are 2400 um, 120 px of 20; 201 px of 5 um are 1005 um, 100.5 px of 10.
    at = frame((10, 20, 310, 221), view, (8.0, 5.0))
    assert (at.inner, at.shape) == ((120, 101), (128, 128))
    # A store's own scale counts whatever its spacing is, and where it has none.
    for spacing in (None, (8.0, 5.0)):
        assert frame((0, 0, 99, 50), replace(view, scale=0.5), spacing).inner == (50, 25)
    assert frame((0, 0, 99, 50), replace(FULL, scale=2.0)).inner == (198, 100)
    assert frame((0, 0, 1, 1), replace(FULL, scale=0.01)).inner == (1, 1)


@settings(deadline=None, max_examples=60)
@given(
    st.integers(4, 300),
    st.integers(4, 300),
    st.floats(0.5, 50),
    st.floats(0.5, 50),
    st.floats(1, 9),
)
def test_twice_as_fine_pixels_of_one_object_are_seen_alike(
    height: int, width: int, native: float, working: float, ratio: float
) -> None:
    view = replace(FULL, working_size_px=None, spacing_um=(working, working * ratio))
    coarse = frame((0, 0, height, width), view, (native, native))
    fine = frame((0, 0, 2 * height, 2 * width), view, (native / 2, native / 2))
    assert coarse.inner == fine.inner
    # A unit of length changes nothing: here the nanometre, to the last rounding of a half.
    scaled = replace(view, spacing_um=(working * 1e3, working * ratio * 1e3))
    other = frame((0, 0, height, width), scaled, (native * 1e3, native * 1e3)).inner
    assert all(abs(a - b) <= 1 for a, b in zip(coarse.inner, other, strict=True))


def test_whole_sources_by_spacing_get_the_shape_of_the_largest() -> None:
    view = replace(FULL, working_size_px=None, spacing_um=(2.0, 2.0))
    sources = [known((0, 0, 60, 60), (2.0, 2.0)), known((0, 0, 60, 60), (4.0, 3.0))]
    frames = sample_frames(sources, view)
    assert [at.inner for at in frames] == [(60, 60), (120, 90)]
    assert {at.shape for at in frames} == {(128, 96)}


def test_a_source_without_spacing_is_refused_where_one_is_needed() -> None:
    view = replace(FULL, working_size_px=None, spacing_um=(2.0, 2.0))
    sources = [known((0, 0, 60, 60), (2.0, 2.0)), known((0, 0, 60, 60))]
    with pytest.raises(UserError, match=r"1 of 2 sources have no spacing, the first is 's'"):
        sample_frames(sources, view)
    assert len(sample_frames(sources, replace(view, scale=1.0))) == 2
    assert len(sample_frames(sources, replace(view, spacing_um=None))) == 2


@pytest.mark.parametrize(
    "values",
    [{"spacing_um": (0.0, 1.0)}, {"spacing_um": (1.0, float("nan"))}, {"scale": -1.0}],
)
def test_a_size_of_a_pixel_that_is_none_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="is not allowed"):
        replace(FULL, **values)


@settings(deadline=None, max_examples=60)
@given(st.integers(8, 60), st.integers(8, 60), st.integers(1, 8), st.integers(1, 9), st.booleans())
def test_patches_cover_the_source_and_stay_inside(
    height: int, width: int, size: int, stride: int, whole: bool
) -> None:
    stride = size if whole else min(stride, size)
    corners = patch_positions(patches(size, stride), np.ones((height, width), dtype=np.uint8))
    seen = np.zeros((height, width), dtype=int)
    for y, x in corners.tolist():
        assert 0 <= y <= height - size
        assert 0 <= x <= width - size
        seen[y : y + size, x : x + size] += 1
    assert seen.min() >= 1
    assert len({tuple(corner) for corner in corners.tolist()}) == len(corners)


def test_the_last_patch_is_flush_by_hand() -> None:
    # 10 px, patches of 4 every 4: 0, 4, and 6 instead of 8.
    corners = patch_positions(patches(4), np.ones((4, 10), dtype=np.uint8))
    assert corners.tolist() == [[0, 0], [0, 4], [0, 6]]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0, 1))
def test_patches_have_enough_fov(seed: int, least: float) -> None:
    fov = (np.random.default_rng(seed).random((20, 23)) < 0.5).astype(np.uint8)
    view = patches(6, 3, min_fov=least)
    kept = {tuple(corner) for corner in patch_positions(view, fov).tolist()}
    for y, x in patch_positions(replace(view, min_fov=0.0), fov).tolist():
        share = fov[y : y + 6, x : x + 6].sum() / 36
        assert ((y, x) in kept) == (share >= least - 1e-12)


def test_sample_index_lists_sources_in_the_asked_order(noise: Path) -> None:
    view = patches(64, 40, min_fov=0.5)
    with Store.open(noise) as store:
        index = sample_index(store, view, [3, 1])
        assert index.source.tolist() == sorted(index.source.tolist(), reverse=True)
        assert set(index.source.tolist()) == {1, 3}
        alone = sample_index(store, view, [1])
    np.testing.assert_array_equal(index.y[index.source == 1], alone.y)
    assert len(index) == len(index.x)


def test_no_patch_with_enough_fov_is_the_users_error(noise: Path) -> None:
    with Store.open(noise) as store, pytest.raises(UserError, match=r"no patch of 512 px"):
        sample_index(store, patches(512, min_fov=1.0), [0])


def test_planes_at_scale_one_are_the_stored_bytes(noise: Path) -> None:
    view = replace(FULL, working_size_px=None)
    with Store.open(noise) as store:
        y0, x0, y1, x1 = box = store.fov_box(2)
        at = frame(box, view)
        planes = working_planes(store, 2, at)
        (top, left), (height, width) = at.offset, at.inner
        inside = planes[:, top : top + height, left : left + width]
        np.testing.assert_array_equal(np.moveaxis(inside[:3], 0, 2), store.image(2)[y0:y1, x0:x1])
        np.testing.assert_array_equal(inside[3], 255 * store.target(2)[y0:y1, x0:x1])
        np.testing.assert_array_equal(inside[4], store.fov(2)[y0:y1, x0:x1])
        assert planes.sum(dtype=np.int64) == inside.sum(dtype=np.int64)


def test_a_patch_read_alone_is_the_window_of_the_whole(noise: Path) -> None:
    with Store.open(noise) as store:
        # The divisor and the patch make padding on all sides.
        at = frame(store.fov_box(1), replace(FULL, working_size_px=None, patch=160))
        whole = working_planes(store, 1, at)
        height, width = at.shape
        for y in (0, 3, 17, height - 32):
            for x in (0, 8, 64, width - 32):
                alone = native_patch(store, 1, at, y, x, 32)
                np.testing.assert_array_equal(alone, whole[:, y : y + 32, x : x + 32])


def test_the_target_becomes_the_covered_area(tmp_path: Path) -> None:
    source = vessel_source(64)
    target = np.zeros((64, 64), dtype=np.uint8)
    target[0:2, 0] = 1  # half of the first 2 x 2 cell
    target[2:4, 0:2] = 1  # all of the one below
    source = replace(source, target=target, fov=np.ones_like(target))
    write_store(tmp_path / "t.h5", [source], domain="t", importer={"name": "test"})
    with Store.open(tmp_path / "t.h5") as store:
        planes = working_planes(store, 0, frame((0, 0, 64, 64), replace(FULL, working_size_px=32)))
    # 255 / 2 = 127.5, rounded up by Pillow.
    assert planes[3, :3, 0].tolist() == [128, 255, 0]


def test_a_whole_image_does_not_depend_on_the_patches(noise: Path) -> None:
    view = replace(FULL, working_size_px=100)
    for one, other in zip(
        load_images(noise, view),
        load_images(noise, replace(view, patch=32, stride=16, min_fov=0.5)),
        strict=True,
    ):
        for name in type(one).__dataclass_fields__:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"working_size_px": 0}, "data.working_size_px"),
        ({"patch": 0}, "data.patch"),
        ({"patch": 40}, "data.patch"),
        ({"stride": -1}, "data.stride"),
        ({"min_fov": 1.5}, "data.min_fov"),
        ({"divisor": 0}, "data.divisor"),
    ],
)
def test_a_view_that_cannot_be_cut_is_refused(change: dict[str, float], key: str) -> None:
    with pytest.raises(UserError, match=key):
        replace(FULL, **change)
