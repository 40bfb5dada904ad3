"""What a model asks of its input, held against the models; and models that are tried."""

from __future__ import annotations

import pytest
import torch

from vesselflow.errors import UserError
from vesselflow.models import MODELS
from vesselflow.models.needs import VOLUMETRIC, needs
from vesselflow.models.trial import build_meta, try_model

torch.set_num_threads(1)

#: Models of volumes whose encoder is none of a library.
OWN = [name for name in VOLUMETRIC if "filters" in MODELS.part(name).arguments.model_fields]

#: Names and arguments of the cases; every rule of `needs` decides in one of them.
SPECS = [
    {"name": "wnet", "filters": [2, 2, 2, 2, 2, 2]},
    {"name": "wnet", "filters": [2, 2]},
    {"name": "unet", "encoder": "resnet18"},
    {"name": "unet", "encoder": "vgg11"},
    {"name": "linknet", "encoder": "vgg11"},
    {"name": "unetplusplus", "encoder": "vgg11"},
    {"name": "fpn", "encoder": "vgg11_bn"},
    {"name": "fpn2d", "encoder": "resnet18"},
    {"name": "fpn2d", "encoder": "resnet18", "norm": "group", "depth": 4},
    {"name": "fpn2d", "encoder": "vgg11"},
    {"name": "fpn2d", "encoder": "vgg11", "norm": "layer"},
    {"name": "fpn2d", "encoder": "mit_b0", "norm": "instance"},
    {"name": "fpn", "encoder": "timm-skresnet18"},
    {"name": "pspnet", "encoder": "resnet18"},
    {"name": "segformer", "encoder": "mit_b0"},
    {"name": "manet", "encoder": "mit_b0"},
    {"name": "deeplabv3plus", "encoder": "mit_b0"},
    {"name": "upernet", "encoder": "resnet18"},
    {"name": "pan", "encoder": "resnet18", "depth": 3},
    {"name": "pan", "encoder": "resnet18"},
    {"name": "pan", "encoder": "resnet18", "output_stride": 32},
    {"name": "deeplabv3", "encoder": "resnet18"},
    {"name": "deeplabv3plus", "encoder": "mobilenet_v2", "depth": 4},
]


def runs(model: torch.nn.Module, samples: int, size: int) -> bool:
    try:
        with torch.no_grad():
            model(torch.zeros(samples, 3, size, size, device="meta"))
    except (ValueError, RuntimeError):
        return False
    return True


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: "-".join(map(str, spec.values())))
def test_needs_are_those_of_the_model(spec: dict[str, object]) -> None:
    spec = MODELS.validate(spec)
    needed = needs(spec)
    assert needed is not None
    model = build_meta(spec, 3)
    assert needed.stride == model.divisor
    for size in sorted({32, max(32, needed.least_px - 32), max(32, needed.least_px)}):
        large = size >= needed.least_px
        assert runs(model.eval(), 1, size) == large
        for samples in (1, 2):
            allowed = large and needed.trains((size, size), samples)
            assert runs(model.train(), samples, size) == allowed, (size, samples)
    if not needed.pools:
        # Four pixels of the coarsest map are enough.
        assert needed.trains((64, 64), 1)
        assert runs(model.train(), 1, 64)


#: Norm, coarsest width, and width of the head of `fpn3d`.
NORMED = [
    ("batch", 16, 16),
    ("instance", 16, 16),
    ("group", 16, 16),
    ("group", 8, 16),
    ("group", 16, 8),
    ("group", 6, 12),
    ("group", 1, 16),
    ("layer", 16, 16),
    ("layer", 1, 16),
    ("layer", 16, 1),
]


@pytest.mark.parametrize("name", [*OWN, "wnet"])
@pytest.mark.parametrize(("norm", "width", "head"), NORMED)
def test_needs_with_a_norm_are_those_of_the_model(
    name: str, norm: str, width: int, head: int
) -> None:
    beside = {"segmentation_channels": head} if name == "fpn3d" else {}
    spec = MODELS.validate({"name": name, "norm": norm, "filters": [16, width], **beside})
    needed = needs(spec)
    assert needed is not None
    model = MODELS.build(spec, in_channels=1, classes=1)
    sizes = {"wnet": ((2, 2), (4, 4)), "unet25d": ((1, 2, 2), (1, 2, 4))}.get(
        name, ((2, 2, 2), (2, 2, 4))
    )
    for size in sizes:
        for samples in (1, 2):
            for training in (True, False):
                allowed = needed.holds(size)
                if training:
                    allowed = allowed and needed.trains(size, samples)
                model.train(training)
                try:
                    model(torch.randn(samples, 1, *size))
                except ValueError:
                    assert not allowed
                else:
                    # Torch takes two samples of one voxel each, of which nothing would be left.
                    alone = size == sizes[0] and norm in ("group", "layer") and samples == 2
                    assert allowed or (alone and not needed.holds(size))


def test_only_encoders_of_timm_are_left_to_a_trial() -> None:
    assert needs(MODELS.validate({"name": "dpt"})) is None
    assert needs(MODELS.validate({"name": "unet", "encoder": "tu-resnet18"})) is None


TRIALS = {
    "no-transformer": (
        {"name": "dpt", "encoder": "tu-resnet10t"},
        {},
        ("model.encoder: dpt cannot use encoder 'tu-resnet10t' with depth 4 (", "tu-vit_tiny"),
    ),
    "another-stride": (
        {"name": "dpt", "encoder": "tu-vit_small_patch14_dinov2"},
        {},
        ("cannot train on 2 x 3 x 64 x 64 (", "divisible by 14"),
    ),
    "one-sample": (
        {"name": "upernet", "encoder": "tu-resnet10t"},
        {"micro_batch_size": 1},
        ("cannot train on 1 x 3 x 64 x 64 (", "more than 1 value per channel"),
    ),
    "whole-images": (
        {"name": "pan", "encoder": "tu-resnet10t"},
        {"sample": (128, 128), "images": [(128, 128), (64, 96)]},
        ("cannot score 1 x 3 x 64 x 96 (",),
    ),
}


@pytest.mark.parametrize("case", TRIALS)
def test_a_trial_refuses_what_training_would_not_survive(case: str) -> None:
    spec, changed, parts = TRIALS[case]
    sizes = {"channels": 3, "sample": (64, 64), "micro_batch_size": 2, **changed}
    with pytest.raises(UserError) as caught:
        try_model(spec, **sizes)
    for part in parts:
        assert part in str(caught.value)


def test_a_trial_passes_what_fits_and_loads_no_weights() -> None:
    for spec in (
        {"name": "unet", "encoder": "tu-resnet10t", "weights": "imagenet", "depth": 3},
        {"name": "dpt"},
        # Some of these look at values, which are not there on the meta device.
        {"name": "segformer"},
    ):
        try_model(spec, channels=1, sample=(64, 64), micro_batch_size=2, images=[(64, 96)])
