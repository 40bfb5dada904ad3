"""Arguments of the models; imports neither torch nor segmentation-models-pytorch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from vesselflow.config.registry import Arguments
from vesselflow.errors import UserError
from vesselflow.models.encoders import check_encoder

Channels = Annotated[int, Field(ge=1)]
Probability = Annotated[float, Field(ge=0.0, lt=1.0)]
Depth = Annotated[int, Field(ge=3, le=5)]


class WNetArguments(Arguments):
    """Arguments of `wnet`, see `vesselflow.models.wnet.WNet`.

    Attributes:
        filters: Channels of each level, finest first; one level per entry.
        convolutions: 3 x 3 convolutions per block.
        shortcut: 1 x 1 convolution around each block.
        bridge: One 3 x 3 convolution on each skip connection.
        upsample: "transposed" convolution, as published, or "bilinear".
        dropout: Probability of dropping a channel after each block.
        input_norm: Batch-norm on the input.
        auxiliary_weight: Weight of the loss on the first U-Net's answer; the paper adds both, 1.
    """

    filters: Annotated[tuple[Channels, ...], Field(strict=False, min_length=2, max_length=6)] = (
        8,
        16,
        32,
    )
    convolutions: Annotated[int, Field(ge=1, le=8)] = 2
    shortcut: bool = True
    bridge: bool = True
    upsample: Literal["transposed", "bilinear"] = "transposed"
    dropout: Probability = 0.0
    input_norm: bool = False
    auxiliary_weight: Annotated[float, Field(ge=0.0)] = 1.0


class _Encoded(Arguments):
    """What all models with an encoder of segmentation-models-pytorch or timm share.

    Attributes:
        encoder: Any encoder that the library knows ("resnet18", "mit_b0", "tu-convnext_tiny"...).
        weights: None trains from scratch and needs no network; otherwise a name of pretrained
            weights ("imagenet"). For "tu-" encoders the variant stands in the encoder's name.
    """

    #: Registered name of the model.
    architecture: ClassVar[str]

    encoder: str = "resnet34"
    weights: str | None = None

    @model_validator(mode="after")
    def _known(self) -> _Encoded:
        dilated = getattr(self, "output_stride", 32) != 32
        check_encoder(self.architecture, self.encoder, self.weights, dilated=dilated)
        return self


class _Smp(_Encoded):
    """What all architectures of segmentation-models-pytorch but dpt share.

    Attributes:
        depth: Levels of the encoder that are used, each halves the size.
    """

    depth: Depth = 5


class LinknetArguments(_Smp):
    """Arguments of `linknet`."""

    architecture = "linknet"


class ManetArguments(_Smp):
    """Arguments of `manet`.

    Attributes:
        decoder_channels: One per level, coarsest first; None: the last `depth` of
            256, 128, 64, 32, 16.
    """

    architecture = "manet"

    decoder_channels: Annotated[tuple[Channels, ...], Field(strict=False)] | None = None

    @model_validator(mode="after")
    def _one_per_level(self) -> ManetArguments:
        channels = self.decoder_channels
        if channels is not None and len(channels) != self.depth:
            raise UserError(
                f"{list(channels)} has {len(channels)} entries for a depth of {self.depth}",
                where="model.decoder_channels",
                allowed=f"{self.depth} numbers, coarsest first",
            )
        return self


class UnetArguments(ManetArguments):
    """Arguments of `unet`.

    Attributes:
        attention: Attention of the decoder: None or "scse".
    """

    architecture = "unet"

    attention: Literal["scse"] | None = None


class UnetPlusPlusArguments(UnetArguments):
    """Arguments of `unetplusplus`: those of `unet`."""

    architecture = "unetplusplus"


class FpnArguments(_Smp):
    """Arguments of `fpn`.

    Attributes:
        dropout: Channel dropout before the head.
    """

    architecture = "fpn"

    dropout: Probability = 0.2


class PspnetArguments(_Smp):
    """Arguments of `pspnet`.

    Attributes:
        dropout: Channel dropout after the pyramid.
    """

    architecture = "pspnet"

    depth: Depth = 3
    dropout: Probability = 0.2


class PanArguments(_Smp):
    """Arguments of `pan`.

    Attributes:
        output_stride: Stride of the dilated encoder.
    """

    architecture = "pan"

    output_stride: Literal[16, 32] = 16


class Deeplabv3Arguments(_Smp):
    """Arguments of `deeplabv3`.

    Attributes:
        dropout: Dropout after the atrous pyramid.
        output_stride: Stride of the dilated encoder.
    """

    architecture = "deeplabv3"

    dropout: Probability = 0.5
    output_stride: Literal[8, 16] = 8


class Deeplabv3PlusArguments(Deeplabv3Arguments):
    """Arguments of `deeplabv3plus`."""

    architecture = "deeplabv3plus"

    output_stride: Literal[8, 16] = 16


class UpernetArguments(_Smp):
    """Arguments of `upernet`."""

    architecture = "upernet"


class SegformerArguments(_Smp):
    """Arguments of `segformer`."""

    architecture = "segformer"

    encoder: str = "mit_b0"


class DptArguments(_Encoded):
    """Arguments of `dpt`.

    Attributes:
        encoder: A vision transformer of timm, with the prefix "tu-".
    """

    architecture = "dpt"

    encoder: str = "tu-vit_tiny_patch16_224"
