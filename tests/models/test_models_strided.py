"""Logits on a coarser grid: where its cells lie, and that every model has it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from vesselflow.errors import ShapeError
from vesselflow.models import MODELS
from vesselflow.models.needs import VOLUMETRIC, divisor_of, level_strides, native_stride
from vesselflow.models.strided import PRIOR, Averaged, build, cell_means

torch.set_num_threads(1)

#: Small models of each way to a stride: (spec, stride, whether the decoder ends there).
NATIVE = [
    ({"name": "unet3d", "filters": [4, 4, 4]}, 2),
    ({"name": "unet3d", "filters": [4, 4, 4]}, 4),
    ({"name": "unet3d", "filters": [4, 4, 4], "flat_levels": 1}, (1, 2, 2)),
]
AVERAGED = [
    ({"name": "unet3d", "filters": [4, 4]}, 4),
    ({"name": "unet3d", "filters": [4, 4]}, 3),
    ({"name": "unet3d", "filters": [4, 4, 4]}, (1, 2, 2)),
    ({"name": "wnet", "filters": [4, 4]}, 4),
    ({"name": "fpn", "encoder": "resnet18"}, 8),
]
CASES = NATIVE + AVERAGED
#: With an encoder of a library, which looks half a pixel to one side; decoders end there.
ENCODED = [
    ({"name": "unet", "encoder": "resnet18"}, 2),
    ({"name": "unet", "encoder": "resnet18", "depth": 3, "se": "sse", "se_at": ["skip"]}, 4),
    ({"name": "unet", "encoder": "resnet18", "depth": 4, "se": "sse"}, 8),
    ({"name": "fpn2d", "encoder": "resnet18"}, 2),
    ({"name": "fpn2d", "encoder": "resnet18", "finest_level": 3, "se": "sse"}, 4),
    ({"name": "fpn2d", "encoder": "resnet18"}, 32),
]


def ids(value: object) -> str:
    return "-".join(map(str, value.values())) if isinstance(value, dict) else f"stride={value}"


def made(spec: dict, stride: object, classes: int = 2) -> torch.nn.Module:
    torch.manual_seed(0)
    return build(spec, in_channels=1, classes=classes, stride=stride)


def each(value: object, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value)


@pytest.mark.parametrize(("spec", "stride"), CASES, ids=ids)
def test_shapes_divisors_and_refusals(spec: dict, stride: object) -> None:
    model = made(spec, stride, classes=3)
    axes = 3 if spec["name"] in VOLUMETRIC else 2
    filled = MODELS.validate(spec)
    parts, padded = each(stride, axes), each(divisor_of(filled, stride), axes)
    assert all(side % own == 0 for side, own in zip(padded, each(model.divisor, axes), strict=True))
    assert all(side % part == 0 for side, part in zip(padded, parts, strict=True))
    cells = tuple(2 * side // part for side, part in zip(padded, parts, strict=True))
    image = torch.randn(2, 1, *(2 * side for side in padded))
    answer = model(image)
    for logits in answer if isinstance(answer, tuple) else (answer,):
        assert logits.shape == (2, 3, *cells)
        assert logits.isfinite().all()
    with pytest.raises(ShapeError):
        model(image[..., 1:])
    assert isinstance(model, Averaged) == ((spec, stride) in AVERAGED)


def test_stride_one_draws_the_same_weights() -> None:
    torch.manual_seed(0)
    plain = MODELS.build({"name": "unet3d"}, in_channels=1, classes=2)
    strided = made({"name": "unet3d"}, 1)
    pairs = zip(plain.state_dict().items(), strided.state_dict().items(), strict=True)
    assert all(a == b and torch.equal(one, other) for (a, one), (b, other) in pairs)


def test_levels_that_are_not_answered_are_not_built() -> None:
    counts = [
        sum(p.numel() for p in made({"name": "unet3d"}, stride).parameters())
        for stride in (1, 2, 4)
    ]
    assert all(finer > coarser for finer, coarser in pairwise(counts))
    # Of 8, 16 and 32 filters: two convolutions of 27 with their norms, and what raises to them.
    assert counts[0] - counts[1] == (16 * 8 * 8 + 8) + 27 * 8 * (16 + 8) + 2 * 16 - 8 * 2


@pytest.mark.parametrize(("spec", "stride"), ENCODED, ids=ids)
def test_encoded_models_answer_on_the_cells(spec: dict, stride: int) -> None:
    model = made(spec, stride, classes=3)
    assert not isinstance(model, Averaged)
    padded = divisor_of(MODELS.validate(spec), stride)
    assert isinstance(padded, int)
    assert padded % model.divisor == 0
    logits = model(torch.randn(2, 1, 2 * padded, padded))
    assert logits.shape == (2, 3, 2 * padded // stride, padded // stride)
    assert logits.isfinite().all()


@pytest.mark.parametrize(
    ("name", "stride", "own"),
    [("unet", 8, 4), ("unet", 6, 2), ("unet", 3, 1), ("fpn2d", 16, 8), ("fpn2d", 8, 8)],
)
def test_what_is_finer_than_the_cells_is_averaged(name: str, stride: int, own: int) -> None:
    spec = {"name": name, "encoder": "resnet18", "depth": 3}
    assert native_stride(MODELS.validate(spec), (stride, stride)) == (own, own)
    model = made(spec, stride)
    assert isinstance(model, Averaged) == (own != stride)
    side = math.lcm(8, stride)
    assert model(torch.randn(2, 1, side, side)).shape == (2, 2, side // stride, side // stride)


@pytest.mark.parametrize("name", ["unet", "fpn2d"])
def test_finer_parts_of_a_decoder_are_not_built_and_what_is_there_gets_a_gradient(
    name: str,
) -> None:
    spec = {"name": name, "encoder": "resnet18", "se": "eca", "se_at": ["skip", "decoder"]}
    models = [made(spec, stride) for stride in (1, 2, 4, 8, 16)]
    counts = [sum(p.numel() for p in model.parameters()) for model in models]
    # The pyramid begins at stride 2 anyway.
    for finer, coarser in list(pairwise(counts))[0 if name == "unet" else 1 :]:
        assert finer > coarser
    image = torch.randn(2, 1, 32, 32)
    for model in models:
        model(image).square().mean().backward()
        own = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
        assert not own


def test_a_decoder_that_ends_early_is_the_beginning_of_the_whole_one() -> None:
    spec = {"name": "unet", "encoder": "resnet18"}
    whole, early = made(spec, 1).eval(), made(spec, 4).eval()
    image, seen = torch.randn(1, 1, 64, 64), []
    whole.decoder.blocks[2].register_forward_hook(lambda *each: seen.append(each[-1]))
    with torch.inference_mode():
        whole(image)
        # Both drew the weights of encoder and decoder first.
        torch.testing.assert_close(early.segmentation_head(seen[0]), early(image))


def test_foreground_is_not_rare_unless_it_is_said() -> None:
    spec = {"name": "unet", "encoder": "resnet18"}
    biases = {
        rare: build(spec, in_channels=1, classes=1, stride=2, rare=rare).segmentation_head[0].bias
        for rare in (True, False)
    }
    assert biases[True].item() == pytest.approx(math.log(PRIOR / (1 - PRIOR)))
    assert biases[False].item() == 0


@pytest.mark.parametrize(
    ("flat", "stride", "own"),
    [
        (0, (4, 4, 4), (4, 4, 4)),
        (0, (8, 8, 8), (4, 4, 4)),
        (0, (3, 3, 3), (1, 1, 1)),
        (0, (6, 4, 4), (2, 2, 2)),
        (0, (1, 4, 4), (1, 1, 1)),
        (1, (1, 4, 4), (1, 2, 2)),
        (1, (2, 4, 4), (2, 4, 4)),
        (5, (1, 4, 4), (1, 4, 4)),
    ],
)
def test_the_coarsest_level_that_fills_the_cells_answers(
    flat: int, stride: tuple[int, ...], own: tuple[int, ...]
) -> None:
    spec = MODELS.validate({"name": "unet3d", "flat_levels": flat})
    assert native_stride(spec, stride) == own
    assert own in level_strides(spec)
    assert native_stride(MODELS.validate({"name": "wnet"}), stride[1:]) == (1, 1)


@given(
    st.sampled_from(["unet3d", "wnet", "fpn"]), st.integers(1, 40), st.integers(2, 5),
    st.integers(0, 3),
)  # fmt: skip
@settings(max_examples=40, deadline=None)
def test_the_divisor_is_the_least_common_one(
    name: str, stride: int, levels: int, flat: int
) -> None:
    own = {"unet3d": {"filters": [2] * levels, "flat_levels": flat}}.get(name, {})
    spec = MODELS.validate({"name": name, **own})
    axes = 3 if name in VOLUMETRIC else 2
    for told in (stride, (stride,) * axes):
        pairs = zip(each(divisor_of(spec), axes), each(divisor_of(spec, told), axes), strict=True)
        assert all(math.lcm(plain, stride) == strided for plain, strided in pairs)


@pytest.mark.parametrize("stride", [0, (2, 0, 2), (2, 2)])
def test_no_stride_of_nothing_or_of_other_axes(stride: object) -> None:
    with pytest.raises(ValueError, match=r"stride|argument"):
        build({"name": "unet3d"}, in_channels=1, classes=1, stride=stride)


def mirrored(model: torch.nn.Module) -> None:
    """Make every kernel its own mirror image, so that the model should commute with flips."""
    with torch.no_grad():
        for parameter in model.parameters():
            axes = range(2, parameter.ndim)
            for axis in axes:
                parameter.copy_((parameter + parameter.flip(axis)) / 2)


@pytest.mark.parametrize(("spec", "stride"), CASES[:-1], ids=ids)
def test_a_flipped_input_flips_the_cells(spec: dict, stride: object) -> None:
    # A grid that is shifted by part of a cell does not commute with flips. (The encoders of the
    # library are left out: their strided convolutions are not mirror images at even sizes.)
    model = made(spec, stride).double().eval()
    mirrored(model)
    image = torch.randn(1, 1, *[48] * 2, dtype=torch.float64)
    if spec["name"] in VOLUMETRIC:
        image = torch.randn(1, 1, 24, 24, 24, dtype=torch.float64)
    with torch.inference_mode():
        expected = model(image)
        for axis in range(2, image.ndim):
            torch.testing.assert_close(model(image.flip(axis)), expected.flip(axis))


@pytest.mark.parametrize(("spec", "stride"), CASES[:-1], ids=ids)
def test_single_pixels_are_answered_around_their_place(spec: dict, stride: object) -> None:
    # Positive mirrored kernels, and pixels whose places are mirror images of each other in a block
    # of the coarsest level: the centre of their answers is the centre of the block.
    model = made({**spec, "convolutions": 1}, stride, classes=1).double().eval()
    mirrored(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.abs_()
    axes = 3 if spec["name"] in VOLUMETRIC else 2
    divisor, parts = each(model.divisor, axes), each(stride, axes)
    sides = [36] * axes if axes == 3 else [96] * axes
    start = [side // 2 // block * block for side, block in zip(sides, divisor, strict=True)]
    pixels = [
        tuple(at + step % block for at, block in zip(start, divisor, strict=True))
        for step in range(max(divisor))
    ]
    images = torch.zeros(len(pixels), 1, *sides, dtype=torch.float64)
    for image, pixel in zip(images, pixels, strict=True):
        image[(0, *pixel)] = 1.0
    with torch.inference_mode():
        answer = model(images).sum(dim=(0, 1))
        answer -= model(torch.zeros_like(images)).sum(dim=(0, 1))
    assert answer.sum() > 0
    for axis, (at, block, part) in enumerate(zip(start, divisor, parts, strict=True)):
        along = answer.sum(dim=[other for other in range(axes) if other != axis])
        assert along[0] == along[-1] == 0, "the answer reaches the border"
        found = (along * torch.arange(len(along))).sum() / along.sum()
        centre = at + (block - 1) / 2
        assert found.item() == pytest.approx((centre - (part - 1) / 2) / part, abs=1e-9)


def test_means_are_those_of_average_pooling() -> None:
    values = torch.randn(2, 3, 8, 12, 6, dtype=torch.float64)
    pooled = functional.avg_pool3d(values, (4, 3, 2))
    torch.testing.assert_close(cell_means(values, (4, 3, 2)), pooled, rtol=1e-12, atol=1e-12)
    laid_out = values.contiguous(memory_format=torch.channels_last_3d)
    torch.testing.assert_close(cell_means(laid_out, (4, 3, 2)), pooled, rtol=1e-12, atol=1e-12)
    # By hand: one pixel of the cell (1, 0) of 2 x 2.
    image = torch.zeros(1, 1, 4, 4)
    image[0, 0, 3, 1] = 8.0
    assert cell_means(image, (2, 2)).tolist() == [[[[0.0, 0.0], [2.0, 0.0]]]]


def test_auxiliary_answers_are_averaged_too_and_keep_their_weight() -> None:
    spec = {"name": "wnet", "filters": [4, 4], "auxiliary_weight": 0.5}
    model = made(spec, 2)
    assert model.auxiliary_weight == 0.5
    image = torch.randn(2, 1, 16, 16)
    answers = model.train()(image)
    for averaged, full in zip(answers, model.model(image), strict=True):
        torch.testing.assert_close(averaged, functional.avg_pool2d(full, 2))
    assert model.eval()(image).shape == (2, 2, 8, 8)


@pytest.mark.parametrize("stride", [2, 4, 8])
def test_cells_start_from_a_rare_foreground(stride: int) -> None:
    model = made({"name": "unet3d"}, stride).eval()
    image = torch.randn(4, 1, 32, 32, 32)
    with torch.inference_mode():
        share = torch.sigmoid(model(image)).median().item()
    assert share == pytest.approx(PRIOR, abs=0.03)
    assert sum(p.numel() for p in model.parameters() if (p < -4).all()) == 2
