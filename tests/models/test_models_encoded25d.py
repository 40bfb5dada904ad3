"""The 2.5-D U-Net with a library's encoder, beside `unet` on each slice."""

from __future__ import annotations

import pytest
import torch

from vesselflow.config.experiment import load_experiment
from vesselflow.errors import ShapeError, UserError
from vesselflow.models import MODELS, strided
from vesselflow.models.needs import axes_of, divisor_of, level_strides, needs
from vesselflow.models.trial import build_meta, try_model
from vesselflow.runs.registries import REGISTRIES
from vesselflow.training.loop import build_model
from vesselflow.training.parameters import parameter_groups

torch.set_num_threads(1)

SMALL = {"encoder": "resnet18", "depth": 3}


def build(name: str = "encoded25d", stride: object = 1, **arguments: object) -> torch.nn.Module:
    torch.manual_seed(0)
    channels = arguments.pop("in_channels", 1)
    spec = {"name": name, **SMALL, **arguments}
    return strided.build(spec, in_channels=channels, classes=2, stride=stride).eval()


@pytest.mark.parametrize(
    ("more", "stride"),
    [
        ({}, (1, 1, 1)),
        ({"attention": "scse"}, (1, 2, 2)),
        ({"se": "scse", "se_at": ["skip", "decoder"], "encoder": "mit_b0"}, (1, 4, 4)),
    ],
)
def test_it_is_the_unet_of_the_slices_around(
    more: dict[str, object], stride: tuple[int, int, int]
) -> None:
    model = build(slices=3, stride=stride, **more)
    plain = build("unet", in_channels=3, stride=stride[1:], **more)
    weights = plain.state_dict()
    found = model.state_dict()
    # The same weights, drawn in the same order, under the same names.
    assert list(weights) == list(found)
    assert all(torch.equal(found[key], value) for key, value in weights.items())
    volume = torch.randn(2, 1, 4, 32, 40)
    with torch.no_grad():
        answer = model(volume)
        assert answer.shape == (2, 2, 4, 32 // stride[1], 40 // stride[2])
        for z in range(4):
            near = volume[:, 0, [max(z - 1, 0), z, min(z + 1, 3)]]
            torch.testing.assert_close(answer[:, :, z], plain(near), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("fuse", "encoder"),
    [("mean", "resnet18"), ("max", "mit_b0"), ("attention", "resnet18"), ("conv3d", "mit_b0")],
)
def test_windows_share_the_encoder(fuse: str, encoder: str) -> None:
    model = build(encoder=encoder, slices=1, windows=3, fuse=fuse)
    volume = torch.randn(1, 1, 1, 32, 32)
    with torch.no_grad():  # all windows of one slice are that slice
        torch.testing.assert_close(model(volume), build(encoder=encoder, slices=1)(volume))
        further = torch.cat([volume, torch.randn(1, 1, 2, 32, 32)], dim=2)
        changed = further.clone()
        changed[:, :, 2] += 1
        one, other = model(further), model(changed)
    moved = (one - other).abs().amax(dim=(0, 1, 3, 4)) > 0
    assert moved.tolist() == [False, True, True]
    model.train()(torch.randn(2, 1, 3, 32, 32)).square().mean().backward()
    silent = [name for name, p in model.fuse.named_parameters() if not p.grad.any()]
    assert not silent


def test_a_stem_stands_before_it() -> None:
    model = build(slices=5, stem="conv3d", stem_filters=[4])
    assert model.encoder.conv1.in_channels == 4 * 3
    volume = torch.randn(1, 1, 7, 16, 16, requires_grad=True)
    model(volume)[:, :, 3].square().sum().backward()
    seen = volume.grad.abs().sum(dim=(0, 1, 3, 4)).nonzero().flatten().tolist()
    assert seen == [1, 2, 3, 4, 5]


def test_needs_and_strides() -> None:
    spec = MODELS.validate({"name": "encoded25d", **SMALL})
    assert axes_of(spec) == 3
    assert divisor_of(spec) == build().divisor == (1, 8, 8)
    assert divisor_of(spec, (4, 16, 2)) == (4, 16, 8)
    assert level_strides(spec) == ((1, 1, 1), (1, 2, 2), (1, 4, 4))
    needed = needs(spec)
    assert needed is not None
    assert (needed.stride, needed.least_px) == ((1, 8, 8), (1, 32, 32))
    deep = needs(MODELS.validate({"name": "encoded25d", "encoder": "resnet18"}))
    assert deep is not None
    assert deep.stride == deep.least_px == (1, 32, 32)
    meta = build_meta(spec, 1).train()
    for depth in (1, 2):
        sample = torch.zeros(1, 1, depth, 8, 8, device="meta")
        assert needed.trains((depth, 8, 8), 1) == (depth > 1)
        if depth > 1:
            meta(sample)
        else:
            with pytest.raises(ValueError, match="more than 1 value per channel"):
                meta(sample)
    assert isinstance(build(stride=4), strided.Averaged)
    assert build(stride=4)(torch.zeros(1, 1, 4, 8, 8)).shape == (1, 2, 1, 2, 2)
    with pytest.raises(ShapeError):
        build()(torch.zeros(1, 1, 2, 12, 8))


def test_encoders_of_timm_are_tried_on_volumes() -> None:
    spec = {"name": "encoded25d", "encoder": "tu-resnet10t", "depth": 3}
    assert needs(MODELS.validate(spec)) is None
    try_model(spec, channels=1, sample=(3, 16, 16), micro_batch_size=1, images=[(5, 16, 24)])
    with pytest.raises(UserError) as caught:
        try_model(spec, channels=1, sample=(1, 8, 8), micro_batch_size=1)
    told = "cannot train on 1 x 1 x 1 x 8 x 8 (samples, channels, depth, height, width: "
    assert told in str(caught.value)


def test_its_encoder_has_a_rate_and_any_layout() -> None:
    experiment = load_experiment(
        {
            "data": {"train": "a"},
            "model": {"name": "encoded25d", **SMALL, "stem": "conv3d"},
            "train": {"encoder_lr_factor": 0.1, "channels_last": True},
        },
        registries=REGISTRIES,
    )
    model = build_model(experiment, 1, seed=0)
    groups = parameter_groups(model, experiment.train)
    assert sorted(group["lr_factor"] for group in groups) == [0.1, 1.0]
    layouts = [
        p.is_contiguous(
            memory_format=torch.channels_last if p.ndim == 4 else torch.channels_last_3d
        )
        for p in model.parameters()
        if p.ndim in (4, 5)
    ]
    assert all(layouts)
    assert {p.ndim for p in model.parameters()} >= {4, 5}


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"slices": 2}, "model.slices: 2 is not allowed; allowed: an odd number"),
        ({"se": "cse", "se_at": "encoder", "encoder": "mit_b0"}, "model.se_at: encoder 'mit_b0'"),
        ({"filters": [8, 16]}, "unknown key 'filters'"),
        ({"encoder": "resnet19"}, "resnet18"),
    ],
)
def test_bad_arguments_are_refused_in_a_line(arguments: dict[str, object], line: str) -> None:
    with pytest.raises(UserError) as caught:
        MODELS.validate({"name": "encoded25d", **arguments}, where="model")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
