"""Models, by name.

Own architectures first, then those of segmentation-models-pytorch under its lowercase names. This
module imports neither torch nor segmentation-models-pytorch. A network of one's own is a class of
torch's, so that its file cannot wait with the import: its argument model stands here, beside its
line. A model is its file, its entry here and its test.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from vesselflow.config.named import Named
from vesselflow.errors import UserError
from vesselflow.models.arguments import (
    Activation,
    Channels,
    Excited,
    Filters,
    Levelled,
    Norm,
    Probability,
    Skipped,
    Sliced,
    Supervised,
    Volumetric,
    Width,
    check_pyramid,
)
from vesselflow.models.ends import Models
from vesselflow.models.layers import FUSIONS
from vesselflow.models.smp import (
    Deeplabv3Arguments,
    Deeplabv3PlusArguments,
    DptArguments,
    Fpn2dArguments,
    FpnArguments,
    LinknetArguments,
    ManetArguments,
    PanArguments,
    PspnetArguments,
    SegformerArguments,
    UnetArguments,
    UnetPlusPlusArguments,
    UpernetArguments,
)

MODELS = Models("model")


class WNetArguments(Skipped, Excited):
    """Arguments of `wnet`, see `vesselflow.models.wnet.WNet`.

    Attributes:
        filters: Channels of each level, finest first; one level per entry.
        convolutions: 3 x 3 convolutions per block.
        norm: Normalisation after each convolution.
        activation: Between a convolution and its norm.
        shortcut: 1 x 1 convolution around each block.
        bridge: One 3 x 3 convolution on each skip connection.
        upsample: "transposed" convolution, as published, or "bilinear".
        dropout: Probability of dropping a channel after each block.
        drop_path: Stochastic depth: probability of leaving out, in each sample by itself, all of
            the last block but its shortcut; from 0 of the first it rises evenly, over the blocks
            of both U-Nets.
        input_norm: Batch-norm on the channels of the image, with a scale and a shift of each; here
            those of coordinates, too. All pixels count, padding included.
        auxiliary_weight: Weight of the loss on the first U-Net's answer; the paper adds both, 1.
        padding: What 3 x 3 convolutions see beyond their map's border: zeros, as published, or the
            map reflected or replicated.
    """

    own_ends: ClassVar[frozenset[str]] = frozenset({"input_norm", "padding"})

    filters: Filters = (8, 16, 32)
    convolutions: Annotated[int, Field(ge=1, le=8)] = 2
    norm: Norm = "batch"
    activation: Activation = "relu"
    shortcut: bool = True
    bridge: bool = True
    upsample: Literal["transposed", "bilinear"] = "transposed"
    dropout: Probability = 0.0
    drop_path: Probability = 0.0
    auxiliary_weight: Annotated[float, Field(ge=0.0)] = 1.0

    @model_validator(mode="after")
    def _goes_around(self) -> "WNetArguments":
        if self.drop_path and not self.shortcut:
            raise UserError(
                "of a block without a shortcut nothing would be left",
                where="model.drop_path",
                allowed="0, or model.shortcut: true beside it",
            )
        return self


class UNet3dArguments(Skipped, Supervised, Levelled, Volumetric):
    """Arguments of `unet3d`, see `vesselflow.models.unet3d.UNet3d`."""


class UNet25dArguments(Levelled, Sliced, Excited):
    """Arguments of `unet25d`, see `vesselflow.models.unet25d.UNet25d`."""


class Encoded25dArguments(Sliced, UnetArguments):
    """Arguments of `encoded25d`, see `vesselflow.models.encoded25d.Encoded25d`."""


class Fpn3dArguments(Supervised, Volumetric):
    """Arguments of `fpn3d`, see `vesselflow.models.fpn3d.Fpn3d`.

    Attributes:
        filters: Channels of each level of the encoder, finest first; one level per entry.
        convolutions: 3 x 3 x 3 convolutions per residual block.
        pyramid_channels: Channels of every map of the pyramid.
        segmentation_channels: Channels of every map that the segmentation head merges.
        finest_level: Level of the pyramid's finest map, 0 for that of the voxels; logits are
            interpolated from there.
        fusion: How one map is made of the pyramid's.
        merge: What the parallel fusion makes of its branches: their sum, or one beside the other.
        upsample: How the pyramid raises its maps.
        norm: Normalisation after each convolution of encoder and head.
        activation: After each norm.
        dropout: Probability of dropping a channel of what was merged.
        drop_path: Stochastic depth: probability of leaving out, in each sample by itself, the
            branch of the encoder's last block; from 0 of the first it rises evenly.
    """

    filters: Filters = (8, 16, 32, 64)
    convolutions: Annotated[int, Field(ge=1, le=8)] = 2
    pyramid_channels: Annotated[Channels, Width(normed=False)] = 32
    segmentation_channels: Annotated[Channels, Width()] = 16
    finest_level: Annotated[int, Field(ge=0, le=5)] = 1
    fusion: Annotated[str, Named("fusion", FUSIONS)] = "parallel"
    merge: Literal["add", "cat"] = "add"
    upsample: Literal["nearest", "trilinear"] = "nearest"
    norm: Norm = "group"
    activation: Activation = "relu"
    dropout: Probability = 0.0
    drop_path: Probability = 0.0

    @model_validator(mode="after")
    def _fits(self) -> "Fpn3dArguments":
        check_pyramid(self.finest_level, range(len(self.filters)), self.fusion, self.merge)
        return self


MODELS.add("wnet", target="vesselflow.models.wnet:WNet", arguments=WNetArguments)
MODELS.add("unet3d", target="vesselflow.models.unet3d:UNet3d", arguments=UNet3dArguments)
MODELS.add("unet25d", target="vesselflow.models.unet25d:UNet25d", arguments=UNet25dArguments)
MODELS.add(
    "encoded25d",
    target="vesselflow.models.encoded25d:Encoded25d",
    arguments=Encoded25dArguments,
)
MODELS.add("fpn3d", target="vesselflow.models.fpn3d:Fpn3d", arguments=Fpn3dArguments)
MODELS.add("fpn2d", target="vesselflow.models.fpn2d:fpn2d", arguments=Fpn2dArguments)
MODELS.add("unet", target="vesselflow.models.smp:unet", arguments=UnetArguments)
MODELS.add(
    "unetplusplus",
    target="vesselflow.models.smp:unetplusplus",
    arguments=UnetPlusPlusArguments,
)
MODELS.add("manet", target="vesselflow.models.smp:manet", arguments=ManetArguments)
MODELS.add("linknet", target="vesselflow.models.smp:linknet", arguments=LinknetArguments)
MODELS.add("fpn", target="vesselflow.models.smp:fpn", arguments=FpnArguments)
MODELS.add("pspnet", target="vesselflow.models.smp:pspnet", arguments=PspnetArguments)
MODELS.add("pan", target="vesselflow.models.smp:pan", arguments=PanArguments)
MODELS.add("deeplabv3", target="vesselflow.models.smp:deeplabv3", arguments=Deeplabv3Arguments)
MODELS.add(
    "deeplabv3plus",
    target="vesselflow.models.smp:deeplabv3plus",
    arguments=Deeplabv3PlusArguments,
)
MODELS.add("upernet", target="vesselflow.models.smp:upernet", arguments=UpernetArguments)
MODELS.add("segformer", target="vesselflow.models.smp:segformer", arguments=SegformerArguments)
MODELS.add("dpt", target="vesselflow.models.smp:dpt", arguments=DptArguments)
