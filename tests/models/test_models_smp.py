from __future__ import annotations

import pytest
import torch

from vesselflow.errors import UserError
from vesselflow.models import MODELS, smp
from vesselflow.models.needs import VOLUMETRIC
from vesselflow.models.trial import build_meta

torch.set_num_threads(1)


def build(name: str, in_channels: int = 3, classes: int = 1, **arguments):
    return MODELS.build({"name": name, **arguments}, in_channels=in_channels, classes=classes)


def test_every_architecture_of_the_library_is_registered():
    with smp._quiet():
        import segmentation_models_pytorch

    assert set(segmentation_models_pytorch.MODEL_ARCHITECTURES_MAPPING) == (
        set(MODELS.names()) - {"wnet", "fpn2d", *VOLUMETRIC}
    )


@pytest.mark.parametrize(
    ("name", "depth", "divisor"),
    [
        ("unet", 3, 8),
        ("unetplusplus", 4, 16),
        ("manet", 3, 8),
        ("linknet", 4, 16),
        ("fpn", 3, 8),
        ("fpn", 4, 16),
        ("pspnet", 4, 16),
        ("upernet", 4, 16),
        ("segformer", 4, 16),
        ("deeplabv3", 5, 8),
        ("deeplabv3plus", 4, 16),
    ],
)
def test_depth_sets_the_divisor_and_keeps_the_size(name, depth, divisor):
    spec = {"name": name, "encoder": "resnet18", "depth": depth}
    model = build_meta(spec, 1, classes=2).eval()
    assert model.divisor == divisor
    image = torch.zeros(1, 1, 64, 64 + divisor, device="meta")
    assert model(image).shape == (1, 2, 64, 64 + divisor)


def test_dropout_reaches_the_model():
    for name in ("fpn", "pspnet", "deeplabv3", "deeplabv3plus"):
        model = build_meta({"name": name, "encoder": "resnet18", "dropout": 0.37}, 3)
        rates = [m.p for m in model.modules() if "Dropout" in type(m).__name__]
        assert rates == [0.37], name


def test_decoder_channels_and_attention():
    thin = build("unet", encoder="resnet18", depth=3, decoder_channels=[16, 8, 4])
    assert thin.segmentation_head[0].in_channels == 4
    attentive = build("unet", encoder="resnet18", attention="scse")
    plain = build("unet", encoder="resnet18")
    assert len(list(attentive.parameters())) > len(list(plain.parameters()))
    with pytest.raises(UserError, match=r"model.decoder_channels: \[16, 8\] has 2 entries"):
        build("unet", encoder="resnet18", depth=3, decoder_channels=[16, 8])


def test_timm_encoder_without_network():
    model = build("unet", encoder="tu-resnet10t", depth=3).eval()
    with torch.inference_mode():
        assert model(torch.rand(1, 3, 64, 64)).shape == (1, 1, 64, 64)


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        (
            {"name": "unet", "encoder": "resnet19"},
            ["model.encoder: unknown encoder 'resnet19'", "did you mean 'resnet"],
        ),
        (
            {"name": "unet", "encoder": "tu-resnet10x"},
            ["model.encoder: unknown encoder 'tu-resnet10x'", "did you mean 'tu-resnet"],
        ),
        (
            {"name": "unet", "encoder": "resnet18", "weights": "imagenett"},
            ["model.weights: unknown weights 'imagenett'", "did you mean 'imagenet'"],
        ),
        (
            {"name": "dpt", "encoder": "resnet18"},
            ["model.encoder: dpt cannot use encoder 'resnet18'"],
        ),
        (
            {"name": "unetplusplus", "encoder": "mit_b0"},
            [
                "model.encoder: unetplusplus cannot use encoder 'mit_b0'",
                "allowed: encoders but for mit_b*",
            ],
        ),
        (
            {"name": "unet", "encoder": "resnet18", "depth": 6},
            ["depth: 6 is not allowed"],
        ),
    ],
)
def test_bad_specs_get_one_line(spec, parts):
    with pytest.raises(UserError) as caught:
        MODELS.build(spec, in_channels=3, classes=1)
    line = str(caught.value)
    assert "\n" not in line
    for part in parts:
        assert part in line


def test_weights_that_cannot_be_fetched(monkeypatch):
    with smp._quiet():
        import segmentation_models_pytorch.encoders as encoders

    def offline(*_, **__):
        raise ConnectionError("no route to the hub\nsecond line")

    monkeypatch.setattr(encoders, "hf_hub_download", offline)
    with pytest.raises(UserError) as caught:
        build("unet", encoder="resnet18", weights="imagenet")
    line = str(caught.value)
    assert line.startswith(
        "model.weights: weights 'imagenet' of encoder 'resnet18' could not be loaded "
        "(ConnectionError: no route to the hub)"
    )
    assert "weights: null" in line
