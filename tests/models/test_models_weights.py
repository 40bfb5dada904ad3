"""Where pretrained weights come from, held against the libraries that load them."""

from __future__ import annotations

import pytest

from vesselflow.errors import UserError
from vesselflow.models import smp
from vesselflow.models.encoders import ENCODERS
from vesselflow.models.weights import Source, source_of

with smp._quiet():
    from segmentation_models_pytorch.encoders import encoders


def test_repositories_are_those_of_the_library() -> None:
    for encoder, names in ENCODERS.items():
        for weights in names:
            told = encoders[encoder]["pretrained_settings"][weights]
            assert source_of(encoder, weights) == Source(
                told["repo_id"], told["revision"], ("config.json", "model.safetensors")
            )


def test_a_variant_of_timm_names_its_repository() -> None:
    files = ("model.safetensors",)
    default = Source("timm/resnet10t.c3_in1k", None, files)
    assert source_of("tu-resnet10t", "imagenet") == default
    other = source_of("tu-resnet18.fb_ssl_yfcc100m_ft_in1k", "imagenet")
    assert other == Source("timm/resnet18.fb_ssl_yfcc100m_ft_in1k", None, files)


@pytest.mark.parametrize("encoder", ["tu-resnet18.nope", "tu-vit_giant_patch14_224"])
def test_an_encoder_of_timm_without_weights(encoder: str) -> None:
    with pytest.raises(UserError) as caught:
        source_of(encoder, "imagenet")
    assert str(caught.value) == (
        f"model.weights: encoder '{encoder}' has no pretrained weights; allowed: null; "
        "variants with weights are listed by timm.list_pretrained()"
    )
