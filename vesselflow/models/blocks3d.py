"""What the networks of volumes are made of."""

from __future__ import annotations

from torch import Tensor, nn

from vesselflow.errors import ShapeError
from vesselflow.models.arguments import GROUPS


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
