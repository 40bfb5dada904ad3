"""Little W-Net: two small U-Nets in a row, the second sees the image and the first's answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vesselflow.errors import ShapeError


class WNet(nn.Module):
    """Little W-Net: ``final = U2(image, U1(image))``.

    Both U-Nets have one level per entry of `filters`, with 2 x 2 max-pooling between levels; a
    block is a chain of (3 x 3 convolution, ReLU, batch-norm). As published, U2 gets the logits of
    U1 (not probabilities), and both answers are trained: loss(final) + loss(first). With the
    defaults and 3 input channels it has 68,482 parameters, as published.

    Weights are drawn from torch's global generator: He's normal for convolutions, zero biases.

    Args:
        filters: Channels of each level, finest first.
        convolutions: 3 x 3 convolutions per block.
        shortcut: Add a 1 x 1 convolution with batch-norm of a block's input to its output.
        bridge: One 3 x 3 convolution on each skip connection.
        upsample: "transposed": 2 x 2 transposed convolution with stride 2, as published.
            "bilinear": 1 x 1 convolution at the coarse level, then bilinear interpolation.
        dropout: Probability of dropping a channel after each block; 0 has no such layer.
        input_norm: Batch-norm on the input.
        auxiliary_weight: Weight of the loss on the first answer. At 0 the first answer is not
            returned in training.
        in_channels: Channels of the image.
        classes: Channels of the logits.

    Attributes:
        divisor: Height and width must be multiples of it: 2 ** (levels - 1).
        auxiliary_weight: As given.

    Reference: Galdran et al., State-of-the-art retinal vessel segmentation with minimalistic
    models, Scientific Reports 12, 2022, https://arxiv.org/abs/2009.01907.
    """

    def __init__(
        self,
        *,
        filters: Sequence[int],
        convolutions: int,
        shortcut: bool,
        bridge: bool,
        upsample: str,
        dropout: float,
        input_norm: bool,
        auxiliary_weight: float,
        in_channels: int = 3,
        classes: int = 1,
    ) -> None:
        super().__init__()
        self.divisor = 2 ** (len(filters) - 1)
        self.auxiliary_weight = float(auxiliary_weight)
        self.input_norm = nn.BatchNorm2d(in_channels) if input_norm else nn.Identity()
        self.first, self.second = (
            _UNet(
                channels,
                classes,
                filters,
                convolutions=convolutions,
                shortcut=shortcut,
                bridge=bridge,
                upsample=upsample,
                dropout=dropout,
            )
            for channels in (in_channels, in_channels + classes)
        )
        self.apply(_initialise)
        for net in (self.first, self.second):
            # No ReLU follows, so He's factor would only make the first loss larger.
            nn.init.kaiming_normal_(net.head.weight, nonlinearity="linear")

    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits of an image.

        Args:
            image: float (N, in_channels, H, W), H and W multiples of `divisor`.

        Returns:
            Logits (N, classes, H, W). In training, where `auxiliary_weight` > 0: (final, first).

        Raises:
            ShapeError: H or W is not a multiple of `divisor`.
        """
        height, width = image.shape[-2:]
        if height % self.divisor or width % self.divisor:
            raise ShapeError(
                f"wnet needs heights and widths that are multiples of {self.divisor}, "
                f"got {height} x {width}"
            )
        image = self.input_norm(image)
        first = self.first(image)
        final: Tensor = self.second(torch.cat([image, first.to(image.dtype)], dim=1))
        if self.training and self.auxiliary_weight > 0:
            return final, first
        return final


class _UNet(nn.Module):
    def __init__(
        self,
        in_channels: int,
        classes: int,
        filters: Sequence[int],
        *,
        convolutions: int,
        shortcut: bool,
        bridge: bool,
        upsample: str,
        dropout: float,
    ) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> _Block:
            return _Block(inputs, outputs, convolutions, shortcut=shortcut, dropout=dropout)

        inputs = [in_channels, *filters[:-1]]
        self.down = nn.ModuleList(block(a, b) for a, b in zip(inputs, filters, strict=True))
        self.pool = nn.MaxPool2d(2)
        finer, coarser = list(filters[-2::-1]), list(filters[:0:-1])
        self.raise_ = nn.ModuleList(
            _upsampler(a, b, upsample) for a, b in zip(coarser, finer, strict=True)
        )
        self.bridge = nn.ModuleList(
            nn.Sequential(*_convolution(width, width)) if bridge else nn.Identity()
            for width in finer
        )
        self.up = nn.ModuleList(block(2 * width, width) for width in finer)
        self.head = nn.Conv2d(filters[0], classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for level, down in enumerate(self.down):
            x = down(self.pool(x) if level else x)
            skips.append(x)
        skips.pop()
        for raise_, bridge, up in zip(self.raise_, self.bridge, self.up, strict=True):
            x = up(torch.cat([raise_(x), bridge(skips.pop())], dim=1))
        logits: Tensor = self.head(x)
        return logits


class _Block(nn.Module):
    def __init__(
        self, inputs: int, outputs: int, convolutions: int, *, shortcut: bool, dropout: float
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for index in range(convolutions):
            layers += _convolution(outputs if index else inputs, outputs)
        self.chain = nn.Sequential(*layers)
        self.shortcut = (
            nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
            if shortcut
            else None
        )
        self.dropout = nn.Dropout2d(dropout) if dropout > 0 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.chain(x)
        if self.shortcut is not None:
            out = out + self.shortcut(x)
        dropped: Tensor = self.dropout(out)
        return dropped


def _convolution(inputs: int, outputs: int) -> list[nn.Module]:
    # ReLU before batch-norm is the published order; so the bias is no dead parameter.
    return [
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.BatchNorm2d(outputs),
    ]


def _upsampler(inputs: int, outputs: int, kind: str) -> nn.Module:
    if kind == "transposed":
        return nn.ConvTranspose2d(inputs, outputs, 2, stride=2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 1),
        nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
    )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
