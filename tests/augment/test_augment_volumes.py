"""Maps of volumes by themselves: rotations of a grid, affine maps, warps, mirror images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vesselflow.augment.affine_maps import about_centre, of_axes, rotation, seen_through, shearing
from vesselflow.augment.arguments import Border
from vesselflow.augment.chain import affine_lookup, displaced_lookup, resample
from vesselflow.augment.compose import compose
from vesselflow.augment.mirrors import move_reflected
from vesselflow.augment.moving import Turn
from vesselflow.targets.keypoints import Keypoints

torch.set_num_threads(1)

quick = settings(deadline=None, max_examples=15)
seeds = st.integers(0, 2**31)


def volume(*size: int, seed: int = 0) -> torch.Tensor:
    draws = np.random.default_rng(seed)
    return torch.from_numpy(draws.random((1, *size)))


def some_map(seed: int, strength: float = 0.25) -> torch.Tensor:
    """A map of volumes not far from the identity, (3, 4)."""
    draws = np.random.default_rng(seed)
    linear = np.eye(3) + draws.uniform(-strength, strength, (3, 3))
    return torch.from_numpy(np.hstack([linear, draws.uniform(-3, 3, (3, 1))]))


def warped(
    image: torch.Tensor, matrix: torch.Tensor, border: Border = "outside"
) -> tuple[torch.Tensor, ...]:
    """Image, target (the same) and fov (full) by an affine map."""
    return resample(image, image, torch.ones_like(image), [affine_lookup(matrix, border)])


def turned(turn: Turn, tensor: torch.Tensor) -> torch.Tensor:
    found = tensor.clone()[None]
    turn.turn(found)
    return found[0]


@pytest.mark.parametrize("size", [(70, 70), (2, 65, 65)])
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_of_large_planes_are_those_of_torch(quarters, size) -> None:
    ramp = torch.arange(float(np.prod(size))).view(size)
    found = turned(Turn.quarters(len(size), quarters), ramp)
    assert torch.equal(found, torch.rot90(ramp, quarters, (-2, -1)))


def test_a_turn_about_another_axis_moves_voxels_as_its_matrix_says() -> None:
    ramp = torch.arange(20.0**3).view(20, 20, 20)
    voxels = np.random.default_rng(0).integers(0, 20, (40, 3))
    for turn in Turn.all_of(ramp.shape):
        matrix, found = turn.matrix(ramp.shape).numpy(), turned(turn, ramp)
        after = (voxels @ matrix[:, :3].T + matrix[:, 3]).astype(int)
        assert torch.equal(found[tuple(after.T)], ramp[tuple(voxels.T)])


@pytest.mark.parametrize(
    ("size", "count"), [((4, 4, 4), 23), ((2, 4, 4), 7), ((3, 4, 5), 3), ((4, 4), 3), ((3, 4), 1)]
)
def test_every_rotation_of_a_grid_is_there_once(size: tuple[int, ...], count: int) -> None:
    turns = Turn.all_of(size)
    assert len(set(turns)) == len(turns) == count
    ramp = torch.arange(int(np.prod(size))).view(size)
    found = {tuple(turned(turn, ramp).flatten().tolist()) for turn in turns}
    assert len(found) == count
    assert tuple(ramp.flatten().tolist()) not in found
    for turn in turns:
        assert np.linalg.det(turn.matrix(size)[:, :-1].numpy()) == pytest.approx(1)


def test_slices_are_turned_into_the_plane_only_where_that_is_asked_for() -> None:
    image = torch.zeros(200, 1, 4, 4, 4)
    image[:, :, 0] = 1  # the first slice
    key = torch.Generator().manual_seed(1)
    plane = compose({"rotate90": {"p": 1}})(image, image, image, generator=key)[0]
    assert torch.equal(plane, image)
    everywhere = compose({"rotate90": {"p": 1, "axes": "all"}})(image, image, image, generator=key)
    places = {tuple(one.nonzero()[:, 1:].float().mean(0).tolist()) for one in everywhere[0]}
    # On each of the six faces.
    assert places == {(0, 1.5, 1.5), (3, 1.5, 1.5), (1.5, 0, 1.5), (1.5, 3, 1.5), (1.5, 1.5, 0),
                      (1.5, 1.5, 3)}  # fmt: skip


@quick
@given(seeds)
def test_warp_of_a_volume_agrees_with_scipy(seed: int) -> None:
    image = volume(9, 12, 14, seed=seed)
    matrix = some_map(seed)
    result, target, fov = warped(image, matrix)
    back = np.linalg.inv(matrix[:, :3].numpy())
    offset = -back @ matrix[:, 3].numpy()
    inside = fov[0].numpy() > 0
    expected = ndimage.affine_transform(image[0].numpy(), back, offset, order=1, mode="nearest")
    assert np.abs(result[0].numpy() - expected)[inside].max(initial=0) < 1e-9
    assert (result[0].numpy()[~inside] == 0).all()
    assert torch.equal(result, target)
    mesh = np.stack(np.meshgrid(*map(np.arange, image.shape[1:]), indexing="ij"), -1)
    source = mesh @ back.T + offset
    margin = np.minimum(source + 0.5, np.array(image.shape[1:]) - 0.5 - source).min(-1)
    clear = np.abs(margin) > 1e-6
    assert ((margin > 0) == inside)[clear].all()
    # Mirrored at the outer faces of the border pixels, which scipy calls "reflect".
    mirrored, _, valid = warped(image, matrix, "reflect")
    expected = ndimage.affine_transform(image[0].numpy(), back, offset, order=1, mode="reflect")
    assert np.abs(mirrored[0].numpy() - expected).max() < 1e-9
    assert valid.min() == 1


@quick
@given(seeds, st.sampled_from(["outside", "reflect"]))
def test_a_map_of_the_plane_is_one_of_the_volume(seed: int, border: Border) -> None:
    image = volume(4, 14, 16, seed=seed)
    draws = np.random.default_rng(seed)
    plane = np.hstack([np.eye(2) + draws.uniform(-0.3, 0.3, (2, 2)), draws.uniform(-3, 3, (2, 1))])
    matrix = torch.from_numpy(plane)
    first = warped(image, of_axes(matrix[None], 2)[0], border)
    second = warped(image, of_axes(matrix[None], 3)[0], border)
    for one, other in zip(first, second, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


@quick
@given(seeds, st.sampled_from(["outside", "reflect"]))
def test_a_displacement_that_an_affine_map_makes_is_that_map(seed: int, border: Border) -> None:
    image = volume(7, 9, 11, seed=seed)
    matrix = some_map(seed)
    back = torch.linalg.inv(matrix[:, :3])
    mesh = torch.stack(
        torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in image.shape[1:]),
                       indexing="ij")
    )  # fmt: skip
    places = torch.einsum("ij,jzyx->izyx", back, mesh - matrix[:, 3].view(3, 1, 1, 1))
    ones = torch.ones_like(image)
    first = resample(image, image, ones, [displaced_lookup(places - mesh, border)])
    second = warped(image, matrix, border)
    for one, other in zip(first, second, strict=True):
        assert torch.allclose(one, other, atol=1e-9)


def test_rotations_and_shears_of_volumes() -> None:
    draws = torch.Generator().manual_seed(0)
    angles = torch.rand(50, 3, generator=draws, dtype=torch.float64) * 6 - 3
    turned = rotation(angles)
    eye = torch.eye(3, dtype=torch.float64).expand(50, 3, 3)
    assert torch.allclose(turned @ turned.mT, eye)
    assert torch.allclose(torch.linalg.det(turned), torch.ones(50, dtype=torch.float64))
    # By hand: a quarter turn about z takes y to x; about y, z to x; about x, z to y.
    for about, first, second in ((0, 1, 2), (1, 0, 2), (2, 0, 1)):
        one = torch.zeros(1, 3, dtype=torch.float64)
        one[0, about] = torch.pi / 2
        assert torch.allclose(rotation(one)[0] @ eye[0][first], eye[0][second])
        assert torch.allclose(rotation(one)[0] @ eye[0][about], eye[0][about])
    sheared = shearing(torch.rand(50, 6, generator=draws, dtype=torch.float64) * 1.4 - 0.7)
    assert torch.allclose(torch.linalg.det(sheared), torch.ones(50, dtype=torch.float64))
    centred = about_centre(sheared @ turned, (5, 8, 9), torch.zeros(50, 3, dtype=torch.float64))
    centre = torch.tensor([2.0, 3.5, 4], dtype=torch.float64)
    assert torch.allclose(centred[..., :3] @ centre + centred[..., 3], centre.expand(50, 3))


def test_what_a_frame_shows() -> None:
    half = torch.tensor([[[0.5, 0, 2], [0, 0.5, 3]]], dtype=torch.float64)
    # x' = x / 2 + b, so that x' = 0 was -2 b and x' = n - 1 was 2 (n - 1 - b).
    assert seen_through(half, (5, 9)).tolist() == [[[-4, -6], [4, 10]]]


def test_mirror_images_by_hand() -> None:
    zero = torch.zeros(3, dtype=torch.int64)
    # Frame of 10 x 10; the last keypoint lies beyond it.
    points = Keypoints(
        torch.tensor([[1.0, 5], [8, 2], [-3, 4]]),
        zero,
        zero,
        torch.tensor([[[2.0, 1], [1, 3]]] * 3),
    )
    shift = torch.tensor([[1.0, 0, 4], [0, 1, 0]])  # 4 px of the mirror image come in
    after = move_reflected(
        points,
        (10, 10),
        [0],
        torch.tensor([[[-4.0, 0], [5, 9]]], dtype=torch.float64),
        1,
        lambda given_: given_.transformed(shift),
    )
    # -1 - 1 + 4 = 2: the mirror image of the first; that of the second, -1 - 8 + 4 = -5, reaches
    # into the frame from half its size away. The third would come to 1, where the mirror is.
    assert after.coordinates.tolist() == [[5, 5], [12, 2], [2, 5], [-5, 2]]
    assert after.covariance is not None
    assert after.covariance[0].tolist() == [[2, 1], [1, 3]]
    assert after.covariance[2].tolist() == [[2, -1], [-1, 3]]


def test_affine_of_all_axes_stays_within_its_limits() -> None:
    still = {"p": 1, "degrees": 0, "scale": [1, 1], "translate": 0, "axes": "all"}
    image = torch.rand(2, 1, 9, 10, 11)
    ones = torch.ones_like(image)
    same, _, fov = compose({"affine": still})(image, image, ones, generator=torch.Generator())
    assert torch.allclose(same, image, atol=1e-5)
    assert fov.min() == 1
    one = torch.ones(40, 1, 12, 16, 20)
    key = torch.Generator().manual_seed(2)
    half = compose({"affine": {**still, "scale": [0.5, 0.5]}})(one, one, one, generator=key)
    assert float(half[2].mean()) == pytest.approx(1 / 8)
    shifted = compose({"affine": {**still, "translate": 0.25}})(one, one, one, generator=key)[2]
    for axis, n in ((2, 12), (3, 16), (4, 20)):
        others = [other for other in range(1, 5) if other != axis]
        kept = shifted.amax(others).sum(1)
        assert kept.min() >= 0.75 * n - 1
        assert kept.min() <= 0.85 * n
