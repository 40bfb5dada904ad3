"""Random parts of the frame, against scipy and torch's interpolation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import functional

from vesselflow.augment.compose import compose
from vesselflow.augment.cropping import RandomResizedCrop
from vesselflow.augment.draws import Draws
from vesselflow.targets.keypoints import Keypoints

torch.set_num_threads(1)


def by_scipy(plane, numbers, area, ratio):
    """A plane (H, W) after the crop that four numbers in [0, 1) say; linear."""
    share = np.exp(np.log(area[0]) + numbers[0] * np.log(area[1] / area[0]))
    shape = np.exp(np.log(ratio[0]) + numbers[1] * np.log(ratio[1] / ratio[0]))
    sides = np.array([min(1, np.sqrt(share / shape)), min(1, np.sqrt(share * shape))])
    size = np.array(plane.shape)
    first = np.array([numbers[3], numbers[2]]) * (1 - sides) * size
    places = np.stack(np.meshgrid(*map(np.arange, plane.shape), indexing="ij")).reshape(2, -1)
    before = first[:, None] + (places + 0.5) * sides[:, None] - 0.5
    return ndimage.map_coordinates(plane, before, order=1, mode="nearest").reshape(plane.shape)


def test_golden_values_are_those_of_scipy():
    golden = yaml.safe_load(
        (Path(__file__).parents[1] / "contracts" / "golden.yaml").read_text(encoding="utf-8")
    )["augment"]["random_resized_crop"][1]
    ramp = np.arange(2 * 3 * 64, dtype=np.float64).reshape(2, 3, 8, 8)
    image = 0.5 + 0.45 * np.sin(ramp * np.float64(np.float32(0.7)))
    target = (image[:, :1] > 0.5).astype(float)
    base = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(7)))
    numbers = Draws(base, "random_resized_crop", 2).uniform(5)[:, 1:].numpy()
    limits = (0.5, 1), (0.75, 4 / 3)
    moved = [
        np.array([[by_scipy(plane, numbers[n], *limits) for plane in planes[n]] for n in range(2)])
        for planes in (image, target, np.ones_like(target))
    ]
    weights = np.cos(ramp * np.pi / 50)
    assert golden == pytest.approx([(t * weights[:, : t.shape[1]]).mean() for t in moved], abs=2e-6)


@settings(deadline=None, max_examples=15)
@given(
    low=st.floats(0.1, 1), wide=st.floats(1, 3), seed=st.integers(0, 99), height=st.integers(9, 24)
)
def test_any_crop_is_scipys(low, wide, seed, height):
    part = RandomResizedCrop(p=1.0, area=(low, 1.0), ratio=(1 / wide, wide))
    g = torch.Generator().manual_seed(seed)
    image = torch.rand(3, 2, height, 20, generator=g, dtype=torch.float64)
    target, fov = image[:, :1].clone(), torch.ones_like(image[:, :1])
    draws, before = Draws(seed, "random_resized_crop", 3), image.numpy().copy()
    part.apply(image, target, fov, draws)
    numbers = draws.uniform(5)[:, 1:].numpy()
    for sample in range(3):
        expected = by_scipy(before[sample, 1], numbers[sample], (low, 1.0), (1 / wide, wide))
        assert np.abs(image[sample, 1].numpy() - expected).max() < 1e-9
    assert fov.min() == 1


def test_a_quarter_is_torchs_interpolation_of_it():
    # The box begins at whole px by chance of none: so of a linear ramp, which is one everywhere.
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    image = torch.stack([y, x])[None] / 32
    found, *_ = compose({"random_resized_crop": {"p": 1, "area": [0.25, 0.25], "ratio": [1, 1]}})(
        image, image[:, :1], torch.ones(1, 1, 32, 32), generator=torch.Generator().manual_seed(3)
    )
    part = functional.interpolate(image[..., :16, :16], scale_factor=2, mode="bilinear")
    shift = found[0, :, 15, 15] - part[0, :, 15, 15]
    inner = slice(2, -2)
    expected = part + shift.view(1, 2, 1, 1)
    assert torch.allclose(found[..., inner, inner], expected[..., inner, inner], atol=1e-5)


def test_keypoints_lie_where_an_image_of_coordinates_says():
    size = (3, 40, 56)
    places = torch.tensor([[1.0, 20.0, 28.0], [0.0, 17.0, 31.0], [2.0, 22.0, 25.0]]).double()
    which = torch.zeros(3, dtype=torch.int64)
    points = Keypoints(places, which, which, torch.eye(3).double().expand(3, 3, 3))
    axes = torch.meshgrid(*(torch.arange(n).double() for n in size), indexing="ij")
    image = torch.stack(axes)[None]
    *_, after = compose({"random_resized_crop": {"p": 1, "area": [0.4, 0.6]}}).moved(
        image,
        image[:, :1],
        torch.ones_like(image[:, :1]),
        points,
        generator=torch.Generator().manual_seed(2),
    )
    seen = compose({"random_resized_crop": {"p": 1, "area": [0.4, 0.6]}})(
        image,
        image[:, :1],
        torch.ones_like(image[:, :1]),
        generator=torch.Generator().manual_seed(2),
    )[0][0]
    for before, there in zip(places, after.coordinates, strict=True):
        found = [
            ndimage.map_coordinates(axis.numpy(), there.numpy()[:, None], order=1) for axis in seen
        ]
        assert np.concatenate(found) == pytest.approx(before.numpy(), abs=1e-6)
    assert (after.covariance[:, 1, 1] > 1.2).all()
    assert (after.covariance[:, 0, 0] == 1).all()


def test_a_box_of_all_is_the_identity_and_sides_have_their_shares():
    image = torch.rand(2, 3, 16, 24)
    ones = torch.ones(2, 1, 16, 24)
    spec = {"random_resized_crop": {"p": 1, "area": [1, 1], "ratio": [1, 1]}}
    found = compose(spec)(image, ones, ones, generator=torch.Generator())
    assert torch.allclose(found[0], image, atol=1e-5)
    part = RandomResizedCrop(p=1.0, area=(0.25, 0.5), ratio=(0.5, 2.0))
    _, matrices = part._drawn((30, 50), Draws(0, "random_resized_crop", 500))
    sides = 1 / torch.stack([matrices[:, 0, 0], matrices[:, 1, 1]])
    assert sides.max() <= 1
    areas, ratios = sides.prod(dim=0), sides[0] / sides[1]
    assert areas.min() == pytest.approx(0.25, abs=0.01)
    assert areas.max() == pytest.approx(0.5, abs=0.01)
    assert ratios.min() == pytest.approx(0.5, abs=0.03)
    assert ratios.max() == pytest.approx(2, abs=0.1)
