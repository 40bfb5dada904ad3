"""The ends of an encoder's levels, where excitations stand that the next level sees, too."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vesselflow.errors import UserError
from vesselflow.models import MODELS
from vesselflow.models.encoders import ENCODERS, check_stages
from vesselflow.models.layers.stages import stage_ends
from vesselflow.models.trial import try_model

AT = ("encoder",)
#: One of each family.
FAMILIES = (
    "resnet18",
    "dpn68",
    "vgg11",
    "se_resnet50",
    "densenet121",
    "efficientnet-b0",
    "mobilenet_v2",
    "xception",
    "timm-efficientnet-b0",
    "timm-skresnet18",
    "mit_b0",
    "mobileone_s0",
    "tu-convnext_atto",
)


def encoder_of(name: str) -> Any:
    from segmentation_models_pytorch.encoders import get_encoder

    # Transformers draw numbers out of a tensor, which none on the meta device holds.
    with warnings.catch_warnings(), torch.device("cpu" if name == "mit_b0" else "meta"):
        warnings.simplefilter("ignore", DeprecationWarning)
        return get_encoder(name, in_channels=3, depth=5, weights=None)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_has_them_or_is_refused_by_name(name: str) -> None:
    encoder = encoder_of(name)
    hooks = sum(len(module._forward_hooks) for module in encoder.modules())
    if name in ("dpn68", "mit_b0"):
        for refused in (lambda: stage_ends(encoder, name, 3), lambda: check_stages(name, AT)):
            with pytest.raises(UserError, match=r"^model.se_at"):
                refused()
        return
    check_stages(name, AT)
    ends = stage_ends(encoder, name, 3)
    widths = encoder.out_channels
    assert list(ends) == [level for level in range(1, len(widths)) if widths[level]]
    assert len({*ends.values()}) == len(ends)
    assert sum(len(module._forward_hooks) for module in encoder.modules()) == hooks
    assert all(module.training for module in encoder.modules())


def test_what_is_refused_by_name_is_known() -> None:
    check_stages("dpn68", ("skip", "decoder"))
    for name in ENCODERS:
        if name.startswith(("dpn", "mit_b")):
            with pytest.raises(UserError):
                check_stages(name, ("encoder", "skip"))
        else:
            check_stages(name, ("encoder",))


class Nothing(nn.Module):
    """A gate that is shut."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 0


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet-b0", "vgg11"])
def test_a_level_goes_to_the_next_one_and_to_the_decoder_as_it_was_gated(name: str) -> None:
    spec = {"name": "unet", "encoder": name, "depth": 4, "se": "eca", "se_at": "encoder"}
    model: Any = MODELS.build(spec, in_channels=3, classes=1).eval()
    image = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        before = model.encoder(image)
        model.gates["encoder2"] = Nothing()
        after = model.encoder(image)
        again = model.encoder(torch.rand(1, 3, 32, 32))
    assert torch.equal(before[1], after[1])
    assert before[2].any()
    assert not after[2].any()
    # What comes behind it depends on the image no more.
    assert not torch.equal(before[3], after[3])
    assert torch.equal(after[3], again[3])
    assert torch.equal(after[4], again[4])


def test_an_encoder_of_timm_is_tried() -> None:
    spec = {"name": "unet", "encoder": "tu-convnext_atto", "se": "cse", "se_at": "encoder"}
    try_model(spec, channels=3, sample=(64, 64), micro_batch_size=2, images=[])
    spec = {**spec, "encoder": "tu-swin_tiny_patch4_window7_224", "depth": 4}
    with pytest.raises(UserError) as caught:
        MODELS.build(spec, in_channels=3, classes=1)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["unet", "manet", "linknet", "unetplusplus", "fpn2d"])
def test_an_encoder_without_a_map_at_stride_2_has_gates_elsewhere(name: str) -> None:
    places = ["encoder", "skip"] + ["decoder"] * (name != "unetplusplus")
    spec = {"name": name, "encoder": "tu-convnext_atto", "se": "cse", "se_at": places}
    with torch.device("meta"):
        model: Any = MODELS.build(spec, in_channels=3, classes=1)
    assert model(torch.empty(1, 3, 64, 64, device="meta")).shape == (1, 1, 64, 64)
    assert "encoder1" not in model.gates
    assert {"encoder2", "encoder5"} <= set(model.gates)


def test_gates_are_no_part_of_the_encoder() -> None:
    """Who freezes the encoder, or trains it more slowly, leaves what is new alone."""
    spec = {"name": "fpn2d", "encoder": "resnet18", "se": "cse", "se_at": ["encoder", "skip"]}
    with torch.device("meta"):
        model = MODELS.build(spec, in_channels=1, classes=1)
    names = [name for name, _ in model.named_parameters()]
    plain = {name: value for name, value in spec.items() if not name.startswith("se")}
    with torch.device("meta"):
        without = MODELS.build(plain, in_channels=1, classes=1)
    own = set(names) - {name for name, _ in without.named_parameters()}
    assert own
    assert all(name.startswith("gates.") for name in own)
    assert {name.split(".")[1].rstrip("012345") for name in own} == {"encoder", "skip"}
