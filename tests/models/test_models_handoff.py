"""What mixes samples behind an encoder: all that the decoder is given, once, and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from vesselflow.models import MODELS
from vesselflow.models.layers.handoff import Handoff, HiddenMix, mixed_behind_encoder
from vesselflow.models.needs import axes_of

#: In evaluation mode batch-norm sees no other sample.
NETWORKS = {
    "wnet": {"filters": [2, 3, 4], "norm": "batch"},
    "unet3d": {"filters": [2, 3, 4], "norm": "batch"},
    "unet25d": {"filters": [2, 3], "norm": "batch", "slices": 3, "windows": 3},
    "fpn3d": {"filters": [2, 3, 4], "norm": "batch"},
    "fpn2d": {"encoder": "resnet18", "norm": "batch"},
    "unet": {"encoder": "resnet18"},
    "encoded25d": {"encoder": "resnet18", "slices": 3},
    "segformer": {"encoder": "mit_b0"},
    "pan": {"encoder": "resnet18"},
}
#: An involution without a fixed point would hide a partner that is taken the wrong way round.
MIX = HiddenMix(torch.tensor([0.3, 1.0, 0.6]), torch.tensor([1, 2, 0]))


def network(name: str) -> nn.Module:
    torch.manual_seed(0)
    spec = MODELS.validate({"name": name, **NETWORKS[name]}, where="model")
    if "weights" in spec:
        spec["weights"] = None
    model: nn.Module = MODELS.build(spec, in_channels=1, classes=1)
    return model.eval()


def images(name: str) -> torch.Tensor:
    volumes = axes_of({"name": name}) == 3
    generator = torch.Generator().manual_seed(1)
    # Pixels of resnet's coarsest map, for what pools three times below it.
    side = 128 if name == "pan" else 64
    return torch.randn((3, 1, 4, 32, 32) if volumes else (3, 1, side, side), generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_model_hands_its_maps_over(name: str) -> None:
    model, x = network(name), images(name)
    with torch.no_grad():
        plain = model(x)
        with mixed_behind_encoder(model, None):
            assert torch.equal(model(x), plain)
        alone = HiddenMix(torch.ones(3), MIX.other)
        with mixed_behind_encoder(model, alone):
            assert torch.equal(model(x), plain)
        with mixed_behind_encoder(model, HiddenMix(torch.zeros(3), MIX.other)):
            swapped = model(x)
        with mixed_behind_encoder(model, MIX):
            mixed = model(x)
        assert torch.equal(model(x), plain), "nothing is left of it"
    # All that the decoder sees is the partner's: so is the answer.
    assert torch.allclose(swapped, plain[MIX.other], atol=1e-4)
    assert torch.allclose(mixed[1], plain[1], atol=1e-4)
    assert not torch.allclose(mixed[0], plain[0], atol=1e-4)
    assert not any(name.endswith("handoff") for name in model.state_dict())


def test_each_map_is_mixed_once_and_nothing_else() -> None:
    """A decoder without bends gives the mean of two samples for the mean of their maps."""
    model = network("fpn3d")
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.ReLU) and not name.startswith(("down", "blocks", "encoder")):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, nn.Identity())
    x = images("fpn3d")
    with torch.no_grad():
        plain = model(x)
        with mixed_behind_encoder(model, MIX):
            mixed = model(x)
    share = MIX.share.view(-1, 1, 1, 1, 1)
    assert torch.allclose(mixed, share * plain + (1 - share) * plain[MIX.other], atol=1e-5)


def test_gradients_reach_both_samples() -> None:
    model, x = network("unet3d"), images("unet3d").requires_grad_()
    with mixed_behind_encoder(model, MIX):
        model(x)[0].sum().backward()
    assert x.grad is not None
    assert [bool(each.any()) for each in x.grad] == [True, True, False]


def test_what_is_no_number_stays_with_its_sample() -> None:
    maps = torch.ones(3, 1, 2, 2)
    maps[2] = torch.nan
    mixed = HiddenMix(torch.tensor([0.5, 1.0, 1.0]), torch.tensor([1, 2, 0]))(maps)
    assert mixed.flatten(1).isnan().all(1).tolist() == [False, False, True]


def test_images_of_a_sample_lie_one_after_the_other() -> None:
    maps = torch.arange(6.0).view(6, 1, 1, 1)
    mix = HiddenMix(torch.tensor([0.0, 1.0]), torch.tensor([1, 0]))
    assert mix(maps).flatten().tolist() == [3, 4, 5, 3, 4, 5]


def test_a_copy_has_its_own() -> None:
    model = network("unet")
    other = copy.deepcopy(model)
    x = images("unet")
    with torch.no_grad(), mixed_behind_encoder(other, MIX):
        assert not torch.allclose(other(x)[0], model(x)[0], atol=1e-4)


def test_a_model_without_one_says_so() -> None:
    with pytest.raises(ValueError, match="no encoder"), mixed_behind_encoder(nn.Identity(), MIX):
        pass
    assert Handoff()(torch.ones(1)).tolist() == [1.0]
