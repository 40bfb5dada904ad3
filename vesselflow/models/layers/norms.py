"""Normalisation layers: of the channels of maps with 2 or 3 axes."""

from __future__ import annotations

from torch import nn

from vesselflow.models.arguments import GROUPS


def batch(*, width: int, axes: int) -> nn.Module:
    """Batch-norm: each channel over the micro-batch (Ioffe and Szegedy 2015, arXiv 1502.03167)."""
    return (nn.BatchNorm2d if axes == 2 else nn.BatchNorm3d)(width)


def instance(*, width: int, axes: int) -> nn.Module:
    """Instance norm: each channel of each sample (Ulyanov et al. 2016, arXiv 1607.08022)."""
    return (nn.InstanceNorm2d if axes == 2 else nn.InstanceNorm3d)(width, affine=True)


def group(*, width: int, axes: int) -> nn.Module:
    """Group norm: 8 groups of channels of each sample (Wu and He 2018, arXiv 1803.08494).

    Channels that 8 does not divide are one group. The paper has 32 groups for 64 channels or more.
    """
    return nn.GroupNorm(GROUPS if width % GROUPS == 0 else 1, width)


def layer(*, width: int, axes: int) -> nn.Module:
    """Layer norm: all channels of each sample as one group (Ba et al. 2016, arXiv 1607.06450)."""
    return nn.GroupNorm(1, width)
