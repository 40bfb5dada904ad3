"""Answers of coarser levels."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from vesselflow.errors import UserError
from vesselflow.models import MODELS
from vesselflow.models.needs import check_supervision
from vesselflow.models.strided import build

torch.set_num_threads(1)

UNET = {"name": "unet3d", "filters": [2, 3, 4, 5]}
FPN = {"name": "fpn3d", "filters": [2, 3, 4, 5], "pyramid_channels": 4, "segmentation_channels": 2}


def made(spec: dict[str, Any], stride: int = 1, **more: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return build({**spec, **more}, in_channels=1, classes=2, stride=stride)


def volume() -> torch.Tensor:
    return torch.rand(2, 1, 8, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("spec", "stride", "auxiliary"),
    [(UNET, 1, 2), (UNET, 2, 1), (FPN, 1, 2), (FPN, 4, 1), ({**FPN, "finest_level": 0}, 1, 3)],
)
def test_each_coarser_level_answers_on_the_grid_in_training_alone(
    spec: dict[str, Any], stride: int, auxiliary: int
) -> None:
    plain, deep = made(spec, stride), made(spec, stride, deep_supervision=0.5)
    shared, found = plain.state_dict(), deep.state_dict()
    assert all(torch.equal(found[key], value) for key, value in shared.items())
    assert plain.auxiliary_weight == 0.0
    assert deep.auxiliary_weight == 0.5
    answers = deep.train()(volume())
    assert torch.equal(answers[0], plain.train()(volume()))
    assert len(answers) == 1 + auxiliary
    assert {tuple(each.shape) for each in answers} == {(2, 2, 8 // stride, *[16 // stride] * 2)}
    sum(each.square().mean() for each in answers[1:]).backward()
    own = [p for key, p in deep.named_parameters() if key not in shared]
    assert len(own) == 2 * auxiliary
    assert all(p.grad.any() for p in own)
    assert isinstance(deep.eval()(volume()), torch.Tensor)
    if stride > 1:  # as rare as that of the answer
        bias = math.log(0.01 / 0.99)
        assert all(p.tolist() == [pytest.approx(bias)] * 2 for p in own if p.ndim == 1)


def test_the_first_auxiliary_answer_is_that_of_the_next_coarser_level() -> None:
    deep = made(UNET, deep_supervision=1.0).train()
    seen = []
    for up in deep.up:  # coarsest first
        up.register_forward_hook(lambda module, inputs, out: seen.append(out))
    answers = deep(volume())
    for answer, supervised, x in zip(answers[1:], deep.supervision, seen[-2::-1], strict=True):
        logits = supervised.head(x)
        expected = functional.interpolate(logits, (8, 16, 16), mode="trilinear")
        torch.testing.assert_close(answer, expected)


def test_heads_of_softmax_supervise_as_logits() -> None:
    answers = made(UNET, deep_supervision=1.0, head="softmax").train()(volume())
    assert [each.shape[1] for each in answers] == [2, 2, 2]


@pytest.mark.parametrize(
    ("spec", "stride"),
    [
        ({"name": "unet3d", "filters": [2, 4]}, 1),
        (UNET, 4),
        (UNET, 8),
        ({**FPN, "finest_level": 3}, 1),
        (FPN, 8),
    ],
)
def test_no_coarser_level_is_an_error_of_one_line(spec: dict[str, Any], stride: int) -> None:
    filled = MODELS.validate({**spec, "deep_supervision": 1.0})
    with pytest.raises(UserError, match=r"^model\.deep_supervision: no level .*more levels[^\n]*$"):
        check_supervision(filled, stride)
    check_supervision(MODELS.validate(spec), stride)


def test_levels_that_are_there_are_no_error() -> None:
    for spec, stride in ((UNET, 1), (UNET, 2), (FPN, 1), (FPN, 4)):
        check_supervision(MODELS.validate({**spec, "deep_supervision": 1.0}), stride)


@pytest.mark.parametrize("weight", [0.0, -1.0, True])
def test_a_weight_is_above_nought(weight: object) -> None:
    with pytest.raises(UserError, match=r"^model\.deep_supervision: "):
        MODELS.validate({**UNET, "deep_supervision": weight}, where="model")
