"""Displacement fields: what they are, that they fold nowhere, and their inverse."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.interpolate import BSpline

from vesselflow.augment.compose import compose
from vesselflow.augment.displacements import STEEPEST, TOLERANCE_PX, Displacement, displaced
from vesselflow.augment.draws import Draws
from vesselflow.errors import UserError
from vesselflow.targets.keypoints import Keypoints

torch.set_num_threads(1)

quick = settings(deadline=None, max_examples=20)
seeds = st.integers(0, 2**31)
sizes = st.sampled_from([(20, 20), (17, 40), (9, 12, 21), (33, 5, 8)])
spacings = st.sampled_from([4.0, 7.5, 32.0])
strengths = st.sampled_from([0.1, 1.0, 5.0, 1000.0])


def field(seed: int, size: tuple[int, ...], spacing: float, std: float) -> Displacement:
    return Displacement.drawn(torch.Generator().manual_seed(seed), size, spacing, std)


def anywhere(
    seed: int, size: tuple[int, ...], count: int = 50, beyond: float = 0.0
) -> torch.Tensor:
    draws = np.random.default_rng(seed)
    ends = np.array(size) - 0.5
    return torch.from_numpy(draws.uniform(-0.5 - beyond, ends + beyond, (count, len(size))))


@quick
@given(seeds, sizes, spacings)
def test_a_field_is_the_spline_that_scipy_makes(
    seed: int, size: tuple[int, ...], spacing: float
) -> None:
    one = field(seed, size, spacing, 1.0)
    expected = one.coefficients.numpy()
    for axis, n in enumerate(size):
        cells = expected.shape[axis + 1] - 3
        # Knots lie at the ends of cells, and three beyond; the grid is centred on the frame.
        knots = (np.arange(-3, cells + 4) - cells / 2) * spacing + n / 2 - 0.5
        basis = BSpline.design_matrix(np.arange(n, dtype=float), knots, 3).toarray()
        expected = np.moveaxis(np.tensordot(expected, basis, axes=(axis + 1, 1)), -1, axis + 1)
    found = one.dense(torch.device("cpu"), torch.float64).numpy()
    assert found.shape == (len(size), *size)
    assert found == pytest.approx(expected, abs=1e-12)
    single = one.dense(torch.device("cpu"), torch.float32).numpy()
    assert single == pytest.approx(expected, abs=1e-5)


@quick
@given(seeds, sizes, spacings)
def test_a_field_at_places_and_its_derivatives(
    seed: int, size: tuple[int, ...], spacing: float
) -> None:
    one = field(seed, size, spacing, 1.0)
    dense = one.dense(torch.device("cpu"), torch.float64)
    mesh = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in size))
    assert torch.allclose(one.at(mesh).T.reshape(dense.shape), dense)
    assert (one.at(mesh) >= one.bounds()[0]).all()
    assert (one.at(mesh) <= one.bounds()[1]).all()
    places, step = anywhere(seed, size), 1e-5
    slopes = one.jacobian(places)
    inside = ((places > -0.5 + step) & (places < torch.tensor(size) - 0.5 - step)).all(1)
    # Beyond the frame it goes on as it is at the edge.
    far = places.clone()
    far[:, 0] = size[0] + 3.0
    edge = far.clone()
    edge[:, 0] = size[0] - 0.5
    assert torch.equal(one.at(far), one.at(edge))
    assert (one.jacobian(far)[:, :, 0] == 0).all()
    for axis in range(len(size)):
        aside = torch.zeros(len(size), dtype=torch.float64)
        aside[axis] = step
        change = (one.at(places + aside) - one.at(places - aside)) / (2 * step)
        assert torch.allclose(slopes[inside, :, axis], change[inside], atol=1e-6)


@quick
@given(seeds, sizes, spacings, strengths)
def test_no_field_is_steeper_than_it_says_nor_than_it_may(
    seed: int, size: tuple[int, ...], spacing: float, std: float
) -> None:
    one = field(seed, size, spacing, std)
    bound = one.steepness()
    assert 0 < bound <= STEEPEST * (1 + 1e-9)
    found = float(one.jacobian(anywhere(seed, size, 4000)).abs().sum(-1).max())
    assert found <= bound * (1 + 1e-9)
    # Not by far, where the frame has the whole of the grid's cells.
    if spacing < 8:
        assert found > 0.4 * bound
    first, second = anywhere(seed, size, beyond=30), anywhere(seed + 1, size, beyond=30)
    apart = (first - second).abs().amax(1)
    assert ((one.at(first) - one.at(second)).abs().amax(1) <= bound * apart * (1 + 1e-9)).all()


@quick
@given(seeds, sizes, spacings, strengths)
def test_the_inverse_is_exact_also_beyond_the_frame(
    seed: int, size: tuple[int, ...], spacing: float, std: float
) -> None:
    one, places = field(seed, size, spacing, std), anywhere(seed, size, beyond=20)
    there = one.inverse(places)
    assert (there + one.at(there) - places).abs().max() < TOLERANCE_PX * (1 + STEEPEST)


def test_the_root_mean_square_is_what_was_asked_for() -> None:
    for size in ((64, 64), (40, 40, 40)):
        fields = [field(seed, size, 8.0, 0.3) for seed in range(60)]
        values = [one.dense(torch.device("cpu"), torch.float64) for one in fields]
        assert float(torch.stack(values).square().mean().sqrt()) == pytest.approx(0.3, rel=0.03)


def test_a_covariance_moves_by_the_derivative_of_the_inverse() -> None:
    one = field(3, (20, 24), 8.0, 1.0)
    places = anywhere(5, (15, 20), 6) + 1
    spread = torch.eye(2, dtype=torch.float64).repeat(6, 1, 1)
    spread[:, 0, 1] = spread[:, 1, 0] = 0.4
    zero = torch.zeros(6, dtype=torch.int64)
    after = displaced(Keypoints(places, zero, zero, spread), {0: one})
    step = 0.05  # the inverse is known to 1e-4 only
    around = [torch.tensor([step, 0.0]), torch.tensor([0.0, step])]
    ends = [(one.inverse(places + aside), one.inverse(places - aside)) for aside in around]
    slopes = torch.stack([(end - start) / (2 * step) for end, start in ends], dim=-1)
    assert torch.allclose(after.coordinates, one.inverse(places))
    assert after.covariance is not None
    assert torch.allclose(after.covariance, slopes @ spread @ slopes.mT, atol=0.01)


@pytest.mark.parametrize("size", [(24, 30), (12, 16, 20)])
@pytest.mark.parametrize("border", ["outside", "reflect"])
def test_pixels_come_from_where_the_field_says(size: tuple[int, ...], border: str) -> None:
    image = torch.rand(2, 1, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    arguments = {"p": 1, "std_px": 2, "spacing_px": 10, "axes": "all", "border": border}
    result, _, fov = compose({"elastic": arguments})(
        image, image, torch.ones_like(image), generator=torch.Generator().manual_seed(4)
    )
    base = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(4)).item())
    draws = Draws(base, "elastic", 2)
    mesh = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij")).astype(float)
    for index in range(2):
        std = 2 * float(draws.uniform(2)[index, 1])
        one = Displacement.drawn(draws.stream(index, "field"), size, 10.0, std)
        places = mesh + one.dense(torch.device("cpu"), torch.float64).numpy()
        mode = "reflect" if border == "reflect" else "nearest"
        expected = ndimage.map_coordinates(image[index, 0].numpy(), places, order=1, mode=mode)
        inside = fov[index, 0].numpy() > 0
        assert np.abs(result[index, 0].numpy() - expected)[inside].max() < 1e-9
        assert inside.all() == (border == "reflect")
        assert (result[index, 0].numpy()[~inside] == 0).all()


def test_of_a_volume_all_slices_move_alike_unless_asked_otherwise() -> None:
    slices = torch.rand(1, 1, 1, 20, 20).expand(1, 1, 4, 20, 20).contiguous()
    ones = torch.ones_like(slices)
    key = torch.Generator().manual_seed(0)
    plane = compose({"elastic": {"p": 1, "spacing_px": 8}})(slices, slices, ones, generator=key)[0]
    assert not torch.equal(plane, slices)
    assert torch.equal(plane, plane[:, :, :1].expand_as(plane))
    every = {"elastic": {"p": 1, "spacing_px": 8, "axes": "all"}}
    solid = compose(every)(slices, slices, ones, generator=key)[0]
    assert not torch.allclose(solid, solid[:, :, :1].expand_as(solid), atol=0.01)


def test_no_strength_keeps_the_image() -> None:
    image = torch.rand(2, 1, 10, 12)
    same, _, fov = compose({"elastic": {"p": 1, "std_px": 0}})(
        image, image, torch.ones_like(image), generator=torch.Generator()
    )
    assert torch.allclose(same, image, atol=1e-5)
    assert fov.min() == 1


def test_control_points_too_close_are_refused() -> None:
    with pytest.raises(UserError, match=r"augment\.elastic\.spacing_px: 1\.0 is not allowed"):
        compose({"elastic": {"spacing_px": 1.0}})
