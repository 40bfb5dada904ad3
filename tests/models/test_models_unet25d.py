"""The 2.5-D U-Net: which slices it sees, and that it is a network of images otherwise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from vesselflow.errors import ShapeError, UserError
from vesselflow.models import MODELS, strided
from vesselflow.models.facts import facts_of
from vesselflow.models.layers.windows import SliceStack, as_images, as_volumes
from vesselflow.models.needs import check_places, divisor_of, needs

torch.set_num_threads(1)

STEM = {"stem": "conv3d", "stem_filters": [3]}


def build(stride: object = 1, **arguments: object) -> torch.nn.Module:
    torch.manual_seed(0)
    spec = {"name": "unet25d", "filters": [4, 6], **arguments}
    return strided.build(spec, in_channels=2, classes=3, stride=stride)


def seen(model: torch.nn.Module, depth: int, slice_: int) -> list[int]:
    """The slices of which the answer for one depends."""
    volume = torch.randn(1, 2, depth, 4, 4, dtype=torch.float64, requires_grad=True)
    model.double().eval()(volume)[:, :, slice_].square().sum().backward()
    return volume.grad.abs().sum(dim=(0, 1, 3, 4)).nonzero().flatten().tolist()


@pytest.mark.parametrize(
    ("arguments", "reach"),
    [
        ({"slices": 1}, 0),
        ({"slices": 3}, 1),
        ({"slices": 5}, 2),
        ({"slices": 5, **STEM}, 2),
        ({"slices": 5, "stem": "conv3d", "stem_filters": [3, 2]}, 2),
        ({"slices": 1, "windows": 3}, 1),
        ({"slices": 3, "windows": 3, "fuse": "attention"}, 4),
        ({"slices": 3, "windows": 3, "fuse": "conv3d", **STEM}, 4),
        ({"slices": 3, "se": "cse", "norm": "group"}, 1),
    ],
)
def test_a_slice_is_answered_from_as_many_as_it_says(
    arguments: dict[str, object], reach: int
) -> None:
    model = build(**arguments)
    for slice_ in (0, 4, 10):
        expected = [z for z in range(11) if abs(z - slice_) <= reach]
        assert seen(model, 11, slice_) == expected


def test_with_one_slice_it_is_a_network_of_images() -> None:
    """Slice by slice; and of convolutions of images, by torch's functions and its weights."""
    model = build(slices=1, convolutions=1).double().eval()
    weights = model.state_dict()
    volume = torch.randn(2, 2, 3, 8, 4, dtype=torch.float64)

    def block(x: torch.Tensor, name: str) -> torch.Tensor:
        x = functional.conv2d(x, weights[f"{name}.0.weight"][:, :, 0], padding=1)
        mean, var, scale, shift = (
            weights[f"{name}.1.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        return functional.relu(functional.batch_norm(x, mean, var, scale, shift))

    with torch.no_grad():
        found = model(volume)
        for index in range(3):
            fine = block(volume[:, :, index], "down.0")
            coarse = block(functional.max_pool2d(fine, 2), "down.1")
            up, bias = weights["raise_.0.weight"][:, :, 0], weights["raise_.0.bias"]
            raised = functional.conv_transpose2d(coarse, up, bias, stride=2)
            x = block(torch.cat([raised, fine], dim=1), "up.0")
            logits = functional.conv2d(x, weights["head.weight"][:, :, 0], weights["head.bias"])
            torch.testing.assert_close(found[:, :, index], logits)


@pytest.mark.parametrize("norm", ["batch", "instance", "group", "layer"])
def test_in_training_slices_meet_in_batch_norm_alone(norm: str) -> None:
    model = build(slices=1, norm=norm, se="cse")
    volume = torch.randn(2, 2, 3, 8, 8)
    together = model(volume)
    alone = torch.cat([model(volume[:, :, z : z + 1]) for z in range(3)], dim=2)
    assert torch.allclose(together, alone, atol=1e-5) == (norm != "batch")


@given(
    st.integers(1, 3), st.integers(1, 7), st.sampled_from([1, 3, 5, 9]), st.integers(0, 2)
)  # fmt: skip
@settings(max_examples=25, deadline=None)
def test_the_stack_is_made_of_the_slices_around(
    samples: int, depth: int, slices: int, stem: int
) -> None:
    """Window by window, each by itself."""
    widths = [3] * min(stem, slices // 2)
    torch.manual_seed(1)
    stack = SliceStack(
        slices=slices, in_channels=2, widths=widths, norm="batch", activation="relu"
    ).eval()
    volume = torch.randn(samples, 2, depth, 4, 5)
    with torch.no_grad():
        found = as_volumes(stack(volume), depth)
        assert found.shape == (samples, stack.channels, depth, 4, 5)
        for z in range(depth):
            near = [min(max(z + k, 0), depth - 1) for k in range(-(slices // 2), slices // 2 + 1)]
            window = stack.stem(volume[:, :, near])
            expected = window.flatten(1, 2)
            torch.testing.assert_close(found[:, :, z], expected)
    assert torch.equal(as_volumes(as_images(volume), depth), volume)


def test_windows_are_the_encoders_maps_of_the_slices_beside() -> None:
    model = build(slices=3, windows=3, fuse="max").eval()
    volume = torch.randn(2, 2, 7, 4, 4)
    with torch.no_grad():
        maps = model.encode(model.images(volume).unsqueeze(2))
        whole = [as_volumes(each.squeeze(2), 7) for each in maps]
        for z in range(7):
            places = [max(z - 3, 0), z, min(z + 3, 6)]
            fused = [each[:, :, places].amax(dim=2, keepdim=True) for each in whole]
            torch.testing.assert_close(model(volume)[:, :, z], model.decode(fused)[:, :, 0])


def test_parameters_by_hand() -> None:
    def count(**arguments: object) -> int:
        return sum(p.numel() for p in build(convolutions=1, **arguments).parameters())

    # Of two channels and one slice: two levels, what raises, one block up, the head.
    plain = (9 * 2 * 4 + 8) + (9 * 4 * 6 + 12) + (4 * 6 * 4 + 4) + (9 * 8 * 4 + 8) + (4 * 3 + 3)
    assert count(slices=1) == plain
    assert count(slices=5) == plain + 9 * 4 * (5 - 1) * 2
    # 27 weights from each channel to each of the stem's, its norm, and three of its maps for one.
    stem = 27 * 2 * 3 + 6
    assert count(slices=5, **STEM) == plain + stem + 9 * 4 * (3 * 3 - 2)
    assert count(slices=1, windows=3) == count(slices=1, windows=3, fuse="max") == plain
    attention = (4 + 3) + (6 + 3)
    assert count(slices=1, windows=3, fuse="attention") == plain + attention
    assert count(slices=1, windows=3, fuse="conv3d") == plain + 3 * (4 * 4 + 6 * 6)


def test_arms_start_from_the_same_weights() -> None:
    plain = build(slices=3).state_dict()
    for arguments in ({"windows": 3, "fuse": "conv3d"}, {"windows": 5, "fuse": "attention"}):
        other = build(slices=3, **arguments).state_dict()
        assert all(torch.equal(other[key], value) for key, value in plain.items())
        assert {key.split(".")[0] for key in set(other) - set(plain)} == {"fuse"}


@pytest.mark.parametrize("fuse", ["mean", "max", "attention", "conv3d"])
def test_gradients_reach_every_parameter(fuse: str) -> None:
    model = build(slices=3, windows=3, fuse=fuse, **STEM)
    model(torch.randn(2, 2, 3, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    ("stride", "own"),
    [((1, 1, 1), True), ((1, 2, 2), True), ((2, 2, 2), False), ((4, 4, 4), False)],
)
def test_strides(stride: tuple[int, int, int], own: bool) -> None:
    model = build(stride, slices=3, windows=3)
    spec = MODELS.validate({"name": "unet25d", "filters": [4, 6]})
    padded = divisor_of(spec, stride)
    assert padded == tuple(max(pair) for pair in zip((1, 2, 2), stride, strict=True))
    assert isinstance(model, strided.Averaged) != own
    sides = [2 * side for side in padded]
    cells = tuple(side // part for side, part in zip(sides, stride, strict=True))
    assert model(torch.randn(2, 2, *sides)).shape == (2, 3, *cells)


def test_any_depth_and_no_other_sides() -> None:
    model = build(slices=5).eval()
    for depth in (1, 2, 3):
        assert model(torch.zeros(1, 2, depth, 2, 4)).shape == (1, 3, depth, 2, 4)
    for shape in ((1, 2, 3, 5, 4), (1, 2, 4, 4)):
        with pytest.raises(ShapeError):
            model(torch.zeros(*shape))
    needed = needs(MODELS.validate({"name": "unet25d"}))
    assert needed is not None
    assert needed.stride == needed.least_px == (1, 4, 4)


def test_facts_count_what_is_seen_and_done() -> None:
    def facts(**arguments: object) -> object:
        spec = MODELS.validate({"name": "unet25d", "filters": [2, 4], **arguments})
        given = {"channels": 1, "classes": 1, "stride": 1, "micro_batch_size": 1}
        return facts_of(spec, sample=(9, 16, 16), **given)

    one, five = facts(slices=1), facts(slices=5)
    assert one.receptive_px[0] == 1
    assert five.receptive_px[0] == 5
    voxels = 9 * 16 * 16
    assert five.macs - one.macs == voxels * 9 * 2 * 4
    assert facts(slices=5, **STEM).receptive_px[0] == 5
    # One encoder: windows cost what fuses them.
    assert facts(slices=1, windows=5).macs == one.macs
    joined = facts(slices=1, windows=5, fuse="conv3d")
    assert joined.receptive_px[0] == 5
    assert joined.macs - one.macs == 5 * (voxels * 2 * 2 + voxels // 4 * 4 * 4)


def canonical(**arguments: object) -> dict[str, object]:
    return MODELS.canonical(MODELS.validate({"name": "unet25d", **arguments}))


def test_what_says_nothing_names_no_run() -> None:
    plain = {"name": "unet25d", "version": 1}
    assert canonical(fuse="max", stem_filters=[4, 4]) == plain
    assert canonical(windows=3, fuse="max") == {**plain, "windows": 3, "fuse": "max"}
    stem = canonical(stem="conv3d", stem_filters=[4, 4])
    assert stem == {**plain, "stem": "conv3d", "stem_filters": [4, 4]}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"slices": 4}, "model.slices: 4 is not allowed; allowed: an odd number, 1 or more"),
        ({"slices": 0}, "model.slices: 0 is not allowed; allowed: a whole number, 1 to 99"),
        ({"windows": 2}, "model.windows: 2 is not allowed; allowed: an odd number"),
        ({"fuse": "maen"}, "did you mean 'mean'?"),
        ({"stem": "conv2d"}, "model.stem: 'conv2d' is not allowed; allowed: stack, conv3d"),
        ({"flat_levels": 1}, "unknown key 'flat_levels'"),
        (
            {"slices": 3, "stem": "conv3d", "stem_filters": [8, 8]},
            "model.slices: a stem of 2 convolutions leaves none of 3 slices: each takes two off; "
            "allowed: 5 or more",
        ),
    ],
)
def test_bad_arguments_are_refused_in_a_line(arguments: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        MODELS.validate({"name": "unet25d", **arguments}, where="model")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_gates_in_a_decoder_that_is_not_there() -> None:
    spec = MODELS.validate({"name": "unet25d", "se": "cse", "se_at": "skip"})
    check_places(spec, (4, 2, 2))
    with pytest.raises(UserError, match="a unet25d of 3 levels ends with its encoder"):
        check_places(spec, (4, 4, 4))
