"""What holds for every registered augmentation."""

from __future__ import annotations

import sys

import pytest
import torch

from vesselflow.augment import AUGMENTATIONS, blurring, chain, clahe, inside
from vesselflow.augment.compose import compose
from vesselflow.augment.draws import Draws, Mover
from vesselflow.targets.keypoints import Keypoints

torch.set_num_threads(1)

#: Parts with other than their default arguments that are held to all of it, too.
VARIANTS = {
    "rotate90-all": {"axes": "all"},
    "affine-all": {"axes": "all", "shear_degrees": 10},
    "affine-reflect": {"border": "reflect"},
    "affine-all-reflect": {"axes": "all", "border": "reflect", "translate": 0.2},
    "elastic-all": {"axes": "all", "spacing_px": 8},
    "elastic-reflect": {"border": "reflect"},
    "elastic-all-reflect": {"axes": "all", "spacing_px": 8, "border": "reflect"},
}
PARTS = {name: AUGMENTATIONS.part(name).arguments for name in AUGMENTATIONS.names()}
#: What mixes samples has a kit of its own: tests/augment/test_augment_mixing.py.
MIXING = [name for name, arguments in PARTS.items() if getattr(arguments, "mixes", False)]
#: What makes the field of view smaller, and leaves the target.
COVERING = ["cutout"]
GEOMETRIC = [name for name in PARTS if isinstance(AUGMENTATIONS.build({"name": name}), Mover)]
#: All others change values alone.
PHOTOMETRIC = [name for name in PARTS if name not in (*GEOMETRIC, *COVERING, *MIXING)]
NAMES = [*GEOMETRIC, *PHOTOMETRIC, *COVERING, *VARIANTS]
GEOMETRIC_CASES = [*GEOMETRIC, *VARIANTS]


def section(case: str, p: float):
    return {part(case): {**VARIANTS.get(case, {}), "p": p}}


def part(case: str) -> str:
    return case.split("-")[0]


def mirrors(case: str) -> bool:
    return VARIANTS.get(case, {}).get("border") == "reflect"


#: Slices of the samples of `batch`; None for images. Set by the fixture below.
DEPTH: int | None = None


@pytest.fixture(autouse=True, params=[None, 4], ids=["images", "volumes"])
def _axes(request, monkeypatch):
    """Every test runs over images and over volumes."""
    name = request.getfixturevalue("name") if "name" in request.fixturenames else None
    if name == "zflip" and request.param is None:
        pytest.skip("images have no slices")
    monkeypatch.setattr(sys.modules[__name__], "DEPTH", request.param)


def sides(height: int, width: int) -> tuple[int, ...]:
    return (height, width) if DEPTH is None else (DEPTH, height, width)


def batch(samples: int = 3, height: int = 24, width: int = 24) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(5)
    size = sides(height, width)
    image = torch.rand(samples, 3, *size, generator=g)
    target = (torch.rand(samples, 1, *size, generator=g) < 0.3).float()
    fov = torch.ones(samples, 1, *size)
    fov[..., :3, :] = 0
    return image, target, fov


def run(spec, tensors, seed: int = 11):
    return compose(spec)(*tensors, generator=torch.Generator().manual_seed(seed))


def equal(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_parts_of_every_kind_are_there():
    assert {"hflip", "affine", "random_resized_crop"} < set(GEOMETRIC)
    assert {"gamma", "coarse_dropout"} < set(PHOTOMETRIC)
    assert set(MIXING) >= {"mixup", "cutmix"}
    assert set(COVERING) < set(PARTS)


def keypoints(samples: int, *size: int) -> Keypoints:
    """Some of each sample, not in order, one of them beyond the frame."""
    g = torch.Generator().manual_seed(6)
    sample = torch.randperm(4 * samples, generator=g) % samples
    places = torch.rand(len(sample), len(size), generator=g, dtype=torch.float64)
    places = places * torch.tensor(size)
    places[0] -= torch.tensor(size)
    spread = torch.diag_embed(torch.rand(places.shape, generator=g, dtype=torch.float64) + 1)
    return Keypoints(places, sample, sample % 2, spread)


def of_sample(points: Keypoints, sample: int):
    mine = points.sample == sample
    return points.coordinates[mine], points.class_index[mine], points.covariance[mine]


def run_moved(spec, tensors, points, seed: int = 11):
    return compose(spec).moved(*tensors, points, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), [(24, 24), (16, 32)])
def test_keypoints_change_neither_the_pixels_nor_what_was_given(name, height, width):
    tensors = batch(6, height, width)
    points = keypoints(6, *sides(height, width))
    before = points.coordinates.clone(), points.covariance.clone()
    *moved, after = run_moved(section(name, 0.6), tensors, points)
    assert equal(moved, run(section(name, 0.6), tensors))
    assert equal((points.coordinates, points.covariance), before)
    assert torch.isfinite(after.coordinates).all()
    assert after.coordinates.dtype == torch.float64
    again = run_moved(section(name, 0.6), tensors, points)[-1]
    assert equal((again.coordinates, again.covariance), (after.coordinates, after.covariance))


@pytest.mark.parametrize("name", NAMES)
def test_keypoints_move_where_pixels_do_and_nowhere_else(name):
    tensors = batch(12)
    points = keypoints(12, *sides(24, 24))
    *_, after = run_moved(section(name, 0.5), tensors, points)
    chosen = Draws(
        int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(11)).item()),
        part(name),
        12,
    ).uniform(1)[:, 0] < 0.5  # fmt: skip
    assert 0 < int(chosen.sum()) < 12
    for index, moves in enumerate(chosen.tolist()):
        one, other = of_sample(points, index), of_sample(after, index)
        if not moves or name in (*PHOTOMETRIC, *COVERING):
            assert equal(one, other)
        elif not mirrors(name):
            assert torch.equal(one[1], other[1])  # as many, of the same classes
            assert not (one[0] == other[0]).all(1).any()
        else:
            assert not torch.equal(one[0], other[0])
    # A sample by itself: its keypoints depend on no other sample's.
    few = points.sample < 5
    some = Keypoints(
        points.coordinates[few],
        points.sample[few],
        points.class_index[few],
        points.covariance[few],
    )
    alone = run_moved(section(name, 0.5), [t[:5] for t in tensors], some)[-1]
    for index in range(5):
        assert equal(of_sample(alone, index), of_sample(after, index))


@pytest.mark.parametrize("name", NAMES)
def test_a_target_without_planes_is_as_good(name):
    image, target, fov = batch()
    full = run(section(name, 1.0), (image, target, fov))
    none = run(section(name, 1.0), (image, target[:, :0], fov))
    assert none[1].shape == (3, 0, *target.shape[2:])
    assert equal(none[::2], full[::2])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("height", "width"), [(24, 24), (16, 32)])
def test_shape_dtype_range_and_inputs_untouched(name, height, width):
    tensors = batch(3, height, width)
    before = [t.clone() for t in tensors]
    results = run(section(name, 1.0), tensors)
    assert equal(tensors, before)
    generator = torch.Generator().manual_seed(11)
    written = compose(section(name, 1.0))(*before, generator=generator, in_place=True)
    assert equal(written, results)
    assert all(one is other for one, other in zip(written, before, strict=True))
    for given, result in zip(tensors, results, strict=True):
        assert result.shape == given.shape
        assert result.dtype == torch.float32
        assert torch.isfinite(result).all()
        assert result.min() >= 0
        assert result.max() <= 1
    assert set(results[2].unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize("name", NAMES)
def test_p_zero_is_the_identity_and_p_one_is_not(name):
    tensors = batch()
    assert equal(run(section(name, 0.0), tensors), tensors)
    changed = run(section(name, 1.0), tensors)[0]
    assert all(not torch.equal(a, b) for a, b in zip(changed, tensors[0], strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_same_generator_gives_the_same_and_another_seed_another_result(name):
    # Flips have no strength to draw: at p = 0.5, 12 samples make an equal choice unlikely.
    tensors, spec = batch(12), section(name, 0.5)
    assert equal(run(spec, tensors), run(spec, tensors))
    assert not equal(run(spec, tensors), run(spec, tensors, seed=12))


@pytest.mark.parametrize("name", NAMES)
def test_global_generator_is_neither_read_nor_moved(name):
    tensors = batch()
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run(section(name, 1.0), tensors)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert equal(run(section(name, 1.0), tensors), first)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
def test_exactly_one_number_is_drawn_from_the_generator(name, p):
    g, reference = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    compose(section(name, p))(*batch(), generator=g)
    compose({})(*batch(1), generator=reference)
    assert torch.equal(g.get_state(), reference.get_state())


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_depends_on_no_other_sample(name):
    tensors, spec = batch(4), section(name, 0.6)
    whole = run(spec, tensors)
    assert equal([t[:2] for t in whole], run(spec, [t[:2] for t in tensors]))
    others = [t.clone() for t in tensors]
    others[0][0] = 0.5
    assert equal([t[1:] for t in run(spec, others)], [t[1:] for t in whole])


@pytest.mark.parametrize("name", NAMES)
def test_samples_that_are_not_chosen_stay_bit_identical(name):
    tensors = batch(16)
    results = run(section(name, 0.4), tensors)
    same = [
        all(torch.equal(r[i], t[i]) for r, t in zip(results, tensors, strict=True))
        for i in range(16)
    ]
    draws = Draws(
        int(torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(11)).item()),
        part(name),
        16,
    )
    assert same == [bool(u >= 0.4) for u in draws.uniform(1)[:, 0]]
    said = compose(section(name, 0.4)).chosen(16, generator=torch.Generator().manual_seed(11))
    assert said == [[] if stays else [part(name)] for stays in same]
    assert 0 < sum(same) < 16


@pytest.mark.parametrize("name", NAMES)
def test_a_part_draws_the_same_beside_other_parts(name):
    # The others are configured but never act, so only a shift of the draws could change anything.
    everything = AUGMENTATIONS.names()
    fitting = [other for other in everything if DEPTH is not None or other != "zflip"]
    others = {other: {"p": 0.0} for other in fitting if other != part(name)}
    tensors = batch()
    alone = run(section(name, 0.5), tensors)
    assert equal(run({**others, **section(name, 0.5)}, tensors), alone)


@pytest.mark.parametrize("name", NAMES)
def test_a_factor_is_one_on_the_probability_of_its_sample_and_changes_no_draw(name):
    tensors, factors = batch(6), [0.0, 1.0, 2.0, 1.0, 2.0, 9.0]

    def go(p: float, each=None):
        generator = torch.Generator().manual_seed(11)
        augmenter = compose(section(name, p))
        said = augmenter.chosen(6, generator=generator, factors=each)
        return augmenter(*tensors, generator=generator.manual_seed(11), factors=each), said

    found, said = go(0.3, factors)
    for index, factor in enumerate(factors):
        expected, chosen = go(min(1.0, 0.3 * factor))
        assert equal([t[index] for t in found], [t[index] for t in expected])
        assert said[index] == chosen[index]
    assert said[0] == []
    assert said[5] == [part(name)]


@pytest.mark.parametrize("name", GEOMETRIC_CASES)
@pytest.mark.parametrize(("height", "width"), [(24, 24), (16, 32)])
def test_image_target_and_fov_move_together(name, height, width):
    g = torch.Generator().manual_seed(0)
    plane = torch.rand(4, 1, *sides(height, width), generator=g)
    fov = torch.ones_like(plane)
    image, target, moved = run(section(name, 0.7), (torch.cat([plane] * 3, 1), plane, fov))
    for channel in range(3):
        assert torch.equal(image[:, channel], target[:, 0])
    # The fov says where the frame's content is: beyond it everything is 0, within it nothing is.
    assert torch.equal(moved[:, 0] == 0, target[:, 0] == 0)


@pytest.mark.parametrize("name", GEOMETRIC_CASES)
def test_fov_follows_the_image(name):
    # A fov that is the image itself, as a block of ones: nearest against bilinear, so equal
    # wherever the bilinear value is not between 0 and 1.
    fov = torch.zeros(4, 1, *sides(32, 32))
    fov[..., 8:20, 5:24] = 1
    image, target, moved = run(section(name, 1.0), (torch.cat([fov] * 3, 1), fov, fov))
    clear = (target == 0) | (target == 1)
    assert torch.equal(moved[clear], target[clear])
    assert clear.float().mean() > 0.8
    assert moved.sum() > 0
    assert torch.equal(image[:, :1], target)


@pytest.mark.parametrize("name", PHOTOMETRIC)
def test_values_change_inside_the_fov_only(name):
    tensors = batch()
    image, target, fov = run(section(name, 1.0), tensors)
    assert torch.equal(target, tensors[1])
    assert torch.equal(fov, tensors[2])
    outside = (fov == 0).expand_as(image)
    assert torch.equal(image[outside], tensors[0][outside])
    assert not torch.equal(image[~outside], tensors[0][~outside])


@pytest.mark.parametrize("name", [*PHOTOMETRIC, *COVERING])
def test_a_full_fov_has_the_same_values_with_a_mask_and_without(name, monkeypatch):
    image, target, fov = batch()
    tensors = image, target, torch.ones_like(fov)
    plain = run(section(name, 1.0), tensors)
    for module in (inside, blurring, chain, clahe):
        monkeypatch.setattr(module, "is_full", lambda fov: False)
    masked = run(section(name, 1.0), tensors)
    assert all(torch.allclose(a, b, rtol=0, atol=5e-7) for a, b in zip(plain, masked, strict=True))


@pytest.mark.parametrize("name", COVERING)
def test_what_leaves_the_fov_is_black_and_the_rest_as_it_was(name):
    tensors = batch()
    image, target, fov = run(section(name, 1.0), tensors)
    assert torch.equal(target, tensors[1])
    assert (fov <= tensors[2]).all()
    assert (fov.flatten(1).sum(1) < tensors[2].flatten(1).sum(1)).all()
    gone = ((fov == 0) & (tensors[2] > 0)).expand_as(image)
    assert (image[gone] == 0).all()
    assert torch.equal(image[~gone], tensors[0][~gone])


@pytest.mark.parametrize("name", [*PHOTOMETRIC, *COVERING])
def test_values_outside_the_fov_have_no_effect(name):
    image, target, fov = batch()
    other = image.clone()
    other[(fov == 0).expand_as(image)] = 0.9
    inside = (fov > 0).expand_as(image)
    first = run(section(name, 1.0), (image, target, fov))[0]
    second = run(section(name, 1.0), (other, target, fov))[0]
    assert torch.allclose(first[inside], second[inside], atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_fov_is_harmless(name):
    image, target, fov = batch()
    results = run(section(name, 1.0), (image, target, torch.zeros_like(fov)))
    assert all(torch.isfinite(t).all() for t in results)
