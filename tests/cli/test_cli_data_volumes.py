"""`vesselflow data` with volumes and keypoints: made, shown, drawn, verified."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vesselflow.cli import data_planes as planes
from vesselflow.cli.data_distances import nearest
from vesselflow.cli.data_points import apart
from vesselflow.cli.main import main
from vesselflow.stores.store import Keypoints, Layout, Source, Store, write_store


def vesselflow(*words: str | Path) -> int:
    return main(["data", *map(str, words)])


@pytest.fixture(scope="module")
def tomograms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("volumes") / "t.h5"
    words = ("--kind", "tomogram", "--sources", "2", "--size", "48", "--depth", "40")
    assert vesselflow("synth", path, *words, "--particles", "6", "--spacing-angstrom", "11") == 0
    return path


@pytest.fixture(scope="module")
def vessels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("volumes") / "v.h5"
    words = ("--kind", "vasculature", "--sources", "2", "--size", "40", "--domain", "c")
    assert vesselflow("synth", path, *words, "--depth", "24") == 0
    return path


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images with keypoints, the second without any and without spacing."""
    path = tmp_path_factory.mktemp("volumes") / "flat.h5"
    image = np.random.default_rng(0).random((60, 80, 1)).astype(np.float32)
    fov = np.ones((60, 80), np.uint8)
    fov[:10] = 0
    held = Keypoints(np.array([[5.0, 5.0], [30.0, 40.0], [30.0, 43.0]]), np.array([0, 1, 1]))
    sources = [
        Source("one", "one", image, None, fov, keypoints=held, spacing_um=(2.0, 1.0)),
        Source("two", "two", image, None, fov, keypoints=Keypoints.none(2)),
    ]
    layout = Layout("keypoint", "yx", "float32", 1, ("a", "b"), "", ds_factor=4, ds_sigma=1.0)
    write_store(path, sources, domain="flat", importer={"name": "test"}, layout=layout)
    return path


def test_synth_takes_what_the_kind_takes(tomograms: Path, vessels: Path) -> None:
    with Store.open(tomograms) as store:
        assert store.sources[0].shape == (40, 48, 48)
        assert store.sources[0].spacing_um == pytest.approx((1.1e-3,) * 3)
        assert sum(store.sources[0].keypoint_counts) <= 6
    with Store.open(vessels) as store:
        assert store.sources[0].shape == (24, 40, 40)


def test_inspect_tells_of_keypoints(tomograms: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vesselflow("inspect", tomograms) == 0
    text = capsys.readouterr().out
    assert "48 x 48 x 40" in text
    assert "0.0011" in text
    for name in ("shell", "rod", "dimer"):
        assert name in text
    assert "angstrom" in text
    assert "ds_factor 4, sigma_angstrom 40.0" in text
    assert vesselflow("inspect", tomograms, "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["layout"]["classes"] == ["shell", "rod", "dimer"]
    with Store.open(tomograms) as store:
        assert told["digest"] == store.digest
        held = store.keypoints(0)
        first = told["sources"][0]
        assert first["shape"] == [40, 48, 48]
        assert list(first["keypoints"].values()) == list(held.counts(3))
        apart = [
            min(np.linalg.norm(a - b) * 1.1e-3 for j, b in enumerate(held.positions) if i != j)
            for i, a in enumerate(held.positions)
        ]
        assert first["nearest_neighbour"]["min"] == pytest.approx(min(apart))
        assert first["nearest_neighbour"]["median"] == pytest.approx(np.median(apart))
        totals = {name: entry["total"] for name, entry in told["keypoints"].items()}
        assert sum(totals.values()) == sum(sum(s.keypoint_counts) for s in store.sources)


def test_inspect_tells_of_images_with_keypoints(
    flat: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert vesselflow("inspect", flat) == 0
    text = capsys.readouterr().out
    assert "80 x 60" in text
    # Along x the pixels are 1 um apart.
    assert "from 3, median 3 um" in text
    assert "1 keypoint(s) lie outside the fov" in text
    assert vesselflow("inspect", flat, "--json") == 0
    one, two = json.loads(capsys.readouterr().out)["sources"]
    assert (one["keypoints"], two["keypoints"]) == ({"a": 1, "b": 2}, {"a": 0, "b": 0})
    assert one["keypoints_outside_fov"] == 1
    assert two["nearest_neighbour"] is None


def test_the_nearest_neighbour_by_hand() -> None:
    places = np.array([[0.0, 0.0, 0.0], [0.0, 3.0, 4.0], [1.0, 0.0, 0.0]])
    held = Keypoints(places, np.zeros(3, np.int32))
    np.testing.assert_allclose(nearest(held, None), [1, 5, 1])
    np.testing.assert_allclose(nearest(held, (10.0, 1.0, 2.0)), [np.sqrt(73), np.sqrt(73), 10])
    assert len(nearest(Keypoints.none(3), None)) == 0


def test_inspect_tells_of_volumes(vessels: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vesselflow("inspect", vessels) == 0
    text = capsys.readouterr().out
    assert "40 x 40 x 24" in text
    assert "20 x 20 x 32" in text
    assert "vessel % of fov" in text


def near(pixels: np.ndarray, colour: tuple[int, ...]) -> int:
    return int((np.abs(pixels.astype(int) - colour).max(axis=2) < 3).sum())


def test_pictures(
    tomograms: Path, vessels: Path, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (tomograms, vessels, flat):
        png = tmp_path / f"{path.stem}.png"
        assert vesselflow("inspect", path, "--png", png) == 0
        with Image.open(png) as sheet:
            pixels = np.asarray(sheet)
        assert pixels.shape[1] > 500
        if path != vessels:
            assert near(pixels, planes.CLASS_COLOURS[0]) > 50, path
            assert near(pixels, planes.CLASS_COLOURS[1]) > 50, path
        else:
            green = pixels[..., 1].astype(int) - pixels[..., 0]
            assert (green > 40).sum() > 1000
    monkeypatch.setattr(planes, "PLANES_SOURCES", 1)
    with Store.open(tomograms) as store:
        one = planes.planes_sheet(store, apart(store))
    with Image.open(tmp_path / "t.png") as two:
        assert one.height < two.height


def test_verify(tomograms: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert vesselflow("verify", tomograms) == 0
    assert "sound, 2 sources, digest" in capsys.readouterr().out
    cut = tmp_path / "cut.h5"
    cut.write_bytes(tomograms.read_bytes()[:-1])
    assert vesselflow("verify", cut) == 1
    assert "truncated" in capsys.readouterr().out
