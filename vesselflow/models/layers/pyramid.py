"""The maps of an encoder, made alike: a feature pyramid of images or volumes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vesselflow.models.layers.convolutions import convolution, pointwise, raised


class Pyramid(nn.Module):
    """Lateral connections, the way down from the coarsest map, and smoothing.

    Args:
        filters: Channels of each map, finest first.
        channels: Of each map of the pyramid.
        kernels: Of the smoothing of each map.
            Their length is the number of axes.
        factors: By which each map but the coarsest is finer than the next.
        upsample: "nearest" or linear, along each axis.
    """

    def __init__(
        self,
        filters: Sequence[int],
        channels: int,
        kernels: Sequence[Sequence[int]],
        factors: Sequence[Sequence[int]],
        upsample: str,
    ) -> None:
        super().__init__()
        self._factors, self._mode = list(factors), upsample
        axes = len(kernels[0])
        self.lateral = nn.ModuleList(pointwise(width, channels, axes) for width in filters)
        self.smooth = nn.ModuleList(
            convolution(channels, channels, kernel, bias=True) for kernel in kernels
        )

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """The pyramid of some maps, finest first; sizes stay, channels become `channels`."""
        sums = [lateral(each) for lateral, each in zip(self.lateral, maps, strict=True)]
        for level in range(len(sums) - 2, -1, -1):
            sums[level] = sums[level] + raised(sums[level + 1], self._factors[level], self._mode)
        return [smooth(each) for smooth, each in zip(self.smooth, sums, strict=True)]
