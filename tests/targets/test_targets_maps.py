"""Moved, then rendered, is rendered, then moved."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from target_cases import at_centres, dense, drawn, keypoints, spreads

from vesselflow.errors import ShapeError
from vesselflow.targets.grid import Grid, to_cells, to_voxels
from vesselflow.targets.keypoints import Keypoints, transform_keypoints
from vesselflow.targets.rendering import render_heatmaps

quick = settings(deadline=None, max_examples=25)
seeds = st.integers(0, 2**31)
axes_ = st.sampled_from([2, 3])
combines = st.sampled_from(["max", "sum"])

F = 4
SIDE = 24


def cloud(seed: int, axes: int, count: int = 6) -> Keypoints:
    shape = (SIDE,) * axes
    return keypoints(drawn(seed, count, shape), covariance=spreads(seed, count, axes, 4, 8))


def one(points: Keypoints, side: int = SIDE, combine: str = "max") -> np.ndarray:
    grid = Grid.of((side,) * points.axes, F)
    return render_heatmaps(points, grid, samples=1, classes=1, combine=combine)[0, 0].numpy()  # type: ignore[arg-type]


def affine(linear: np.ndarray, shift: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([linear, shift[:, None]], axis=1))


@quick
@given(seeds, axes_, combines, st.data())
def test_a_shift_by_cells_and_a_crop_are_exact(
    seed: int, axes: int, combine: str, data: st.DataObject
) -> None:
    corner = np.array([data.draw(st.integers(0, 3)) for _ in range(axes)])
    points = cloud(seed, axes)
    whole = one(points, combine=combine)
    cropped = one(
        points.transformed(affine(np.eye(axes), -F * corner.astype(float))), F * 3, combine
    )
    window = tuple(slice(int(c), int(c) + 3) for c in corner)
    assert cropped == pytest.approx(whole[window], abs=2e-7)


@quick
@given(seeds, axes_, combines, st.data())
def test_a_flip_is_exact(seed: int, axes: int, combine: str, data: st.DataObject) -> None:
    flipped = [a for a in range(axes) if data.draw(st.booleans())]
    linear, shift = np.eye(axes), np.zeros(axes)
    for axis in flipped:
        linear[axis, axis], shift[axis] = -1, SIDE - 1
    points = cloud(seed, axes)
    moved = one(points.transformed(affine(linear, shift)), combine=combine)
    assert moved == pytest.approx(np.flip(one(points, combine=combine), flipped), abs=2e-7)


@quick
@given(seeds, axes_, combines, st.integers(1, 3), st.data())
def test_a_quarter_turn_is_exact(
    seed: int, axes: int, combine: str, quarters: int, data: st.DataObject
) -> None:
    plane = data.draw(st.permutations(range(axes)))[:2]
    # np.rot90 takes (i, j) to (n - 1 - j, i), in the order of the plane.
    turn, shift = np.eye(axes), np.zeros(axes)
    i, j = plane
    turn[i, i], turn[i, j], turn[j, j], turn[j, i] = 0, -1, 0, 1
    shift[i] = SIDE - 1
    points = moved = cloud(seed, axes)
    for _ in range(quarters):
        moved = moved.transformed(affine(turn, shift))
    expected = np.rot90(one(points, combine=combine), quarters, axes=plane)
    assert one(moved, combine=combine) == pytest.approx(expected, abs=2e-7)


@settings(deadline=None, max_examples=12)
@given(seeds, axes_, st.sampled_from([1, 6]))
def test_scale_shear_and_rotation_agree_with_a_warp_of_the_dense_map(
    seed: int, axes: int, count: int
) -> None:
    """The other way warps the full-resolution map, so that it interpolates twice.

    The tolerance is the cubic splines' error on Gaussians of 4 voxels or more, magnified by 0.8 or
    more: over 150 examples at most 0.005 on a single one, and 0.022 where two meet in a crease,
    which splines round off.
    """
    draws = np.random.default_rng(seed)
    turn = np.linalg.qr(draws.standard_normal((axes, axes)))[0]
    shear = np.eye(axes)
    shear[0, 1] = draws.uniform(-0.3, 0.3)
    linear = turn @ shear * draws.uniform(0.8, 1.25)
    middle = np.full(axes, (SIDE - 1) / 2)
    shift = middle - linear @ middle + draws.uniform(-2, 2, axes)
    points = cloud(seed, axes, count)
    assert points.covariance is not None
    # Rendered with a margin, so that nothing comes from beyond it.
    margin = 24
    wide = dense(
        points.coordinates.numpy() + margin,
        points.covariance.numpy(),
        (SIDE + 2 * margin,) * axes,
    )
    back = np.linalg.inv(linear)
    warped = ndimage.affine_transform(
        wide, back, offset=margin - back @ shift, output_shape=(SIDE,) * axes, order=3
    )
    moved = one(points.transformed(affine(linear, shift)))
    off = np.abs(moved - at_centres(warped, F))
    assert off.max() < (0.01 if count == 1 else 0.05)
    assert off.mean() < 0.005


@quick
@given(seeds, axes_)
def test_maps_follow_each_other(seed: int, axes: int) -> None:
    draws = np.random.default_rng(seed)
    first, second = (
        affine(draws.standard_normal((axes, axes)), draws.standard_normal(axes)) for _ in range(2)
    )
    both = torch.cat(
        [second[:, :axes] @ first[:, :axes],
         second[:, :axes] @ first[:, axes:] + second[:, axes:]], dim=1
    )  # fmt: skip
    points = cloud(seed, axes)
    at_once, stepwise = points.transformed(both), points.transformed(first).transformed(second)
    assert torch.allclose(at_once.coordinates, stepwise.coordinates)
    assert at_once.covariance is not None
    assert stepwise.covariance is not None
    assert torch.allclose(at_once.covariance, stepwise.covariance, rtol=1e-6)


def test_each_keypoint_may_have_its_own_map() -> None:
    points = keypoints([[1.0, 2.0], [1.0, 2.0]], sample=[0, 1], covariance=[np.diag([4.0, 1])] * 2)
    maps = torch.tensor([[[1.0, 0, 5], [0, 1, 0]], [[0, -2, 0], [1, 0, 3]]])
    moved = points.transformed(maps[points.sample])
    assert moved.coordinates.tolist() == [[6, 2], [-4, 4]]
    assert moved.covariance is not None
    assert moved.covariance.tolist() == [[[4, 0], [0, 1]], [[4, 0], [0, 4]]]
    assert moved.sample.tolist() == [0, 1]


def test_gaussians_stay_as_they_are_unless_asked() -> None:
    places, spread = transform_keypoints(
        torch.tensor([[1.0, 2.0]]), None, torch.tensor([[2.0, 0, 0], [0, 2, 0]])
    )
    assert spread is None
    assert places.tolist() == [[2, 4]]
    assert places.dtype == torch.float32


def test_maps_of_other_shapes_are_refused() -> None:
    places = torch.zeros(3, 2)
    for shape in ((2, 2), (3, 3), (2, 2, 3), (3, 3, 4)):
        with pytest.raises(ShapeError):
            transform_keypoints(places, None, torch.zeros(shape))
    with pytest.raises(ShapeError):
        transform_keypoints(places, torch.zeros(3, 3, 3), torch.zeros(2, 3))


def test_centres_of_cells() -> None:
    assert to_voxels(0, 16) == 7.5
    assert to_voxels(np.array([0, 1]), 1).tolist() == [0, 1]
    assert to_cells(to_voxels(3.25, 5), 5) == 3.25
    assert Grid.of((33, 32, 1), (16, 16, 1)).cells == (3, 2, 1)
