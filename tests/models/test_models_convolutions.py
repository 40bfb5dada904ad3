"""What the networks of volumes are made of, in half precision and any layout."""

from __future__ import annotations

import pytest
import torch

from vesselflow.models import MODELS
from vesselflow.models.layers.convolutions import Conv3d
from vesselflow.models.needs import VOLUMETRIC
from vesselflow.models.strided import build

torch.set_num_threads(1)

#: Models of volumes whose encoder is none of a library.
OWN = [name for name in VOLUMETRIC if "filters" in MODELS.part(name).arguments.model_fields]


@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_gradients_in_bfloat16_are_those_of_float32(depth: int, groups: int) -> None:
    # Torch's own are NaN or wrong at a depth of 2, on processors that multiply in bfloat16.
    torch.manual_seed(0)
    layer = Conv3d(16, 16, (3, 3, 3), bias=False, groups=groups)
    volume, weights = torch.randn(2, 16, depth, 4, 4), torch.randn(2, 16, depth, 4, 4)
    found = []
    for low in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            answer = layer(volume)
        (answer.float() * weights).sum().backward()
        found.append(layer.weight.grad)
        layer.weight.grad = None
    torch.testing.assert_close(*found, rtol=0, atol=0.02 * found[1].abs().max().item())


def test_it_is_the_convolution_of_torch_otherwise() -> None:
    torch.manual_seed(0)
    layer = Conv3d(4, 6, (1, 3, 3), bias=True).double()
    plain = torch.nn.Conv3d(4, 6, (1, 3, 3), padding="same").double()
    plain.load_state_dict(layer.state_dict())
    for depth in (2, 5):
        volume = torch.randn(1, 4, depth, 6, 7, dtype=torch.float64)
        assert torch.equal(layer(volume), plain(volume))


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("stride", [1, 4, 16])
def test_bfloat16_and_channels_last_learn_the_same(name: str, stride: int) -> None:
    spec = {"name": name, "filters": [8, 16, 16, 16], "norm": "batch"}
    torch.manual_seed(0)
    model = build(spec, in_channels=1, classes=2, stride=stride)
    volume = torch.randn(2, 1, 16, 16, 16)
    answers, gradients = [], []
    for low in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=low):
            logits = model(volume)
        logits.float().square().mean().backward()
        answers.append(logits.float())
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
        model.to(memory_format=torch.channels_last_3d)
        volume = volume.contiguous(memory_format=torch.channels_last_3d)
    spread = answers[0].std().item()
    torch.testing.assert_close(answers[1], answers[0], rtol=0, atol=0.25 * spread)
    assert torch.cosine_similarity(*gradients, dim=0) > 0.95
