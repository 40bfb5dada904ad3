"""The blobs bench: its blobs are scikit-image's, and no choice looks beyond validation."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.bench import blob_sources, laplacian
from vesselflow.bench import blobs as bench
from vesselflow.bench.laplacian import Search, Settings, Volume, response, thinned, tops
from vesselflow.cli import bench as command
from vesselflow.config.loading import load_space
from vesselflow.errors import UserError
from vesselflow.feed.local import LocalData
from vesselflow.inference.picks import Picks
from vesselflow.runs.registries import REGISTRIES
from vesselflow.sweeps.context import Reports
from vesselflow.sweeps.execution import execute
from vesselflow.sweeps.planning import prepare

SPACE = """
stores:
  a: synth:tomogram?domain=a&sources=4&seed=0&size_px=40&depth_px=32
  b: synth:tomogram?domain=b&sources=1&seed=1&size_px=40&depth_px=32
data: {train: a, ood: [b], patch: [16, 32, 32]}
split: {folds: 2, val_fraction: 0.5}
folds: [0]
model: {name: unet3d, filters: [4, 8]}
train: {epochs: 1, steps_per_epoch: 2, micro_batch_size: 2}
"""


def volume(image: np.ndarray, spacing: list[float] | None = None) -> Volume:
    return Volume.of(image[..., None], np.ones(image.shape, np.uint8), spacing)


@given(
    shape=st.sampled_from([(30, 26), (14, 18, 16)]),
    sigma=st.sampled_from([1.0, 1.7, 2.5]),
    threshold=st.floats(0.02, 0.5),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_blobs_are_those_of_scikit_image(
    shape: tuple[int, ...], sigma: float, threshold: float, seed: int
) -> None:
    blob_log = pytest.importorskip("skimage.feature", exc_type=ImportError).blob_log
    given = volume(np.random.default_rng(seed).normal(size=shape))
    ours = tops(response(given, sigma), bright=True)
    theirs = blob_log(given.image, sigma, sigma, 1, threshold=threshold, overlap=1.0)
    found = set(map(tuple, ours.voxels[ours.score > np.float32(threshold)].tolist()))
    assert found == set(map(tuple, theirs[:, :-1].astype(int).tolist()))


def test_dark_blobs_are_bright_ones_of_the_negative() -> None:
    given = volume(np.random.default_rng(0).normal(size=(20, 20)))
    negative = replace(given, image=-given.image)
    dark = tops(response(given, 2.0), bright=False)
    bright = tops(response(negative, 2.0), bright=True)
    np.testing.assert_array_equal(dark.voxels, bright.voxels)


def test_faint_peaks_in_darkness_are_no_trouble() -> None:
    image = np.full((12, 20, 20), -1.0, np.float32)
    image[6, 6, 6], image[6, 14, 14] = 5.0, -1.0 + 1e-9
    found = tops(image, bright=True)
    assert found.voxels.tolist() == [[6, 6, 6]]
    np.testing.assert_allclose(found.places, [[6, 6, 6]], atol=1e-6)


def balls(places: list[tuple[int, ...]], width: float, sign: float = 1) -> Volume:
    grid = np.stack(np.meshgrid(*[np.arange(40.0)] * 2, indexing="ij"), axis=-1)
    image = sum(np.exp(-((grid - place) ** 2).sum(-1) / (2 * width**2)) for place in places)
    return volume(np.asarray(sign * image) + np.random.default_rng(0).normal(0, 0.02, (40, 40)))


def test_near_and_border_blobs_are_left_out() -> None:
    given = balls([(20, 12), (20, 20), (2, 30)], 2.0)
    found = tops(response(given, 2.0), bright=True).kept(np.arange(3))
    radius = np.full(2, 5.0)

    def places(**values: Any) -> list[list[int]]:
        return sorted(thinned(found, given, Settings(2.0, **values), radius).voxels.tolist())

    assert len(places(apart=1.5)) == 3
    assert len(places(apart=1.7)) == 2
    assert [2, 30] in places(apart=0.0, border=1.0)
    assert [2, 30] not in places(apart=0.0, border=1.1)


@pytest.mark.parametrize(("width", "sign"), [(2.0, 1), (3.0, -1)])
def test_the_search_finds_width_and_polarity(width: float, sign: float) -> None:
    truth = np.array([(8, 10), (20, 30), (31, 9)], float)
    given = balls([tuple(place) for place in truth.astype(int)], width, sign)

    def judge(found: Any) -> float:
        # In two dimensions the response to a Gaussian is highest at its own width.
        near = np.linalg.norm(found[0].places[:, None] - truth, axis=2).min(axis=1) < 1
        return float(found[0].score[near].sum())

    search = Search([given], [np.full(2, 4.0)], judge)
    best = search.best(lambda sigma, bright, mode: [tops(response(given, sigma, mode), bright)])
    assert best.bright == (sign > 0)
    assert best.sigma == pytest.approx(width, rel=0.05)


def test_sigma_is_of_the_unit_of_the_voxels() -> None:
    image = np.random.default_rng(0).normal(size=(12, 16, 16))
    plain, scaled = volume(image), volume(image, [10.0, 10.0, 10.0])
    np.testing.assert_array_equal(response(plain, 2.0), response(scaled, 20.0))
    assert laplacian.sigmas([scaled]) == pytest.approx(
        [10 * each for each in laplacian.sigmas([plain])]
    )


def test_scores_are_of_scaled_volumes_or_of_their_own_numbers() -> None:
    image = np.random.default_rng(0).normal(0, 3, size=(30, 30))
    image -= image.mean()
    given, radius = volume(image), np.full(2, 4.0)
    found = tops(response(given, 2.0), bright=True)
    own = thinned(found, given, Settings(2.0, scaled=False, apart=0.0), radius)
    plain = tops(response(replace(given, image=image.astype(np.float32)), 2.0), bright=True)
    np.testing.assert_allclose(own.score[:9], plain.score[:9], rtol=1e-3)
    scaled = thinned(found, given, Settings(2.0, apart=0.0), radius)
    np.testing.assert_array_equal(scaled.score, found.score)


def test_the_surer_class_by_its_own_threshold_has_the_place() -> None:
    places = np.array([[5.0, 5.0], [5.0, 6.0], [20.0, 20.0]])
    picks = Picks(places, np.array([0, 1, 1]), np.array([9.0, 4.0, 3.0]), undefined=0)
    found = bench.exclusive(picks, np.array([6.0, 2.0]), np.array([[1.0, 1.0], [2.0, 2.0]]))
    np.testing.assert_array_equal(found.coordinates, places[1:])
    np.testing.assert_allclose(found.score, [2.0, 1.5])
    # A class of which no threshold could be chosen takes no place.
    found = bench.exclusive(picks, np.array([6.0, np.inf]), np.full((2, 2), 2.0))
    np.testing.assert_array_equal(found.coordinates, places[[0, 2]])


@pytest.fixture(scope="module")
def space(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("blobs") / "blobs.yaml"
    file.write_text(SPACE)
    return file


def test_no_choice_looks_beyond_validation(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(laplacian, "CHOICES", {"border": (0.0, 1.0), "apart": (0.0, 1.0)})
    results = str(space.parent / "untrained")
    found = bench.blobs(str(space), results=results)
    assert found["point"] is None
    assert {row["peer"] for row in found["rows"]} == {bench.LOG, bench.WHOLE}
    assert {row["role"] for row in found["rows"]} == {"val", "test", "ood"}
    limits: dict[tuple[str, str], set[float]] = {}
    for row in found["folds"]:
        limits.setdefault((row["peer"], row["class"]), set()).add(row["threshold"])
    assert all(len(each) == 1 for each in limits.values())
    whole = bench._Fold._all

    def blind(self: Any, domain: Any) -> list[bench.Seen]:
        seen = whole(self, domain)
        if domain.role == "val":
            return seen
        # Elsewhere all keypoints lie in one corner.
        for each in seen:
            each.truth[:] = 1.0
            each.whole.keypoints.positions[:] = 1.0
        return seen

    monkeypatch.setattr(bench._Fold, "_all", blind)
    other = bench.blobs(str(space), results=results)
    assert other["settings"] == found["settings"]
    pairs = zip(found["rows"], other["rows"], strict=True)
    assert all((a == b) == (a["role"] == "val") for a, b in pairs if a["class"] == "all")


def test_a_sweep_stands_beside_it(space: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    torch.set_num_threads(1)
    monkeypatch.setattr(laplacian, "CHOICES", {"apart": (0.0, 1.0)})
    # Every keypoint is isolated: the error is that of the tables.
    monkeypatch.setattr(blob_sources, "ISOLATED", -1.0)
    results = space.parent / "trained"
    sweep = prepare(load_space(space, registries=REGISTRIES), results)
    data = LocalData({name: facts.path for name, facts in sweep.stores.items()})
    for job in sweep.jobs():
        assert execute(job, sweep.results, data, reports=Reports()).state == "finished"
    out = space.parent / "blobs.json"
    given = argparse.Namespace(
        name="blobs",
        space=str(space),
        results=str(results),
        profile=None,
        rounds=None,
        runs=None,
        out=str(out),
        png=None,
    )
    assert command.run(given) == 0
    found = json.loads(out.read_text())
    ours = [row for row in found["rows"] if row["peer"] == bench.OURS]
    assert {row["class"] for row in ours} == {"all", "shell", "rod", "dimer"}
    assert found["point"] == "base"
    for row in found["rows"]:
        if row["error_voxels"] is None:
            assert row["isolated"] == 0
        else:
            assert row["isolated_error_voxels"] == pytest.approx(row["error_voxels"])


def test_isolated_keypoints_are_far_from_all_others() -> None:
    truth = np.array([[5.0, 5.0], [5.0, 9.0], [30.0, 30.0]])
    fov = np.ones((40, 40), np.uint8)
    seen = bench.Seen(
        argparse.Namespace(fov=fov),  # type: ignore[arg-type]
        volume(np.zeros((40, 40))),
        truth,
        np.array([0, 1, 0]),
        np.full((2, 2), 2.0),
    )
    picks = Picks(
        truth + np.array([0.0, 1.0]), np.array([0, 1, 0]), np.array([3.0, 3.0, 1.0]), undefined=0
    )
    np.testing.assert_allclose(seen.isolated_errors(picks, [0.0, 0.0]), [[0, 1]])
    assert len(seen.isolated_errors(picks, [2.0, 0.0])) == 0
    alone = replace(seen, truth=truth[:1], classes=np.array([0]))
    np.testing.assert_allclose(alone.isolated_errors(picks, [0.0, 0.0]), [[0, 1]])


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("blobs", {}, "SPACE: a space is missing"),
        ("feed", {"space": "a.yaml"}, "SPACE: this bench takes none; allowed: blobs"),
        ("start", {"results": "a"}, "--results: this bench takes none; allowed: blobs"),
    ],
)
def test_a_space_is_for_the_bench_that_measures_one(
    name: str, values: dict[str, str], told: str
) -> None:
    given = {"space": None, "profile": None, "results": None, "rounds": None, "runs": None}
    with pytest.raises(UserError) as caught:
        command.run(argparse.Namespace(name=name, out=None, **{**given, **values}))
    assert str(caught.value).startswith(told)


def test_a_space_of_masks_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "masks.yaml"
    file.write_text(
        "stores: {a: 'synth:fundus?domain=a&sources=4&seed=0&size_px=64'}\n"
        "data: {train: a, working_size_px: 64}\nsplit: {folds: 2}\n"
    )
    with pytest.raises(
        UserError, match=r"masks.yaml learns to segment; allowed: spaces of keypoints"
    ):
        bench.blobs(str(file), results=str(tmp_path / "results"))
