"""What the networks of volumes are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vesselflow.errors import ShapeError
from vesselflow.models.arguments import GROUPS


class Conv3d(nn.Conv3d):
    """A convolution that keeps the size, with the gradient of float32 where bfloat16's is wrong.

    On processors that multiply in bfloat16, the gradient of a 3-deep kernel over two slices is NaN
    or wrong (torch 2.15; any height and width, 16 channels or more): such maps, the smallest of a
    network, are left out of autocast.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int, int], *, bias: bool
    ) -> None:
        super().__init__(inputs, outputs, kernel, padding="same", bias=bias)

    def forward(self, volume: Tensor) -> Tensor:
        """The convolution of (N, inputs, D, H, W)."""
        if volume.device.type != "cpu" or volume.shape[2] != 2 or self.kernel_size[0] == 1:
            return super().forward(volume)
        with torch.autocast("cpu", enabled=False):
            return super().forward(volume.to(self.weight.dtype))


def normaliser(kind: str, width: int) -> nn.Module:
    """A normalisation of volumes: "batch", "instance" or "group" (8 of them)."""
    if kind == "batch":
        return nn.BatchNorm3d(width)
    if kind == "instance":
        return nn.InstanceNorm3d(width, affine=True)
    return nn.GroupNorm(GROUPS if width % GROUPS == 0 else 1, width)


def initialise(module: nn.Module) -> None:
    """He's normal weights and zero biases for convolutions, from torch's global generator."""
    if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def initialise_head(head: nn.Conv3d) -> None:
    """Weights of a last layer: no ReLU follows, so He's factor would only raise the first loss."""
    nn.init.kaiming_normal_(head.weight, nonlinearity="linear")


def check_volume(name: str, volume: Tensor, divisor: tuple[int, ...]) -> None:
    """Refuse what is no batch of volumes whose sides are multiples of `divisor`.

    Raises:
        ShapeError: It is not.
    """
    sides = tuple(volume.shape[2:])
    if volume.ndim != 5 or any(side % part for side, part in zip(sides, divisor, strict=True)):
        raise ShapeError(
            f"{name} needs volumes of sides that are multiples of {divisor}, got {sides}"
        )
