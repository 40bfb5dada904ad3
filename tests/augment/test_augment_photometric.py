"""Values that change, held against scipy, scikit-image, kornia, and loops in numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import photometric_cases as by_hand
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.filters import unsharp_mask

from vesselflow.augment import blurring, inside
from vesselflow.augment.blurring import blurred
from vesselflow.augment.clahe import equalised
from vesselflow.augment.compose import compose
from vesselflow.augment.draws import Draws
from vesselflow.augment.dropping import Boxes
from vesselflow.config.experiment import load_experiment
from vesselflow.errors import UserError
from vesselflow.runs.registries import REGISTRIES

torch.set_num_threads(1)

GOLDEN = yaml.safe_load(
    (Path(__file__).parents[1] / "contracts" / "golden.yaml").read_text(encoding="utf-8")
)["augment"]


def run(spec, image, fov=None, seed: int = 0, target=None):
    fov = torch.ones(len(image), 1, *image.shape[2:]) if fov is None else fov
    target = torch.zeros_like(fov) if target is None else target
    return compose(spec)(image, target, fov, generator=torch.Generator().manual_seed(seed))


def numbers(part: str, count: int, samples: int, seed: int = 0):
    """What the part draws behind its choice, float64 (samples, count)."""
    g = torch.Generator().manual_seed(seed)
    return (
        Draws(int(torch.randint(2**62, (1,), generator=g)), part, samples)
        .uniform(1 + count)[:, 1:]
        .numpy()
    )


def disc(*size: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(size[-2]), torch.arange(size[-1]), indexing="ij")
    inside = ((y - size[-2] / 2) / size[-2]) ** 2 + ((x - size[-1] / 2) / size[-1]) ** 2 < 0.2
    return inside.float().expand(1, *size)


# -- golden values, by other means than the parts themselves ---------------------------------------


def expected_of(name: str, image: np.ndarray, base_numbers):
    """Two samples (2, 3, 8, 8) of the golden example after a part at its defaults."""
    full, found, fovs = np.ones((8, 8)), image.copy(), np.ones((2, 1, 8, 8))
    for sample in range(2):
        u, own = base_numbers[sample], image[sample]
        if name == "blur":
            found[sample] = by_hand.blurred(own, full, by_hand.log_uniform(u[0], 0.5, 1.5))
        elif name == "sharpen":
            found[sample] = by_hand.sharpened(own, full, 1.0, u[0])
        elif name == "clahe":
            clip = by_hand.log_uniform(u[0], 1, 4)
            found[sample] = [by_hand.equalised(plane, full, clip, 8) for plane in own]
        elif name == "channel_shift":
            found[sample] = np.clip(own + (0.2 * u[:3] - 0.1)[:, None, None], 0, 1)
        else:
            for (y, x), (height, width) in by_hand.boxes(u, (8, 8), 4, (0.05, 0.2)):
                there = np.s_[y : y + height, x : x + width]
                for channel in range(3):
                    cover = own[channel].mean() if name == "coarse_dropout" else 0
                    found[sample, channel][there] = cover
                if name == "cutout":
                    fovs[sample, 0][there] = 0
    return found, fovs


@pytest.mark.parametrize(
    "name", ["blur", "sharpen", "clahe", "channel_shift", "coarse_dropout", "cutout"]
)
def test_golden_values_are_those_of_numpy_and_scipy(name):
    ramp = np.arange(2 * 3 * 64, dtype=np.float64).reshape(2, 3, 8, 8)
    image = 0.5 + 0.45 * np.sin(ramp * np.float64(np.float32(0.7)))
    target = (image[:, :1] > 0.5).astype(float)
    moved, fov = expected_of(name, image, numbers(name, 17, 2, seed=7))
    weights = np.cos(ramp * np.pi / 50)
    values = [(moved * weights).mean(), (target * weights[:, :1]).mean()]
    values.append((fov * weights[:, :1]).mean())
    assert GOLDEN[name][1] == pytest.approx(values, abs=2e-6)


def test_the_golden_values_of_the_shuffle_are_an_order_of_the_channels():
    ramp = np.arange(2 * 3 * 64, dtype=np.float64).reshape(2, 3, 8, 8)
    image, weights = 0.5 + 0.45 * np.sin(ramp * 0.7), np.cos(ramp * np.pi / 50)
    orders = [[0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]
    means = [
        (np.stack([image[0][a], image[1][b]]) * weights).mean() for a in orders for b in orders
    ]
    assert min(abs(mean - GOLDEN["channel_shuffle"][1][0]) for mean in means) < 1e-6


# -- blur and sharpen ------------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(sigma=st.floats(0.3, 3), holes=st.booleans(), seed=st.integers(0, 99))
def test_blur_is_scipys_over_the_fov(sigma, holes, seed):
    g = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, 24, 31, generator=g, dtype=torch.float64)
    fov = (torch.rand(1, 3, 24, 31, generator=g) < (0.5 if holes else 2)).double()
    found = blurred(image, fov, sigma).numpy()
    expected = by_hand.blurred(image.numpy(), fov.numpy(), sigma)
    inside = np.broadcast_to(fov.numpy() > 0, image.shape)
    assert np.abs(found - expected)[inside].max(initial=0) < 1e-9


@pytest.mark.parametrize("size", [(2, 3, 9, 12), (1, 30, 2), (1, 1, 40)])
@pytest.mark.parametrize("radius", [0, 1, 7, 14])
def test_a_cpu_sums_shifted_planes_as_other_devices_convolve(size, radius, monkeypatch):
    g = torch.Generator().manual_seed(radius)
    values = torch.rand(size, generator=g, dtype=torch.float64)
    half = torch.rand(radius + 1, generator=g, dtype=torch.float64)
    convolved = blurring.by_convolution(values, half)
    assert torch.allclose(blurring.by_shifts(values, half), convolved, rtol=1e-12)
    monkeypatch.setattr(blurring, "CACHED", 1)
    assert torch.allclose(blurring.by_shifts(values, half), convolved, rtol=1e-12)


def test_no_mask_is_spared_of_what_is_not_full_or_on_another_device():
    fov = torch.ones(1, 4, 4)
    assert inside.is_full(fov)
    assert not inside.is_full(fov.to("meta"))
    fov[0, 3, 3] = 0
    assert not inside.is_full(fov)


def test_blur_agrees_with_kornia_away_from_the_border():
    from kornia.filters import gaussian_blur2d

    image = torch.rand(1, 3, 40, 40, dtype=torch.float64)
    expected = gaussian_blur2d(image, (9, 9), (1.0, 1.0))[0]
    found = blurred(image[0], torch.ones(1, 40, 40), 1.0)
    assert torch.allclose(found[:, 4:-4, 4:-4], expected[:, 4:-4, 4:-4], atol=1e-9)


def test_nothing_bleeds_in_not_even_what_is_no_number():
    fov = disc(32, 32)[None]
    flat = torch.where(fov > 0, 0.25, torch.nan).expand(1, 3, 32, 32)
    for name in ("blur", "sharpen"):
        image = run({name: {"p": 1}}, flat, fov)[0]
        inside = (fov > 0).expand_as(image)
        assert torch.allclose(image[inside], torch.tensor(0.25), atol=1e-6)
        assert torch.isnan(image[~inside]).all()


def test_blur_keeps_slices_apart():
    image = torch.zeros(1, 1, 5, 16, 16)
    image[0, 0, 2, 8, 8] = 1
    result = run({"blur": {"p": 1}}, image)[0]
    assert (result[0, 0, [0, 1, 3, 4]] == 0).all()
    assert (result[0, 0, 2] > 0).sum() > 8


def test_unsharp_mask_is_scikit_images_away_from_the_border():
    image = torch.rand(1, 1, 40, 40) * 0.4 + 0.3
    (amount,) = numbers("sharpen", 1, 1)[0] * 0.5
    found = run({"sharpen": {"p": 1, "amount": 0.5, "sigma_px": 1.5}}, image)[0][0, 0]
    expected = unsharp_mask(image[0, 0].double().numpy(), radius=1.5, amount=amount)
    assert np.abs(found.numpy() - expected)[6:-6, 6:-6].max() < 1e-5


@settings(deadline=None, max_examples=20)
@given(sigma=st.floats(0.2, 4), value=st.floats(0, 1))
def test_blur_keeps_what_is_flat_and_every_mean_within_its_values(sigma, value):
    fov = disc(20, 20)
    flat = torch.full((1, 20, 20), value)
    assert torch.allclose(blurred(flat, fov, sigma)[fov > 0], flat[fov > 0], atol=1e-5)
    image = torch.rand(1, 20, 20)
    smooth = blurred(image, fov, sigma)[fov > 0]
    assert smooth.min() >= image[fov > 0].min() - 1e-5
    assert smooth.max() <= image[fov > 0].max() + 1e-5


# -- clahe -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=15)
@given(clip=st.floats(0.5, 8), tiles=st.integers(1, 9), seed=st.integers(0, 99), full=st.booleans())
def test_clahe_is_that_of_a_loop_over_px(clip, tiles, seed, full):
    g = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 21, 18, generator=g, dtype=torch.float64) ** 2
    fov = torch.ones(1, 21, 18) if full else disc(21, 18)
    found = equalised(image, fov, clip=clip, tiles=tiles).numpy()
    for plane, result in zip(image.numpy(), found, strict=True):
        expected = by_hand.equalised(plane, fov[0].numpy(), clip, tiles)
        inside = fov[0].numpy() > 0
        assert np.abs(result - expected)[inside].max() < 1e-9


def test_clahe_agrees_with_kornia_to_two_grey_levels():
    from kornia.enhance import equalize_clahe

    g = torch.Generator().manual_seed(4)
    smooth = torch.nn.functional.interpolate(
        torch.rand(1, 1, 8, 8, generator=g), size=(256, 256), mode="bilinear"
    )
    image = (smooth * 255).round() / 255
    expected = equalize_clahe(image, clip_limit=3.0, grid_size=(2, 2))[0]
    found = equalised(image[0], torch.ones(1, 256, 256), clip=3.0, tiles=2)
    # kornia rounds counts and tables to whole numbers, as OpenCV does: of small tiles, coarsely.
    assert (found - expected).abs().max() < 2.5 / 255
    assert (found - image[0]).abs().max() > 10 / 255


def test_clahe_without_a_limit_in_one_tile_is_histogram_equalisation():
    image = torch.tensor([[[0.0, 0.2, 0.2, 0.4]]])
    found = equalised(image, torch.ones(1, 1, 4), clip=256.0, tiles=1)
    assert found[0, 0].tolist() == pytest.approx([0.25, 0.75, 0.75, 1.0])


def test_clahe_takes_each_slice_by_itself():
    image = torch.rand(1, 2, 3, 24, 24)
    fov = torch.ones(1, 1, 3, 24, 24)
    found = run({"clahe": {"p": 1, "clip": [2, 2], "tiles": 3}}, image, fov)[0]
    for z in range(3):
        alone = equalised(image[0, :, z], fov[0, :, z], clip=2.0, tiles=3)
        assert torch.allclose(found[0, :, z], alone, atol=1e-6)


# -- gamma and colours -----------------------------------------------------------------------------


@settings(deadline=None, max_examples=20)
@given(exponent=st.floats(0.01, 20), low=st.floats(0, 1))
def test_gamma_is_the_power_of_numpy(exponent, low):
    image = torch.cat([torch.linspace(low, 1, 250), torch.tensor([0.0, 1.0, 1e-9, 1e-42, 1e-3, 1])])
    found = run({"gamma": {"p": 1, "gamma": [exponent, exponent]}}, image.view(1, 1, 16, 16))[0]
    expected = image.double().numpy() ** exponent
    assert np.abs(found.flatten().numpy() - expected).max() < 3e-7


def test_gamma_takes_what_rounding_left_beside_0_and_1_for_these():
    image = torch.tensor([-1e-8, 1 + 1e-7, 0.25, 0.5]).view(1, 1, 2, 2)
    found = run({"gamma": {"p": 1, "gamma": [0.5, 0.5]}}, image)[0].flatten().tolist()
    assert found == pytest.approx([0, 1, 0.5, 0.5**0.5], abs=1e-6)


@pytest.mark.parametrize("name", ["color_jitter", "coarse_dropout"])
def test_means_are_of_the_fov_whatever_lies_outside(name):
    image = torch.rand(2, 3, 16, 16)
    fov = disc(16, 16).expand(2, 1, 16, 16)
    odd = torch.where(fov > 0, image, torch.tensor([torch.nan, torch.inf])[:, None, None, None])
    found, expected = (run({name: {"p": 1}}, each, fov)[0] for each in (odd, image))
    inside = (fov > 0).expand_as(image)
    assert torch.equal(found[inside], expected[inside])
    assert torch.equal(found[~inside].isnan(), odd[~inside].isnan())


# -- channels --------------------------------------------------------------------------------------


def test_channel_shift_by_hand():
    image = torch.full((2, 3, 4, 4), 0.5)
    found = run({"channel_shift": {"p": 1, "shift": 0.3}}, image)[0]
    expected = 0.5 + 0.3 * (2 * numbers("channel_shift", 3, 2) - 1)
    assert np.abs(found.numpy() - expected[:, :, None, None]).max() < 1e-6
    dark = run({"channel_shift": {"p": 1, "shift": 1}}, torch.zeros(20, 3, 2, 2))[0]
    assert (dark == 0).any()
    assert (dark > 0.5).any()


def test_every_other_order_of_channels_comes_as_often():
    image = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1).expand(600, 3, 2, 2).contiguous()
    found = run({"channel_shuffle": {"p": 1}}, image)[0][:, :, 0, 0]
    orders, counts = np.unique((found * 10).round().int().numpy(), axis=0, return_counts=True)
    assert orders.tolist() == [[1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]]
    assert counts.min() > 80  # 120 each, with a deviation of 10


def test_one_channel_has_no_order():
    with pytest.raises(UserError, match=r"augment\.channel_shuffle: images of one channel"):
        run({"channel_shuffle": {}}, torch.rand(2, 1, 8, 8))


def test_noise_of_one_kind_is_the_same_in_all_channels():
    image = torch.full((4, 3, 16, 16), 0.5)
    same = run({"gaussian_noise": {"p": 1, "std": 0.1, "per_channel": False}}, image)[0]
    assert torch.equal(same[:, 0], same[:, 1])
    assert torch.equal(same[:, 0], same[:, 2])
    assert same[0].std() > 0
    apart = run({"gaussian_noise": {"p": 1, "std": 0.1}}, image)[0]
    assert not torch.equal(apart[:, 0], apart[:, 1])
    # Its strength is the same.
    stds = [noise.std(dim=(2, 3)).mean(dim=1) for noise in (same, apart)]
    assert torch.allclose(*stds, rtol=0.25)


# -- boxes -----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    size=st.lists(st.integers(1, 40), min_size=2, max_size=3),
    most=st.integers(1, 5),
    low=st.floats(0.01, 1),
    seed=st.integers(0, 999),
)
def test_boxes_lie_within_the_frame_and_are_those_by_hand(size, most, low, seed):
    part, draws = Boxes(p=1.0, boxes=most, size=(low, 1.0)), Draws(seed, "cutout", 3)
    found, table = part.drawn(tuple(size), draws), draws.uniform(2 + 2 * len(size) * most).numpy()
    for index, own in found.items():
        assert 1 <= len(own) <= most
        expected = by_hand.boxes(table[index, 1:], tuple(size), most, (low, 1.0))
        assert [[s.start for s in box] for box in own] == [starts for starts, _ in expected]
        assert [[s.stop - s.start for s in box] for box in own] == [sides for _, sides in expected]
        assert all(
            0 <= s.start < s.stop <= n for box in own for s, n in zip(box, size, strict=True)
        )


def test_numbers_and_sides_of_boxes_have_their_range():
    found = Boxes(p=1.0, boxes=3, size=(0.1, 0.3)).drawn((100, 200), Draws(5, "cutout", 400))
    counts = np.bincount([len(own) for own in found.values()])
    assert len(counts) == 4
    assert counts[1:].min() > 100  # 133 each, with a deviation of 9
    sides = np.array([[s.stop - s.start for s in box] for own in found.values() for box in own])
    assert sides.min(axis=0).tolist() == [10, 20]
    assert sides.max(axis=0).tolist() == pytest.approx([30, 60], abs=1)


def test_coarse_dropout_covers_by_the_mean_of_the_fov_and_hides_no_target():
    fov = torch.ones(1, 1, 10, 10)
    fov[..., :5] = 0
    image = torch.full((1, 1, 10, 10), 0.9)
    image[..., 5:, 5:] = 0.1
    image[..., :5, 5:] = 0.5
    target = torch.rand(1, 1, 10, 10)
    spec = {"p": 1, "boxes": 1, "size": [1, 1]}
    for fill, value in (("mean", 0.3), ("zero", 0.0)):
        found = run({"coarse_dropout": {**spec, "fill": fill}}, image, fov, target=target)
        assert torch.allclose(found[0][fov > 0], torch.tensor(value))
        assert (found[0][fov == 0] == 0.9).all()
        assert torch.equal(found[1], target)
        assert torch.equal(found[2], fov)


def test_what_is_cut_out_does_not_count_in_a_loss():
    from vesselflow.losses import LOSSES

    image, target = torch.rand(2, 1, 16, 16), (torch.rand(2, 1, 16, 16) < 0.3).float()
    image, target, fov = run({"cutout": {"p": 1, "size": [0.5, 0.5]}}, image, target=target)
    logits = torch.randn(2, 1, 16, 16)
    spoilt = torch.where(fov > 0, logits, 50.0)
    loss = LOSSES.build({"name": "combined"})
    assert float(loss(logits, target, fov)[0]) == float(loss(spoilt, target, fov)[0])
    assert float(fov.mean()) < 0.8


@pytest.mark.parametrize(
    ("given", "where", "allowed"),
    [
        ({"blur": {"sigma_px": [0, 1]}}, "augment.blur.sigma_px.0", "above 0"),
        ({"blur": {"sigma_px": [2, 1]}}, "augment.blur.sigma_px", "the smaller one first"),
        ({"sharpen": {"amount": -1}}, "augment.sharpen.amount", "of at least 0"),
        ({"clahe": {"tiles": 0}}, "augment.clahe.tiles", "1 to 64"),
        ({"clahe": {"clip": [3, 2]}}, "augment.clahe.clip", "the smaller one first"),
        ({"channel_shift": {"shift": 2}}, "augment.channel_shift.shift", "[0, 1]"),
        ({"coarse_dropout": {"fill": "noise"}}, "augment.coarse_dropout.fill", "mean, zero"),
        ({"cutout": {"boxes": 0}}, "augment.cutout.boxes", "1 to 1000"),
        ({"cutout": {"size": [0.1, 1.5]}}, "augment.cutout.size.1", "(0, 1]"),
        ({"cutout": {"size": [0.3, 0.1]}}, "augment.cutout.size", "the smaller one first"),
        ({"gaussian_noise": {"per_channel": 1}}, "augment.gaussian_noise.per_channel", "true"),
    ],
)
def test_bad_values_are_one_line_with_the_key(given, where, allowed):
    with pytest.raises(UserError) as caught:
        load_experiment({"data": {"train": "a"}, "augment": given}, registries=REGISTRIES)
    assert caught.value.where == where
    assert allowed in str(caught.value)
