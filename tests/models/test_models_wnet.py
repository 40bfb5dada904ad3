from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from vesselflow.errors import ShapeError, UserError
from vesselflow.models import MODELS
from vesselflow.models.ema import count_parameters

torch.set_num_threads(1)


def build(in_channels: int = 3, classes: int = 1, **arguments):
    torch.manual_seed(0)
    return MODELS.build({"name": "wnet", **arguments}, in_channels=in_channels, classes=classes)


def test_number_of_parameters():
    # Each level's block: two 3x3 convolutions with bias, their batch-norms, a 1x1 shortcut with
    # batch-norm: 880 (3 -> 8), 3712 (8 -> 16), 14592 (16 -> 32). Way up: transposed 2x2
    # convolution, bridge, block: 2064 + 2352 + 7552 (to 16), 520 + 600 + 1920 (to 8). Head 9.
    # Sum 34201; the second U-Net has one more input channel: 8 * 9 + 8 weights.
    # The paper's table gives 68,482 for W-Net and 34,201 for its single U-Net.
    model = build()
    assert count_parameters(model) == 68_482
    assert count_parameters(model.first) == 34_201
    for parameter in model.first.parameters():
        parameter.requires_grad_(False)
    assert count_parameters(model, trainable_only=True) == 34_281


def answer(model: nn.Module) -> list[float]:
    """Some logits of a fixed image, in float64: no other CPU's order of sums shows in them."""
    ramp = torch.arange(3 * 16 * 16, dtype=torch.float64).view(1, 3, 16, 16)
    with torch.inference_mode():
        logits = model.eval().double()(torch.sin(ramp * 0.37))
    return [float(logits[0, 0, y, x]) for y, x in ((0, 0), (3, 12), (8, 8), (15, 15))]


#: Version 1; a change of these numbers needs a new version.
GOLDEN = [-0.252396748, -0.309436637, -0.405380013, -0.252378878]
GOLDEN_SEED_0 = [-2.6359532, -28.8225025, -12.4218292, 15.229769]


def test_golden_output():
    # With weights that no random generator made, so that it is the architecture's alone.
    model = build()
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            ramp = torch.arange(parameter.numel(), dtype=torch.float64) * 0.71 + number
            parameter.copy_(torch.sin(ramp).view(parameter.shape) * 0.5)
    assert answer(model) == pytest.approx(GOLDEN, rel=1e-6)


def test_golden_initial_weights():
    # The normal draws of torch differ in their last bits between kinds of CPU: by 3e-6 here.
    assert answer(build()) == pytest.approx(GOLDEN_SEED_0, rel=1e-4)


def test_training_gives_both_answers_and_evaluation_the_final_one():
    model, image = build(), torch.rand(2, 3, 16, 24)
    final, first = model.train()(image)
    assert final.shape == first.shape == (2, 1, 16, 24)
    assert model.auxiliary_weight == 1.0
    assert isinstance(model.eval()(image), torch.Tensor)


def test_the_second_network_sees_the_first_answer():
    model, image = build().eval(), torch.rand(1, 3, 16, 16)
    with torch.inference_mode():
        before = model(image)
        model.first.head.bias += 1.0
        assert not torch.allclose(model(image), before)
        assert torch.equal(model(image), model.second(torch.cat([image, model.first(image)], 1)))


def test_without_auxiliary_weight_there_is_one_answer():
    model = build(auxiliary_weight=0.0).train()
    answer = model(torch.rand(2, 3, 16, 16))
    assert isinstance(answer, torch.Tensor)
    answer.square().sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize(
    "arguments",
    [
        {"upsample": "bilinear"},
        {"bridge": False, "shortcut": False},
        {"input_norm": True, "dropout": 0.2},
        {"filters": [4, 8], "convolutions": 1},
        {"filters": [4, 6, 8, 12], "convolutions": 3},
    ],
)
def test_every_option_builds_and_learns(arguments):
    model = build(in_channels=2, classes=2, **arguments).train()
    side = 4 * model.divisor
    outputs = model(torch.rand(2, 2, side, side))
    assert all(o.shape == (2, 2, side, side) for o in outputs)
    weights = torch.randn(outputs[0].shape)
    sum((o * weights).sum() for o in outputs).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize(("padding", "way"), [("reflect", "reflect"), ("replicate", "edge")])
def test_padding_is_what_convolutions_see_beyond_the_border(padding: str, way: str):
    plain, padded = build().eval(), build(padding=padding).eval()
    # The same weights, whose names say nothing of it.
    for ours, theirs in zip(plain.state_dict().items(), padded.state_dict().items(), strict=True):
        assert ours[0] == theirs[0]
        assert torch.equal(ours[1], theirs[1])
    image = torch.rand(1, 3, 16, 16)
    first = padded.first.down[0].chain[0]
    around = np.pad(image.numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode=way)
    expected = nn.functional.conv2d(torch.from_numpy(around), first.weight, first.bias)
    torch.testing.assert_close(first(image), expected)
    kinds = [m.padding_mode for m in padded.modules() if isinstance(m, nn.Conv2d)]
    large = [m for m in padded.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert kinds.count(padding) == len(large)
    # A constant image has no border then: every voxel has the same surroundings.
    with torch.no_grad():
        flat = padded.first.down[0](torch.ones(1, 3, 16, 16))
        edged = plain.first.down[0](torch.ones(1, 3, 16, 16))
    assert float(flat.std(dim=(2, 3)).max()) < 1e-5 < float(edged.std(dim=(2, 3)).max())


def test_a_map_of_one_px_cannot_be_reflected():
    build(padding="reflect").eval()(torch.zeros(1, 3, 8, 8))
    build(padding="replicate").eval()(torch.zeros(1, 3, 4, 4))
    with pytest.raises(ShapeError, match="heights and widths of 8 and more, got 4 x 8"):
        build(padding="reflect").eval()(torch.zeros(1, 3, 4, 8))


def test_divisor_is_that_of_the_pooling():
    model = build(filters=[4, 8, 8, 8])
    assert model.divisor == 8
    with pytest.raises(ShapeError, match="multiples of 8, got 16 x 20"):
        model(torch.rand(1, 3, 16, 20))


def test_channels_last_and_autocast_give_the_same_answer():
    model, image = build().eval(), torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        plain = model(image)
        last = model.to(memory_format=torch.channels_last)(
            image.contiguous(memory_format=torch.channels_last)
        )
        with torch.autocast("cpu", torch.bfloat16):
            half = model(image)
    # Other kernels, other order of sums: a few float32 roundings of logits up to 60.
    assert torch.allclose(plain, last, atol=1e-3)
    assert float((half.float() - plain).abs().mean()) < 0.05 * float(plain.std() + 1)


def test_batch_norm_is_the_ordinary_one():
    kinds = {type(m) for m in build().modules() if "norm" in type(m).__name__.lower()}
    assert kinds == {nn.BatchNorm2d}


def test_it_can_learn():
    # Bright pixels are the target: forty steps must reach a loss well below the start's.
    g = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 16, 16, generator=g)
    target = (image.mean(1, keepdim=True) > 0.55).float()
    model = build().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(40):
        final, first = model(image)
        loss = sum(
            nn.functional.binary_cross_entropy_with_logits(o, target) for o in (final, first)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"filters": [8]}, "filters"),
        ({"filters": [8, 0]}, "filters.1"),
        ({"dropout": 1.0}, "dropout"),
        ({"upsample": "nearest"}, "upsample"),
        ({"auxiliary_weight": -1}, "auxiliary_weight"),
        ({"filter": [8, 16]}, "filter"),
    ],
)
def test_bad_arguments_are_named(arguments, key):
    with pytest.raises(UserError) as caught:
        MODELS.validate({"name": "wnet", **arguments}, where="model")
    assert str(caught.value).startswith(f"model.{key}: ")
