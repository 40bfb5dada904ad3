"""The 3-D U-Net beside what its paper and torch say."""

from __future__ import annotations

import pytest
import torch

from vesselflow.errors import ShapeError
from vesselflow.models import MODELS
from vesselflow.models.needs import divisor_of, needs


def build(**arguments: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return MODELS.build({"name": "unet3d", **arguments}, in_channels=1, classes=2)


def test_parameters_by_hand() -> None:
    # Two levels of one convolution: 27*1*4 + 8 and 27*4*8 + 16; up 8*4*8 + 4 and 27*8*4 + 8; the
    # head 4*2 + 2.
    model = build(filters=[4, 8], convolutions=1)
    expected = (108 + 8) + (864 + 16) + (256 + 4) + (864 + 8) + (8 + 2)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize(
    ("arguments", "divisor"),
    [
        ({}, (4, 4, 4)),
        ({"flat_levels": 1}, (2, 4, 4)),
        ({"flat_levels": 5}, (1, 4, 4)),
        ({"filters": [4, 8]}, (2, 2, 2)),
    ],
)
def test_divisors(arguments: dict[str, object], divisor: tuple[int, int, int]) -> None:
    model = build(**arguments)
    assert model.divisor == divisor
    spec = MODELS.validate({"name": "unet3d", **arguments})
    needed = needs(spec)
    assert needed is not None
    assert divisor_of(spec) == needed.stride == needed.least_px == divisor
    shape = [2 * side for side in divisor]
    assert model.eval()(torch.zeros(1, 1, *shape)).shape == (1, 2, *shape)
    with pytest.raises(ShapeError, match="multiples of"):
        model(torch.zeros(1, 1, divisor[0], divisor[1] + 1, divisor[2]))
    with pytest.raises(ShapeError):
        model(torch.zeros(1, 1, *divisor[1:]))


def test_flat_levels_leave_slices_alone() -> None:
    # All levels flat, statistics fixed: a slice does not see its neighbours.
    model = build(flat_levels=5).eval()
    volume = torch.randn(1, 1, 3, 16, 16)
    changed = volume.clone()
    changed[:, :, 0] += 1
    with torch.inference_mode():
        one, other = model(volume), model(changed)
    assert torch.equal(one[:, :, 1:], other[:, :, 1:])
    assert not torch.equal(one[:, :, 0], other[:, :, 0])


@pytest.mark.parametrize("norm", ["batch", "instance", "group"])
def test_norms(norm: str) -> None:
    model = build(norm=norm)
    assert model(torch.randn(2, 1, 8, 8, 8)).isfinite().all()
