from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vesselflow.augment.compose import compose
from vesselflow.augment.inputs import Grades
from vesselflow.augment.normalise import normalise, patch_statistics
from vesselflow.errors import ShapeError, UserError
from vesselflow.stores.normalisations import NORMALISATIONS
from vesselflow.stores.statistics import centre_scale

torch.set_num_threads(1)


def sample(seed: int = 0, n: int = 2, channels: int = 3, size: int = 16):
    g = torch.Generator().manual_seed(seed)
    image = torch.rand(n, channels, size, size, generator=g)
    fov = (torch.rand(n, 1, size, size, generator=g) < 0.7).float()
    return image, fov


def test_normalise_by_hand():
    image = torch.tensor([[[[0.2, 0.6, 0.9]]]])
    fov = torch.tensor([[[[1.0, 1.0, 0.0]]]])
    # (0.2 - 0.4) / 0.1 = -2, (0.6 - 0.4) / 0.1 = 2, outside 0.
    result = normalise(image, fov, centre=torch.tensor([[0.4]]), scale=torch.tensor([[0.1]]))
    assert torch.allclose(result, torch.tensor([[[[-2.0, 2.0, 0.0]]]]), atol=1e-6)


def test_statistics_by_hand():
    # Inside the fov: 0, 0.2, 0.4; mean 0.2, variance (0.04 + 0 + 0.04) / 3.
    image = torch.tensor([[[[0.0, 0.2, 0.4, 9.0]]]])
    fov = torch.tensor([[[[1.0, 1.0, 1.0, 0.0]]]])
    centre, scale = patch_statistics(image, fov, "standard")
    assert float(centre) == pytest.approx(0.2)
    assert float(scale) == pytest.approx((0.08 / 3) ** 0.5)
    # Median 0.2, absolute deviations 0.2, 0, 0.2: median 0.2.
    centre, scale = patch_statistics(image, fov, "median")
    assert float(centre) == pytest.approx(0.2)
    assert float(scale) == pytest.approx(1.4826022 * 0.2)
    # 1st percentile: 2 % of the way from 0 to 0.2 = 0.004; 99th: 0.396.
    centre, scale = patch_statistics(image, fov, "percentile")
    assert float(centre) == pytest.approx(0.2)
    assert float(scale) == pytest.approx(0.196)


@pytest.mark.parametrize("method", NORMALISATIONS.names())
@pytest.mark.parametrize("per_channel", [True, False])
@settings(deadline=None, max_examples=8)
@given(seed=st.integers(0, 1000), broken=st.booleans())
def test_statistics_agree_with_those_of_sources(method, per_channel, seed, broken):
    image, fov = sample(seed)
    if broken:
        image[0, 1, 3, :5] = torch.nan
        image[1, 0, 2, 2] = torch.inf
    centre, scale = patch_statistics(image, fov, method, per_channel)
    for index in range(2):
        expected = centre_scale(
            image[index].permute(1, 2, 0).numpy(), fov[index, 0].numpy(), method, per_channel
        )
        np.testing.assert_allclose(centre[index].numpy(), expected[0], atol=1e-5)
        np.testing.assert_allclose(scale[index].numpy(), expected[1], atol=1e-5)


@pytest.mark.parametrize("method", NORMALISATIONS.names())
@pytest.mark.parametrize("per_channel", [True, False])
def test_pixels_outside_the_fov_have_no_effect(method, per_channel):
    image, fov = sample()
    other = torch.where(fov > 0, image, 77.0)
    first = patch_statistics(image, fov, method, per_channel)
    second = patch_statistics(other, fov, method, per_channel)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(
        normalise(image, fov, centre=first[0], scale=first[1]),
        normalise(other, fov, centre=second[0], scale=second[1]),
    )


@pytest.mark.parametrize("method", NORMALISATIONS.names())
@pytest.mark.parametrize("case", ["constant", "nan", "empty", "one"])
def test_degenerate_images_stay_finite(method, case):
    image, fov = sample()
    if case == "constant":
        image = torch.full_like(image, 0.3)
    elif case == "nan":
        image = torch.full_like(image, torch.nan)
    elif case == "empty":
        fov = torch.zeros_like(fov)
    else:
        fov = torch.zeros_like(fov)
        fov[:, :, 4, 4] = 1
    centre, scale = patch_statistics(image, fov, method)
    assert torch.isfinite(centre).all()
    assert torch.equal(scale, torch.ones_like(scale))
    result = normalise(image, fov, centre=centre, scale=scale)
    assert torch.isfinite(result).all()
    assert result.abs().max() < 1e-6


def test_standard_gives_mean_zero_and_deviation_one_inside():
    image, fov = sample(size=64)
    centre, scale = patch_statistics(image, fov, "standard")
    result = normalise(image, fov, centre=centre, scale=scale)
    inside = result[0, 0][fov[0, 0] > 0]
    assert float(inside.mean()) == pytest.approx(0, abs=1e-5)
    assert float(inside.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_bool_fov_and_bad_scale_and_nan_pixels():
    image, fov = sample()
    zeros, ones = torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(
        normalise(image, fov, centre=zeros, scale=ones),
        normalise(image, fov > 0, centre=zeros, scale=zeros),
    )
    image[0, 0, 0, 0] = torch.nan
    result = normalise(image, torch.ones_like(fov), centre=zeros, scale=ones)
    assert result[0, 0, 0, 0] == 0
    assert torch.isfinite(result).all()


def test_bad_input():
    image, fov = sample()
    with pytest.raises(UserError, match="unknown normalisation 'mean'"):
        patch_statistics(image, fov, "mean")
    with pytest.raises(ShapeError):
        patch_statistics(image, fov[:1], "standard")
    with pytest.raises(ShapeError):
        normalise(image, fov, centre=torch.zeros(3), scale=torch.ones(3))


def test_floats_are_graded_on_a_scale_of_their_own() -> None:
    generator = torch.Generator().manual_seed(3)
    image = 500 + 40 * torch.randn(2, 2, 8, 12, 12, generator=generator)
    image[1, 1] = -3.0  # constant
    fov = torch.ones(2, 1, 8, 12, 12)
    fov[:, :, 0] = 0
    image[:, :, 0] = 1e6
    grades = Grades.of(image, fov)
    unit = grades.to_unit(image)
    inside = unit[0, :, 1:].flatten(1)
    assert inside.mean(dim=1).tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
    assert inside.std(dim=1).tolist() == pytest.approx([0.1, 0.1], rel=1e-2)
    assert unit[1, 1, 1:].unique().tolist() == [0.5]
    torch.testing.assert_close(grades.back(unit), image, rtol=1e-5, atol=1e-3)
    # What lies far out is not cut off: the scale is wider there.
    sparse = torch.zeros(1, 1, 8, 12, 12)
    sparse[0, 0, 4, 5, 6] = 90.0
    wide = Grades.of(sparse, torch.ones_like(sparse)).to_unit(sparse)
    assert 0 <= float(wide.min()) <= float(wide.max()) <= 1
    assert float(wide.max()) == pytest.approx(1.0)
    # Whatever the range: the same noise is of the same strength.
    spec = {"gaussian_noise": {"p": 1.0, "std": 0.05}}
    moved = []
    for factor in (1.0, 1000.0):
        scaled = image[:1] * factor - 7
        own = Grades.of(scaled, fov[:1])
        noisy, _, _ = compose(spec)(
            own.to_unit(scaled), fov[:1], fov[:1], generator=torch.Generator().manual_seed(1)
        )
        moved.append((own.back(noisy) - scaled)[:, :, 1:] / factor)
    torch.testing.assert_close(moved[0], moved[1], rtol=1e-3, atol=1e-2)
    assert float(moved[0].std()) > 1


def test_an_augmenter_says_whether_it_changes_values() -> None:
    assert not compose({"hflip": {}, "affine": {}, "elastic": {}}).grades
    assert compose({"hflip": {}, "gamma": {}}).grades
    assert not compose({}).grades
