"""Losses that look at neighbours, against scipy in float64, brute force and what geometry says."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.morphology import skeletonize

from vesselflow.errors import UserError
from vesselflow.losses import LOSSES
from vesselflow.losses.boundary import boundary_loss, signed_distance
from vesselflow.losses.cldice import cldice_loss, soft_skeleton
from vesselflow.losses.dice import dice_loss
from vesselflow.losses.skeleton_recall import skeleton_recall_loss, tubed_skeleton

torch.set_num_threads(1)
SPATIAL = [part.name for part in LOSSES if part.load().spatial]
CLDICE = {"beta": 0.0, "iterations": 3, "smooth": 1.0}
quick = settings(deadline=None, max_examples=20)
seeds = st.integers(0, 2**31)


# ---- the definitions in float64, image by image --------------------------------------------------


def skeleton_by_scipy(x: np.ndarray, inside: np.ndarray, iterations: int) -> np.ndarray:
    """Algorithm 1 of the paper, with scipy's morphology."""
    cross = ndimage.generate_binary_structure(x.ndim, 1)
    box = np.ones((3,) * x.ndim, bool)

    def eroded(v: np.ndarray) -> np.ndarray:
        return ndimage.grey_erosion(
            np.where(inside, v, 1.0), footprint=cross, mode="constant", cval=1.0
        )

    def opened(v: np.ndarray) -> np.ndarray:
        kept = np.where(inside, eroded(v), 0.0)
        return ndimage.grey_dilation(kept, footprint=box, mode="constant", cval=0.0)

    skeleton = np.maximum(x - opened(x), 0)
    for _ in range(iterations):
        x = eroded(x)
        rest = np.maximum(x - opened(x), 0)
        skeleton = skeleton + np.maximum(rest - skeleton * rest, 0)
    return skeleton


def distance_by_hand(mask: np.ndarray) -> np.ndarray:
    """Signed distance by comparing every pixel with every one of the other side."""
    if mask.all() or not mask.any():
        return np.where(mask, -0.5, 0.5)
    result = np.zeros(mask.shape)
    for place in np.ndindex(*mask.shape):
        others = np.argwhere(mask != mask[place])
        nearest = np.sqrt(((others - place) ** 2).sum(axis=1).min()) - 0.5
        result[place] = -nearest if mask[place] else nearest
    return result


def by_definition(x: np.ndarray, t: np.ndarray, inside: np.ndarray) -> dict[str, float]:
    """Every spatial loss with its defaults, of one image."""
    p = np.where(inside, 1 / (1 + np.exp(-x)), 0.0)
    t = np.where(inside, t, 0.0)
    sp, st_ = (np.where(inside, skeleton_by_scipy(v, inside, 3), 0.0) for v in (p, t))
    precision = ((sp * t).sum() + 1) / (sp.sum() + 1)
    recall = ((st_ * p).sum() + 1) / (st_.sum() + 1)
    dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    mask = t > 0.5
    distance = np.where(inside, distance_by_hand(mask), 0.0)
    skeleton = np.argwhere(skeletonize(mask))
    tube = np.zeros(mask.shape)
    for place in np.argwhere(mask):
        tube[tuple(place)] = ((skeleton - place) ** 2).sum(axis=1).min() <= 4
    return {
        "cldice": 0.5 * dice + 0.5 * (1 - 2 * precision * recall / (precision + recall)),
        "boundary": float((distance * (p - mask)).sum() / inside.sum()),
        "skeleton_recall": float(1 - ((tube * p).sum() + 1) / (tube.sum() + 1)),
    }


def batch(seed: int, shape: tuple[int, ...] = (11, 13)) -> tuple[torch.Tensor, ...]:
    """Smooth logits and targets, so that there is something with a centre line."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=(2, *shape)), (0, *[1.5] * len(shape)))
              for _ in range(2)]  # fmt: skip
    logits, raw = (torch.from_numpy(10 * field[:, None]).float() for field in fields)
    fov = torch.from_numpy(rng.random((2, 1, *shape)) > 0.15)
    return logits, torch.sigmoid(2 * raw), fov


@pytest.mark.parametrize("shape", [(11, 13), (5, 7, 8)], ids=["image", "volume"])
@pytest.mark.parametrize("name", SPATIAL)
def test_defaults_equal_the_definitions(name: str, shape: tuple[int, ...]) -> None:
    logits, target, fov = batch(1, shape)
    each = [
        by_definition(*(one[i, 0].numpy().astype(kind) for one, kind in
                        ((logits, np.float64), (target, np.float64), (fov, bool))))[name]
        for i in range(2)
    ]  # fmt: skip
    found = LOSSES.build({"name": name})(logits, target, fov)[0].item()
    assert found == pytest.approx(np.mean(each), abs=2e-6)


@quick
@given(seed=seeds, flips=st.sampled_from([(2,), (3,), (2, 3)]), turn=st.booleans())
@pytest.mark.parametrize("name", ["cldice", "boundary"])
def test_mirrored_and_turned_images_have_the_same_loss(
    name: str, seed: int, flips: tuple[int, ...], turn: bool
) -> None:
    loss, images = LOSSES.build({"name": name}), batch(seed)
    moved = [image.flip(flips) for image in images]
    if turn:
        moved = [image.transpose(2, 3) for image in moved]
    assert loss(*moved)[0].item() == pytest.approx(loss(*images)[0].item(), abs=1e-5)


# ---- cldice -------------------------------------------------------------------------------------


@quick
@given(seed=seeds)
def test_a_fov_of_a_rectangle_is_the_image_cut_to_it(seed: int) -> None:
    logits, target, _ = batch(seed)
    fov = torch.zeros(2, 1, 11, 13, dtype=torch.bool)
    fov[:, :, 2:9, 3:11] = True
    whole = cldice_loss(logits, target, fov, **CLDICE)
    cut = cldice_loss(logits[..., 2:9, 3:11], target[..., 2:9, 3:11], **CLDICE)
    assert whole.item() == pytest.approx(cut.item(), abs=1e-6)


def test_the_skeleton_of_a_line_is_the_line_and_of_a_bar_its_middle() -> None:
    image = torch.zeros(1, 1, 9, 15)
    image[0, 0, 4, 2:13] = 1.0
    assert torch.equal(soft_skeleton(image, None, 3), image)
    image[0, 0, 2:7, 2:13] = 1.0
    middle = soft_skeleton(image, None, 3)
    assert (middle[0, 0, 4, 4:11] == 1).all()
    assert middle[0, 0, [3, 5], 5:10].sum() == 0
    # Too few erosions do not reach it.
    assert soft_skeleton(image, None, 1).sum() < middle.sum()


def test_cldice_at_its_ends_is_each_term_to_the_bit() -> None:
    images = batch(3)
    dice = dice_loss(*images, smooth=1.0, per="image")
    assert cldice_loss(*images, **{**CLDICE, "beta": 1.0}).item() == dice.item()
    total, terms = LOSSES.build({"name": "cldice", "beta": 0.25})(*images)
    assert set(terms) == {"dice", "cldice"}
    assert cldice_loss(*images, **CLDICE).item() == terms["cldice"].item()
    expected = 0.25 * terms["dice"] + 0.75 * terms["cldice"]
    assert total.item() == pytest.approx(expected.item(), abs=1e-6)


def test_a_gap_costs_more_than_as_many_pixels_of_width() -> None:
    target = torch.zeros(1, 1, 9, 30)
    target[..., 3:6, :] = 1.0
    gap, thin = target.clone(), target.clone()
    gap[..., 14:16] = 0.0
    thin[..., 3, ::5] = 0.0
    assert gap.sum() == thin.sum()
    values = [cldice_loss(40 * (2 * one - 1), target, **CLDICE).item() for one in (gap, thin)]
    assert values[0] > 3 * values[1]
    assert cldice_loss(40 * (2 * target - 1), target, **CLDICE).item() == pytest.approx(0, abs=1e-6)


# ---- boundary -----------------------------------------------------------------------------------


@quick
@given(seed=seeds, level=st.floats(0.0, 1.0))
def test_distances_are_those_of_brute_force(seed: int, level: float) -> None:
    mask = torch.from_numpy(np.random.default_rng(seed).random((2, 1, 5, 6)) < level)
    found = signed_distance(mask)
    for i in range(2):
        expected = distance_by_hand(mask[i, 0].numpy())
        assert found[i, 0].numpy() == pytest.approx(expected, abs=1e-5)


def test_the_gradient_is_that_of_the_paper_and_a_right_mask_costs_nothing() -> None:
    logits, target, _ = batch(5)
    first, second = (logits.clone().requires_grad_() for _ in range(2))
    boundary_loss(first, target).backward()
    (signed_distance(target > 0.5) * torch.sigmoid(second)).mean().backward()
    assert torch.allclose(first.grad, second.grad, atol=1e-8)
    right = 200.0 * (2.0 * (target > 0.5).float() - 1.0)
    assert boundary_loss(right, target).item() == 0.0
    assert boundary_loss(-right, target).item() > 0.5


def test_a_false_alarm_costs_its_distance() -> None:
    target = torch.zeros(1, 1, 1, 12)
    target[..., :3] = 1.0
    for place in range(3, 12):
        logits = 200.0 * (2 * target - 1)
        logits[..., place] = 200.0
        # Centre to edge: 1/2 px for the first pixel outside.
        expected = (place - 2.5) / 12
        assert boundary_loss(logits, target).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("full", [0.0, 1.0])
def test_a_target_without_boundary_is_half_a_pixel_away(full: float) -> None:
    logits, _, _ = batch(6)
    p = torch.sigmoid(logits)
    expected = 0.5 * (1 - p if full else p).mean()
    target = torch.full_like(p, full)
    assert boundary_loss(logits, target).item() == pytest.approx(expected.item(), abs=1e-6)


# ---- skeleton_recall ----------------------------------------------------------------------------


def test_thin_and_wide_vessels_of_a_length_weigh_alike_without_a_tube() -> None:
    target = torch.zeros(1, 1, 40, 60)
    target[..., 8, 10:50] = 1.0
    target[..., 20:31, 10:50] = 1.0
    losses = []
    for missed in (slice(8, 9), slice(20, 31)):
        logits = 200.0 * (2 * target - 1)
        logits[..., missed, :] = -200.0
        losses.append(skeleton_recall_loss(logits, target, radius=0, smooth=1e-3).item())
    assert losses[0] > 0.4
    # The skeleton of the wide one is shorter at its ends, by its radius at most.
    assert losses[1] == pytest.approx(1 - losses[0], abs=1e-3)
    assert 30 / 70 - 0.01 <= losses[1] <= 0.5 + 0.01
    assert losses[0] / losses[1] > 0.9, "a count of pixels would say 1 to 11"


@pytest.mark.parametrize("radius", [0, 1, 2, 5])
def test_the_tube_is_a_ball_around_the_skeleton_inside_the_mask(radius: int) -> None:
    mask = torch.zeros(1, 1, 15, 30, dtype=torch.bool)
    mask[..., 4:11, 3:27] = True
    tube = tubed_skeleton(mask, radius)
    skeleton = np.argwhere(skeletonize(mask[0, 0].numpy()))
    for place in itertools.product(range(15), range(30)):
        near = ((skeleton - place) ** 2).sum(axis=1).min() <= radius**2
        assert bool(tube[(0, 0, *place)]) == bool(near and mask[(0, 0, *place)])


def test_false_alarms_cost_nothing_and_empty_targets_say_nothing() -> None:
    logits, target, _ = batch(8)
    total = skeleton_recall_loss(logits, target, radius=2, smooth=1.0)
    alarm = torch.where(target > 0.5, logits, torch.tensor(9.0))
    assert skeleton_recall_loss(alarm, target, radius=2, smooth=1.0).item() == total.item()
    assert skeleton_recall_loss(logits, 0 * target, radius=2, smooth=1.0).item() == 0.0


def test_a_missing_library_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"scikit-image is not installed.*vesselflow\[skeletons\]"):
        LOSSES.build({"name": "skeleton_recall"})


@pytest.mark.parametrize(
    ("spec", "key", "allowed"),
    [
        ({"name": "cldice", "iterations": 0}, "loss.iterations", "a whole number, 1 to 100"),
        ({"name": "cldice", "iterations": 2.5}, "loss.iterations", "a whole number, 1 to 100"),
        ({"name": "cldice", "beta": -1}, "loss.beta", r"a number in \[0, 1\]"),
        ({"name": "skeleton_recall", "radius": -1}, "loss.radius", "a whole number, 0 to 100"),
        ({"name": "boundary", "beta": 1}, "loss.beta", "no keys here"),
    ],
)
def test_bad_values_are_one_line_with_the_key(spec: dict, key: str, allowed: str) -> None:
    with pytest.raises(UserError, match=allowed) as caught:
        LOSSES.validate(spec, where="loss")
    assert caught.value.where == key


@pytest.mark.parametrize(
    "loss",
    [
        lambda *images: cldice_loss(*images, **CLDICE),
        boundary_loss,
        lambda *images: skeleton_recall_loss(*images, radius=2, smooth=1.0),
    ],
    ids=SPATIAL,
)
def test_a_step_down_the_gradient_lowers_the_loss(loss: Callable[..., torch.Tensor]) -> None:
    logits, target, fov = batch(9)
    logits.requires_grad_()
    total = loss(logits, target, fov)
    total.backward()
    moved = (logits - 0.05 * logits.grad / logits.grad.norm()).detach()
    assert loss(moved, target, fov) < total
