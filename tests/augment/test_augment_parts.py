from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from vesselflow.augment.affine_maps import of_axes
from vesselflow.augment.chain import Lookup, affine_lookup, resample
from vesselflow.augment.compose import compose
from vesselflow.augment.draws import Draws
from vesselflow.augment.photometric import colour_matrix
from vesselflow.errors import ShapeError, UserError

torch.set_num_threads(1)


def run(spec, image, target=None, fov=None, seed: int = 0):
    n, _, height, width = image.shape
    target = torch.zeros(n, 1, height, width) if target is None else target
    fov = torch.ones(n, 1, height, width) if fov is None else fov
    return compose(spec)(image, target, fov, generator=torch.Generator().manual_seed(seed))


def test_registries_import_neither_torch_nor_kornia():
    code = (
        "import sys, vesselflow.augment, vesselflow.models;"
        "bad = {'torch', 'kornia', 'segmentation_models_pytorch'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["hflip", "vflip"])
def test_flipping_twice_is_the_identity(name):
    image = torch.rand(2, 3, 7, 9)
    once = run({name: {"p": 1.0}}, image)
    twice = compose({name: {"p": 1.0}})(*once, generator=torch.Generator())
    assert torch.equal(twice[0], image)


def test_flips_and_turns_by_hand():
    image = torch.arange(4.0).view(1, 1, 2, 2) / 4  # 0 1 / 2 3, in quarters
    quarters = lambda t: (t * 4).flatten().tolist()  # noqa: E731
    assert quarters(run({"hflip": {"p": 1}}, image)[0]) == [1, 0, 3, 2]
    assert quarters(run({"vflip": {"p": 1}}, image)[0]) == [2, 3, 0, 1]
    turned = {tuple(quarters(run({"rotate90": {"p": 1}}, image, seed=s)[0])) for s in range(20)}
    assert turned == {(1, 3, 0, 2), (3, 2, 1, 0), (2, 0, 3, 1)}


def test_rotate90_turns_what_is_not_square_by_180_degrees():
    image = torch.rand(3, 2, 4, 8)
    assert torch.equal(run({"rotate90": {"p": 1}}, image)[0], image.flip(-1, -2))


def test_order_in_the_config_does_not_matter():
    image = torch.rand(2, 3, 16, 16)
    first = run({"gamma": {"p": 1}, "hflip": {"p": 1}, "affine": {"p": 1}}, image)
    second = run({"affine": {"p": 1}, "hflip": {"p": 1}, "gamma": {"p": 1}}, image)
    assert torch.equal(first[0], second[0])


def test_empty_section_is_the_identity():
    image = torch.rand(2, 3, 8, 8)
    assert torch.equal(run({}, image)[0], image)


def test_a_batch_without_samples():
    spec = {
        "rotate90": {"p": 1, "axes": "all"},
        "affine": {"p": 1},
        "elastic": {"p": 1, "border": "reflect"},
        "gaussian_noise": {"p": 1},
        "color_jitter": {"p": 1},
    }
    assert run(spec, torch.zeros(0, 3, 8, 8))[0].shape == (0, 3, 8, 8)


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ({"hflop": {}}, "augment: unknown augmentation 'hflop'"),
        ({"hflip": {"p": 1.5}}, "augment.hflip.p: 1.5 is not allowed"),
        ({"affine": {"degree": 3}}, "augment.affine.degree: unknown key 'degree'"),
        ({"affine": {"scale": [1.2, 0.8]}}, "augment.affine.scale: [1.2, 0.8] is not allowed"),
        ({"gamma": {"gamma": [0.0, 1.0]}}, "augment.gamma.gamma.0: 0.0 is not allowed"),
    ],
)
def test_bad_config_is_one_line_with_the_key(spec, line):
    with pytest.raises(UserError) as caught:
        compose(spec)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


def test_shapes_that_do_not_fit():
    image, plane = torch.zeros(2, 3, 8, 8), torch.zeros(2, 1, 8, 8)
    with pytest.raises(ShapeError, match="fov"):
        run({}, image, plane, plane[:1])
    with pytest.raises(ShapeError, match="target"):
        run({}, image, torch.zeros(2, 1, 8, 4), plane)


def affine(**changes):
    still = {"p": 1, "degrees": 0, "scale": [1, 1], "translate": 0, "shear_degrees": 0}
    return {"affine": {**still, **changes}}


def test_affine_of_no_strength_keeps_the_image():
    image = torch.rand(2, 3, 16, 24)
    result, _, fov = run(affine(), image)
    assert torch.allclose(result, image, atol=1e-5)
    assert fov.min() == 1


def plane_lookup(matrix: torch.Tensor) -> Lookup:
    """Of a map of (x, y), (2, 3)."""
    return affine_lookup(of_axes(matrix[None], 2)[0], "outside")


def test_warp_by_a_quarter_turn_about_the_centre_is_rot90():
    # (x, y) -> (c - (y - c), c + (x - c)), with the centre of n pixels at c = (n - 1) / 2:
    # clockwise as displayed (y points down).
    n = 10
    c = (n - 1) / 2
    matrix = torch.tensor([[0.0, -1.0, 2 * c], [1.0, 0.0, 0.0]], dtype=torch.float64)
    image = torch.rand(3, n, n, dtype=torch.float64)
    ones = torch.ones(1, n, n, dtype=torch.float64)
    result, _, fov = resample(image, image[:1], ones, [plane_lookup(matrix)])
    assert torch.allclose(result, torch.rot90(image, -1, (-2, -1)), atol=1e-9)
    assert fov.min() == 1


@settings(deadline=None, max_examples=15)
@given(a=st.floats(-0.4, 0.4), b=st.floats(-0.4, 0.4), x=st.floats(-6, 6), y=st.floats(-6, 6))
def test_warp_agrees_with_scipy(a, b, x, y):
    forward = np.array([[1 + a, b, x], [-b / 2, 1 - a / 2, y], [0, 0, 1]])
    g = torch.Generator().manual_seed(0)
    image = torch.rand(1, 20, 32, generator=g, dtype=torch.float64)
    ones = torch.ones(1, 20, 32, dtype=torch.float64)
    lookup = plane_lookup(torch.from_numpy(forward[:2]))
    result, target, fov = resample(image, image, ones, [lookup])
    # scipy maps (row, column) of the result to the source, so the inverse with swapped axes.
    inverse = np.linalg.inv(forward)
    expected = ndimage.affine_transform(
        image[0].numpy(), inverse[1::-1, 1::-1], inverse[1::-1, 2], order=1, mode="nearest"
    )
    inside = fov[0].numpy() > 0
    assert np.abs(result[0].numpy() - expected)[inside].max(initial=0) < 1e-9
    assert (result[0].numpy()[~inside] == 0).all()
    assert torch.equal(result, target)
    # Inside is where the nearest source pixel exists (ties of half a pixel aside).
    rows, columns = np.meshgrid(np.arange(20), np.arange(32), indexing="ij")
    source = inverse @ np.stack([columns.ravel(), rows.ravel(), np.ones(640)])
    margin = np.minimum(
        np.minimum(source[0] + 0.5, 31.5 - source[0]), np.minimum(source[1] + 0.5, 19.5 - source[1])
    ).reshape(20, 32)
    clear = np.abs(margin) > 1e-6
    assert ((margin > 0) == inside)[clear].all()


def test_affine_stays_within_its_limits():
    # A shift of at most 10 % of 40 px moves a centred dot by at most 4 px along each axis.
    dot = torch.zeros(30, 1, 40, 40)
    dot[:, :, 19:21, 19:21] = 1
    _, moved, _ = run(affine(translate=0.1), dot.expand(-1, 3, -1, -1), dot)
    line = torch.arange(40.0)
    mass = moved.sum((1, 2, 3))
    offsets = torch.stack(
        [
            (moved.sum((1, 3)) * line).sum(1) / mass - 19.5,
            (moved.sum((1, 2)) * line).sum(1) / mass - 19.5,
        ]
    )
    assert offsets.abs().max() <= 4 + 1e-4
    assert offsets.abs().max() > 3
    # A magnification by 0.5 quarters the area; by 2 it is four times as large.
    for zoom in (0.5, 2.0):
        block = torch.zeros(30, 1, 40, 40)
        block[:, :, 12:28, 12:28] = 1
        _, scaled, _ = run(affine(scale=[zoom, zoom]), block.expand(-1, 3, -1, -1), block)
        assert float(scaled[0].sum()) == pytest.approx(256 * zoom**2, rel=0.03)


def test_opened_borders_are_outside_the_fov_and_black():
    image = torch.ones(4, 3, 32, 32)
    spec = {
        **affine(scale=[0.5, 0.5]),
        "color_jitter": {"p": 1},
        "gamma": {"p": 1},
        "gaussian_noise": {"p": 1, "std": 0.2},
    }
    result, target, fov = run(spec, image, torch.ones(4, 1, 32, 32))
    assert fov.mean() == pytest.approx(0.25)
    outside = fov == 0
    assert (result[outside.expand_as(result)] == 0).all()
    assert (target[outside] == 0).all()
    # Along the edge of the content nothing is darkened by what lies beyond.
    assert (target[fov > 0] == 1).all()


def test_colour_matrix_by_hand():
    red = torch.tensor([1.0, 0.0, 0.0])
    # Luma of red is 0.299. Saturation 0 leaves the grey of that luma.
    assert torch.allclose(colour_matrix(0.0, 0.0) @ red, torch.full((3,), 0.299), atol=1e-5)
    # Half a turn of the hue negates the colour part: 2 * luma - x.
    expected = torch.tensor([2 * 0.299 - 1, 2 * 0.299, 2 * 0.299])
    assert torch.allclose(colour_matrix(1.0, 0.5) @ red, expected, atol=1e-5)
    assert torch.allclose(colour_matrix(1.0, 0.0), torch.eye(3), atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(saturation=st.floats(0, 2), hue=st.floats(-0.5, 0.5), grey=st.floats(0, 1))
def test_colour_matrix_keeps_greys_and_luma(saturation, hue, grey):
    matrix = colour_matrix(saturation, hue)
    assert torch.allclose(matrix @ torch.full((3,), grey), torch.full((3,), grey), atol=1e-5)
    luma = torch.tensor([0.299, 0.587, 0.114])
    colour = torch.tensor([0.8, 0.3, 0.1])
    assert float(luma @ (matrix @ colour)) == pytest.approx(float(luma @ colour), abs=1e-5)


def jitter(**changes):
    still = {"p": 1, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0}
    return {"color_jitter": {**still, **changes}}


def test_brightness_and_contrast_by_hand():
    image = torch.full((1, 3, 4, 4), 0.4)
    image[:, :, :2] = 0.6  # mean grey 0.5
    base = int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(0)))
    numbers = Draws(base, "color_jitter", 1).uniform(5)[0, 1:].tolist()
    brightness = 1 + 0.2 * (2 * numbers[0] - 1)
    result = run(jitter(brightness=0.2), image)[0]
    assert float(result[0, 0, 3, 3]) == pytest.approx(0.4 * brightness, abs=1e-6)
    contrast = 1 + 0.3 * (2 * numbers[1] - 1)
    result = run(jitter(contrast=0.3), image)[0]
    assert float(result[0, 1, 0, 0]) == pytest.approx(0.5 + 0.1 * contrast, abs=1e-6)
    assert float(result[0, 1, 3, 0]) == pytest.approx(0.5 - 0.1 * contrast, abs=1e-6)


def test_jitter_agrees_with_kornia_on_saturation():
    from kornia.enhance import adjust_saturation_with_gray_subtraction

    image = torch.rand(1, 3, 6, 6) * 0.5 + 0.25  # so that nothing is clamped
    expected = adjust_saturation_with_gray_subtraction(image, 1.1)
    mixed = (colour_matrix(1.1, 0.0) @ image[0].flatten(1)).view(1, 3, 6, 6)
    assert torch.allclose(mixed, expected, atol=2e-4)  # kornia rounds its luma weights


def test_jitter_of_other_than_three_channels():
    image = torch.rand(2, 1, 8, 8)
    assert run(jitter(brightness=0.2, contrast=0.2), image)[0].shape == image.shape
    with pytest.raises(UserError, match="3 channels"):
        run(jitter(hue=0.1), image)


def test_gamma_and_noise_have_their_strength():
    image = torch.full((1, 3, 64, 64), 0.25)
    # gamma 2 exactly: 0.25 ** 2 = 0.0625.
    assert torch.allclose(
        run({"gamma": {"p": 1, "gamma": [2, 2]}}, image)[0], torch.full_like(image, 0.0625)
    )
    image = torch.full((200, 1, 16, 16), 0.5)
    noise = run({"gaussian_noise": {"p": 1, "std": 0.1}}, image)[0] - 0.5
    stds = noise.std((1, 2, 3))
    assert stds.max() < 0.115  # 0.1, and the spread of an estimate from 256 values
    # Uniform in [0, 0.1]: mean 0.05; 200 samples know it to about 0.002.
    assert float(stds.mean()) == pytest.approx(0.05, abs=0.008)
    assert abs(float(noise.mean())) < 2e-3
    assert not torch.equal(noise[0], noise[1])
