"""Feature pyramid network of images: any encoder, one pyramid, and a fusion of its maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from vesselflow.errors import ShapeError
from vesselflow.models.layers import FUSIONS
from vesselflow.models.layers.convolutions import initialise, initialise_head, raised
from vesselflow.models.layers.fusions import Maps
from vesselflow.models.layers.gates import Gates
from vesselflow.models.layers.pyramid import Pyramid
from vesselflow.models.layers.stages import gate_levels
from vesselflow.models.smp import build_encoded


class Fpn2d(nn.Module):
    """Feature pyramid network whose maps are fused in a way that an argument names.

    - Encoder: of segmentation-models-pytorch or timm; its maps at strides 2, 4, ... 2 ** depth.
    - Pyramid, from the coarsest map up to that of `finest_level`: a 1 x 1 convolution of each map,
      to which the coarser one is added, and a 3 x 3 convolution of each sum.
    - Fusion: one map of these on the finest of their grids (`layers.fusions`).
    - Head: 1 x 1 convolution to the logits, which are interpolated to the output's resolution. A
      pyramid ends where the output does.

    Weights of pyramid, fusion and head are drawn from torch's global generator: He's normal, zero
    biases; those of the encoder are its library's.

    Args:
        encoder_name: Of the encoder.
        encoder_weights: Name of pretrained weights; None draws them.
        encoder_depth: Levels of the encoder.
        pyramid_channels: Channels of every map of the pyramid.
        segmentation_channels: Channels of every map of the fusion.
        finest_level: Of the pyramid's finest map, 1 for stride 2, or that of the encoder's finest
            where that is coarser; at most the depth.
        fusion: Name of what makes one map of the pyramid.
        merge: "add" or "cat", of the parallel fusion.
        upsample: How the pyramid raises maps: "nearest", as published, or "bilinear".
        norm: Name of the normalisation of the fusion; the encoder has its own.
        activation: Name of the activation of the fusion.
        dropout: Probability of dropping a channel of what was fused; 0 has no such layer.
        se: Name of an excitation; None for none.
        se_at: Where: behind each level of the "encoder"; at each "skip", on what enters the
            pyramid; in the "decoder", on each map of the pyramid.
        se_reduction: Of its bottleneck; None for its own.
        in_channels: Channels of the image.
        classes: Channels of the logits.
        stride: Of the logits, a power of two up to that of the coarsest map.

    Attributes:
        divisor: Heights and widths must be multiples of it.
        auxiliary_weight: 0; there is one answer.
        coarsest: Name of the module that the encoder's maps go through, and the channels of the
            coarsest.

    Reference: Lin et al., Feature pyramid networks for object detection, CVPR 2017,
        https://arxiv.org/abs/1612.03144; fusions: see `vesselflow.models.layers.fusions`.
    """

    def __init__(
        self,
        *,
        encoder_name: str,
        encoder_weights: str | bool | None,
        encoder_depth: int,
        pyramid_channels: int,
        segmentation_channels: int,
        finest_level: int,
        fusion: str,
        merge: str,
        upsample: str,
        norm: str,
        activation: str,
        dropout: float,
        se: str | None,
        se_at: Sequence[str],
        se_reduction: int | None,
        in_channels: int = 3,
        classes: int = 1,
        stride: tuple[int, ...] = (1, 1),
    ) -> None:
        from segmentation_models_pytorch.encoders import get_encoder

        super().__init__()
        self.encoder = get_encoder(
            encoder_name, in_channels=in_channels, depth=encoder_depth, weights=encoder_weights
        )
        out_channels = self.encoder.out_channels
        self.divisor = int(self.encoder.output_stride)
        self.auxiliary_weight = 0.0
        # Transformers and alike have no map at stride 2: it has no channels.
        first = next(level for level, width in enumerate(out_channels) if level and width)
        answered = int(math.log2(stride[0]))
        self._finest = max(finest_level, first, answered)
        self._last = (2 ** (self._finest - answered),) * 2
        widths = list(out_channels[self._finest :])
        kernels, factors = [(3, 3)] * len(widths), [(2, 2)] * (len(widths) - 1)
        self.pyramid = Pyramid(widths, pyramid_channels, kernels, factors, upsample)
        maps = Maps(
            inputs=pyramid_channels,
            channels=segmentation_channels,
            kernels=kernels,
            factors=factors,
            norm=norm,
            activation=activation,
            merge=merge,
        )
        self.fusion = FUSIONS.build({"name": fusion}, maps=maps)
        self.dropout = nn.Dropout2d(dropout) if dropout > 0 else nn.Identity()
        self.head = nn.Conv2d(self.fusion.channels, classes, 1)
        for module in (self.pyramid, self.fusion, self.head):
            module.apply(initialise)
        initialise_head(self.head)
        levels = range(len(widths))
        places = {
            "encoder": {
                level: width for level, width in enumerate(out_channels) if level and width
            },
            "skip": dict(enumerate(widths)),
            "decoder": dict.fromkeys(levels, pyramid_channels),
        }
        self.gates = Gates(se, se_at, places, axes=2, reduction=se_reduction)
        if se is not None and "encoder" in se_at:
            gate_levels(self.gates, self.encoder, encoder_name, in_channels)

    def forward(self, image: Tensor) -> Tensor:
        """Logits of an image.

        Args:
            image: float (N, in_channels, H, W), H and W multiples of `divisor`.

        Returns:
            Logits (N, classes, H, W), each side divided by that of `stride`.

        Raises:
            ShapeError: H or W is not a multiple of `divisor`.
        """
        height, width = image.shape[-2:]
        if height % self.divisor or width % self.divisor:
            raise ShapeError(
                f"fpn2d needs heights and widths that are multiples of {self.divisor}, "
                f"got {height} x {width}"
            )
        maps = self.gates.each("skip", self.encoder(image)[self._finest :])
        fused = self.fusion(self.gates.each("decoder", self.pyramid(maps)))
        return raised(self.head(self.dropout(fused)), self._last)


def fpn2d(
    *,
    encoder: str,
    weights: str | None,
    depth: int,
    in_channels: int = 3,
    classes: int = 1,
    **arguments: Any,
) -> nn.Module:
    """Feature pyramid network with a fusion of choice, see `Fpn2d`."""
    return build_encoded(Fpn2d, encoder, weights, depth, in_channels, classes, **arguments)
