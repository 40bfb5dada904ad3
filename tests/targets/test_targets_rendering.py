"""Heat-maps against hand-computed values, scipy, dense evaluation, and their own symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from target_cases import at_centres, dense, drawn, keypoints, spreads

from vesselflow.errors import ShapeError, UserError
from vesselflow.targets import rendering
from vesselflow.targets.grid import Grid
from vesselflow.targets.keypoints import Keypoints
from vesselflow.targets.rendering import render_heatmaps
from vesselflow.targets.sigma import Sigma

quick = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)


def cells(sigma: object = 1.0, *, axes: int = 3, classes: int = 1) -> Sigma:
    return Sigma.of(axes=axes, classes=classes, ds_sigma=sigma)  # type: ignore[arg-type]


def one(points: Keypoints, grid: Grid, **more: object) -> np.ndarray:
    """The map of one sample and one class."""
    return render_heatmaps(points, grid, samples=1, classes=1, **more)[0, 0].numpy()  # type: ignore[arg-type]


# A change of a number here changes targets, and with them results of runs.


def test_values_by_hand() -> None:
    """f = 4: centres at 1.5, 5.5, 9.5. Sigma of one cell is 4 voxels, of two 8."""
    grid = Grid.of((12, 8), 4)
    assert grid.cells == (3, 2)
    # From (5.5, 1.5), a centre: 0, 1 and 1 cell along y; 0 and 1 along x.
    found = one(keypoints([[5.5, 1.5]]), grid, sigma=cells(axes=2))
    side, corner = math.exp(-1 / 2), math.exp(-1)
    assert found == pytest.approx(np.array([[side, corner], [1, side], [side, corner]]), abs=1e-7)
    # From (3.5, 3.5), half a cell off along both axes, with sigma 2 along y and 1 along x.
    found = one(keypoints([[3.5, 3.5]]), grid, sigma=cells([2, 1], axes=2))
    near = math.exp(-(1 / 16 + 1 / 4) / 2)
    far = math.exp(-(9 / 16 + 1 / 4) / 2)
    assert found == pytest.approx(np.array([[near, near], [near, near], [far, far]]), abs=1e-7)


def test_near_keypoints_give_the_largest_or_the_sum_up_to_one() -> None:
    grid = Grid.of((12, 8), 4)
    points = keypoints([[1.5, 1.5], [9.5, 1.5]])
    largest = one(points, grid, sigma=cells(axes=2), combine="max")
    added = one(points, grid, sigma=cells(axes=2), combine="sum")
    assert largest[1, 0] == pytest.approx(math.exp(-1 / 2))
    # 2 exp(-1/2) = 1.21 is cut at 1; 2 exp(-1) = 0.74 is not; 1 + exp(-2) is.
    assert added[:, 0] == pytest.approx([1, 1, 1])
    assert added[1, 1] == pytest.approx(2 * math.exp(-1))


def test_classes_and_samples_stay_apart() -> None:
    grid = Grid.of((8, 8), 4)
    points = keypoints(
        [[1.5, 1.5], [5.5, 5.5], [1.5, 5.5]], sample=[2, 0, 2], class_index=[1, 0, 1]
    )
    sigma = cells({0: 1, 1: [1, 0.5]}, axes=2, classes=2)
    found = render_heatmaps(points, grid, samples=3, classes=2, sigma=sigma).numpy()
    assert found.shape == (3, 2, 2, 2)
    assert found[0, 0, 1] == pytest.approx([math.exp(-1 / 2), 1])
    # Class 1 is narrower along x: one cell is two sigmas.
    assert found[2, 1, 0] == pytest.approx([1, 1])
    assert found[2, 1, 1] == pytest.approx([math.exp(-1 / 2)] * 2)
    rest = found.copy()
    rest[0, 0], rest[2, 1] = 0, 0
    assert not rest.any()


def test_samples_are_put_together_as_a_batch() -> None:
    places = [torch.tensor([[1.0, 2], [3, 4]]), torch.zeros(0, 2), torch.tensor([[5.0, 6]])]
    kinds = [torch.tensor([0, 1]), torch.zeros(0), torch.tensor([1], dtype=torch.int16)]
    batch = Keypoints.of_samples(places, kinds)
    assert batch.coordinates.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert batch.sample.tolist() == [0, 0, 2]
    assert batch.class_index.tolist() == [0, 1, 1]
    assert len(Keypoints.of_samples(places[1:2], kinds[1:2])) == 0
    for wrong_places, wrong_kinds in (
        ([], []),
        (places, kinds[:2]),
        (places[:1], kinds[1:2]),
        ([*places, torch.zeros(1, 3)], [*kinds, torch.zeros(1)]),
    ):
        with pytest.raises(ShapeError):
            Keypoints.of_samples(wrong_places, wrong_kinds)


@pytest.mark.parametrize("combine", ["max", "sum"])
def test_no_keypoint_is_all_zero(combine: str) -> None:
    nothing = keypoints(np.zeros((0, 3)))
    found = render_heatmaps(
        nothing, Grid.of((20, 16, 16)), samples=2, classes=3, sigma=cells(classes=3),
        combine=combine,  # type: ignore[arg-type]
    )  # fmt: skip
    assert found.shape == (2, 3, 2, 1, 1)
    assert found.dtype == torch.float32
    assert not found.any()


def test_angstrom_follow_the_spacing_of_each_sample_and_axis() -> None:
    """80 A are 8 voxels of 10 A, which are 2 cells, and 4 voxels of 20 A, which are one."""
    grid = Grid.of((16, 16, 16), 4)
    points = keypoints([[5.5, 5.5, 5.5]] * 2, sample=[0, 1])
    sigma = Sigma.of(axes=3, classes=1, sigma_angstrom=80)
    spacing = torch.tensor([[10.0, 10, 20], [20, 20, 20]])
    found = render_heatmaps(
        points, grid, samples=2, classes=1, sigma=sigma, spacing_angstrom=spacing
    )
    for index, widths in enumerate(([2.0, 2, 1], [1.0, 1, 1])):
        alone = one(keypoints([[5.5, 5.5, 5.5]]), grid, sigma=cells(widths))
        assert np.array_equal(found[index, 0].numpy(), alone)


def test_truncation_cuts_an_ellipsoid() -> None:
    grid = Grid.of((28, 28), 4)
    points = keypoints([[13.5, 13.5]])
    whole = one(points, grid, sigma=cells(axes=2))
    for combine in ("max", "sum"):
        cut = one(points, grid, sigma=cells(axes=2), combine=combine, truncate=2.0)
        y, x = np.mgrid[-3:4, -3:4]
        inside = y**2 + x**2 <= 4
        assert cut == pytest.approx(np.where(inside, whole, 0), abs=1e-7)
        assert not cut[~inside].any()


def test_a_last_cell_that_reaches_beyond_the_patch_counts_as_whole() -> None:
    found = one(keypoints([[5.5, 1.5]]), Grid.of((6, 4), 4), sigma=cells(axes=2))
    assert found[:, 0] == pytest.approx([math.exp(-1 / 2), 1])


def test_nothing_is_denormal() -> None:
    found = one(keypoints([[0.0, 0, 0]]), Grid.of((64,) * 3, 4), sigma=cells(0.9))
    assert (found == 0).any()
    assert found[found > 0].min() >= np.finfo(np.float32).tiny


# ---- against others ---------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["max", "sum"])
def test_it_equals_scipy_s_gaussian_filter_at_the_centres(combine: str) -> None:
    """A delta volume, filtered, is what everybody renders; it knows whole voxels only.

    scipy's kernel is normalised over its taps, hence the amplitude; between voxels its cubic
    splines interpolate, whose error at sigma 5 is below 1e-4.
    """
    draws = np.random.default_rng(5)
    shape, factor, sigma = (32, 40, 48), 8, (5.0, 6.0, 8.0)
    # Apart for the maximum, where scipy can only add.
    places = draws.integers(0, shape, (6, 3)) if combine == "sum" else np.array([[9, 20, 30]])
    volume = np.zeros(shape)
    np.add.at(volume, tuple(places.T), math.prod(sigma) * (2 * math.pi) ** 1.5)
    smooth = ndimage.gaussian_filter(volume, sigma, mode="constant", truncate=8)
    expected = np.minimum(at_centres(smooth, factor), 1)
    found = one(
        keypoints(places), Grid.of(shape, factor), combine=combine,
        sigma=cells([each / factor for each in sigma]),
    )  # fmt: skip
    assert found == pytest.approx(expected, abs=2e-4)


@quick
@given(seeds, st.sampled_from([2, 3]), st.sampled_from(["max", "sum"]), st.booleans())
def test_it_equals_dense_evaluation(seed: int, axes: int, combine: str, turned: bool) -> None:
    """With an odd factor the centres are voxels, so that nothing is interpolated."""
    shape, factor, count = (15, 20, 25)[:axes], 5, seed % 7
    places = drawn(seed, count, shape)
    if turned:
        spread = spreads(seed, count, axes, 2, 9)
        points, sigma = keypoints(places, covariance=spread), None
    else:
        points, sigma = keypoints(places), cells([0.5, 1, 1.7][:axes], axes=axes)
        spread = np.stack([np.diag(np.array([2.5, 5, 8.5])[:axes] ** 2)] * count or [np.eye(axes)])
    expected = dense(places, spread[:count], shape, combine)[(slice(2, None, 5),) * axes]
    found = one(points, Grid.of(shape, factor), sigma=sigma, combine=combine)
    # Half a last bit of float32 near 1, and the rounded distance.
    assert found == pytest.approx(expected, abs=1e-7)


@quick
@given(seeds, st.sampled_from(["max", "sum"]), st.sampled_from([None, 2.5]))
def test_a_covariance_along_the_axes_is_a_sigma(
    seed: int, combine: str, truncate: float | None
) -> None:
    grid, points = Grid.of((32, 24, 40), 8), keypoints(drawn(seed, 9, (32, 24, 40)))
    sigma = cells([0.7, 1, 1.5])
    with_own = Keypoints(
        points.coordinates, points.sample, points.class_index, sigma.covariance(points, grid)
    )
    one_way = one(points, grid, sigma=sigma, combine=combine, truncate=truncate)
    other = one(with_own, grid, combine=combine, truncate=truncate)
    assert one_way == pytest.approx(other, abs=1e-7)


@quick
@given(seeds, st.sampled_from(["max", "sum"]), st.sampled_from([1, 300, 5000]), st.booleans())
def test_the_size_of_blocks_does_not_matter(
    seed: int, combine: str, numbers: int, turned: bool
) -> None:
    draws = np.random.default_rng(seed)
    grid, count = Grid.of((24, 32), 8), int(draws.integers(1, 60))
    places = drawn(seed, count, grid.shape)
    points = keypoints(
        places,
        sample=draws.integers(0, 5, count) ** 2 // 4,
        class_index=draws.integers(0, 2, count),
        covariance=spreads(seed, count, 2, 4, 12) if turned else None,
    )
    sigma = None if turned else cells(axes=2, classes=2)

    def render(truncate: float | None = None) -> torch.Tensor:
        return render_heatmaps(
            points, grid, samples=5, classes=2, sigma=sigma, combine=combine, truncate=truncate  # type: ignore[arg-type]
        )  # fmt: skip

    whole, cut = render(), render(3.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "CPU_NUMBERS", numbers)
        assert torch.allclose(whole, render(), rtol=0, atol=1e-7)
        assert torch.allclose(cut, render(3.0), rtol=0, atol=1e-7)


# ---- what is wrong ----------------------------------------------------------------------------


def wrong(points: Keypoints, sigma: Sigma | None, **more: object) -> str:
    arguments: dict[str, object] = {"samples": 2, "classes": 2, **more}
    with pytest.raises((UserError, ShapeError)) as caught:
        render_heatmaps(points, Grid.of((32, 32), 16), sigma=sigma, **arguments)  # type: ignore[arg-type]
    return str(caught.value)


def test_wrong_keypoints_are_refused() -> None:
    sigma = cells(axes=2, classes=2)
    point = [[3.0, 4.0]]
    assert "of class 2; allowed: 0 to 1" in wrong(keypoints(point, class_index=[2]), sigma)
    assert "of class -1;" in wrong(keypoints(point, class_index=[-1]), sigma)
    assert "of sample 7; allowed: 0 to 1" in wrong(keypoints(point, sample=[7]), sigma)
    for bad in (math.nan, math.inf):
        said = wrong(keypoints([[1.0, 1], [3, bad]]), sigma)
        assert "keypoint 1 of the batch: the coordinates [3.0," in said
    flat = np.array([[[4.0, 4], [4, 4]]])
    for spread in (flat, -np.eye(2)[None], np.full((1, 2, 2), math.nan), np.zeros((1, 2, 2))):
        assert "not positive definite" in wrong(keypoints(point, covariance=spread), None)


def test_wrong_arguments_are_refused() -> None:
    sigma, points = cells(axes=2, classes=2), keypoints([[3.0, 4.0]])
    assert "max, sum" in wrong(points, sigma, combine="mean")
    for bad in (0.0, -1.0, math.nan):
        assert "truncate" in wrong(points, sigma, truncate=bad)
    assert "3 axes and the patch 2" in wrong(keypoints([[1.0, 2, 3]]), sigma)
    assert "2 classes and the target 3" in wrong(points, sigma, classes=3)
    own = keypoints([[3.0, 4.0]], covariance=np.eye(2)[None])
    for both in ((own, sigma), (points, None)):
        assert "either a sigma or covariances" in wrong(*both)
    physical = Sigma.of(axes=2, classes=2, sigma_angstrom=10)
    assert "needs the spacing" in wrong(points, physical)
    assert "spacing is" in wrong(points, physical, spacing_angstrom=torch.ones(3))


def test_a_sigma_that_vanishes_between_centres_is_refused_with_the_least_that_does_not() -> None:
    with pytest.raises(UserError, match=r"ds_sigma 0.09 .*; allowed: 0.1 or more"):
        cells(0.09)
    cells(0.1)
    # 16 voxels of 10 A: a tenth of a cell is 16 A.
    sigma = Sigma.of(axes=2, classes=1, sigma_angstrom=15)
    grid = Grid.of((64, 64), 16)
    with pytest.raises(UserError, match=r"15 of class 0 along axis 1 .*; allowed: 16 or more"):
        sigma.check(grid, [5, 10])
    sigma.check(grid, [5, 9])
    Sigma.of(axes=2, classes=1, sigma_angstrom=16).check(grid, [10, 10])
    for spacing in (None, [0, 1], [1, math.nan]):
        with pytest.raises(UserError, match="needs the spacing"):
            sigma.check(grid, spacing)
    spacing = torch.tensor([10.0, 10.0])
    with pytest.raises(UserError, match=r"sigma is 0.0938 coarse cells"):
        render_heatmaps(
            keypoints([[1.0, 1]]), grid, samples=1, classes=1, sigma=sigma,
            spacing_angstrom=spacing,
        )  # fmt: skip


@pytest.mark.parametrize(
    "given",
    [0, -1, math.nan, math.inf, [1, 2, 3], [1], {0: 1}, {0: 1, 2: 1}, {0: 1, 1: [1, 2, 3]}, "a"],
)
def test_other_widths_are_refused(given: object) -> None:
    with pytest.raises(UserError):
        Sigma.of(axes=2, classes=2, ds_sigma=given)  # type: ignore[arg-type]
    with pytest.raises(UserError):
        Sigma.of(axes=2, classes=2, sigma_angstrom=given)  # type: ignore[arg-type]


def test_a_width_is_given_once() -> None:
    with pytest.raises(UserError, match="once"):
        Sigma.of(axes=2, classes=1)
    with pytest.raises(UserError, match="once"):
        Sigma.of(axes=2, classes=1, ds_sigma=1, sigma_angstrom=1)


def test_wrong_shapes_are_refused() -> None:
    place, index = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    for bad in (
        (torch.zeros(2, 4), index, index),
        (torch.zeros(2), index, index),
        (place, index[:1], index),
        (place, index, index.float()),
        (place.long(), index, index),
        (place, index, index, torch.zeros(2, 2, 2)),
    ):
        with pytest.raises(ShapeError):
            Keypoints(*bad)
    for shape in ((3,), (0, 3), (1, 2, 3, 4)):
        with pytest.raises(ShapeError):
            Grid.of(shape, 2)
    for factor in (0, [2], [2, 0], [1.5, 2]):
        with pytest.raises(UserError):
            Grid.of((8, 8), factor)  # type: ignore[arg-type]
