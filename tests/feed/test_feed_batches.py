from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from feed_stores import noise_store

from vesselflow.errors import ShapeError, UserError
from vesselflow.feed.batches import load_images, load_samples, resident_bytes
from vesselflow.feed.view import View, frame
from vesselflow.feed.working import working_source
from vesselflow.stores.statistics import centre_scale
from vesselflow.stores.store import Store

FULL = View(working_size_px=96, patch="full", stride=None, min_fov=0.0, divisor=32)
CUT = replace(FULL, working_size_px=120, patch=32, stride=24, min_fov=0.5)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return noise_store(tmp_path_factory.mktemp("noise") / "n.h5")


def test_samples_are_windows_of_their_sources(noise: Path) -> None:
    samples = load_samples(noise, CUT)
    assert samples.source.tolist() == sorted(samples.source.tolist())
    asked = np.array([0, samples.n - 1, 7, 7])
    batch = samples.gather(asked)
    assert batch.image.shape == (4, 3, 32, 32)
    assert batch.target.shape == batch.fov.shape == (4, 1, 32, 32)
    assert batch.centre.shape == batch.scale.shape == (4, 3)
    with Store.open(noise) as store:
        for place, row in enumerate(asked.tolist()):
            source = int(samples.table.source[row])
            y, x = samples.table.corner[row].tolist()
            layout, record = working_source(store, source, frame(store.fov_box(source), CUT))
            whole = record.reshape(5, *layout.shape)
            window = whole[:, y : y + 32, x : x + 32]
            np.testing.assert_array_equal(batch.image[place], window[:3])
            np.testing.assert_array_equal(batch.target[place, 0], window[3])
            np.testing.assert_array_equal(batch.fov[place, 0], window[4])
            centre, scale = centre_scale(np.moveaxis(whole[:3], 0, 2), whole[4], "standard", True)
            np.testing.assert_array_equal(batch.centre[place], centre)
            np.testing.assert_array_equal(batch.scale[place], scale)
            assert batch.source[place] == source


def test_whole_sources_are_one_sample_each(noise: Path) -> None:
    samples, images = load_samples(noise, FULL), load_images(noise, FULL)
    assert samples.source.tolist() == list(range(6))
    assert images.ids == tuple(f"s{i}" for i in range(6))
    batch = samples.gather(np.arange(6))
    for row, whole in enumerate(images):
        np.testing.assert_array_equal(batch.image[row], whole.image)
        np.testing.assert_array_equal(batch.fov[row, 0], whole.fov_working)
        np.testing.assert_array_equal(batch.centre[row], whole.centre)
        np.testing.assert_array_equal(batch.scale[row], whole.scale)
        assert whole.group == f"g{row // 2}"
    with Store.open(noise) as store:
        np.testing.assert_array_equal(images[3].target, store.target(3))
        np.testing.assert_array_equal(images[3].fov, store.fov(3))


def test_statistics_are_of_the_unit_image_inside_the_fov(noise: Path) -> None:
    for whole in load_images(noise, replace(FULL, working_size_px=None)):
        pixels = whole.image[:, whole.fov_working > 0] / 255
        np.testing.assert_allclose(whole.centre, pixels.mean(axis=1), atol=1e-6)
        np.testing.assert_allclose(whole.scale, pixels.std(axis=1), atol=1e-6)


@pytest.mark.parametrize("scope", ["dataset", "patch", "none"])
def test_scopes_without_statistics_of_the_source(noise: Path, scope: str) -> None:
    whole = load_images(noise, replace(FULL, scope=scope))[0]
    assert whole.centre.tolist() == [0, 0, 0]
    assert whole.scale.tolist() == [1, 1, 1]


def test_gather_fills_the_given_memory(noise: Path) -> None:
    samples = load_samples(noise, FULL)
    out = np.full((2, samples.table.layout.nbytes), 7, dtype=np.uint8)
    batch = samples.gather(np.array([4, 2]), out=out)
    assert np.shares_memory(batch.image, out)
    np.testing.assert_array_equal(batch.image, samples.gather(np.array([4, 2])).image)
    with pytest.raises(ShapeError):
        samples.gather(np.array([4]), out=out)
    with pytest.raises(ShapeError):
        samples.gather(np.array([4, 2]), out=out.astype(np.int16))


def test_a_gathered_batch_is_the_callers_own(noise: Path) -> None:
    samples = load_samples(noise, FULL)
    samples.gather(np.arange(2)).image[:] = 0
    assert samples.gather(np.arange(2)).image.any()


@pytest.mark.parametrize("index", [-1, 6])
def test_a_sample_that_is_not_there(noise: Path, index: int) -> None:
    with pytest.raises(IndexError):
        load_samples(noise, FULL).gather(np.array([index]))


def test_an_empty_gather(noise: Path) -> None:
    assert load_samples(noise, FULL).gather(np.zeros(0, dtype=np.int64)).image.shape[0] == 0


def test_a_store_without_a_sample_is_refused(noise: Path) -> None:
    with pytest.raises(UserError, match=r"n\.h5: no patch of 512 px"):
        load_samples(noise, replace(CUT, working_size_px=None, patch=512, stride=512, min_fov=1.0))


@pytest.mark.parametrize("view", [FULL, replace(CUT, min_fov=0.0)])
def test_bytes_are_known_before_anything_is_read(noise: Path, view: View) -> None:
    with Store.open(noise) as store:
        known = resident_bytes(store, view)
    assert known == sum(block.nbytes for block in load_samples(noise, view).blocks)
