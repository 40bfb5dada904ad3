"""The 2-D feature pyramid network beside its papers and torchvision's pyramid."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import FeaturePyramidNetwork

from vesselflow.errors import ShapeError, UserError
from vesselflow.models import MODELS

torch.set_num_threads(1)


def build(**arguments: object) -> nn.Module:
    torch.manual_seed(0)
    spec = {"name": "fpn2d", "encoder": "resnet18", **arguments}
    return MODELS.build(spec, in_channels=3, classes=2)


def test_the_network_is_an_encoder_a_pyramid_and_a_cascade() -> None:
    """Every step again: torchvision's pyramid, torch's functions, the model's weights."""
    model = build(fusion="cascade", norm="layer", pyramid_channels=8, segmentation_channels=6)
    model = model.double().eval()
    weights = model.state_dict()
    plain = FeaturePyramidNetwork([64, 64, 128, 256, 512], 8).double()
    for level in range(5):
        plain.inner_blocks[level][0].load_state_dict(model.pyramid.lateral[level].state_dict())
        plain.layer_blocks[level][0].load_state_dict(model.pyramid.smooth[level].state_dict())

    def block(x: torch.Tensor, level: int) -> torch.Tensor:
        x = functional.conv2d(x, weights[f"fusion.refine.{level}.0.weight"], padding=1)
        scale, shift = (weights[f"fusion.refine.{level}.1.{kind}"] for kind in ("weight", "bias"))
        return functional.relu(functional.group_norm(x, 1, scale, shift))

    def twice(x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)

    image = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        maps = model.encoder(image)[1:]
        pyramid = list(plain({str(level): each for level, each in enumerate(maps)}).values())
        x = block(pyramid[4], 4)
        for level in (3, 2, 1, 0):
            weight, bias = (weights[f"fusion.reduce.{level}.{kind}"] for kind in ("weight", "bias"))
            x = block(twice(x) + functional.conv2d(pyramid[level], weight, bias), level)
        logits = functional.conv2d(x, weights["head.weight"], weights["head.bias"])
        torch.testing.assert_close(model(image), twice(logits))


def test_widths_of_the_fusions_are_those_of_one_pyramid() -> None:
    def count(module: nn.Module) -> int:
        return sum(p.numel() for p in module.parameters())

    models = {fusion: build(fusion=fusion) for fusion in ("parallel", "cascade")}
    both = build(fusion="parallel_cascade")
    assert len({count(model.encoder) for model in (*models.values(), both)}) == 1
    assert len({count(model.pyramid) for model in (*models.values(), both)}) == 1
    # A block of 3 x 3 of the pyramid's maps, or of the fusion's, with its norm.
    wide, narrow = 9 * 128 * 64 + 128, 9 * 64 * 64 + 128
    assert count(models["parallel"].fusion) == 5 * wide + (1 + 2 + 3) * narrow
    assert count(models["cascade"].fusion) == wide + 4 * narrow + 4 * (128 * 64 + 64)
    assert count(both.fusion) == sum(count(model.fusion) for model in models.values()) + 64


@pytest.mark.parametrize(
    ("arguments", "coarse"),
    [
        ({}, 2),
        ({"finest_level": 3}, 8),
        ({"finest_level": 5}, 32),
        ({"finest_level": 3, "depth": 3}, 8),
        # These have no map at stride 2.
        ({"encoder": "mit_b0"}, 4),
        ({"encoder": "tu-convnext_atto"}, 4),
    ],
)
def test_the_finest_level(arguments: dict[str, object], coarse: int) -> None:
    model = build(**arguments, fusion="parallel_cascade").eval()
    seen = []
    model.head.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 64, 96)).shape == (1, 2, 64, 96)
    assert seen == [(1, 2, 64 // coarse, 96 // coarse)]


def test_sides_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="multiples of 32, got 64 x 80"):
        build()(torch.zeros(1, 3, 64, 80))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            {"finest_level": 4, "depth": 3},
            "model.finest_level: there is no level 4 in an encoder of 3; "
            "allowed: 1 to 3, the coarsest",
        ),
        (
            {"merge": "cat", "fusion": "parallel_cascade"},
            "model.merge: the fusion parallel_cascade has nothing to put side by side; "
            "allowed: add, or cat beside fusion: parallel",
        ),
        ({"fusion": "casade"}, "did you mean 'cascade'?"),
        ({"encoder": "resnet1"}, "model.encoder: unknown encoder 'resnet1'"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(arguments: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        MODELS.validate({"name": "fpn2d", **arguments}, where="model")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_encoder_that_does_not_fit_is_refused_when_it_is_built() -> None:
    with pytest.raises(UserError, match="fpn2d cannot use encoder 'tu-vit_tiny_patch16_224'"):
        build(encoder="tu-vit_tiny_patch16_224")
