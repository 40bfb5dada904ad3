"""Convolutions and the resampling of maps, of 2 or 3 axes, and how their weights start."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from vesselflow.errors import ShapeError, UserError
from vesselflow.models.arguments import Padding


class Conv3d(nn.Conv3d):
    """A convolution that keeps the size, with the gradient of float32 where bfloat16's is wrong.

    On processors that multiply in bfloat16, the gradient of a 3-deep kernel over two slices is NaN
    or wrong (torch 2.15; any height and width, 16 channels or more): such maps, the smallest of a
    network, are left out of autocast.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: tuple[int, int, int],
        *,
        bias: bool,
        groups: int = 1,
    ) -> None:
        super().__init__(inputs, outputs, kernel, padding="same", bias=bias, groups=groups)

    def forward(self, volume: Tensor) -> Tensor:
        """The convolution of (N, inputs, D, H, W)."""
        if volume.device.type != "cpu" or volume.shape[2] != 2 or self.kernel_size[0] == 1:
            return super().forward(volume)
        with torch.autocast("cpu", enabled=False):
            return super().forward(volume.to(self.weight.dtype))


def convolution(inputs: int, outputs: int, kernel: Sequence[int], *, bias: bool) -> nn.Module:
    """A convolution that keeps the size; of images or volumes, as the kernel has 2 or 3 axes."""
    if len(kernel) == 2:
        height, width = kernel
        return nn.Conv2d(inputs, outputs, (height, width), padding="same", bias=bias)
    depth, height, width = kernel
    return Conv3d(inputs, outputs, (depth, height, width), bias=bias)


def full(*, inputs: int, outputs: int, kernel: tuple[int, int, int]) -> nn.Module:
    """A convolution of all channels over all places of its kernel, without a bias."""
    return convolution(inputs, outputs, kernel, bias=False)


def separated(*, inputs: int, outputs: int, kernel: tuple[int, int, int]) -> nn.Module:
    """A convolution of kernel 1 over channels, then one of each channel by itself; no biases.

    Of 27 inputs outputs weights, (inputs + 27) outputs are left.

    Reference: Tran et al., Video classification with channel-separated convolutional networks, ICCV
        2019, https://arxiv.org/abs/1904.02811, section 3.3, interaction-preserved. In that order an
        image of one channel is seen by a kernel for each output.
    """
    return nn.Sequential(
        pointwise(inputs, outputs, 3, bias=False),
        Conv3d(outputs, outputs, kernel, bias=False, groups=outputs),
    )


def shifted(*, inputs: int, outputs: int, kernel: tuple[int, int, int]) -> nn.Module:
    """A convolution within slices, of some channels of the slices before and behind; see `Shifted`.

    A kernel that leaves slices alone is that of `full`.
    """
    if kernel[0] == 1:
        return full(inputs=inputs, outputs=outputs, kernel=kernel)
    return Shifted(inputs, outputs, (1, *kernel[1:]))


class Shifted(nn.Module):
    """Moves some channels by one slice, then convolves within slices, without a bias.

    An eighth of the channels (one at least) comes from the slice behind, and another from the one
    before; beyond the ends of a volume there is what the convolution is padded with. Maps of fewer
    than 4 channels, as a network's input, stay: nothing of the slice itself would be left of
    theirs. It costs a third of a full convolution.

    Args:
        inputs: Channels of the map.
        outputs: Of the answer.
        kernel: Of 1 across slices.

    Reference: Lin et al., TSM: temporal shift module for efficient video understanding, ICCV 2019,
        https://arxiv.org/abs/1811.08383, section 3.2.
    """

    def __init__(self, inputs: int, outputs: int, kernel: tuple[int, int, int]) -> None:
        super().__init__()
        self.convolution = Conv3d(inputs, outputs, kernel, bias=False)
        self._moved = max(1, inputs // 8) if inputs >= 4 else 0

    def forward(self, volume: Tensor) -> Tensor:
        """(N, outputs, D, H, W) of (N, inputs, D, H, W)."""
        if self._moved:
            behind, before, own = volume.split(
                [self._moved, self._moved, volume.shape[1] - 2 * self._moved], dim=1
            )
            last, first = behind[:, :, -1:], before[:, :, :1]
            if self.convolution.padding_mode == "zeros":
                last, first = torch.zeros_like(last), torch.zeros_like(first)
            elif self.convolution.padding_mode == "reflect":
                last, first = behind[:, :, -2:-1], before[:, :, 1:2]
            behind = torch.cat([behind[:, :, 1:], last], dim=2)
            before = torch.cat([first, before[:, :, :-1]], dim=2)
            volume = torch.cat([behind, before, own], dim=1)
        convolved: Tensor = self.convolution(volume)
        return convolved


def pointwise(inputs: int, outputs: int, axes: int, *, bias: bool = True) -> nn.Conv2d | nn.Conv3d:
    """A convolution of kernel 1."""
    return (nn.Conv2d if axes == 2 else nn.Conv3d)(inputs, outputs, 1, bias=bias)


def raised(x: Tensor, factor: Sequence[int], mode: str = "linear") -> Tensor:
    """Interpolate a map to a finer grid.

    Corners are not aligned: a coarse pixel stays at the middle of the fine ones that it covers.

    Args:
        x: float (N, C, *S).
        factor: Of each axis.
        mode: "nearest", or anything else for linear interpolation along each axis.

    Returns:
        (N, C, *S * factor); `x` itself where no axis becomes finer.
    """
    if max(factor) == 1:
        return x
    size = [side * part for side, part in zip(x.shape[2:], factor, strict=True)]
    if mode == "nearest":
        return functional.interpolate(x, size, mode="nearest")
    linear = "bilinear" if x.ndim == 4 else "trilinear"
    return functional.interpolate(x, size, mode=linear, align_corners=False)


def pad(model: nn.Module, mode: Padding) -> None:
    """Let all convolutions of a network that are padded see more than zeros beyond the border.

    Args:
        model: Changed in place; weights and their names stay.
        mode: "reflect", which needs maps of more pixels than are padded, or "replicate".

    Raises:
        UserError: A convolution pads by itself.
    """
    honouring = (nn.Conv2d.forward, nn.Conv3d.forward, Conv3d.forward)
    for module in model.modules():
        if not isinstance(module, nn.Conv2d | nn.Conv3d) or max(module.kernel_size) == 1:
            continue
        if type(module).forward not in honouring:
            raise UserError(
                f"the model has convolutions that pad by themselves ({type(module).__name__})",
                where="model.padding",
                allowed="zeros, or another model.encoder",
            )
        if any(module._reversed_padding_repeated_twice):
            module.padding_mode = mode


def initialise(module: nn.Module) -> None:
    """He's normal weights and zero biases for convolutions, from torch's global generator."""
    if isinstance(module, nn.Conv2d | nn.Conv3d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def initialise_head(head: nn.Conv2d | nn.Conv3d) -> None:
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
