"""Records without a fov: told from the index, and equal in all they bring to those with one."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from feed_stores import assert_same_batch, noise_store
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.errors import ShapeError
from vesselflow.feed.batches import SampleTable, load_samples, read_source, store_frames
from vesselflow.feed.blocks import sample_table, tables
from vesselflow.feed.gathering import Rows, gather_from_store
from vesselflow.feed.view import View
from vesselflow.feed.working import native_patch, sample_layout, working_fov
from vesselflow.stores.store import Keypoints, Source, Store, write_store

CUT = View(None, (4, 8, 8), None, 0.0, (2, 2, 2))


def one_source(number: int, size: tuple[int, ...], fov: str, *, points: bool = False) -> Source:
    """Noise whose fov is "all" of it, fills a "box" inside it, or has a "hole"."""
    random = np.random.default_rng(number)
    inside = np.ones(size, np.uint8)
    if fov == "box":
        inside[:1] = inside[..., -1:] = 0
    elif fov == "hole":
        inside[tuple(side // 2 for side in size)] = 0
    keypoints = Keypoints(np.zeros((1, len(size))), np.zeros(1, np.int32)) if points else None
    return Source(
        id=f"s{number}",
        group=f"s{number}",
        image=random.random((*size, 1), dtype=np.float32).astype(np.float16),
        target=None if points else (random.random(size) < 0.3).astype(np.uint8),
        fov=inside,
        keypoints=keypoints,
    )


def store_of(path: Path, *sources: Source) -> Path:
    """A store of given sources."""
    write_store(path, sources, domain="fov", importer={"name": "test"})
    return path


def decided(path: Path, view: View) -> bool:
    """Whether the records of a store hold the fov."""
    with Store.open(path) as store:
        return sample_layout(store, view, store_frames(store, view)).has_fov


sides = st.lists(st.integers(3, 13), min_size=2, max_size=3)


@settings(deadline=None, max_examples=40)
@given(
    size=sides,
    fovs=st.lists(st.sampled_from(["all", "all", "box", "hole"]), min_size=1, max_size=2),
    patch=st.sampled_from(["full", 4, 6]),
    divisor=st.sampled_from([1, 2]),
    scale=st.sampled_from([None, None, 0.5, 2.0]),
    points=st.booleans(),
)
def test_batches_are_equal_with_and_without_the_plane(
    size: list[int],
    fovs: list[str],
    patch: int | str,
    divisor: int,
    scale: float | None,
    points: bool,
) -> None:
    view = View(None, patch, None, 0.0, divisor, scale=scale)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        sources = [one_source(i, tuple(size), fov, points=points) for i, fov in enumerate(fovs)]
        path = store_of(Path(folder) / "s.h5", *sources)
        with Store.open(path) as store:
            frames = store_frames(store, view)
            layout = sample_layout(store, view, frames)
            planes = [working_fov(store, i, at) for i, at in enumerate(frames)]
            if scale is None:
                assert layout.has_fov == any((plane == 0).any() for plane in planes)
            elif not layout.has_fov:
                assert all(plane.all() for plane in planes)
            batches = []
            for each in (layout, replace(layout, has_fov=True)):
                part = read_source(store, view, 0, frames[0], each)
                count = len(part.corners)
                assert part.records.shape == (count, each.nbytes)
                rows = np.zeros(count, np.int32)
                known = (np.repeat(v[None], count, axis=0) for v in (part.centre, part.scale))
                table = SampleTable(each, rows, part.corners, *known)
                batches.append(table.batch(part.records, np.arange(count)))
        assert_same_batch(*batches)
        assert batches[0].full_fov == (not layout.has_fov)
        assert not batches[1].full_fov


@pytest.mark.parametrize("points", [False, True])
def test_every_way_to_a_record_leaves_the_plane_out(tmp_path: Path, points: bool) -> None:
    sources = [one_source(i, (8, 16, 16 + 8 * i), "all", points=points) for i in range(3)]
    path = store_of(tmp_path / "s.h5", *sources)
    samples = load_samples(path, CUT)
    voxels = 4 * 8 * 8
    assert samples.table.layout.nbytes == voxels * (2 + (not points))
    every = np.arange(samples.n)
    table = samples.table
    asked = Rows(every, table.source, table.corner)
    found = table.batch(gather_from_store(path, CUT, asked), every)
    assert_same_batch(found, samples.gather(every))
    assert found.fov.all()
    assert found.fov.base.nbytes == 1
    # Each source alone: a read task that sees no other comes to the same layout.
    for source in range(3):
        known, _ = sample_table([pa.table(each) for each in tables(path, CUT, [source], "index")])
        assert known.layout == table.layout


def test_one_source_that_is_not_full_or_padded_keeps_the_plane_of_all(tmp_path: Path) -> None:
    full = [one_source(i, (8, 16, 16), "all") for i in range(3)]
    assert not decided(store_of(tmp_path / "full.h5", *full), CUT)
    assert decided(store_of(tmp_path / "hole.h5", *full, one_source(3, (8, 16, 16), "hole")), CUT)
    assert decided(store_of(tmp_path / "odd.h5", *full, one_source(3, (8, 16, 15), "all")), CUT)
    # Samples of one size: the smaller source is padded to the larger one.
    whole = replace(CUT, patch="full")
    assert decided(store_of(tmp_path / "two.h5", *full, one_source(3, (8, 16, 18), "all")), whole)


def test_images_of_8_bits_keep_their_records(tmp_path: Path) -> None:
    """Schema 1 does not say whether the fov is full, and its bytes stay as they are."""
    image = np.zeros((8, 8, 3), np.uint8)
    source = Source("s", "s", image, image[..., 0], np.ones((8, 8), np.uint8))
    assert decided(store_of(tmp_path / "s.h5", source), View(None, "full", None, 0.0, 1))
    assert decided(noise_store(tmp_path / "n.h5", 1), View(None, 32, None, 0.0, 1))


def test_a_patch_that_needs_padding_is_refused_without_a_plane(tmp_path: Path) -> None:
    path = store_of(tmp_path / "s.h5", one_source(0, (8, 16, 16), "all"))
    with Store.open(path) as store:
        (at,) = store_frames(store, CUT)
        layout = sample_layout(store, CUT, [at])
        for corner in ((-1, 0, 0), (0, 0, 9), (0, 30, 0)):
            with pytest.raises(ShapeError, match="needs padding and a fov"):
                native_patch(store, 0, at, corner, layout)
