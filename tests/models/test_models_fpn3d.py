"""The 3-D feature pyramid network beside torchvision's pyramid and what its papers say."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from vesselflow.errors import ShapeError, UserError
from vesselflow.models import MODELS
from vesselflow.models.layers.pyramid import Pyramid
from vesselflow.models.needs import divisor_of, needs
from vesselflow.models.strided import Averaged
from vesselflow.models.strided import build as strided

torch.set_num_threads(1)

SMALL = {"filters": [4, 6], "convolutions": 1, "pyramid_channels": 5, "segmentation_channels": 3}


def build(stride: object = 1, **arguments: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return strided({"name": "fpn3d", **arguments}, in_channels=1, classes=2, stride=stride)


def parameters(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_parameters_by_hand() -> None:
    # Convolutions of 27 with their norms, and the shortcuts' of 1 with theirs.
    encoder = (27 * 1 * 4 + 8 + 4 + 8) + (27 * 4 * 6 + 12 + 24 + 12)
    smooth = 27 * 5 * 5 + 5
    raised = 27 * 5 * 3 + 6
    head = 3 * 2 + 2
    # From the coarser level on: one lateral, one smoothing, one convolution of the head.
    assert parameters(build(**SMALL)) == encoder + (6 * 5 + 5) + smooth + raised + head
    # From the voxels on: the coarser map has one step up, the finer a convolution alone.
    both = encoder + (4 * 5 + 5) + (6 * 5 + 5) + 2 * smooth + 2 * raised
    assert parameters(build(finest_level=0, **SMALL)) == both + head
    beside = 6 * 2 + 2
    assert parameters(build(finest_level=0, merge="cat", **SMALL)) == both + beside
    # A stride leaves out what is finer.
    assert parameters(build(2, finest_level=0, **SMALL)) == parameters(build(**SMALL))


def test_the_pyramid_is_that_of_torchvision() -> None:
    # Of one slice and with flat kernels, a volume is an image.
    from torchvision.ops import FeaturePyramidNetwork

    torch.manual_seed(0)
    widths = [3, 5, 7]
    flat = Pyramid(widths, 4, [(1, 3, 3)] * 3, [(1, 2, 2)] * 2, "nearest").double()
    plain = FeaturePyramidNetwork(widths, 4).double()
    for level in range(3):
        for ours, theirs in (
            (flat.lateral[level], plain.inner_blocks[level][0]),
            (flat.smooth[level], plain.layer_blocks[level][0]),
        ):
            theirs.weight.data = ours.weight.data[:, :, 0]
            theirs.bias.data = ours.bias.data
    maps = [
        torch.randn(2, width, 16 >> level, 24 >> level, dtype=torch.float64)
        for level, width in enumerate(widths)
    ]
    expected = plain({str(level): each for level, each in enumerate(maps)})
    found = flat([each.unsqueeze(2) for each in maps])
    for each, other in zip(found, expected.values(), strict=True):
        torch.testing.assert_close(each.squeeze(2), other)


def test_the_head_by_hand() -> None:
    """Every step again, with torch's functions and the model's weights."""
    model = build(finest_level=1, filters=[8, 16, 32], norm="group").double().eval()
    weights = {name: value.double() for name, value in model.state_dict().items()}

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        x = functional.conv3d(x, weights[f"{name}.0.weight"], padding=1)
        x = functional.group_norm(x, 8, weights[f"{name}.1.weight"], weights[f"{name}.1.bias"])
        return functional.relu(x)

    def twice(x: torch.Tensor) -> torch.Tensor:
        return functional.interpolate(x, scale_factor=2, mode="trilinear", align_corners=False)

    volume = torch.randn(1, 1, 8, 12, 16, dtype=torch.float64)
    with torch.inference_mode():
        x, maps = volume, []
        for level, encode in enumerate(model.encoder):
            x = encode(functional.max_pool3d(x, 2) if level else x)
            maps.append(x)
        middle, coarse = model.pyramid(maps[1:])
        merged = block(middle, "raise_.0.steps.0") + twice(block(coarse, "raise_.1.steps.0"))
        logits = functional.conv3d(merged, weights["head.weight"], weights["head.bias"])
        torch.testing.assert_close(model(volume), twice(logits))


def test_the_encoder_adds_its_input() -> None:
    model = build(filters=[8, 8], norm="batch").eval()
    block = model.encoder[1]
    with torch.no_grad():
        for parameter in block.chain.parameters():
            parameter.zero_()
    x = torch.rand(1, 8, 4, 4, 4)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("arguments", "divisor"),
    [
        ({}, (8, 8, 8)),
        ({"flat_levels": 1}, (4, 8, 8)),
        ({"flat_levels": 5}, (1, 8, 8)),
        ({"filters": [4, 8], "finest_level": 0}, (2, 2, 2)),
        ({"filters": [4, 8, 8], "finest_level": 2, "merge": "cat"}, (4, 4, 4)),
        ({"upsample": "trilinear", "norm": "instance", "dropout": 0.5}, (8, 8, 8)),
        ({"norm": "batch"}, (8, 8, 8)),
    ],
)
def test_divisors(arguments: dict[str, object], divisor: tuple[int, int, int]) -> None:
    model = build(**arguments)
    assert model.divisor == divisor
    spec = MODELS.validate({"name": "fpn3d", **arguments})
    needed = needs(spec)
    assert needed is not None
    assert divisor_of(spec) == needed.stride == divisor
    shape = [2 * side for side in divisor]
    assert model(torch.randn(2, 1, *shape)).isfinite().all()
    assert model.eval()(torch.zeros(1, 1, *shape)).shape == (1, 2, *shape)
    with pytest.raises(ShapeError, match="multiples of"):
        model(torch.zeros(1, 1, divisor[0], divisor[1] + 1, divisor[2]))
    with pytest.raises(ShapeError):
        model(torch.zeros(1, 1, *divisor[1:]))


@pytest.mark.parametrize(
    ("stride", "arguments"),
    [
        (1, {}),
        (1, {"finest_level": 2, "upsample": "trilinear"}),
        (2, {"finest_level": 0, "merge": "cat"}),
        (2, {"finest_level": 2}),
        (8, {}),
        ((1, 2, 2), {"flat_levels": 1}),
        (16, {}),
    ],
)
def test_a_flipped_volume_flips_the_cells(stride: object, arguments: dict[str, object]) -> None:
    small = {"pyramid_channels": 4, "segmentation_channels": 4, "convolutions": 1}
    model = build(stride, filters=[4, 4, 4, 4], **small, **arguments).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            for axis in range(2, parameter.ndim):
                parameter.copy_((parameter + parameter.flip(axis)) / 2)
    volume = torch.randn(1, 1, 32, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        expected = model(volume)
        parts = (stride,) * 3 if isinstance(stride, int) else stride
        assert expected.shape == (1, 2, *(32 // part for part in parts))
        for axis in (2, 3, 4):
            torch.testing.assert_close(model(volume.flip(axis)), expected.flip(axis))
    assert isinstance(model, Averaged) == (stride == 16)


def test_flat_levels_leave_slices_alone() -> None:
    # All levels flat, statistics fixed: a slice does not see its neighbours.
    model = build(flat_levels=5, norm="batch").eval()
    volume = torch.randn(1, 1, 3, 16, 16)
    changed = volume.clone()
    changed[:, :, 0] += 1
    with torch.inference_mode():
        one, other = model(volume), model(changed)
    assert torch.equal(one[:, :, 1:], other[:, :, 1:])
    assert not torch.equal(one[:, :, 0], other[:, :, 0])


def test_no_pyramid_above_the_coarsest_level() -> None:
    with pytest.raises(UserError) as caught:
        MODELS.validate({"name": "fpn3d", "filters": [4, 8], "finest_level": 2}, where="model")
    assert str(caught.value).startswith(
        "model.finest_level: there is no level 2 in an encoder of 2"
    )
