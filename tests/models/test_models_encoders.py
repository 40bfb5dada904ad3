"""What is known of encoders without torch, held against the libraries themselves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from vesselflow.errors import UserError
from vesselflow.models import MODELS, smp
from vesselflow.models.encoders import ENCODERS, check_encoder, timm_encoders

with smp._quiet():
    import segmentation_models_pytorch as library
    import timm
    from segmentation_models_pytorch.encoders import encoders, get_encoder, get_encoder_names

#: One of each family; the smallest.
FAMILIES = ("resnet18", "dpn68", "vgg11", "densenet121", "inceptionv4", "mobilenet_v2", "xception")
FAMILIES += ("inceptionresnetv2", "efficientnet-b0", "timm-skresnet18", "mit_b0", "mobileone_s0")


def refusal(spec: dict[str, object]) -> str:
    with pytest.raises(UserError) as caught:
        MODELS.validate(spec, where="model")
    return str(caught.value)


def test_the_table_is_that_of_the_library() -> None:
    assert list(ENCODERS) == get_encoder_names()
    for name, weights in ENCODERS.items():
        assert weights == tuple(encoders[name]["pretrained_settings"]), name


def test_names_of_timm_are_read_without_it() -> None:
    old = timm.models._registry._deprecated_models
    assert set(timm.list_models()) <= timm_encoders() <= {*timm.list_models(), *old}
    assert all(timm.is_model(name) for name in timm_encoders())


def takes(architecture: str, encoder: str, *, dilated: bool = False) -> bool:
    try:
        check_encoder(architecture, encoder, None, dilated=dilated)
    except UserError:
        return False
    return True


def builds(call: Callable[[], object]) -> bool:
    try:
        with smp._quiet():
            call()
    except (ValueError, NotImplementedError):
        return False
    return True


@pytest.mark.parametrize("encoder", FAMILIES)
def test_an_encoder_is_dilated_where_the_library_can(encoder: str) -> None:
    built = builds(lambda: get_encoder(encoder, output_stride=16))
    assert takes("pan", encoder, dilated=True) == built


@pytest.mark.parametrize("name", ["unetplusplus", "linknet", "unet", "manet", "segformer"])
def test_a_transformer_is_taken_where_the_library_builds_it(name: str) -> None:
    kinds = {
        key.replace("_", ""): kind for key, kind in library.MODEL_ARCHITECTURES_MAPPING.items()
    }
    built = builds(lambda: kinds[name](encoder_name="mit_b0", encoder_weights=None))
    assert takes(name, "mit_b0") == built


LINES = {
    "no-such-encoder": (
        {"name": "unet", "encoder": "resnet43"},
        (
            "model.encoder: unknown encoder 'resnet43'; allowed: resnet18, resnet34, ",
            "mean 'resnet",
        ),
    ),
    "no-such-encoder-of-timm": (
        {"name": "unet", "encoder": "tu-resnet10x"},
        (
            "model.encoder: unknown encoder 'tu-resnet10x'; allowed: tu-<a model of timm>; "
            "did you mean 'tu-resnet10t'?",
        ),
    ),
    "not-for-this-architecture": (
        {"name": "linknet", "encoder": "mit_b0"},
        (
            "model.encoder: linknet cannot use encoder 'mit_b0'; allowed: encoders but for mit_b*; "
            "resnet34 suits all but dpt",
        ),
    ),
    "cannot-be-dilated": (
        {"name": "pan", "encoder": "densenet121"},
        ("model.encoder: pan cannot use encoder 'densenet121', which cannot be dilated; ",),
    ),
    "no-transformer": (
        {"name": "dpt", "encoder": "resnet18"},
        ("model.encoder: dpt cannot use encoder 'resnet18'; allowed: vision transformers of timm",),
    ),
    "no-such-weights": (
        {"name": "unet", "encoder": "resnet18", "weights": "imagenett"},
        (
            "model.weights: unknown weights 'imagenett' of encoder 'resnet18'; "
            "allowed: null, imagenet, ssl, swsl; did you mean 'imagenet'?",
        ),
    ),
    "weights-of-another-encoder": (
        {"name": "unet", "encoder": "dpn92", "weights": "imagenet"},
        (
            "model.weights: unknown weights 'imagenet' of encoder 'dpn92'; allowed: null, "
            "imagenet+5k",
        ),
    ),
    "variant-as-weights": (
        {"name": "unet", "encoder": "tu-resnet18", "weights": "a1_in1k"},
        (
            "model.weights: unknown weights 'a1_in1k' of encoder 'tu-resnet18'; allowed: null, "
            "imagenet; the variant stands in the encoder's name: tu-resnet18.a1_in1k",
        ),
    ),
    "too-few-channels": (
        {"name": "unet", "depth": 3, "decoder_channels": [16, 8]},
        (
            "model.decoder_channels: [16, 8] has 2 entries for a depth of 3; "
            "allowed: 3 numbers, coarsest first",
        ),
    ),
}


@pytest.mark.parametrize("case", LINES)
def test_what_is_refused_before_anything_is_built(case: str) -> None:
    spec, parts = LINES[case]
    line = refusal(spec)
    assert line.startswith(parts[0])
    for part in parts:
        assert part in line


def test_a_dilation_that_is_not_asked_for_refuses_nothing() -> None:
    MODELS.validate({"name": "pan", "encoder": "densenet121", "output_stride": 32})


def test_variants_of_timm_are_taken() -> None:
    MODELS.validate({"name": "unet", "encoder": "tu-resnet18.a1_in1k", "weights": "imagenet"})
