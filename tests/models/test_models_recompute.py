"""Blocks that are computed again: the same numbers from less memory."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vesselflow.models import MODELS
from vesselflow.models.facts import saved_bytes
from vesselflow.models.recompute import blocks, recompute_blocks

torch.set_num_threads(1)

IMAGE, VOLUME = (2, 3, 32, 32), (1, 1, 8, 16, 16)
#: With dropout, batch-norm, gates by hooks, several answers, and windows through one encoder.
MODELS_OF: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"name": "wnet", "dropout": 0.3, "se": "scse", "skip_gate": "attention"}, IMAGE),
    ({"name": "unet", "encoder": "resnet18", "se": "scse", "skip_gate": "attention"}, IMAGE),
    ({"name": "segformer"}, IMAGE),
    (
        {"name": "unet3d", "filters": [4, 8, 8], "dropout": 0.3, "deep_supervision": 0.5},
        VOLUME,
    ),
    ({"name": "unet25d", "filters": [4, 8], "slices": 3, "windows": 3}, VOLUME),
]


def built(spec: dict[str, Any], shape: tuple[int, ...]) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = MODELS.build(MODELS.validate(spec), in_channels=shape[1], classes=1)
    return model.train()


def step(model: nn.Module, image: Tensor) -> tuple[list[Tensor], int]:
    """Answers, gradients, buffers and the generator's state; bytes that autograd kept."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage()._cdata not in own:
            kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = model(image)
    answers = answer if isinstance(answer, tuple) else (answer,)
    sum(each.float().square().mean() for each in answers).backward()
    gradients = [torch.zeros(0) if p.grad is None else p.grad for p in model.parameters()]
    return [*answers, *gradients, *model.buffers(), torch.get_rng_state()], sum(kept.values())


@pytest.mark.parametrize(
    ("spec", "shape", "amp"),
    # One of images and one of volumes are enough in bfloat16.
    [(*each, False) for each in MODELS_OF] + [(*MODELS_OF[0], True), (*MODELS_OF[3], True)],
    ids=lambda value: str(value)[:24],
)
def test_the_same_numbers_from_less_memory(
    spec: dict[str, Any], shape: tuple[int, ...], amp: bool
) -> None:
    image = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    plain = built(spec, shape)
    again = copy.deepcopy(plain)
    names = list(again.state_dict())
    assert recompute_blocks(again) is again
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        (expected, kept), (found, less) = step(plain, image), step(again, image)
    assert list(again.state_dict()) == names
    assert all(map(torch.equal, expected, found))
    assert less < 0.6 * kept
    if not amp:
        with_all, least = saved_bytes(plain.to("meta"), shape[1], shape[2:], shape[0])
        assert with_all == kept
        assert less <= least < kept


class Twice(nn.Module):
    """A block that is called twice, so that its running statistics are those of the second call."""

    def __init__(self) -> None:
        super().__init__()
        chain = (nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2, momentum=1.0), nn.Dropout(0.5), nn.Tanh())
        self.block = nn.Sequential(*chain)
        self.head = nn.Conv2d(2, 1, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(self.block(image) * 3))
        return logits


def test_statistics_of_a_block_that_is_called_twice_are_those_of_its_second_call() -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(Twice())
    recompute_blocks(nets[1])
    assert blocks(nets[1]) == [nets[1].block]
    image = torch.rand(2, 2, 9, 9)
    expected, found = (step(net, image)[0] for net in nets)
    assert all(map(torch.equal, expected, found))
    assert int(nets[1].block[1].num_batches_tracked) == 2


def test_blocks_are_the_largest_with_a_root_of_the_layers() -> None:
    def chain(length: int) -> nn.Sequential:
        return nn.Sequential(*(nn.Conv2d(1, 1, 1) for _ in range(length)))

    # 16 layers: 4 at most, or more where they are a module's own.
    fine, own = nn.Sequential(chain(2), chain(2)), chain(7)
    model = nn.Sequential(fine, nn.ModuleList([own]), nn.Sequential(chain(3), nn.Conv2d(1, 1, 1)))
    large = nn.Sequential(model, nn.Conv2d(1, 1, 1))
    assert blocks(large) == [fine, own, model[2]]
    # A single layer keeps its input anyway; the whole model would keep nothing and save nothing.
    assert blocks(chain(3)) == []


def test_nothing_is_done_twice_without_gradients() -> None:
    net = recompute_blocks(built({"name": "wnet"}, IMAGE)).eval()
    calls = []
    for block in blocks(net):
        block.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        net(torch.rand(IMAGE))
    assert len(calls) == len(blocks(net))
