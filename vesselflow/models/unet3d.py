"""3-D U-Net: encoder, decoder and skip connections over volumes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vesselflow.models.layers import ACTIVATIONS, CONVOLUTIONS, NORMS
from vesselflow.models.layers.convolutions import (
    check_volume,
    initialise,
    initialise_head,
)
from vesselflow.models.layers.gates import Gates
from vesselflow.models.layers.handoff import Handoff
from vesselflow.models.layers.skip_gates import SkipGates
from vesselflow.models.layers.supervision import Supervision
from vesselflow.models.needs import finer_by, halved


class UNet3d(nn.Module):
    """3-D U-Net of a few levels, one for each entry of `filters`.

    Each level is a chain of (3 x 3 x 3 convolution, norm, activation), with 2 x 2 x 2 max-pooling
    between levels on the way down and transposed convolutions of the same stride on the way up.
    Volumes whose slices lie far apart keep their slices on the finest levels: there kernels are
    1 x 3 x 3 and the pooling is 1 x 2 x 2.

    Weights are drawn from torch's global generator: He's normal for convolutions, zero biases.

    Args:
        filters: Channels of each level, finest first.
        convolutions: 3 x 3 x 3 convolutions per level and direction.
        flat_levels: How many of the finest levels leave the slices alone.
        convolution: Name of the convolutions of all levels.
        norm: Name of the normalisation.
        activation: Name of the activation; ReLU as published.
        dropout: Probability of dropping a channel after each level; 0 has no such layer.
        se: Name of an excitation; None for none.
        se_at: Where: after each level of the "encoder", at each "skip", after each level of the
            "decoder".
        se_reduction: Of its bottleneck; None for its own.
        skip_gate: Name of the gate on each skip, driven by the coarser map; None for none.
        deep_supervision: Weight of the loss of each coarser level of the decoder; None for none.
        in_channels: Channels of the volume.
        classes: Channels of the logits.
        stride: Of the logits, that of one of the levels; the decoder ends there. At that of the
            coarsest there is none: the head stands on the encoder.

    Attributes:
        divisor: Depth, height and width must be multiples of these.
        auxiliary_weight: `deep_supervision`; 0 without, there is one answer.
        coarsest: Name of the module that the encoder's maps go through, and the channels of the
            coarsest.

    Reference: Çiçek et al., 3D U-Net: learning dense volumetric segmentation from sparse
    annotation, MICCAI 2016, https://arxiv.org/abs/1606.06650.
    """

    def __init__(
        self,
        *,
        filters: Sequence[int],
        convolutions: int,
        flat_levels: int,
        convolution: str,
        norm: str,
        activation: str,
        dropout: float,
        se: str | None,
        se_at: Sequence[str],
        se_reduction: int | None,
        deep_supervision: float | None,
        skip_gate: str | None,
        in_channels: int = 1,
        classes: int = 1,
        stride: tuple[int, ...] = (1, 1, 1),
    ) -> None:
        super().__init__()
        levels = len(filters)
        of_levels = halved(levels, flat_levels)
        self.divisor = of_levels[-1]
        finest = of_levels.index(stride)
        self.auxiliary_weight = float(deep_supervision or 0.0)
        self.coarsest = ("handoff", filters[-1])
        strides = [(1 if level < flat_levels else 2, 2, 2) for level in range(levels - 1)]
        kernels = [(1 if level < flat_levels else 3, 3, 3) for level in range(levels)]

        def chain(level: int, inputs: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            width, kernel = filters[level], kernels[level]
            for _ in range(convolutions):
                layers += [
                    CONVOLUTIONS.build(
                        {"name": convolution}, inputs=inputs, outputs=width, kernel=kernel
                    ),
                    NORMS.build({"name": norm}, width=width, axes=3),
                    ACTIVATIONS.build({"name": activation}),
                ]
                inputs = width
            if dropout > 0:
                layers.append(nn.Dropout3d(dropout))
            return nn.Sequential(*layers)

        inputs = [in_channels, *filters[:-1]]
        self.down = nn.ModuleList(chain(level, inputs[level]) for level in range(levels))
        self.pool = nn.ModuleList(nn.MaxPool3d(stride) for stride in strides)
        finer = range(levels - 2, finest - 1, -1)
        self.raise_ = nn.ModuleList(
            nn.ConvTranspose3d(filters[level + 1], filters[level], strides[level], strides[level])
            for level in finer
        )
        self.up = nn.ModuleList(chain(level, 2 * filters[level]) for level in finer)
        self.head = nn.Conv3d(filters[finest], classes, 1)
        self.apply(initialise)
        initialise_head(self.head)
        up = {level: filters[level] for level in finer}
        widths = {"encoder": dict(enumerate(filters)), "skip": up, "decoder": up}
        self.handoff = Handoff()
        self.gates = Gates(se, se_at, widths, axes=3, reduction=se_reduction)
        pairs = {level: (filters[level], filters[level + 1]) for level in finer}
        self.skip_gates = SkipGates(skip_gate, pairs, dict(enumerate(strides)))
        coarser = range(finest + 1, levels - 1) if deep_supervision else ()
        self.supervision = Supervision(
            [filters[level] for level in coarser],
            [finer_by(of_levels[level], of_levels[finest]) for level in coarser],
            classes,
        )

    def forward(self, volume: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits of a volume.

        Args:
            volume: float (N, in_channels, D, H, W), sides multiples of `divisor`.

        Returns:
            Logits (N, classes, D, H, W), each side divided by that of `stride`. In training with
            `deep_supervision`: (final, of the next coarser level, ..., of the coarsest).

        Raises:
            ShapeError: It is no volume, or a side is not a multiple of `divisor`.
        """
        check_volume("unet3d", volume, self.divisor)
        return self.decode(self.encode(volume))

    def encode(self, volume: Tensor) -> list[Tensor]:
        """The maps of all levels, finest first."""
        x, maps = volume, []
        for level, down in enumerate(self.down):
            x = self.gates("encoder", level, down(self.pool[level - 1](x) if level else x))
            maps.append(x)
        return maps

    def decode(self, maps: Sequence[Tensor]) -> Tensor | tuple[Tensor, ...]:
        """The logits of the maps of all levels, finest first; several as `forward` gives them."""
        *skips, x = map(self.handoff, maps)
        decoded: list[Tensor] = []
        for raise_, up in zip(self.raise_, self.up, strict=True):
            level = len(skips) - 1
            skip = self.skip_gates(level, self.gates("skip", level, skips.pop()), x)
            x = self.gates("decoder", level, up(torch.cat([raise_(x), skip], dim=1)))
            decoded.append(x)
        logits: Tensor = self.head(x)
        if self.training and len(self.supervision):
            return logits, *self.supervision(decoded[-2::-1])
        return logits
