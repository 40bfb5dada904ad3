"""Squeeze-and-excitation and its kin: gates on maps, of 2 or 3 axes.

Each multiplies a map by gates between 0 and 1 and keeps its shape. Weights are drawn from torch's
global generator: He's normal for what a ReLU follows, a tenth of Xavier's normal for what makes
gates, zero biases. So gates begin near 1/2, whatever the maps' values: one that began near 0 would
shut a channel about which nothing is known.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

_Layer = TypeVar("_Layer", nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Conv2d | nn.Conv3d)

#: Least channels of a bottleneck: small networks would be squeezed into one.
LEAST = 4


class ChannelExcitation(nn.Module):
    """Gates for channels: sigmoid(W2 relu(W1 mean(x))), W1 to channels / reduction.

    Args:
        channels: Of the map.
        axes: 2 or 3.
        reduction: Channels over those of the bottleneck, which has 4 at least (or all).

    Reference: Hu et al., Squeeze-and-excitation networks, CVPR 2018,
        https://arxiv.org/abs/1709.01507. Deviates: the least bottleneck.
    """

    def __init__(self, *, channels: int, axes: int, reduction: int) -> None:
        super().__init__()
        narrow = bottleneck(channels, reduction)
        self.squeeze = _started(nn.Linear(channels, narrow), "relu")
        self.excite = _started(nn.Linear(narrow, channels))

    def forward(self, x: Tensor) -> Tensor:
        """The gated map of x (N, channels, *S)."""
        gates = torch.sigmoid(self.excite(functional.relu(self.squeeze(_means(x)))))
        return x * _over(gates, x)


class SpatialExcitation(nn.Module):
    """Gates for places: sigmoid of a weighted sum of the channels.

    Args:
        channels: Of the map.
        axes: 2 or 3.

    Reference: Roy et al., Concurrent spatial and channel squeeze and excitation in fully
        convolutional networks, MICCAI 2018, https://arxiv.org/abs/1803.02579, section 2.2.
    """

    def __init__(self, *, channels: int, axes: int) -> None:
        super().__init__()
        self.excite = _started(_pointwise(axes)(channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The gated map of x (N, channels, *S)."""
        return x * torch.sigmoid(self.excite(x))


class ConcurrentExcitation(nn.Module):
    """The sum of what gates for channels and gates for places give.

    Args:
        channels: Of the map.
        axes: 2 or 3.
        reduction: Of the gates for channels.

    Reference: Roy et al. 2018, as `SpatialExcitation`, section 2.3; the sum as in Roy et al.,
        Recalibrating fully convolutional networks, TMI 2019, https://arxiv.org/abs/1808.08127,
        which also tries the larger of the two.
    """

    def __init__(self, *, channels: int, axes: int, reduction: int) -> None:
        super().__init__()
        self.channel = ChannelExcitation(channels=channels, axes=axes, reduction=reduction)
        self.spatial = SpatialExcitation(channels=channels, axes=axes)

    def forward(self, x: Tensor) -> Tensor:
        """The gated map of x (N, channels, *S)."""
        total: Tensor = self.channel(x) + self.spatial(x)
        return total


class EffectiveExcitation(nn.Module):
    """Gates for channels without a bottleneck: hard sigmoid(W mean(x)).

    The hard sigmoid is min(max(x + 3, 0), 6) / 6.

    Args:
        channels: Of the map.
        axes: 2 or 3.

    Reference: Lee and Park, CenterMask, CVPR 2020, https://arxiv.org/abs/1911.06667, section 3.3.
    """

    def __init__(self, *, channels: int, axes: int) -> None:
        super().__init__()
        self.excite = _started(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """The gated map of x (N, channels, *S)."""
        return x * _over(functional.hardsigmoid(self.excite(_means(x))), x)


class EfficientChannelAttention(nn.Module):
    """Gates for channels out of their neighbours': sigmoid of a convolution along the channels.

    Its kernel is the odd number at or above (log2(channels) + 1) / 2, rounded towards 0 first.

    Args:
        channels: Of the map.
        axes: 2 or 3.

    Reference: Wang et al., ECA-Net, CVPR 2020, https://arxiv.org/abs/1910.03151, eq. 9 and 12 with
        gamma 2 and b 1.
    """

    def __init__(self, *, channels: int, axes: int) -> None:
        super().__init__()
        kernel = int((math.log2(channels) + 1) / 2) | 1
        self.excite = _started(nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        """The gated map of x (N, channels, *S)."""
        means = _means(x).unsqueeze(1)
        return x * _over(torch.sigmoid(self.excite(means).squeeze(1)), x)


class ProjectExcite(nn.Module):
    """Gates for channels and places out of the projections of a map on each of its axes.

    The mean over all other axes is taken for each axis; the sum of these, (N, C, *S) again, goes
    through two 1 x 1 convolutions with a ReLU between them, and a sigmoid.

    Args:
        channels: Of the map.
        axes: 2 or 3; the paper's are 3.
        reduction: Channels over those of the bottleneck, which has 4 at least (or all).

    Reference: Rickmann et al., Project and excite modules for segmentation of volumetric medical
        scans, MICCAI 2019, https://arxiv.org/abs/1906.04649, eq. 2 to 4.
    """

    def __init__(self, *, channels: int, axes: int, reduction: int) -> None:
        super().__init__()
        narrow = bottleneck(channels, reduction)
        self.squeeze = _started(_pointwise(axes)(channels, narrow, 1), "relu")
        self.excite = _started(_pointwise(axes)(narrow, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        """The gated map of x (N, channels, *S)."""
        places = range(2, x.ndim)
        projected = [
            x.mean(dim=[other for other in places if other != axis], keepdim=True)
            for axis in places
        ]
        total = projected[0]
        for each in projected[1:]:
            total = total + each
        return x * torch.sigmoid(self.excite(functional.relu(self.squeeze(total))))


def bottleneck(channels: int, reduction: int) -> int:
    """Channels of a bottleneck: channels / reduction, but `LEAST` at least and never more."""
    return min(channels, max(LEAST, channels // reduction))


def _means(x: Tensor) -> Tensor:
    return x.flatten(2).mean(dim=2)


def _over(gates: Tensor, x: Tensor) -> Tensor:
    """Gates (N, C) for every place of x (N, C, *S)."""
    return gates.reshape(*gates.shape, *[1] * (x.ndim - 2))


def _pointwise(axes: int) -> type[nn.Conv2d] | type[nn.Conv3d]:
    return nn.Conv2d if axes == 2 else nn.Conv3d


def _started(layer: _Layer, follows: str = "") -> _Layer:
    if follows:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    else:
        nn.init.xavier_normal_(layer.weight, gain=0.1)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
