"""Peaks: what is one, which of near ones stays, and where between cells it lies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.errors import ShapeError, UserError
from vesselflow.inference.peaks import find_peaks
from vesselflow.inference.picks import Picks
from vesselflow.metrics.detection.scores import score
from vesselflow.metrics.matches import Matches
from vesselflow.targets.grid import Grid
from vesselflow.targets.keypoints import Keypoints
from vesselflow.targets.rendering import render_heatmaps
from vesselflow.targets.sigma import Sigma

quick = settings(deadline=None, max_examples=30)
seeds = st.integers(0, 2**31)
F = 16


def rendered(
    places: np.ndarray, side: int, sigma: object = 1.0, covariance: np.ndarray | None = None
) -> np.ndarray:
    """Heat-maps of single keypoints, one per sample: float32 (N, *cells)."""
    count, axes = places.shape
    points = Keypoints(
        torch.from_numpy(places),
        torch.arange(count),
        torch.zeros(count, dtype=torch.int64),
        None if covariance is None else torch.from_numpy(covariance),
    )
    width = None if covariance is not None else Sigma.of(axes=axes, classes=1, ds_sigma=sigma)  # type: ignore[arg-type]
    grid = Grid.of((side,) * axes, F)
    return render_heatmaps(points, grid, samples=count, classes=1, sigma=width)[:, 0].numpy()


def errors(places: np.ndarray, maps: np.ndarray, refinement: str) -> np.ndarray:
    """Voxels between each keypoint and the one peak of its map."""
    found = [
        find_peaks(one[None], ds_factor=F, threshold=0.2, radius_voxels=24, refinement=refinement)  # type: ignore[arg-type]
        for one in maps
    ]
    assert [len(each) for each in found] == [1] * len(maps)
    return np.linalg.norm(np.concatenate([each.coordinates for each in found]) - places, axis=1)


def within(seed: int, count: int, axes: int, side: int, border: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(border, side - 1 - border, (count, axes))


@quick
@given(seeds, st.sampled_from([2, 3]), st.sampled_from([0.5, 1.0, 1.5]))
def test_a_paraboloid_finds_isolated_keypoints_at_the_border_too(
    seed: int, axes: int, sigma: float
) -> None:
    """Exact but for float32: measured at most 1e-5 voxels of full resolution over 300 of each."""
    places = within(seed, 10, axes, 128)
    assert errors(places, rendered(places, 128, sigma), "paraboloid").max() < 1e-3


@quick
@given(seeds, st.sampled_from([2, 3]))
def test_a_paraboloid_finds_keypoints_of_any_shape(seed: int, axes: int) -> None:
    draws = np.random.default_rng(seed)
    turned = np.linalg.qr(draws.standard_normal((5, axes, axes)))[0]
    widths = draws.uniform(0.8, 1.5, (5, axes)) * F
    spread = (turned * widths[:, None] ** 2) @ turned.swapaxes(1, 2)
    places = within(seed, 5, axes, 192)
    assert errors(places, rendered(places, 192, covariance=spread), "paraboloid").max() < 0.05


def test_the_error_of_each_refinement_in_voxels_of_full_resolution() -> None:
    """As the room's README states it: sigma one cell of 16 voxels, 3-D, away from the border."""
    places = within(3, 200, 3, 192, border=48)
    maps = rendered(places, 192)
    found = {name: errors(places, maps, name) for name in ("paraboloid", "moments", "none")}
    assert found["paraboloid"].max() < 0.5
    assert found["paraboloid"].max() < 0.01
    assert 0.2 < found["moments"].mean() < 1.0
    assert found["none"].mean() == pytest.approx(0.48 * F, rel=0.1)


def picks_of(heatmap: object, **more: object) -> Picks:
    arguments: dict[str, object] = {
        "ds_factor": 1, "threshold": 0.1, "radius_voxels": 0, "refinement": "none", **more
    }  # fmt: skip
    return find_peaks(np.asarray(heatmap, np.float64)[None], **arguments)  # type: ignore[arg-type]


def test_plateaus_are_one_peak_and_steps_are_none() -> None:
    found = picks_of([[0.5, 0.5, 0, 0.3], [0, 0.5, 0, 0.3], [0, 0, 0, 0.4]])
    # The L's middle is (1/3, 2/3); the step beside the 0.4 is no peak.
    assert found.coordinates == pytest.approx(np.array([[1 / 3, 2 / 3], [2, 3]]))
    assert found.score.tolist() == [0.5, 0.4]
    # All alike is one plateau; below the threshold it is nothing.
    assert picks_of(np.full((3, 5), 0.2)).coordinates.tolist() == [[1, 2]]
    assert len(picks_of(np.full((3, 5), 0.05))) == 0
    # A ridge that rises at its far end only.
    assert picks_of([[0.5, 0.5, 0.5, 0.6]] * 3).coordinates.tolist() == [[1, 3]]


def test_a_saturated_peak_lies_in_its_middle() -> None:
    heatmap = np.zeros((9, 9))
    heatmap[2:7, 3:6] = 1.0
    for refinement in ("paraboloid", "moments", "none"):
        assert picks_of(heatmap, refinement=refinement).coordinates == pytest.approx(
            np.array([[4, 4]])
        )


def test_cells_of_the_border_count() -> None:
    heatmap = np.zeros((5, 6))
    heatmap[0, 0], heatmap[4, 3], heatmap[2, 5] = 0.9, 0.8, 0.7
    found = picks_of(heatmap)
    assert found.coordinates.tolist() == [[0, 0], [4, 3], [2, 5]]


def test_the_threshold_is_of_its_class_and_counts() -> None:
    maps = np.zeros((2, 3, 3))
    maps[:, 1, 1] = 0.5
    arguments: dict[str, object] = {"ds_factor": 4, "radius_voxels": 0, "refinement": "none"}
    found = find_peaks(maps, threshold=[0.5, 0.51], **arguments)  # type: ignore[arg-type]
    assert found.class_index.tolist() == [0]
    assert found.coordinates.tolist() == [[5.5, 5.5]]
    for nothing in (math.inf, math.nan):
        assert len(find_peaks(maps, threshold=nothing, **arguments)) == 0  # type: ignore[arg-type]


def test_of_near_peaks_the_highest_stays() -> None:
    line = np.zeros((1, 12))
    line[0, [1, 4, 7, 10]] = [0.8, 0.9, 0.7, 0.6]
    # 4 leaves out 1 and 7; what is left out leaves out nothing, so 10 stays.
    found = picks_of(line, radius_voxels=3)
    assert found.coordinates[:, 1].tolist() == [4, 10]
    assert picks_of(line, radius_voxels=2.9).coordinates[:, 1].tolist() == [4, 1, 7, 10]
    assert picks_of(line, radius_voxels=2.9, most=2).coordinates[:, 1].tolist() == [4, 1]
    # In angstrom: along x they are 30 apart.
    angstrom = {"radius_voxels": None, "spacing_angstrom": [1, 10]}
    assert len(picks_of(line, radius_angstrom=29, **angstrom)) == 4
    assert len(picks_of(line, radius_angstrom=30, **angstrom)) == 2


@quick
@given(seeds, st.sampled_from([0.0, 2.0, 5.0]))
def test_peaks_are_apart_ordered_and_leave_nothing_out(seed: int, radius: float) -> None:
    draws = np.random.default_rng(seed)
    heatmap = np.round(draws.random((12, 14)), 2)
    found = picks_of(heatmap, radius_voxels=radius)
    places, all_of_them = found.coordinates, picks_of(heatmap)
    away = np.linalg.norm(places[:, None] - places, axis=2) + 1e9 * np.eye(len(places))
    assert (away > radius).all()
    assert (np.diff(found.score) <= 0).all()
    # Whatever is not there is near something that is at least as high.
    for place, height in zip(all_of_them.coordinates, all_of_them.score, strict=True):
        near = np.linalg.norm(places - place, axis=1) <= radius + 1e-9
        assert (found.score[near] >= height).any()
    # Mirrored, the same: no order of cells decides but among equals.
    mirrored = picks_of(heatmap[:, ::-1])
    back = np.abs(mirrored.coordinates - [0, 13])
    assert sorted(map(tuple, back.round(9))) == sorted(map(tuple, all_of_them.coordinates.round(9)))


@pytest.mark.parametrize("shape", [(1, 1), (2, 2), (1, 7), (2, 3, 1)])
@pytest.mark.parametrize("refinement", ["paraboloid", "moments"])
def test_small_grids_do(shape: tuple[int, ...], refinement: str) -> None:
    heatmap = np.zeros(shape)
    heatmap[(0,) * len(shape)] = 0.9
    found = picks_of(heatmap, refinement=refinement)
    assert found.coordinates == pytest.approx(np.zeros((1, len(shape))))


@pytest.mark.parametrize("refinement", ["paraboloid", "moments", "none"])
def test_odd_maps_give_finite_places(refinement: str) -> None:
    draws = np.random.default_rng(0)
    heatmap = draws.random((20, 20)) ** 8
    heatmap[3, 3], heatmap[3, 4], heatmap[9, 9], heatmap[15, 0] = math.nan, 0.9, 1.0, 0.95
    heatmap[8:11, 8:11][heatmap[8:11, 8:11] < 1] = 0
    found = picks_of(heatmap, refinement=refinement, threshold=0.0)
    assert found.undefined == 1
    assert np.isfinite(found.coordinates).all()
    if refinement != "moments":  # They reach beyond the zeros around it.
        assert [9, 9] in found.coordinates.tolist()
    nothing = picks_of(np.full((4, 4), math.nan), refinement=refinement)
    assert (len(nothing), nothing.undefined) == (0, 16)
    half = find_peaks(
        heatmap.astype(np.float16)[None], ds_factor=1, threshold=0.5, radius_voxels=2,
        refinement=refinement,  # type: ignore[arg-type]
    )  # fmt: skip
    assert len(half)


@pytest.mark.parametrize("faint", [1e-2, 1e-4, 1e-9])
def test_a_faint_peak_at_the_border_among_zeros_has_a_place(faint: float) -> None:
    # Of the cells around it so few weigh anything that their equations have no one solution.
    heatmap = np.zeros((5, 5))
    heatmap[2, 2], heatmap[0, 0] = 1.0, faint
    found = picks_of(heatmap, threshold=1e-30, refinement="paraboloid")
    assert len(found) == 2
    assert np.abs(found.coordinates[0] - 2).max() < 1e-3
    assert np.abs(found.coordinates[1]).max() <= 1


def test_wrong_arguments_are_refused() -> None:
    for bad in ("median", ""):
        with pytest.raises(UserError, match="paraboloid, moments, none"):
            picks_of(np.zeros((3, 3)), refinement=bad)
    for radii in (
        {"radius_voxels": None},
        {"radius_angstrom": 1.0},
        {"radius_voxels": -1.0},
        {"radius_voxels": math.nan},
        {"radius_voxels": None, "radius_angstrom": 1.0},
        {"radius_voxels": None, "radius_angstrom": 1.0, "spacing_angstrom": [1, 0]},
    ):
        with pytest.raises(UserError):
            picks_of(np.zeros((3, 3)), **radii)
    for changes in ({"threshold": [1, 2]}, {"ds_factor": [1, 2, 3]}, {"radius_voxels": [1, 2]}):
        with pytest.raises(ShapeError):
            picks_of(np.zeros((3, 3)), **changes)
    for shape in ((3,), (1, 1, 1, 1)):
        with pytest.raises(ShapeError):
            picks_of(np.zeros(shape))
    with pytest.raises(ShapeError):
        find_peaks(np.zeros((1, 3, 3), np.int64), ds_factor=1, threshold=0, radius_voxels=0)  # type: ignore[arg-type]


def test_rendered_keypoints_are_found_again() -> None:
    """From keypoints to heat-maps to picks to scores: nothing is missed, nothing made up.

    Two classes, at least three cells apart in each: the largest of Gaussians hides none.
    """
    draws = np.random.default_rng(7)
    kept: list[np.ndarray] = []
    kinds: list[int] = []
    for place in draws.uniform(0, 159, (400, 3)):
        kind = int(draws.integers(0, 2))
        if all(
            k != kind or np.linalg.norm(place - p) > 3 * F for p, k in zip(kept, kinds, strict=True)
        ):
            kept.append(place)
            kinds.append(kind)
    truth, labels = np.stack(kept), np.array(kinds)
    points = Keypoints(
        torch.from_numpy(truth), torch.zeros(len(truth), dtype=torch.int64), torch.tensor(labels)
    )
    maps = render_heatmaps(
        points, Grid.of((160,) * 3, F), samples=1, classes=2,
        sigma=Sigma.of(axes=3, classes=2, ds_sigma=1),
    )  # fmt: skip
    found = find_peaks(maps[0].numpy(), ds_factor=F, threshold=0.2, radius_voxels=20)
    matches = Matches.of(
        found.coordinates, found.class_index, found.score, truth, labels, classes=2,
        radius_voxels=F, spacing_angstrom=[10, 10, 10],
    )  # fmt: skip
    names = ["f1", "average_precision", "median_error_voxels", "median_error_angstrom"]
    found_scores = score(matches, 0.2, names)
    assert len(truth) > 40
    assert found_scores["f1"].tolist() == [1, 1]
    assert found_scores["average_precision"].tolist() == [1, 1]
    assert (found_scores["median_error_voxels"] < 0.01).all()
    assert (found_scores["median_error_angstrom"] < 0.1).all()
