"""3-D feature pyramid network with the segmentation head of Panoptic FPN."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vesselflow.models.blocks3d import Conv3d, check_volume, initialise, initialise_head, normaliser
from vesselflow.models.needs import halved

Size = tuple[int, int, int]


class Fpn3d(nn.Module):
    """Feature pyramid network of volumes.

    - Encoder: one residual block per entry of `filters`, with 2 x 2 x 2 max-pooling between them.
    - Pyramid, from the coarsest level up to `finest_level` or to that of the stride, whichever is
      coarser: a 1 x 1 x 1 convolution of each level, to which the coarser map is added, and a
      3 x 3 x 3 convolution of each sum.
    - Head: each map is raised to the finest of them by steps of (3 x 3 x 3 convolution, norm, ReLU,
      trilinear interpolation); their sum, or all of them, becomes the logits by a 1 x 1 x 1
      convolution. Where the stride is finer than that, logits are interpolated trilinearly.

    Volumes whose slices lie far apart keep their slices on the finest levels: there kernels are
    1 x 3 x 3 and the pooling is 1 x 2 x 2. Weights are drawn from torch's global generator: He's
    normal for convolutions, zero biases.

    Args:
        filters: Channels of each level of the encoder, finest first.
        convolutions: 3 x 3 x 3 convolutions per residual block.
        pyramid_channels: Channels of every map of the pyramid.
        segmentation_channels: Channels of every map that is merged.
        finest_level: Level of the pyramid's finest map; below the number of levels.
        merge: "add" or "cat".
        upsample: How the pyramid raises maps: "nearest", as published, or "trilinear".
        flat_levels: How many of the finest levels leave the slices alone.
        norm: "batch", "instance" or "group" (8 of them), in encoder and head.
        dropout: Probability of dropping a channel of what was merged; 0 has no such layer.
        in_channels: Channels of the volume.
        classes: Channels of the logits.
        stride: Of the logits, that of one of the levels.

    Attributes:
        divisor: Depth, height and width must be multiples of these.
        auxiliary_weight: 0; there is one answer.

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
        merge: str,
        upsample: str,
        flat_levels: int,
        norm: str,
        dropout: float,
        in_channels: int = 1,
        classes: int = 1,
        stride: Size = (1, 1, 1),
    ) -> None:
        super().__init__()
        strides = halved(len(filters), flat_levels)
        self.divisor = strides[-1]
        self.auxiliary_weight = 0.0
        self._merge = merge
        answered = strides.index(stride)
        self._finest = max(finest_level, answered)
        factors = [_factors(*pair) for pair in zip(strides[1:], strides[:-1], strict=True)]
        kernels = [(1 if level < flat_levels else 3, 3, 3) for level in range(len(filters))]

        self.encoder = nn.ModuleList(
            _Residual(inputs, width, convolutions, kernel, norm)
            for inputs, width, kernel in zip(
                [in_channels, *filters[:-1]], filters, kernels, strict=True
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
        self.raise_ = nn.ModuleList(
            _Raise(
                pyramid_channels,
                segmentation_channels,
                kernels[self._finest : level + 1],
                factors[self._finest : level],
                norm,
            )
            for level in range(self._finest, len(filters))
        )
        merged = segmentation_channels * (len(self.raise_) if merge == "cat" else 1)
        self.dropout = nn.Dropout3d(dropout) if dropout > 0 else nn.Identity()
        self.head = nn.Conv3d(merged, classes, 1)
        self._last = _factors(strides[self._finest], strides[answered])
        self.apply(initialise)
        initialise_head(self.head)

    def forward(self, volume: Tensor) -> Tensor:
        """Logits of a volume.

        Args:
            volume: float (N, in_channels, D, H, W), sides multiples of `divisor`.

        Returns:
            Logits (N, classes, D, H, W), each side divided by that of `stride`.

        Raises:
            ShapeError: It is no volume, or a side is not a multiple of `divisor`.
        """
        check_volume("fpn3d", volume, self.divisor)
        x, maps = volume, []
        for level, block in enumerate(self.encoder):
            x = block(self.pool[level - 1](x) if level else x)
            maps.append(x)
        pyramid = self.pyramid(maps[self._finest :])
        raised = [raise_(each) for raise_, each in zip(self.raise_, pyramid, strict=True)]
        merged = torch.cat(raised, dim=1) if self._merge == "cat" else sum(raised)
        return _raised(self.head(self.dropout(merged)), self._last, "trilinear")


class Pyramid(nn.Module):
    """Lateral connections, the way down from the coarsest map, and smoothing.

    Args:
        filters: Channels of each map, finest first.
        channels: Of each map of the pyramid.
        kernels: Of the smoothing of each map.
        factors: By which each map but the coarsest is finer than the next.
        upsample: "nearest" or "trilinear".
    """

    def __init__(
        self,
        filters: Sequence[int],
        channels: int,
        kernels: Sequence[Size],
        factors: Sequence[Size],
        upsample: str,
    ) -> None:
        super().__init__()
        self._factors, self._mode = list(factors), upsample
        self.lateral = nn.ModuleList(nn.Conv3d(width, channels, 1) for width in filters)
        self.smooth = nn.ModuleList(
            Conv3d(channels, channels, kernel, bias=True) for kernel in kernels
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The pyramid of some maps, finest first; sizes stay, channels become `channels`."""
        sums = [lateral(each) for lateral, each in zip(self.lateral, maps, strict=True)]
        for level in range(len(sums) - 2, -1, -1):
            sums[level] = sums[level] + _raised(sums[level + 1], self._factors[level], self._mode)
        return [smooth(each) for smooth, each in zip(self.smooth, sums, strict=True)]


class _Residual(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, convolutions: int, kernel: Size, norm: str
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(convolutions):
            layers += [
                Conv3d(outputs if index else inputs, outputs, kernel, bias=False),
                normaliser(norm, outputs),
                nn.ReLU(inplace=True),
            ]
        self.chain = nn.Sequential(*layers[:-1])
        self.shortcut = (
            nn.Identity()
            if inputs == outputs
            else nn.Sequential(nn.Conv3d(inputs, outputs, 1, bias=False), normaliser(norm, outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.chain(x) + self.shortcut(x))


class _Raise(nn.Module):
    """One map of the head, from its level to the finest: a convolution of each level on the way.

    Args:
        inputs: Channels of the map.
        channels: Channels after.
        kernels: Of the levels from the finest to the map's own.
        factors: Between these levels, one fewer; the finest map itself gets a convolution alone.
        norm: After each convolution.
    """

    def __init__(
        self,
        inputs: int,
        channels: int,
        kernels: Sequence[Size],
        factors: Sequence[Size],
        norm: str,
    ) -> None:
        super().__init__()
        self._factors: list[Size] = list(reversed(factors)) or [(1, 1, 1)]
        steps = list(reversed(kernels))[: len(self._factors)]
        self.steps = nn.ModuleList(
            nn.Sequential(
                Conv3d(channels if step else inputs, channels, kernel, bias=False),
                normaliser(norm, channels),
                nn.ReLU(inplace=True),
            )
            for step, kernel in enumerate(steps)
        )

    def forward(self, x: Tensor) -> Tensor:
        for step, factor in zip(self.steps, self._factors, strict=True):
            x = _raised(step(x), factor, "trilinear")
        return x


def _factors(coarse: Size, fine: Size) -> Size:
    return coarse[0] // fine[0], coarse[1] // fine[1], coarse[2] // fine[2]


def _raised(x: Tensor, factor: Size, mode: str) -> Tensor:
    # Corners are not aligned: a coarse voxel stays at the middle of the fine ones that it covers.
    if max(factor) == 1:
        return x
    size = [side * part for side, part in zip(x.shape[2:], factor, strict=True)]
    align = None if mode == "nearest" else False
    return functional.interpolate(x, size, mode=mode, align_corners=align)
