"""Masks of several classes: the softmax of those that exclude each other, and one class a voxel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from vesselflow.config.experiment import load_experiment
from vesselflow.feed.batches import Batch, WholeImage
from vesselflow.losses import LOSSES
from vesselflow.runs.protocols import Protocol
from vesselflow.runs.registries import REGISTRIES
from vesselflow.tasks.activation import one_against_rest
from vesselflow.tasks.segment import surest
from vesselflow.tasks.spec import TaskSpec
from vesselflow.tasks.task import build_task
from vesselflow.training.group import Solo
from vesselflow.training.step import Stepper

torch.set_num_threads(1)

CLASSES = ("artery", "vein", "bone")
SPEC = TaskSpec("segment", 1, CLASSES, 2, (1, 1), activation="softmax")
PROTOCOL = Protocol("best", "dice", "none", classes=CLASSES)
EXPERIMENT = load_experiment({"data": {"train": "a"}}, registries=REGISTRIES)

quick = settings(deadline=None, max_examples=50)


def softmax(logits: Tensor) -> Tensor:
    """Torch's, over the classes and a background whose logit is 0; (N, 1 + K, ...)."""
    return torch.softmax(torch.cat([torch.zeros_like(logits[:, :1]), logits], dim=1), dim=1)


def drawn(seed: int, classes: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(2, classes, 4, 3, generator=generator, dtype=torch.float64)


# -- the softmax -----------------------------------------------------------------------------------


@quick
@given(seed=st.integers(0, 2**31), classes=st.integers(2, 9), scale=st.floats(0, 30))
def test_sigmoids_are_the_softmax_with_a_background_of_zero(
    seed: int, classes: int, scale: float
) -> None:
    logits = drawn(seed, classes, scale)
    whole = softmax(logits)
    found = torch.sigmoid(one_against_rest(logits))
    torch.testing.assert_close(found, whole[:, 1:], rtol=0, atol=1e-14)
    torch.testing.assert_close(found.sum(1) + whole[:, 0], torch.ones(2, 4, 3).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_class_is_left_as_it_is(dtype: torch.dtype) -> None:
    logits = drawn(0, 1).to(dtype)
    assert one_against_rest(logits) is logits


@quick
@given(seed=st.integers(0, 2**31), classes=st.integers(2, 5))
def test_the_order_of_classes_does_not_matter(seed: int, classes: int) -> None:
    logits = drawn(seed, classes)
    order = torch.randperm(classes, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(
        one_against_rest(logits[:, order]), one_against_rest(logits)[:, order]
    )


def test_a_voxel_is_of_one_class_above_one_half() -> None:
    probability = torch.sigmoid(one_against_rest(drawn(1, 4, 20.0)))
    assert ((probability > 0.5).sum(1) <= 1).all()


def test_by_hand() -> None:
    # e^z = 1, 2, 5 beside a background of 1: p = 1/9, 2/9, 5/9, against all else 1/8, 2/7, 5/4.
    logits = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).log().view(1, 3, 1)
    odds = one_against_rest(logits).exp().flatten()
    assert odds.tolist() == pytest.approx([1 / 8, 2 / 7, 5 / 4])


@pytest.mark.parametrize("size", [60.0, 1e4, 1e30])
def test_large_logits_lose_nothing(size: float) -> None:
    # The surest class against the second, which stands above the background.
    logits = torch.tensor([size, size / 2, -size]).view(1, 3, 1).requires_grad_()
    found = one_against_rest(logits)
    # Of the last: -size - log(e^size + ...).
    expected = torch.tensor([size / 2, -size / 2, -2 * size]).view(1, 3, 1)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_halves_are_computed_in_float32(dtype: torch.dtype) -> None:
    low = drawn(2, 3, 40.0).to(dtype)
    expected = one_against_rest(low.float())
    low.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = one_against_rest(low)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)
    found.sum().backward()
    assert low.grad.dtype == dtype
    assert torch.isfinite(low.grad).all()


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_the_gradient_is_that_of_the_value(classes: int) -> None:
    assert torch.autograd.gradcheck(one_against_rest, (drawn(3, classes).requires_grad_(),))


#: Those that need no more than a name; sums of losses are left to these.
PLAIN = [
    part.name
    for part in LOSSES
    if not any(field.is_required() for field in part.arguments.model_fields.values())
]


@pytest.mark.parametrize("name", PLAIN)
def test_every_loss_has_a_gradient_on_the_softmax(name: str) -> None:
    target = torch.zeros(2, 3, 4, 3)
    target[:, 0, :2], target[:, 1, 2, 1:] = 1.0, 0.7
    fov = torch.ones(2, 1, 4, 3, dtype=torch.bool)
    fov[:, :, 0, 0] = False
    logits = drawn(4, 3).float().requires_grad_()
    loss = LOSSES.build({"name": name})
    total, _ = loss(one_against_rest(logits), target, fov)
    total.backward()
    assert torch.isfinite(total)
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, :, 0, 0] == 0).all()
    # Down the gradient the loss falls.
    moved = (logits - 0.1 * logits.grad / logits.grad.norm()).detach()
    assert loss(one_against_rest(moved), target, fov)[0] < total


def test_cross_entropies_of_the_classes_are_least_at_the_truth() -> None:
    truth = torch.tensor([0.2, 0.5, 0.1], dtype=torch.float64).view(1, 3, 1)
    logits = (truth / 0.2).log().requires_grad_()  # the background has 0.2
    LOSSES.build({"name": "bce"})(one_against_rest(logits), truth)[0].backward()
    assert logits.grad.abs().max() < 1e-15


# -- the task --------------------------------------------------------------------------------------


class Talks(nn.Module):
    """Logits of three classes that hang on the image and its mirror images."""

    def forward(self, image: Tensor) -> Tensor:
        ramp = torch.linspace(-2, 2, image.shape[-1])
        return torch.cat([4 * image - 2, image * ramp, -3 * image + ramp], dim=1)


def whole(seed: int = 0, shape: tuple[int, int] = (32, 48)) -> WholeImage:
    random = np.random.default_rng(seed)
    labels = random.integers(0, 4, shape)
    ones = np.ones(shape, np.uint8)
    return WholeImage(
        source_id="s",
        group="g",
        image=random.random((1, *shape)).astype(np.float32),
        fov_working=ones,
        centre=np.zeros(1, np.float32),
        scale=np.ones(1, np.float32),
        target=np.stack([labels == number for number in (1, 2, 3)]).astype(np.uint8),
        fov=ones,
        box=(0, 0, *shape),
        inner=shape,
        offset=(0, 0),
    )


def predicted(protocol: Protocol, spec: TaskSpec = SPEC) -> np.ndarray:
    found: np.ndarray = build_task(spec).predict(
        Talks().eval(), whole(), EXPERIMENT, protocol, device="cpu", dataset_statistics=None
    )
    return found


def test_what_is_predicted_is_the_softmax() -> None:
    image = torch.from_numpy(whole().image[None])
    expected = softmax(Talks()(image))[0, 1:]
    np.testing.assert_allclose(torch.sigmoid(torch.from_numpy(predicted(PROTOCOL))), expected,
                               atol=1e-6)  # fmt: skip
    assert not np.allclose(
        predicted(PROTOCOL), predicted(PROTOCOL, replace(SPEC, activation="sigmoid"))
    )


def test_views_are_averaged_as_probabilities_of_the_softmax() -> None:
    image, views = torch.from_numpy(whole().image[None]), []
    for axes in ([], [2], [3], [2, 3]):
        seen = torch.flip(image, axes)
        views.append(torch.flip(softmax(Talks()(seen)), axes)[0, 1:])
    found = torch.sigmoid(torch.from_numpy(predicted(replace(PROTOCOL, tta="flips"))))
    torch.testing.assert_close(found, torch.stack(views).mean(0), rtol=0, atol=1e-6)


def test_windows_are_blended_as_probabilities_of_the_softmax() -> None:
    found = torch.sigmoid(torch.from_numpy(predicted(replace(PROTOCOL, window=(32, 16)))))
    rest = 1 - found.sum(0)
    assert float(rest.min()) > 0
    # That of the background, blended as a class of its own, is what they leave.
    background = Background().eval()
    one = replace(PROTOCOL, window=(32, 16), classes=("background",))
    alone = build_task(replace(SPEC, classes=("background",))).predict(
        background, whole(), EXPERIMENT, one, device="cpu", dataset_statistics=None
    )
    torch.testing.assert_close(rest, torch.sigmoid(torch.from_numpy(alone[0])), rtol=0, atol=1e-6)


class Background(Talks):
    """The logit of the background against the three classes."""

    def forward(self, image: Tensor) -> Tensor:
        return -super().forward(image).logsumexp(1, keepdim=True)


class TwoAnswers(nn.Module):
    """A final answer and a first one, which counts by half."""

    auxiliary_weight = 0.5

    def __init__(self) -> None:
        super().__init__()
        self.final, self.first = nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.final(image), self.first(image)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_a_step_learns_by_what_is_predicted(activation: str) -> None:
    given = {"name": "bce"}, {"scope": "none"}, {"micro_batch_size": 2}
    sections = dict(zip(("loss", "normalise", "train"), given, strict=True))
    experiment = load_experiment({"data": {"train": "a"}, **sections}, registries=REGISTRIES)
    torch.manual_seed(0)
    model, loss = TwoAnswers(), LOSSES.build(experiment.loss)
    before = [each.detach().clone() for each in model.parameters()]
    wholes, ones = [whole(0), whole(1)], np.ones((2, 1), np.float32)
    batch = Batch(
        image=np.stack([each.image for each in wholes]),
        target=np.stack([each.target for each in wholes]) * np.uint8(255),
        fov=np.stack([each.fov[None] for each in wholes]),
        centre=0 * ones,
        scale=ones,
        source=np.arange(2, dtype=np.int32),
    )
    image, target = torch.from_numpy(batch.image), torch.from_numpy(batch.target / 255).float()
    final, first = model(image)
    as_told = one_against_rest if activation == "softmax" else (lambda logits: logits)
    expected = loss(as_told(final), target)[0]
    gradient = torch.autograd.grad(
        expected + 0.5 * loss(as_told(first), target)[0], list(model.parameters())
    )
    result = Stepper(
        experiment,
        model,
        loss,
        torch.optim.SGD(model.parameters(), lr=1.0),
        None,
        group=Solo(),
        seed=0,
        device=torch.device("cpu"),
        task=replace(SPEC, activation=activation),
        per_sample=True,
    ).run(0, 0.0, lambda index: batch)
    assert result.losses["loss"] == pytest.approx(expected.item(), rel=1e-6)
    assert result.sample_losses is not None
    assert result.sample_losses.mean() == pytest.approx(expected.item(), rel=1e-6)
    for old, new, down in zip(before, model.parameters(), gradient, strict=True):
        torch.testing.assert_close(new.detach(), old - down)


# -- one class a voxel -----------------------------------------------------------------------------


def test_the_surest_class_keeps_its_logit() -> None:
    nan, lost = np.nan, -np.inf
    logits = np.array([[1, -5, 2, nan, lost], [3, -6, 2, 1, lost]], np.float32)[:, None]
    expected = np.array([[lost, -5, 2, nan, lost], [3, lost, lost, 1, lost]], np.float32)[:, None]
    found = surest(logits)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == np.float32


def test_one_place_holds_one_class_where_that_is_asked_for() -> None:
    task, image = build_task(SPEC), whole()
    alone = replace(PROTOCOL, exclusive=True)
    low = (-2.0,) * len(CLASSES)

    def hits(protocol: Protocol) -> float:
        state: Any = task.state(predicted(protocol), image, protocol)
        return float(sum(float(c.tp + c.fp) for c in (h.confusion(-2.0) for h in state)))

    voxels = image.fov.size
    assert hits(PROTOCOL) > voxels >= hits(alone)
    seen = [task.picture(predicted(p), image, low, p).prediction for p in (PROTOCOL, alone)]
    # A voxel of any class stays one.
    np.testing.assert_array_equal(*seen)


# -- names -----------------------------------------------------------------------------------------


def test_only_a_softmax_has_a_name() -> None:
    assert replace(SPEC, activation="sigmoid").identity is None
    assert SPEC.identity == {"name": "segment", "version": 1, "activation": "softmax"}
    points = TaskSpec("keypoints", 1, CLASSES, 2, (4, 4), ds_sigma=((1.0, 1.0),) * 3)
    assert points.identity is not None
    assert "activation" not in points.identity


def test_how_a_voxel_is_decided_names_evaluations() -> None:
    alone = replace(PROTOCOL, exclusive=True)
    assert alone.name != PROTOCOL.name
    assert "exclusive" not in PROTOCOL.identity()


# -- an output stride ------------------------------------------------------------------------------


@quick
@given(
    seed=st.integers(0, 2**31), factor=st.sampled_from([(1, 1), (2, 2), (4, 2)]),
    classes=st.integers(1, 3),
)  # fmt: skip
def test_masks_are_learnt_as_means_over_what_of_a_cell_is_inside(
    seed: int, factor: tuple[int, int], classes: int
) -> None:
    random = np.random.default_rng(seed)
    target = random.random((2, classes, 8, 4)).astype(np.float32)
    fov = (random.random((2, 1, 8, 4)) < 0.7).astype(np.float32)
    task = build_task(TaskSpec("segment", 1, CLASSES[:classes], 2, factor))
    found, inside = task.supervise(torch.from_numpy(target), torch.from_numpy(fov), None, None)
    rows, columns = 8 // factor[0], 4 // factor[1]
    assert found.shape == (2, classes, rows, columns)
    assert inside.shape == (2, 1, rows, columns)
    for n in range(2):
        for y in range(rows):
            for x in range(columns):
                at = (
                    slice(y * factor[0], (y + 1) * factor[0]),
                    slice(x * factor[1], (x + 1) * factor[1]),
                )
                seen = fov[n, 0][at] > 0
                assert inside[n, 0, y, x] == (2 * seen.sum() >= seen.size)
                if inside[n, 0, y, x]:
                    means = [plane[at][seen].mean() for plane in target[n]]
                    assert found[n, :, y, x].tolist() == pytest.approx(means, abs=1e-6)


def test_without_a_stride_nothing_is_touched() -> None:
    target, fov = torch.rand(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    found, inside = build_task(SPEC).supervise(target, fov, None, None)
    assert found is target
    assert inside is fov


def test_a_stride_stands_in_the_identity() -> None:
    plain = TaskSpec("segment", 1, ("vessel",), 2, (1, 1))
    assert plain.identity is None
    assert replace(plain, ds_factor=(2, 2)).identity == {
        "name": "segment",
        "version": 1,
        "ds_factor": (2, 2),
    }
    both = replace(SPEC, ds_factor=(2, 2)).identity
    assert both is not None
    assert both.keys() == {"name", "version", "activation", "ds_factor"}


def test_predictions_of_cells_are_interpolated_between_their_centres() -> None:
    class Ramp(nn.Module):
        """Its logit is the place of a cell's centre along x, in px."""

        def forward(self, image: Tensor) -> Tensor:
            cells = torch.arange(image.shape[-1] // 4) * 4 + 1.5
            return cells.expand(1, 1, image.shape[-2] // 4, -1)

    side = 32
    fov = np.ones((side, side), np.uint8)
    whole = WholeImage(
        source_id="s",
        group="g",
        image=np.zeros((1, side, side), np.float32),
        fov_working=fov,
        centre=np.zeros(1, np.float32),
        scale=np.ones(1, np.float32),
        target=fov,
        fov=fov,
        box=(0, 0, side, side),
        inner=(side, side),
        offset=(0, 0),
    )
    task = build_task(TaskSpec("segment", 1, ("vessel",), 2, (4, 4)))
    judging = Protocol("best", "dice", "none", classes=("vessel",))
    found = task.predict(Ramp(), whole, EXPERIMENT, judging, device="cpu", dataset_statistics=None)
    assert found.shape == (1, side, side)
    inner = slice(2, side - 2)
    expected = np.broadcast_to(np.arange(side), (side, side))
    np.testing.assert_allclose(found[0][inner, inner], expected[inner, inner], atol=1e-4)
