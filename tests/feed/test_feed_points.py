"""Keypoints go the way of the samples: scaled, cut out, in memory, in tables, whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from feed_stores import assert_same_batch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.feed.batches import Batch, load_images, load_samples, read_image
from vesselflow.feed.blocks import sample_table, tables, whole_image
from vesselflow.feed.points import Points
from vesselflow.feed.view import View, sample_frames
from vesselflow.stores.keypoints import Keypoints
from vesselflow.stores.layout import Layout
from vesselflow.stores.store import Source, Store, write_store

LAYOUT = Layout(
    kind="keypoint",
    axes="zyx",
    dtype="float32",
    classes=("rod", "shell"),
    target="",
    ds_factor=4,
    ds_sigma=1.0,
)
CUT = View(None, (8, 16, 16), None, 0.0, (4, 8, 8))
#: Twice as many px along z, and half of them in the plane.
SCALED = View(None, (8, 16, 16), None, 0.0, (4, 8, 8), spacing_um=(2.0, 4.0, 4.0))


def particles(index: int, count: int) -> Source:
    """A volume in which each voxel under a keypoint is bright."""
    random = np.random.default_rng(index)
    size = (12 + index, 30 + 3 * index, 41 - index)
    places = np.stack([random.integers(2, side - 2, count) for side in size], axis=1)
    image = np.zeros((*size, 1), np.float32)
    image[(*places.T, 0)] = 1.0
    fov = np.zeros(size, np.uint8)
    fov[1:-1, 1:, 1:-1] = 1
    return Source(
        id=f"v{index}",
        group=f"g{index}",
        image=image,
        target=None,
        fov=fov,
        keypoints=Keypoints(places.astype(np.float64), (places[:, 0] % 2).astype(np.int32)),
        spacing_um=(4.0, 2.0, 2.0) if index < 2 else None,
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("points") / "k.h5"
    sources = [particles(index, count) for index, count in enumerate((9, 0, 6))]
    write_store(path, sources, domain="points", importer={"name": "test"}, layout=LAYOUT)
    return path


@pytest.fixture(scope="module")
def spaced(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("points") / "s.h5"
    sources = [particles(index, count) for index, count in enumerate((9, 4))]
    write_store(path, sources, domain="points", importer={"name": "test"}, layout=LAYOUT)
    return path


def inside(batch: Batch) -> np.ndarray:
    """Which keypoints lie in their sample."""
    assert batch.points is not None
    size = np.array(batch.image.shape[2:])
    return ((batch.points.positions >= 0) & (batch.points.positions <= size - 1)).all(axis=1)


def test_a_keypoint_lies_on_its_voxel_in_every_patch(store: Path) -> None:
    samples = load_samples(store, CUT)
    batch = samples.gather(np.arange(samples.n))
    assert batch.target.shape[1] == 0
    assert batch.points is not None
    held = inside(batch)
    assert 0 < held.sum() < len(held)  # some lie around their patch
    voxels = np.rint(batch.points.positions[held]).astype(int)
    assert (batch.image[(batch.points.sample[held], 0, *voxels.T)] == 1).all()
    # And every bright voxel of a patch has one.
    assert (batch.image > 0).sum() == held.sum()
    assert set(batch.points.classes) == {0, 1}
    spacing = batch.points.spacing_angstrom
    assert spacing[batch.source < 2].tolist() == [[4e4, 2e4, 2e4]] * int((batch.source < 2).sum())
    assert np.isnan(spacing[batch.source == 2]).all()


def test_a_keypoint_scales_with_its_image(spaced: Path) -> None:
    samples = load_samples(spaced, SCALED)
    with Store.open(spaced) as opened:
        frames = sample_frames(opened.sources, SCALED)
        native = opened.keypoints(0).positions
    batch = samples.gather(np.flatnonzero(samples.source == 0)[:1])
    at, corner = frames[0], samples.table.corner[0]
    low = np.array(at.box[:3])
    # The centre of voxel i of n lies at (i + 1/2) / n of the side, before and after.
    share = (native - low + 0.5) / (np.array(at.box[3:]) - low)
    expected = share * at.inner - 0.5 + at.offset - corner
    assert batch.points is not None
    places = batch.points.positions
    assert len(places)
    near = np.abs(places[:, None] - expected[None]).max(axis=2)
    assert near.min(axis=1).max() < 1e-9
    expected = np.array([4e4, 2e4, 2e4]) * (np.array(at.box[3:]) - low) / at.inner
    assert batch.points.spacing_angstrom[0] == pytest.approx(expected)


def test_tables_carry_the_same_keypoints(store: Path) -> None:
    memory = load_samples(store, CUT)
    rows = np.arange(memory.n)[::-1]
    for kind in ("samples", "index"):
        # In any order of sources, joined and cut anew as blocks are.
        joined = pa.concat_tables(list(tables(store, CUT, [2, 0, 1], kind)))
        parts = [joined.slice(0, 3), joined.slice(3)]
        table, _ = sample_table(parts)
        batch = table.batch(memory.table.layout.empty(len(rows)), rows)
        expected = memory.gather(rows)
        assert batch.points is not None
        assert expected.points is not None
        for name in ("positions", "sample", "classes", "spacing_angstrom"):
            one, other = getattr(batch.points, name), getattr(expected.points, name)
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


def test_whole_images_carry_native_keypoints(store: Path) -> None:
    (table,) = tables(store, CUT, [2], "images")
    found, expected = whole_image(table, 0), load_images(store, CUT)[2]
    assert found.keypoints is not None
    assert expected.keypoints is not None
    with Store.open(store) as opened:
        kept = opened.keypoints(2)
        assert read_image(opened, CUT, 2).target.shape == (0, *opened.sources[2].shape)
    for one in (found, expected):
        assert one.target.shape == (0, *one.fov.shape)
        assert one.spacing_um is None
        np.testing.assert_array_equal(one.keypoints.positions, kept.positions)
        np.testing.assert_array_equal(one.keypoints.classes, kept.classes)


def test_several_classes_are_several_planes(tmp_path: Path) -> None:
    labels = np.zeros((6, 20, 20), np.uint8)
    labels[:, :5], labels[:, 8:12] = 1, 2
    source = Source(
        "v", "v", np.ones((*labels.shape, 1), np.uint8), labels, np.ones(labels.shape, np.uint8)
    )
    layout = Layout(axes="zyx", classes=("wall", "lumen"), target="labels")
    write_store(tmp_path / "l.h5", [source], domain="l", importer={"name": "t"}, layout=layout)
    view = View(None, "full", None, 0.0, 1)
    whole = load_images(tmp_path / "l.h5", view)[0]
    assert whole.target.shape == (2, *labels.shape)
    np.testing.assert_array_equal(whole.target[1], labels == 2)
    (table,) = tables(tmp_path / "l.h5", view, [0], "images")
    np.testing.assert_array_equal(whole_image(table, 0).target, whole.target)
    batch = load_samples(tmp_path / "l.h5", view).gather(np.array([0]))
    assert (batch.target[0, 0] > 0).sum() == (labels == 1).sum()
    assert_same_batch(batch, load_samples(tmp_path / "l.h5", view).gather(np.array([0])))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=4), st.integers(0, 2**16))
def test_the_keypoints_of_a_batch_do_not_depend_on_who_else_is_in_it(
    counts: list[int], seed: int
) -> None:
    random = np.random.default_rng(seed)
    given_tables = {
        index: np.concatenate([np.ones((1, 3)), random.random((count, 3)) * [40, 40, 1]])
        for index, count in enumerate(counts)
    }
    points = Points.of(given_tables, 2)
    source = random.integers(0, len(counts), 6)
    corner = random.integers(0, 20, (6, 2)).astype(np.int32)
    together = points.batch(source, corner, (16, 16))
    for place in range(6):
        alone = points.batch(source[place : place + 1], corner[place : place + 1], (16, 16))
        own = together.sample == place
        np.testing.assert_array_equal(alone.positions, together.positions[own])
        np.testing.assert_array_equal(alone.classes, together.classes[own])
