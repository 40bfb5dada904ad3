"""How the maps of a feature pyramid become one map, from which logits are predicted.

All fusions take the same pyramid, give a map on its finest grid, and have blocks of the same width,
so that an ablation compares ways of fusing, not widths. A block is (3 x 3 convolution, norm,
activation), 3 x 3 x 3 of volumes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vesselflow.models.layers import ACTIVATIONS, NORMS
from vesselflow.models.layers.convolutions import convolution, pointwise, raised


@dataclass(frozen=True)
class Maps:
    """What a fusion takes, and how wide it is.

    Attributes:
        inputs: Channels of every map of the pyramid.
        channels: Of every map of the fusion.
        kernels: Of the blocks on each level, finest first; their length is the number of axes.
        factors: By which each map but the coarsest is finer than the next; one fewer.
        norm: Name of the norm of the blocks.
        activation: Name of their activation.
        merge: How `Parallel` makes one of its branches: "add" or "cat".
    """

    inputs: int
    channels: int
    kernels: Sequence[Sequence[int]]
    factors: Sequence[Sequence[int]]
    norm: str
    activation: str = "relu"
    merge: str = "add"

    @property
    def axes(self) -> int:
        """Axes of the maps."""
        return len(self.kernels[0])

    def block(self, inputs: int, level: int) -> nn.Sequential:
        """A block on a level."""
        return nn.Sequential(
            convolution(inputs, self.channels, self.kernels[level], bias=False),
            NORMS.build({"name": self.norm}, width=self.channels, axes=self.axes),
            ACTIVATIONS.build({"name": self.activation}),
        )


class Parallel(nn.ModuleList):
    """Each map goes up through a branch of its own; what arrives is added, or put side by side.

    A branch has a block on each level from its own to the one below the finest, and raises its map
    linearly after each; the finest map goes through one block.

    Attributes:
        channels: Of the fused map.

    Reference: Kirillov et al., Panoptic feature pyramid networks, CVPR 2019,
        https://arxiv.org/abs/1901.02446, section 3; it adds.
    """

    def __init__(self, *, maps: Maps) -> None:
        levels = range(len(maps.kernels))
        super().__init__(_Branch(maps, level) for level in levels)
        self._merge = maps.merge
        self.channels = maps.channels * (len(levels) if maps.merge == "cat" else 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """One map, (N, channels, *S of the finest), of a pyramid, finest first."""
        arrived = [branch(each) for branch, each in zip(self, pyramid, strict=True)]
        if self._merge == "cat":
            return torch.cat(arrived, dim=1)
        total = arrived[0]
        for each in arrived[1:]:
            total = total + each
        return total


class _Branch(nn.Module):
    """One map of a parallel fusion, from its level to the finest."""

    def __init__(self, maps: Maps, level: int) -> None:
        super().__init__()
        self._factors = list(reversed(maps.factors[:level])) or [(1,) * maps.axes]
        self.steps = nn.ModuleList(
            maps.block(maps.channels if step else maps.inputs, level - step)
            for step in range(len(self._factors))
        )

    def forward(self, x: Tensor) -> Tensor:
        for step, factor in zip(self.steps, self._factors, strict=True):
            x = raised(step(x), factor)
        return x


class Cascade(nn.Module):
    """From coarse to fine: what a level gives is raised and refines the next finer one.

    x = block(P of the coarsest); on each finer level x = block(raise(x) + R P), R a convolution of
    kernel 1 to the fusion's width. As many blocks as maps.

    Attributes:
        channels: Of the fused map.

    Reference: the top-down refinement of Pinheiro et al., Learning to refine object segments, ECCV
        2016, https://arxiv.org/abs/1603.08695, with a sum for its concatenation.
    """

    def __init__(self, *, maps: Maps) -> None:
        super().__init__()
        self._factors = list(maps.factors)
        self.channels = maps.channels
        levels = range(len(maps.kernels))
        self.reduce = nn.ModuleList(
            pointwise(maps.inputs, maps.channels, maps.axes) for _ in levels[:-1]
        )
        self.refine = nn.ModuleList(
            maps.block(maps.inputs if level == levels[-1] else maps.channels, level)
            for level in levels
        )

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """One map, (N, channels, *S of the finest), of a pyramid, finest first."""
        x: Tensor = self.refine[-1](pyramid[-1])
        for level in range(len(pyramid) - 2, -1, -1):
            x = self.refine[level](
                raised(x, self._factors[level]) + self.reduce[level](pyramid[level])
            )
        return x


class ParallelCascade(nn.Module):
    """Both, from one pyramid: w `Parallel` + (1 - w) `Cascade`, w of each channel learnt.

    w is the sigmoid of a weight that starts at 0: the mean of both. Branches are added.

    Attributes:
        channels: Of the fused map.
    """

    def __init__(self, *, maps: Maps) -> None:
        super().__init__()
        if maps.merge == "cat":
            raise ValueError("what is fused side by side has another width than a cascade")
        self.parallel, self.cascade = Parallel(maps=maps), Cascade(maps=maps)
        self.channels = maps.channels
        self.balance = nn.Parameter(torch.zeros(1, maps.channels, *[1] * maps.axes))

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        """One map, (N, channels, *S of the finest), of a pyramid, finest first."""
        share = torch.sigmoid(self.balance)
        fused: Tensor = share * self.parallel(pyramid) + (1.0 - share) * self.cascade(pyramid)
        return fused
