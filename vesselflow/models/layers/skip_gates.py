"""Gates at the skip connections of a U-Net, driven by the coarser map that the decoder has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vesselflow.models.layers import SKIP_GATES
from vesselflow.models.layers.convolutions import pointwise, raised
from vesselflow.models.layers.excitations import bottleneck


class AttentionGate(nn.Module):
    """Gates for places of a skip out of the skip and of the coarser map of the decoder.

    ``gates = sigmoid(psi(relu(theta(skip) + phi(signal))))`` on the signal's grid, interpolated
    linearly to the skip's: `theta` is a convolution without a bias whose kernel and stride are the
    ratio of the grids, `phi` and `psi` have kernel 1; between them lie half of the skip's channels
    (4 at least, or all). All channels of a place have one gate. Weights are drawn from torch's
    global generator as those of excitations, so that gates begin near 1/2.

    Args:
        skip: Channels of the skip.
        signal: Channels of the coarser map.
        factor: Ratio of their grids, one number for each axis.

    Reference: Oktay et al., Attention U-Net, MIDL 2018, https://arxiv.org/abs/1804.03999, eq. 1 and
        2 and figure 2. Deviates: `theta` sees all places of a cell, as the authors' code does,
        where the equations have kernels of 1; nothing follows the product, where that code has a
        convolution and a batch-norm; the least bottleneck.
    """

    def __init__(self, *, skip: int, signal: int, factor: Sequence[int]) -> None:
        super().__init__()
        narrow = bottleneck(skip, 2)
        kind: Any = nn.Conv2d if len(factor) == 2 else nn.Conv3d
        self._factor = tuple(factor)
        self.theta = kind(skip, narrow, self._factor, self._factor, bias=False)
        self.phi = pointwise(signal, narrow, len(factor))
        self.psi = pointwise(narrow, 1, len(factor))
        for layer in (self.theta, self.phi):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.xavier_normal_(self.psi.weight, gain=0.1)
        for biased in (self.phi, self.psi):
            assert biased.bias is not None
            nn.init.zeros_(biased.bias)

    def forward(self, skip: Tensor, signal: Tensor) -> Tensor:
        """The gated skip.

        Args:
            skip: float (N, skip channels, *S).
            signal: float (N, signal channels, *S / factor).

        Returns:
            The skip (N, skip channels, *S) times its gates, each between 0 and 1.
        """
        hidden = functional.relu(self.theta(skip) + self.phi(signal))
        return skip * raised(torch.sigmoid(self.psi(hidden)), self._factor)


class SkipGates(nn.ModuleDict):
    """The gates of a network's skips, by level; made after all of its other layers.

    Args:
        name: Of the gate; None for none.
        widths: Level -> channels of the skip and of the map that drives its gate.
        factors: Level -> ratio of the grids of these, one number for each axis.
    """

    def __init__(
        self,
        name: str | None,
        widths: Mapping[int, tuple[int, int]],
        factors: Mapping[int, Sequence[int]],
    ) -> None:
        super().__init__()
        if name is None:
            return
        for level, (skip, signal) in widths.items():
            self[str(level)] = SKIP_GATES.build(
                {"name": name}, skip=skip, signal=signal, factor=factors[level]
            )

    def forward(self, level: int, skip: Tensor, signal: Tensor) -> Tensor:
        """The skip of a level, gated by the coarser map where there is a gate."""
        key = str(level)
        return self[key](skip, signal) if key in self else skip


@dataclass(frozen=True)
class BlockHook:
    """A hook before a block of a library's decoder, which is called as (map, ..., skip)."""

    gates: SkipGates
    level: int

    def __call__(
        self, module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What the block is called with, its `skip_connection` gated by the map."""
        skip = named.get("skip_connection")
        if skip is None:
            return inputs, named
        return inputs, named | {"skip_connection": self.gates(self.level, skip, inputs[0])}
