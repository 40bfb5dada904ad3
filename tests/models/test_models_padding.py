"""What convolutions see beyond the border of their map, in all models."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from vesselflow.errors import UserError
from vesselflow.models import MODELS
from vesselflow.models.encoders import ENCODERS, check_padding
from vesselflow.models.layers import CONVOLUTIONS
from vesselflow.models.layers.convolutions import pad
from vesselflow.models.needs import needs
from vesselflow.models.trial import build_meta, try_model

torch.set_num_threads(1)


def built(spec: dict, channels: int = 1) -> nn.Module:
    torch.manual_seed(0)
    return MODELS.build(spec, in_channels=channels, classes=1).eval()


def spread(maps: list[torch.Tensor]) -> float:
    """Of the values of each channel, the largest beside their size."""
    return max(
        float(x.detach().flatten(2).std(dim=2).max() / (x.detach().abs().max() + 1e-6))
        for x in maps
    )


SPECS = [
    *[{"name": "unet3d", "filters": [4, 8], "convolution": each} for each in CONVOLUTIONS.names()],
    # Norms of each sample would raise the rounding of maps without any contrast.
    {"name": "fpn3d", "filters": [4, 8, 8], "convolution": "shifted", "norm": "batch"},
    {"name": "fpn3d", "filters": [4, 8], "flat_levels": 1, "finest_level": 0, "norm": "batch"},
    {"name": "unet25d", "filters": [4, 8], "stem": "conv3d"},
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: "-".join(map(str, spec.values())))
def test_a_constant_volume_has_no_border(spec: dict) -> None:
    """Every voxel has the same surroundings, unless there are zeros."""
    volume = torch.ones(1, 1, 8, 16, 16, dtype=torch.float64)
    found = {}
    for mode in ("zeros", "reflect", "replicate"):
        model = built({**spec, "padding": mode}).double()
        if spec["name"] == "unet25d":
            found[mode] = [model.images(volume)]
        else:
            found[mode] = model.encode(volume) if spec["name"] == "unet3d" else [model(volume)]
    plain, other = built(spec), built({**spec, "padding": "reflect"})
    assert list(plain.state_dict()) == list(other.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(plain.parameters(), other.parameters(), strict=True)
    )
    assert spread(found["reflect"]) < 1e-9
    assert spread(found["replicate"]) < 1e-9
    assert spread(found["zeros"]) > 1e-3


@pytest.mark.parametrize(("mode", "way"), [("reflect", "reflect"), ("replicate", "edge")])
@pytest.mark.parametrize("name", CONVOLUTIONS.names())
def test_borders_are_those_of_numpy(name: str, mode: str, way: str) -> None:
    """A padded convolution is the middle of one over a volume that was padded before."""
    torch.manual_seed(0)
    layer = CONVOLUTIONS.build({"name": name}, inputs=4, outputs=5, kernel=(3, 3, 3)).double()
    volume = torch.randn(2, 4, 3, 5, 4, dtype=torch.float64)
    larger = np.pad(volume.numpy(), [(0, 0)] * 2 + [(1, 1)] * 3, mode=way)
    expected = layer(torch.from_numpy(larger))[:, :, 1:-1, 1:-1, 1:-1]
    pad(layer, mode)
    torch.testing.assert_close(layer(volume), expected)


@pytest.mark.parametrize(
    "spec",
    [
        {"name": "unet3d", "filters": [4, 4]},
        {"name": "unet3d", "filters": [4, 4], "flat_levels": 1},
        {"name": "unet3d", "filters": [4, 4], "flat_levels": 2},
        {"name": "unet3d", "filters": [4, 4, 4], "convolution": "shifted"},
        {"name": "fpn3d", "filters": [4, 4]},
        {"name": "fpn3d", "filters": [4, 4, 4], "flat_levels": 1, "norm": "instance"},
        {"name": "unet25d", "filters": [4, 4, 4]},
        {"name": "wnet", "filters": [4, 4]},
    ],
    ids=lambda spec: "-".join(map(str, spec.values())),
)
def test_needs_of_reflected_maps_are_those_of_the_model(spec: dict) -> None:
    model = built({**spec, "padding": "reflect"})
    needed = needs(MODELS.validate({**spec, "padding": "reflect"}))
    assert needed is not None
    axes = 2 if spec["name"] == "wnet" else 3
    strides = needed.stride if isinstance(needed.stride, tuple) else (needed.stride,) * axes
    for times in product((1, 2), repeat=axes):
        size = tuple(stride * factor for stride, factor in zip(strides, times, strict=True))
        try:
            model(torch.randn(1, 1, *size))
        except (RuntimeError, ValueError):
            assert not needed.holds(size)
        else:
            assert needed.holds(size)


#: One encoder of each kind of convolution.
ENCODERS_OF_KINDS = (
    "resnet18", "se_resnet50", "vgg11", "densenet121", "dpn68", "inceptionv4", "xception",
    "mobilenet_v2", "timm-efficientnet-b0", "timm-tf_efficientnet_lite0", "timm-skresnet18",
    "mit_b0", "mobileone_s0", "inceptionresnetv2",
)  # fmt: skip


@pytest.mark.parametrize("encoder", ENCODERS_OF_KINDS)
def test_networks_of_libraries_take_it_where_they_say_so(encoder: str) -> None:
    model = build_meta({"name": "fpn", "encoder": encoder, "padding": "replicate"}, 3)
    modes = {
        (module.padding_mode, max(module.kernel_size) > 1)
        for module in model.modules()
        if isinstance(module, nn.Conv2d) and any(module._reversed_padding_repeated_twice)
    }
    assert modes == {("replicate", True)}
    model.eval()(torch.zeros(1, 3, 128, 128, device="meta"))


def test_an_encoder_of_a_library_has_no_border_either() -> None:
    image = torch.ones(1, 3, 96, 96, dtype=torch.float64)
    spec = {"name": "unet", "encoder": "resnet18", "depth": 3}
    for mode, flat in (("zeros", False), ("replicate", True), ("reflect", True)):
        model = built({**spec, "padding": mode}, channels=3).double()
        assert (spread([model(image)]) < 1e-9) == flat


def test_convolutions_that_pad_by_themselves_are_refused_in_a_line() -> None:
    said = r"^model\.padding: encoder 'efficientnet-b0' has [^\n]*; allowed: zeros [^\n]*$"
    spec = {"name": "unet", "encoder": "efficientnet-b0", "padding": "replicate"}
    with pytest.raises(UserError, match=said):
        MODELS.validate(spec, where="model")
    refused = [encoder for encoder in ENCODERS if _refused(encoder)]
    assert refused == [encoder for encoder in ENCODERS if encoder.startswith("efficientnet-b")]
    spec = {"name": "unet", "encoder": "tu-tf_efficientnet_lite0", "padding": "replicate"}
    with pytest.raises(UserError, match=r"^model\.padding: the model has [^\n]*\(Conv2dSame\)"):
        try_model(MODELS.validate(spec), channels=3, sample=(64, 64), micro_batch_size=2)


def _refused(encoder: str) -> bool:
    try:
        check_padding(encoder, "reflect")
    except UserError:
        return True
    return False


def test_what_a_library_reflects_is_tried_on_its_sizes() -> None:
    spec = MODELS.validate({"name": "unet", "encoder": "resnet18", "padding": "reflect"})
    assert needs(spec) is None
    sizes = {"channels": 3, "micro_batch_size": 2}
    try_model(spec, sample=(64, 64), images=[(64, 96)], **sizes)
    with pytest.raises(UserError, match=r"cannot train on 2 x 3 x 32 x 64 .*[Pp]adding size"):
        try_model(spec, sample=(32, 64), **sizes)
    with pytest.raises(UserError, match=r"cannot score 1 x 3 x 64 x 32 .*[Pp]adding size"):
        try_model(spec, sample=(64, 64), images=[(64, 32)], **sizes)
