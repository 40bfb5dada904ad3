"""Little W-Net: two small U-Nets in a row, the second sees the image and the first's answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from vesselflow.errors import ShapeError
from vesselflow.models.arguments import Padding
from vesselflow.models.layers import ACTIVATIONS, NORMS
from vesselflow.models.layers.convolutions import initialise, initialise_head
from vesselflow.models.layers.drop_path import DropPath, rates
from vesselflow.models.layers.gates import Gates
from vesselflow.models.layers.handoff import Handoff
from vesselflow.models.layers.skip_gates import SkipGates


class WNet(nn.Module):
    """Little W-Net: ``final = U2(image, U1(image))``.

    Both U-Nets have one level per entry of `filters`, with 2 x 2 max-pooling between levels; a
    block is a chain of (3 x 3 convolution, activation, norm), ReLU and batch-norm unless told
    otherwise. As published, U2 gets the logits of
    U1 (not probabilities), and both answers are trained: loss(final) + loss(first). With the
    defaults and 3 input channels it has 68,482 parameters, as published.

    Weights are drawn from torch's global generator: He's normal for convolutions, zero biases.

    Args:
        filters: Channels of each level, finest first.
        convolutions: 3 x 3 convolutions per block.
        norm: Name of the normalisation of the blocks.
        activation: Name of their activation.
        shortcut: Add a 1 x 1 convolution with norm of a block's input to its output.
        bridge: One 3 x 3 convolution on each skip connection.
        upsample: "transposed": 2 x 2 transposed convolution with stride 2, as published.
            "bilinear": 1 x 1 convolution at the coarse level, then bilinear interpolation.
        dropout: Probability of dropping a channel after each block; 0 has no such layer.
        drop_path: Probability of leaving out all of the last block but its shortcut; blocks before
            it have less, in the order in which they are computed, first U-Net first.
        input_norm: Batch-norm on the input.
        se: Name of an excitation; None for none.
        se_at: Where, in both U-Nets: after each block of the "encoder", at each "skip" behind its
            bridge, after each block of the "decoder".
        se_reduction: Of its bottleneck; None for its own.
        skip_gate: Name of the gate on each skip, behind bridge and excitation, driven by the
            coarser map before it is raised; None for none.
        auxiliary_weight: Weight of the loss on the first answer. At 0 the first answer is not
            returned in training.
        padding: What 3 x 3 convolutions see beyond the border of their map: "zeros", as published,
            "reflect" or "replicate". "reflect" needs two px in the coarsest map.
        in_channels: Channels of the image.
        classes: Channels of the logits.

    Attributes:
        divisor: Height and width must be multiples of it: 2 ** (levels - 1).
        auxiliary_weight: As given.
        coarsest: Name of the module that the second encoder's maps go through, and the channels of
            the coarsest.

    Reference: Galdran et al., State-of-the-art retinal vessel segmentation with minimalistic
    models, Scientific Reports 12, 2022, https://arxiv.org/abs/2009.01907.
    """

    def __init__(
        self,
        *,
        filters: Sequence[int],
        convolutions: int,
        norm: str,
        activation: str,
        shortcut: bool,
        bridge: bool,
        upsample: str,
        dropout: float,
        input_norm: bool,
        se: str | None,
        se_at: Sequence[str],
        se_reduction: int | None,
        skip_gate: str | None,
        auxiliary_weight: float,
        drop_path: float = 0.0,
        padding: Padding = "zeros",
        in_channels: int = 3,
        classes: int = 1,
    ) -> None:
        super().__init__()
        self.divisor = 2 ** (len(filters) - 1)
        self.auxiliary_weight = float(auxiliary_weight)
        self.coarsest = ("second.handoff", filters[-1])
        self._least = self.divisor * (2 if padding == "reflect" else 1)
        self.input_norm = nn.BatchNorm2d(in_channels) if input_norm else nn.Identity()
        blocks = 2 * len(filters) - 1
        drops = rates(drop_path, 2 * blocks)
        self.first, self.second = (
            _UNet(
                channels,
                classes,
                filters,
                convolutions=convolutions,
                layers=_Layers(norm, activation, padding),
                shortcut=shortcut,
                bridge=bridge,
                upsample=upsample,
                dropout=dropout,
                drops=own,
            )
            for channels, own in (
                (in_channels, drops[:blocks]),
                (in_channels + classes, drops[blocks:]),
            )
        )
        self.apply(initialise)
        up = dict(enumerate(filters[:-1]))
        widths = {"encoder": dict(enumerate(filters)), "skip": up, "decoder": up}
        for net in (self.first, self.second):
            initialise_head(net.head)
        # What mixes samples behind the encoder of the first mixes the image of the second.
        self.first.handoff, self.second.handoff = Handoff(), nn.Identity()
        for net in (self.first, self.second):
            net.gates = Gates(se, se_at, widths, axes=2, reduction=se_reduction)
        pairs = dict(enumerate(pairwise(filters)))
        for net in (self.first, self.second):
            net.skip_gates = SkipGates(skip_gate, pairs, dict.fromkeys(pairs, (2, 2)))

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of an image.

        Args:
            image: float (N, in_channels, H, W), H and W multiples of `divisor`.

        Returns:
            Logits (N, classes, H, W). In training, where `auxiliary_weight` > 0: (final, first).

        Raises:
            ShapeError: H or W is not a multiple of `divisor`, or too small to be reflected.
        """
        height, width = image.shape[-2:]
        if height % self.divisor or width % self.divisor:
            raise ShapeError(
                f"wnet needs heights and widths that are multiples of {self.divisor}, "
                f"got {height} x {width}"
            )
        if min(height, width) < self._least:
            raise ShapeError(
                f"wnet with padding reflect needs heights and widths of {self._least} and more, "
                f"got {height} x {width}"
            )
        image = self.input_norm(image)
        first = self.first(image)
        image = self.first.handoff(image)
        final: Tensor = self.second(torch.cat([image, first.to(image.dtype)], dim=1))
        if self.training and self.auxiliary_weight > 0:
            return final, first
        return final


@dataclass(frozen=True)
class _Layers:
    """What goes with each convolution."""

    norm: str
    activation: str
    padding: Padding

    def normaliser(self, width: int) -> nn.Module:
        layer: nn.Module = NORMS.build({"name": self.norm}, width=width, axes=2)
        return layer

    def after(self, width: int) -> list[nn.Module]:
        # ReLU before batch-norm is the published order; so the bias is no dead parameter.
        return [ACTIVATIONS.build({"name": self.activation}), self.normaliser(width)]


class _UNet(nn.Module):
    gates: Gates
    skip_gates: SkipGates
    handoff: nn.Module

    def __init__(
        self,
        in_channels: int,
        classes: int,
        filters: Sequence[int],
        *,
        convolutions: int,
        layers: _Layers,
        shortcut: bool,
        bridge: bool,
        upsample: str,
        dropout: float,
        drops: Sequence[float],
    ) -> None:
        super().__init__()
        drop = iter(drops)

        def block(inputs: int, outputs: int) -> _Block:
            return _Block(
                inputs,
                outputs,
                convolutions,
                layers,
                shortcut=shortcut,
                dropout=dropout,
                drop_path=next(drop),
            )

        inputs = [in_channels, *filters[:-1]]
        self.down = nn.ModuleList(block(a, b) for a, b in zip(inputs, filters, strict=True))
        self.pool = nn.MaxPool2d(2)
        finer, coarser = list(filters[-2::-1]), list(filters[:0:-1])
        self.raise_ = nn.ModuleList(
            _upsampler(a, b, upsample) for a, b in zip(coarser, finer, strict=True)
        )
        self.bridge = nn.ModuleList(
            nn.Sequential(*_convolution(width, width, layers)) if bridge else nn.Identity()
            for width in finer
        )
        self.up = nn.ModuleList(block(2 * width, width) for width in finer)
        self.head = nn.Conv2d(filters[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, down in enumerate(self.down):
            x = self.gates("encoder", level, down(self.pool(x) if level else x))
            skips.append(x)
        skips.pop()
        x = self.handoff(x)
        for raise_, bridge, up in zip(self.raise_, self.bridge, self.up, strict=True):
            level = len(skips) - 1
            skip = self.gates("skip", level, bridge(self.handoff(skips.pop())))
            skip = self.skip_gates(level, skip, x)
            x = self.gates("decoder", level, up(torch.cat([raise_(x), skip], dim=1)))
        logits: Tensor = self.head(x)
        return logits


class _Block(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        convolutions: int,
        layers: _Layers,
        *,
        shortcut: bool,
        dropout: float,
        drop_path: float,
    ) -> None:
        super().__init__()
        chain: list[nn.Module] = []
        for index in range(convolutions):
            chain += _convolution(outputs if index else inputs, outputs, layers)
        self.chain = nn.Sequential(*chain)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), layers.normaliser(outputs))
            if shortcut
            else None
        )
        self.dropout = nn.Dropout2d(dropout) if dropout > 0 else nn.Identity()
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.drop_path(self.chain(x))
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        dropped: Tensor = self.dropout(out)
        return dropped


def _convolution(inputs: int, outputs: int, layers: _Layers) -> list[nn.Module]:
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode=layers.padding),
        *layers.after(outputs),
    ]


def _upsampler(inputs: int, outputs: int, kind: str) -> nn.Module:
    if kind == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    )
