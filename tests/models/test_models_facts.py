"""Facts of networks, beside what one finds by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vesselflow.models import MODELS
from vesselflow.models.facts import ModelFacts, facts_of, receptive_px

torch.set_num_threads(1)


def facts(spec: dict[str, object], sample: tuple[int, ...], **given: object) -> ModelFacts:
    values = {"channels": 1, "classes": 1, "stride": 1, "micro_batch_size": 2, **given}
    return facts_of(MODELS.validate(spec), sample=sample, **values)


@pytest.mark.parametrize(
    ("layers", "pixels"),
    [
        ([nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 5, padding=2)], (7, 7)),
        ([nn.Conv2d(1, 1, 3, padding=2, dilation=2)], (5, 5)),
        ([nn.Conv2d(1, 1, (1, 5), padding=(0, 2))], (1, 5)),
        # 2 pixels of the pool, 3 of its map: 6; and both neighbours of a bilinear raise: one more.
        ([nn.MaxPool2d(2), nn.Conv2d(1, 1, 3, padding=1), nn.Upsample(scale_factor=2)], (6, 6)),
        ([nn.AdaptiveAvgPool2d(1), nn.Upsample(size=16)], (16, 16)),
        # What closes paths, drops pixels or sees all of them takes no part.
        ([nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.GroupNorm(8, 8), nn.Dropout(0.5)], (3, 3)),
    ],
)
def test_the_receptive_field_by_hand(layers: list[nn.Module], pixels: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(*layers)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    assert receptive_px(model, 1, (16, 16)) == pixels
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_a_network_sees_no_pixel_beyond_its_receptive_field() -> None:
    spec = {"name": "wnet", "filters": [4, 4, 4]}
    (extent, _) = facts(spec, (128, 128)).receptive_px
    # Two U-Nets of blocks of two 3 x 3, a bridge, 2 x 2 pools: by hand, on the finest grid,
    # 4 down, 2 x (4 + 4) on the middle, 4 x 4 on the coarsest, 4 up; and pixels of pools.
    assert 64 < extent < 128
    torch.manual_seed(0)
    model = MODELS.build(spec, in_channels=1, classes=1).double().eval()
    image = torch.rand(1, 1, 128, 128, dtype=torch.float64, requires_grad=True)
    model(image)[0, 0, 64, 64].backward()
    rows = image.grad[0, 0].abs().amax(dim=1).nonzero()
    assert int(rows.max() - rows.min()) + 1 <= extent


def test_costs_by_hand() -> None:
    spec = {"name": "unet3d", "filters": [2, 4], "convolutions": 1}
    found = facts(spec, (4, 8, 8), classes=3)
    voxels = 4 * 8 * 8
    fine = 27 * 1 * 2 + 27 * 4 * 2 + 2 * 3  # of each voxel: down, up, head
    raised = 8 * 4 * 2 // 8 * 8  # each coarse voxel gives eight
    coarse = 27 * 2 * 4 + raised
    assert found.macs == voxels * fine + voxels // 8 * coarse
    norms = 2 * (2 + 4 + 2)
    weights = 27 * (1 * 2 + 2 * 4 + 4 * 2) + 8 * 4 * 2 + 2 + 2 * 3 + 3
    assert found.parameters == weights + norms
    assert found.training_bytes == 16 * found.parameters + found.saved_bytes


def test_a_head_of_two_channels_costs_two_heads_and_sees_what_one_sees() -> None:
    spec = {"name": "unet3d", "filters": [2, 4], "convolutions": 1}
    one = facts(spec, (4, 8, 8), stride=2)
    two = facts({**spec, "head": "softmax"}, (4, 8, 8), stride=2)
    assert two.parameters - one.parameters == 4 + 1
    assert two.receptive_px == one.receptive_px


def test_what_is_kept_grows_with_the_micro_batch() -> None:
    spec = {"name": "wnet", "filters": [4, 8]}
    one, three = (facts(spec, (32, 32), micro_batch_size=count) for count in (1, 3))
    assert one.parameters == three.parameters
    assert one.macs == three.macs
    assert one.saved_bytes > 4 * 32 * 32 * 4  # one map of the finest level at least
    # All but means and deviations of the norms.
    assert three.saved_bytes == pytest.approx(3 * one.saved_bytes, rel=0.01)


def test_gates_and_strides_show() -> None:
    sample, small = (16, 32, 32), {"name": "unet3d", "filters": [4, 8, 8]}
    plain, gated = facts(small, sample), facts({**small, "se": "cse"}, sample)
    assert gated.parameters > plain.parameters
    assert gated.receptive_px == sample
    assert plain.receptive_px[1] < 32 + 1
    coarse = facts(small, sample, stride=(2, 2, 2))
    assert coarse.macs < plain.macs
    assert coarse.parameters < plain.parameters


def test_pretrained_weights_are_not_fetched() -> None:
    spec = {"name": "unet", "encoder": "resnet18", "weights": "imagenet"}
    assert facts(spec, (32, 32)).parameters == facts({**spec, "weights": None}, (32, 32)).parameters
