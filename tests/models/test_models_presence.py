"""The head that says which classes a patch holds."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss

from vesselflow.errors import UserError
from vesselflow.models import MODELS
from vesselflow.models.facts import facts_of
from vesselflow.models.layers.handoff import HiddenMix, mixed_behind_encoder
from vesselflow.models.needs import check_presence
from vesselflow.models.presence import presence_loss

torch.set_num_threads(1)

UNET = {"name": "unet3d", "filters": [2, 3, 4]}


def heard(model: Any, image: torch.Tensor) -> list[torch.Tensor]:
    """The maps that the head of a model hears."""
    with model.presence.listening() as maps:
        model(image)
    return list(maps)


@pytest.mark.parametrize("spec", [{"name": "unet25d", "filters": [2, 3]}, UNET])
def test_a_volume_is_the_mean_of_all_its_slices(spec: dict[str, Any]) -> None:
    model: Any = MODELS.build({**spec, "presence": 1.0}, in_channels=1, classes=2).eval()
    volumes = torch.rand(2, 1, 4, 8, 8)
    logits = model.presence(heard(model, volumes), 2)
    assert logits.shape == (2, 2)
    for volume, both in zip(volumes, logits, strict=True):
        coarsest = heard(model, volume[None])[-1]
        mean = coarsest.double().transpose(0, 1).flatten(1).mean(dim=1)  # over slices and places
        linear = model.presence.linear
        expected = linear.weight.double() @ mean + linear.bias.double()
        torch.testing.assert_close(both.double(), expected, rtol=1e-4, atol=1e-5)


def test_it_hears_only_what_it_is_asked_to() -> None:
    model: Any = MODELS.build({**UNET, "presence": 1.0}, in_channels=1, classes=1)
    image = torch.rand(1, 1, 4, 8, 8)
    with model.presence.listening() as maps:
        pass
    model(image)
    assert maps == []
    with model.presence.listening() as maps:
        model(image)
    model(image)
    assert len(maps) == 3  # of three levels
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with torch.no_grad():
            own = heard(other, image)
        assert all(torch.equal(*pair) for pair in zip(own, maps, strict=True))


def test_logits_are_float32_below_autocast() -> None:
    model: Any = MODELS.build({**UNET, "presence": 1.0}, in_channels=1, classes=1)
    with torch.autocast("cpu", torch.bfloat16):
        maps = heard(model, torch.rand(1, 1, 4, 8, 8))
        assert model.presence(maps, 1).dtype == torch.float32


@pytest.mark.parametrize("spec", [{"name": "unet25d", "filters": [2, 3]}, UNET])
def test_samples_that_are_mixed_behind_the_encoder_are_heard_mixed(spec: dict[str, Any]) -> None:
    model: Any = MODELS.build({**spec, "presence": 1.0}, in_channels=1, classes=1).eval()
    volumes = torch.rand(2, 1, 4, 8, 8)
    one, other = model.presence(heard(model, volumes), 2)
    mix = HiddenMix(torch.tensor([0.75, 1.0]), torch.tensor([1, 0]))
    with mixed_behind_encoder(model, mix):
        mixed = model.presence(heard(model, volumes), 2)
    # The mean and the linear layer keep sums.
    torch.testing.assert_close(mixed, torch.stack([0.75 * one + 0.25 * other, other]))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_its_loss_is_the_log_loss_of_the_samples_that_count(seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = 2 * random.standard_normal((4, 2))
    target = random.random((4, 2, 3, 3)) * random.choice([0.4, 1.0], (4, 2, 1, 1))
    counted = random.random((4, 1, 3, 3)) < random.choice([0, 0.4, 1], (4, 1, 1, 1))
    value = presence_loss(*map(torch.from_numpy, (logits, target, counted.astype(float))))
    present = np.where(counted, target, 0).max(axis=(2, 3)) > 0.5
    part = np.repeat(counted.any(axis=(2, 3)), 2, axis=1)
    if not part.any():
        assert float(value) == 0.0
        return
    told = 1 / (1 + np.exp(-logits))
    expected = log_loss(present[part], told[part], labels=[False, True])
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_nothing_counted_gives_gradients_of_nought() -> None:
    logits = torch.randn(2, 1, requires_grad=True)
    value = presence_loss(logits, torch.ones(2, 1, 4, 4), torch.zeros(2, 1, 4, 4))
    value.backward()
    assert value.item() == 0.0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_half_a_mask_is_no_presence() -> None:
    fov = torch.ones(1, 1, 2, 2)
    for most, present in ((0.5, False), (0.51, True)):
        value = presence_loss(torch.tensor([[3.0]]), most * fov, fov)
        assert float(value) == pytest.approx(math.log1p(math.exp(-3.0 if present else 3.0)))


def test_facts_count_its_parameters_and_no_multiplications() -> None:
    spec = MODELS.validate(UNET)
    plain, told = (
        facts_of(
            {**spec, "presence": weight},
            channels=1,
            classes=3,
            stride=1,
            sample=(4, 8, 8),
            micro_batch_size=1,
        )
        for weight in (None, 1.0)
    )
    assert told.parameters == plain.parameters + 4 * 3 + 3
    assert (told.macs, told.receptive_px) == (plain.macs, plain.receptive_px)


@pytest.mark.parametrize("weight", [0.0, -1.0, True, math.inf])
def test_a_weight_is_above_nought(weight: object) -> None:
    with pytest.raises(UserError, match=r"^model\.presence: [^\n]*$"):
        MODELS.validate({**UNET, "presence": weight}, where="model")


def test_heat_maps_have_no_presence() -> None:
    spec = MODELS.validate({**UNET, "presence": 1.0})
    with pytest.raises(UserError, match=r"^model\.presence: presence is that of masks[^\n]*null$"):
        check_presence(spec, sparse=True)
    check_presence(spec, sparse=False)
    check_presence(MODELS.validate(UNET), sparse=True)
