"""Parts that resample are one resampling where a sample has several of them."""

from __future__ import annotations

import pytest
import torch
from kornia.geometry.transform import warp_affine
from torch.nn import functional

from vesselflow.augment import chain
from vesselflow.augment import compose as compose_module
from vesselflow.augment.affine_maps import of_axes
from vesselflow.augment.arguments import Border
from vesselflow.augment.chain import affine_lookup, resample_each
from vesselflow.augment.compose import compose
from vesselflow.config.experiment import load_experiment
from vesselflow.config.fingerprint import experiment_identity
from vesselflow.runs.registries import REGISTRIES
from vesselflow.targets.keypoints import Keypoints

torch.set_num_threads(1)

PLANE, VOLUME = (64, 80), (12, 40, 48)
ELASTIC = {"p": 1, "spacing_px": 16}
CASES = {
    "two": (PLANE, {"affine": {"p": 1}, "elastic": ELASTIC}),
    "three": (PLANE, {"affine": {"p": 1}, "elastic": ELASTIC, "random_resized_crop": {"p": 1}}),
    "mirrored": (
        PLANE,
        {"affine": {"p": 1, "border": "reflect"}, "elastic": {**ELASTIC, "border": "reflect"}},
    ),
    "first mirrored": (
        PLANE,
        {"affine": {"p": 1, "border": "reflect", "translate": 0.3}, "elastic": ELASTIC},
    ),
    "last mirrored": (PLANE, {"affine": {"p": 1}, "elastic": {**ELASTIC, "border": "reflect"}}),
    "slices": (VOLUME, {"affine": {"p": 1}, "elastic": ELASTIC}),
    "turned volume": (VOLUME, {"affine": {"p": 1, "axes": "all"}, "elastic": ELASTIC}),
    "bent volume": (
        VOLUME,
        {
            "affine": {"p": 1},
            "elastic": {**ELASTIC, "axes": "all"},
            "random_resized_crop": {"p": 1},
        },
    ),
}
SIX = {"hflip": {"p": 0.5}, "rotate90": {"p": 0.5}, "affine": {"p": 0.5}, "elastic": {"p": 0.5}}


def smooth(samples: int, size: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Waves of 20 voxels and more: linear interpolation hardly errs."""
    coarse = torch.rand(
        samples, 1, *(n // 10 + 2 for n in size), generator=torch.Generator().manual_seed(seed)
    )
    mode = "bicubic" if len(size) == 2 else "trilinear"
    return functional.interpolate(coarse, size=size, mode=mode, align_corners=True).clamp(0, 1)


def batch(size: tuple[int, ...], samples: int = 6) -> tuple[torch.Tensor, ...]:
    fov = torch.ones(samples, 1, *size)
    fov[..., :6, :] = 0
    return smooth(samples, size), smooth(samples, size, 1), fov


def run(spec, tensors):
    return compose(spec)(*tensors, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def one_by_one(monkeypatch):
    """`run`, with each part resampling by itself."""

    def result(spec, tensors):
        with monkeypatch.context() as patched:
            patched.setattr(compose_module, "_chained", lambda *args: set())
            return run(spec, tensors)

    return result


def eroded(fov: torch.Tensor, by: int = 4) -> torch.Tensor:
    """Inside, so many pixels of its plane from what is outside and from the frame's edge.

    Of volumes the outermost slices are left out, too.
    """
    planes = functional.pad((1 - fov).flatten(0, -3)[:, None], [by] * 4, value=1.0)
    found = (functional.max_pool2d(planes, 2 * by + 1, 1).view_as(fov) == 0).clone()
    if fov.ndim == 5:
        deep = functional.pad((1 - fov), [0, 0, 0, 0, 2, 2], value=1.0)
        found &= functional.max_pool3d(deep, (5, 1, 1), 1) == 0
    return found


@pytest.mark.parametrize("case", CASES)
def test_it_is_what_the_parts_give_one_by_one(case, one_by_one) -> None:
    size, spec = CASES[case]
    tensors = batch(size)
    once, often = run(spec, tensors), one_by_one(spec, tensors)
    assert not torch.equal(once[0], often[0])
    # The nearest voxel of the nearest voxel may be another one, at edges of the fov.
    assert (once[2] != often[2]).float().mean() < 0.015
    clear = eroded(once[2], 8) & eroded(often[2], 8)
    assert clear.float().mean() > 0.1
    for a, b in zip(once[:2], often[:2], strict=True):
        assert ((a - b).abs() * clear).max() < 0.05
        assert ((a - b).abs() * clear).sum() / clear.sum() < 0.004


def test_details_survive_better_than_one_by_one(one_by_one) -> None:
    g = torch.Generator().manual_seed(0)
    noise, fov = torch.rand(4, 1, 64, 64, generator=g), torch.ones(4, 1, 64, 64)
    spec = CASES["three"][1]
    once, often = (each(spec, (noise, noise, fov)) for each in (run, one_by_one))
    inside = eroded(once[2]) & eroded(often[2])
    assert once[0][inside].std() > 1.1 * often[0][inside].std()


def test_what_opens_is_empty_and_outside() -> None:
    ones = torch.ones(6, 1, *PLANE)
    image, target, fov = run(CASES["two"][1], (ones, ones, ones))
    assert torch.allclose(image, fov)
    assert torch.allclose(target, fov)
    assert 0.8 < fov.mean() < 0.999
    mirrored = run(CASES["mirrored"][1], (ones, ones, ones))
    assert all(torch.allclose(each, ones) for each in mirrored)


@pytest.mark.parametrize("case", ["two", "three", "turned volume", "bent volume"])
def test_keypoints_lie_where_their_pixels_do(case) -> None:
    """An image of coordinates says, at each moved keypoint, where it was."""
    size, spec = CASES[case]
    lines = torch.meshgrid(*(torch.arange(n) / n for n in size), indexing="ij")
    image = torch.stack(lines)[None].repeat(4, 1, *[1] * len(size))
    g = torch.Generator().manual_seed(1)
    places = torch.rand(300, len(size), generator=g, dtype=torch.float64) * torch.tensor(size)
    sample = torch.arange(300) % 4
    points = Keypoints(places, sample, torch.zeros_like(sample))
    moved_image, _, fov, moved = compose(spec).moved(
        image,
        image[:, :0],
        torch.ones(4, 1, *size),
        points,
        generator=torch.Generator().manual_seed(3),
    )
    here = moved.coordinates
    extent = torch.tensor(size)
    kept = ((here >= 3) & (here < extent - 4)).all(1)
    cell = here.round().long().clamp(min=0).minimum(extent - 1)
    kept &= eroded(fov, 2)[(sample, 0, *cell.T)]
    assert kept.sum() > 30
    grid = (2 * (here + 0.5) / extent - 1).flip(1).float()
    for index in range(4):
        mine = kept & (sample == index)
        at = grid[mine].view(1, -1, *[1] * (len(size) - 1), len(size))
        seen = functional.grid_sample(moved_image[index : index + 1], at, align_corners=False)
        found = seen.flatten(1).view(len(size), -1).T * extent
        assert (found - places[mine]).abs().max() < 0.1


def test_samples_that_have_one_of_them_keep_their_bits(one_by_one) -> None:
    tensors = batch(PLANE, 24)
    once, often = run(SIX, tensors), one_by_one(SIX, tensors)
    names = compose(SIX).chosen(24, generator=torch.Generator().manual_seed(3))
    several = [{"affine", "elastic"} <= set(each) for each in names]
    assert 0 < sum(several) < 24
    for index, changed in enumerate(several):
        same = all(torch.equal(a[index], b[index]) for a, b in zip(once, often, strict=True))
        assert same is (not changed)


def test_only_runs_with_several_have_another_name() -> None:
    def versions(augment):
        sections = {"data": {"train": "a"}, "augment": augment}
        experiment = load_experiment(sections, registries=REGISTRIES)
        found = experiment_identity(experiment, REGISTRIES)["augment"]
        return {name: entry["version"] for name, entry in found.items()}

    assert versions({"affine": {}, "hflip": {}}) == {"affine": 1, "hflip": 1}
    assert versions({"elastic": {}, "gamma": {}}) == {"elastic": 1, "gamma": 1}
    both = {"hflip": {}, "affine": {}, "elastic": {}}
    assert versions(both) == {"hflip": 1, "affine": 2, "elastic": 2}
    assert versions({"affine": {}, "random_resized_crop": {}, "elastic": None}) == {
        "affine": 2,
        "random_resized_crop": 2,
    }


@pytest.mark.parametrize("case", ["two", "first mirrored", "bent volume"])
def test_a_full_fov_need_not_be_sampled(case, monkeypatch) -> None:
    size, spec = CASES[case]
    image, target, fov = batch(size, 2)
    tensors, generator = (image, target, torch.ones_like(fov)), torch.Generator()
    plain = compose(spec)(*tensors, generator=generator.manual_seed(0))
    monkeypatch.setattr(chain, "is_full", lambda fov: False)
    sampled = compose(spec)(*tensors, generator=generator.manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(plain, sampled, strict=True))


def test_a_displacement_is_the_same_at_voxels_and_looked_up() -> None:
    g = torch.Generator().manual_seed(0)
    lookup = chain.displaced_lookup(torch.randn(2, 40, 30, generator=g), "outside")
    places = [torch.arange(40.0).view(-1, 1), torch.arange(30.0).view(1, -1)]
    for one, other in zip(lookup.back(places, True), lookup.back(places, False), strict=True):
        assert torch.allclose(one, other, rtol=0, atol=1e-4)


def by_kornia(values: torch.Tensor, matrix: torch.Tensor, mode: str, padding: str) -> torch.Tensor:
    size = (values.shape[-2], values.shape[-1])
    found: torch.Tensor = warp_affine(
        values[None], matrix[None], size, mode=mode, padding_mode=padding, align_corners=False
    )
    return found[0]


@pytest.mark.parametrize("border", ["outside", "reflect"])
def test_one_affine_map_alone_gives_what_kornia_gives(border: Border) -> None:
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(3, 40, 56, generator=generator)
    target = torch.rand(1, 40, 56, generator=generator)
    fov = torch.ones(1, 40, 56)
    fov[:, :, :9] = 0
    # Turned, sheared, magnified and shifted; and one that mixes no axes.
    turned = torch.tensor([[0.9, 0.3, -4.0], [-0.25, 1.1, 6.0]], dtype=torch.float64)
    magnified = torch.tensor([[1.3, 0.0, -7.2], [0.0, 1.2, -3.1]], dtype=torch.float64)
    for matrix in (turned, magnified):
        lookup = affine_lookup(of_axes(matrix[None], 2)[0], border)
        found = [image[None].clone(), target[None].clone(), fov[None].clone()]
        resample_each(*found, {0: [lookup]})
        frame = torch.ones_like(fov)
        if border == "outside":
            frame = by_kornia(frame, matrix.float(), "nearest", "zeros")
        beyond = "border" if border == "outside" else "reflection"
        for own, other, mode in zip(
            found, (image, target, fov), ("bilinear", "bilinear", "nearest"), strict=True
        ):
            expected = frame * by_kornia(other, matrix.float(), mode, beyond)
            torch.testing.assert_close(own[0], expected, atol=1e-4, rtol=0)
