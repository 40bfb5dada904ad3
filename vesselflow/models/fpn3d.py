"""3-D feature pyramid network with the segmentation head of Panoptic FPN."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vesselflow.models.layers import ACTIVATIONS, CONVOLUTIONS, FUSIONS, NORMS
from vesselflow.models.layers.convolutions import (
    check_volume,
    initialise,
    initialise_head,
    pointwise,
    raised,
)
from vesselflow.models.layers.drop_path import DropPath, rates
from vesselflow.models.layers.fusions import Maps
from vesselflow.models.layers.gates import Gates
from vesselflow.models.layers.handoff import Handoff
from vesselflow.models.layers.pyramid import Pyramid
from vesselflow.models.layers.supervision import Supervision
from vesselflow.models.needs import finer_by, halved

Size = tuple[int, int, int]


class Fpn3d(nn.Module):
    """Feature pyramid network of volumes.

    - Encoder: one residual block per entry of `filters`, with 2 x 2 x 2 max-pooling between them.
    - Pyramid, from the coarsest level up to `finest_level` or to that of the stride, whichever is
      coarser: a 1 x 1 x 1 convolution of each level, to which the coarser map is added, and a
      3 x 3 x 3 convolution of each sum.
    - Head: the maps become one on the finest of their grids (`fusion`), and that the logits by a
      1 x 1 x 1 convolution. Where the stride is finer, logits are interpolated trilinearly.

    Volumes whose slices lie far apart keep their slices on the finest levels: there kernels are
    1 x 3 x 3 and the pooling is 1 x 2 x 2. Weights are drawn from torch's global generator: He's
    normal for convolutions, zero biases.

    Args:
        filters: Channels of each level of the encoder, finest first.
        convolutions: 3 x 3 x 3 convolutions per residual block.
        pyramid_channels: Channels of every map of the pyramid.
        segmentation_channels: Channels of every map that is merged.
        finest_level: Level of the pyramid's finest map; below the number of levels.
        fusion: Name of what makes one map of the pyramid; "parallel" as published.
        merge: "add" or "cat", of the parallel fusion.
        upsample: How the pyramid raises maps: "nearest", as published, or "trilinear".
        flat_levels: How many of the finest levels leave the slices alone.
        convolution: Name of the convolutions of the encoder's blocks.
        norm: Name of the normalisation, in encoder and head.
        activation: Name of the activation there.
        dropout: Probability of dropping a channel of what was merged; 0 has no such layer.
        drop_path: Probability of leaving out the branch of the encoder's last block; blocks before
            it have less.
        se: Name of an excitation; None for none.
        se_at: Where: after each block of the "encoder"; at each "skip", on what enters the pyramid;
            in the "decoder", on each map of the pyramid.
        se_reduction: Of its bottleneck; None for its own.
        deep_supervision: Weight of the loss of each coarser level of the pyramid; None for none.
        in_channels: Channels of the volume.
        classes: Channels of the logits.
        stride: Of the logits, that of one of the levels.

    Attributes:
        divisor: Depth, height and width must be multiples of these.
        auxiliary_weight: `deep_supervision`; 0 without, there is one answer.
        coarsest: Name of the module that the encoder's maps go through, and the channels of the
            coarsest.

    Reference: Lin et al., Feature pyramid networks for object detection, CVPR 2017,
        https://arxiv.org/abs/1612.03144; head: Kirillov et al., Panoptic feature pyramid networks,
        CVPR 2019, https://arxiv.org/abs/1901.02446, section 3. Deviates: the encoder pools where a
        ResNet strides, so that no level is shifted; its finest level has the voxels' own grid; a
        group norm of 8 groups for one of 32.
    """

    def __init__(
        self,
        *,
        filters: Sequence[int],
        convolutions: int,
        pyramid_channels: int,
        segmentation_channels: int,
        finest_level: int,
        fusion: str,
        merge: str,
        upsample: str,
        flat_levels: int,
        convolution: str,
        norm: str,
        activation: str,
        dropout: float,
        se: str | None,
        se_at: Sequence[str],
        se_reduction: int | None,
        deep_supervision: float | None,
        drop_path: float = 0.0,
        in_channels: int = 1,
        classes: int = 1,
        stride: Size = (1, 1, 1),
    ) -> None:
        super().__init__()
        strides = halved(len(filters), flat_levels)
        self.divisor = strides[-1]
        self.auxiliary_weight = float(deep_supervision or 0.0)
        self.coarsest = ("handoff", filters[-1])
        answered = strides.index(stride)
        self._finest = max(finest_level, answered)
        factors = [finer_by(*pair) for pair in zip(strides[1:], strides[:-1], strict=True)]
        kernels = [(1 if level < flat_levels else 3, 3, 3) for level in range(len(filters))]

        self.encoder = nn.ModuleList(
            _Residual(inputs, width, convolutions, convolution, kernel, norm, activation, drop)
            for inputs, width, kernel, drop in zip(
                [in_channels, *filters[:-1]],
                filters,
                kernels,
                rates(drop_path, len(filters)),
                strict=True,
            )
        )
        self.pool = nn.ModuleList(nn.MaxPool3d(factor) for factor in factors)
        self.pyramid = Pyramid(
            filters[self._finest :],
            pyramid_channels,
            kernels[self._finest :],
            factors[self._finest :],
            upsample,
        )
        maps = Maps(
            inputs=pyramid_channels,
            channels=segmentation_channels,
            kernels=kernels[self._finest :],
            factors=factors[self._finest :],
            norm=norm,
            activation=activation,
            merge=merge,
        )
        # Its name is that of the parallel branches, which weights are kept under.
        self.raise_ = FUSIONS.build({"name": fusion}, maps=maps)
        self.dropout = nn.Dropout3d(dropout) if dropout > 0 else nn.Identity()
        self.head = nn.Conv3d(self.raise_.channels, classes, 1)
        self._last = finer_by(strides[self._finest], strides[answered])
        self.apply(initialise)
        initialise_head(self.head)
        levels = range(len(filters) - self._finest)
        widths = {
            "encoder": dict(enumerate(filters)),
            "skip": {level: filters[self._finest + level] for level in levels},
            "decoder": dict.fromkeys(levels, pyramid_channels),
        }
        self.handoff = Handoff()
        self.gates = Gates(se, se_at, widths, axes=3, reduction=se_reduction)
        coarser = strides[self._finest + 1 :] if deep_supervision else ()
        self.supervision = Supervision(
            [pyramid_channels] * len(coarser),
            [finer_by(own, strides[answered]) for own in coarser],
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
        check_volume("fpn3d", volume, self.divisor)
        x, maps = volume, []
        for level, block in enumerate(self.encoder):
            x = self.gates("encoder", level, block(self.pool[level - 1](x) if level else x))
            maps.append(x)
        handed = [self.handoff(each) for each in maps[self._finest :]]
        pyramid = self.pyramid(self.gates.each("skip", handed))
        maps = self.gates.each("decoder", pyramid)
        logits = raised(self.head(self.dropout(self.raise_(maps))), self._last)
        if self.training and len(self.supervision):
            return logits, *self.supervision(maps[1:])
        return logits


class _Residual(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        convolutions: int,
        convolution: str,
        kernel: Size,
        norm: str,
        activation: str,
        drop_path: float,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(convolutions):
            layers += [
                CONVOLUTIONS.build(
                    {"name": convolution},
                    inputs=outputs if index else inputs,
                    outputs=outputs,
                    kernel=kernel,
                ),
                NORMS.build({"name": norm}, width=outputs, axes=3),
                ACTIVATIONS.build({"name": activation}),
            ]
        self.chain = nn.Sequential(*layers[:-1])
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(
                pointwise(inputs, outputs, 3, bias=False),
                NORMS.build({"name": norm}, width=outputs, axes=3),
            )
        )
        self.last = layers[-1]
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.drop_path(self.chain(x)) + self.shortcut(x))
        return out
