"""What `vesselflow data inspect` says and draws of keypoints: distances, patches, targets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from vesselflow.cli import data_points as points
from vesselflow.cli.main import main
from vesselflow.stores.store import Keypoints, Layout, Source, Store, write_store

PLACES = [(5.0, 5.0), (5.0, 8.0), (30.0, 40.0), (31.5, 41.5), (39.0, 59.0)]
KINDS = [0, 1, 0, 1, 1]


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("points") / "flat.h5"
    image = np.random.default_rng(0).random((40, 60, 1)).astype(np.float32)
    held = Keypoints(np.array(PLACES), np.array(KINDS, np.int32))
    fov = np.ones((40, 60), np.uint8)
    sources = [
        Source(name, name, image, None, fov, keypoints=held, spacing_um=(2.0, 1.0))
        for name in ("one", "two")
    ]
    layout = Layout("keypoint", "yx", "float32", 1, ("a", "b"), "", ds_factor=4, ds_sigma=1.0)
    write_store(path, sources, domain="flat", importer={"name": "test"}, layout=layout)
    return path


def test_distances_are_to_the_next_of_the_class(flat: Path) -> None:
    with Store.open(flat) as store:
        found = points.apart(store)
    one = np.hypot(2 * 25, 35)
    np.testing.assert_allclose(found["a"], [one] * 4)
    two, three = np.hypot(2 * 26.5, 33.5), np.hypot(2 * 7.5, 17.5)
    np.testing.assert_allclose(found["b"], [two, three, three] * 2)


def test_keypoints_are_counted_in_patches(flat: Path) -> None:
    with Store.open(flat) as store:
        found = points.per_patch(store, (20, 30))
    # Four patches side by side in each source: the first and the last hold some.
    assert found["a"] == {
        "min": 0, "median": 0.5, "max": 1, "mean": 0.5, "empty": 0.5, "patches": 8
    }  # fmt: skip
    assert found["b"]["mean"] == 0.75
    assert found["b"]["max"] == 2
    with Store.open(flat) as store:
        whole = points.per_patch(store, (40, 60))
    assert whole["b"]["min"] == whole["b"]["max"] == 3


def test_the_target_lies_where_the_keypoints_are(flat: Path) -> None:
    with Store.open(flat) as store:
        source = store.sources[0]
        target = points.rendered(store, source)
        picture = np.asarray(points.target_plane(target, source, None, 4, (80, 120)), int)
    assert target.shape == (2, 10, 15)
    # The centre of cell j lies at 4 j + 1.5: exp(-(3.5^2 + 3.5^2 - ...) / 2 / 4^2) by hand.
    away = (np.array([5.0, 5.0]) - (4 * np.array([1, 1]) + 1.5)) ** 2
    assert target[0, 1, 1] == pytest.approx(np.exp(-away.sum() / 2 / 16), rel=1e-6)
    # Keypoint (39, 59) of class b, alone in its corner, at twice the size.
    corner = picture[2 * 38 : 2 * 40, 2 * 58 : 2 * 60].reshape(-1, 3)
    colour = target[1, 9, 14] * np.array(points.CLASS_COLOURS[1])
    np.testing.assert_allclose(corner, np.tile(colour, (len(corner), 1)), atol=0.51)
    # It is above (5, 5) of class a that the picture is lightest in red.
    assert np.unravel_index(picture[..., 0].argmax(), (80, 120)) <= (16, 16)


def test_a_volume_is_cut_through_its_centre(tmp_path: Path) -> None:
    held = Keypoints(np.array([[10.0, 4.0, 8.0], [2.0, 12.0, 8.0]]), np.zeros(2, np.int32))
    image, fov = np.zeros((20, 16, 18, 1), np.float32), np.ones((20, 16, 18), np.uint8)
    image[:] = np.random.default_rng(0).random(image.shape)
    layout = Layout("keypoint", "zyx", "float32", 1, ("a",), "", ds_factor=4)
    source = Source("s", "s", image, None, fov, keypoints=held)
    write_store(tmp_path / "v.h5", [source], domain="v", importer={"name": "test"}, layout=layout)
    with Store.open(tmp_path / "v.h5") as store:
        # Without a width it is one cell, and the last cells reach beyond the source.
        target = points.rendered(store, store.sources[0])
        assert target.shape == (1, 5, 4, 5)
        plane = np.asarray(points.target_plane(target, store.sources[0], 0, 4, (16, 18)))
    assert plane[4, 8].max() > 150
    assert plane[12, 8].max() < 60


def test_it_is_told(flat: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "inspect", str(flat), "--patch", "20,30"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "in a patch of 30 x 20" in text
    assert "0 to 2, mean 0.75" in text
    assert "next of its class" in text
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["next_of_class_unit"] == "um"
    assert found["keypoints"]["a"]["next_of_class"]["min"] == pytest.approx(np.hypot(50, 35))
    assert found["keypoints"]["b"]["per_patch"]["patches"] == 8
    assert main(["data", "inspect", str(flat), "--json"]) == 0
    assert "per_patch" not in json.loads(capsys.readouterr().out)["keypoints"]["a"]


@pytest.mark.parametrize("given", ["20,30,40", "0,4", "x", "1.5"])
def test_other_patches_are_refused(
    flat: Path, given: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["data", "inspect", str(flat), "--patch", given]) == 2
    told = capsys.readouterr().err
    assert f"--patch: {given} is not allowed; allowed: 1 or 2 whole numbers above 0" in told


def test_a_patch_larger_than_the_source_is_padded(flat: Path) -> None:
    with Store.open(flat) as store:
        found = points.per_patch(store, (48, 80))
    assert found["b"]["patches"] == 2
    assert found["b"]["mean"] == 3
