"""What a network of images sees of a volume: neighbouring slices, and windows of them fused.

Beyond the ends of a volume its first and its last slice are repeated. (By joining slices: gradients
of padding and of indices are summed in any order on a GPU.)
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vesselflow.models.layers import ACTIVATIONS, NORMS, WINDOW_FUSIONS


def lengthened(x: Tensor, margin: int, axis: int) -> Tensor:
    """Slices along an axis, with `margin` more at each end: the first and the last one again."""
    ends = x.narrow(axis, 0, 1), x.narrow(axis, x.shape[axis] - 1, 1)
    return torch.cat([*[ends[0]] * margin, x, *[ends[1]] * margin], dim=axis)


def as_images(volume: Tensor) -> Tensor:
    """(N, C, D, H, W) as (N D, C, H, W), one image for each slice."""
    return volume.transpose(1, 2).flatten(0, 1)


def as_volumes(images: Tensor, depth: int) -> Tensor:
    """(N D, C, H, W) as (N, C, D, H, W)."""
    return images.unflatten(0, (-1, depth)).transpose(1, 2).contiguous()


class SliceStack(nn.Module):
    """The slices around each slice as its channels, or what a few 3-D convolutions make of them.

    A stem of k convolutions 3 x 3 x 3 (convolution, norm, activation) makes `slices` - 2 k maps of
    the slices around one, without padding across slices; their depth is flattened into channels.
    So every stem sees as many slices as no stem does. As neighbours share what they see, the whole
    volume is convolved once.

    Args:
        slices: That are seen of each slice, odd.
        in_channels: Of the volume.
        widths: Channels of each convolution; none for no stem.
        norm: Name of their norm, which pools over the slices as any does over a volume.
        activation: Name of their activation.

    Attributes:
        channels: Of the images.
    """

    def __init__(
        self, *, slices: int, in_channels: int, widths: Sequence[int], norm: str, activation: str
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = in_channels
        for width in widths:
            layers += [
                nn.Conv3d(inputs, width, 3, padding=(0, 1, 1), bias=False),
                NORMS.build({"name": norm}, width=width, axes=3),
                ACTIVATIONS.build({"name": activation}),
            ]
            inputs = width
        self.stem = nn.Sequential(*layers)
        self._margin = slices // 2
        self._maps = slices - 2 * len(widths)
        self.channels = inputs * self._maps

    def forward(self, volume: Tensor) -> Tensor:
        """Images (N D, channels, H, W) of a volume (N, in_channels, D, H, W)."""
        x, depth = self.stem(lengthened(volume, self._margin, axis=2)), volume.shape[2]
        near = [x.narrow(2, number, depth) for number in range(self._maps)]
        return as_images(torch.stack(near, dim=2).flatten(1, 2))


class FusedWindows(nn.ModuleList):
    """Fuses, on each level of an encoder, the maps of the windows around each slice.

    Windows lie side by side. Every slice is the middle of one that the encoder was given already,
    so that no window costs a pass of its own.

    Args:
        windows: How many, odd.
        slices: Of each.
        fuse: Name of the fusion.
        widths: Channels of each level.
    """

    def __init__(self, *, windows: int, slices: int, fuse: str, widths: Sequence[int]) -> None:
        super().__init__(
            # Some encoders have a level without channels.
            WINDOW_FUSIONS.build({"name": fuse}, channels=width, windows=windows)
            if width
            else nn.Identity()
            for width in (widths if windows > 1 else ())
        )
        self._margin = windows // 2 * slices
        self._starts = range(0, windows * slices, slices)

    def forward(self, maps: Sequence[Tensor], depth: int) -> list[Tensor]:
        """Maps (N D, C, H, W) of the same shapes, finest first; as they are, of one window."""
        if not len(self):
            return list(maps)
        fused = []
        for fuse, images in zip(self, maps, strict=True):
            if not images.shape[1]:
                fused.append(images)
                continue
            longer = lengthened(images.unflatten(0, (-1, depth)), self._margin, axis=1)
            near = [longer.narrow(1, start, depth) for start in self._starts]
            fused.append(fuse(torch.stack(near, dim=2).flatten(0, 1)))
        return fused


class Mean(nn.Module):
    """The mean over windows; it has no weights."""

    def __init__(self, *, channels: int, windows: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of x (B, windows, C, H, W)."""
        return x.mean(dim=1)


class Max(nn.Module):
    """The largest of each channel and place over windows; it has no weights."""

    def __init__(self, *, channels: int, windows: int) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of x (B, windows, C, H, W)."""
        return x.amax(dim=1)


class Attention(nn.Module):
    """A mean weighted at each place: softmax over windows of (w . x + b of the window).

    Weights start at 0, where it is the mean.

    Args:
        channels: Of the maps.
        windows: How many.

    Reference: attention pooling of Ilse et al., Attention-based deep multiple instance learning,
        ICML 2018, https://arxiv.org/abs/1802.04712, section 2.4. Deviates: each place has weights
        of its own, scores are linear, and know which window is which.
    """

    def __init__(self, *, channels: int, windows: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1))
        self.bias = nn.Parameter(torch.zeros(windows))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of x (B, windows, C, H, W)."""
        scores = torch.einsum("bnchw,co->bnohw", x, self.weight) + self.bias.view(-1, 1, 1, 1)
        return (x * torch.softmax(scores, dim=1)).sum(dim=1)


class Convolved(nn.Module):
    """A convolution over windows: each channel of a sum of all channels of all windows.

    Its kernel is windows x 1 x 1, it starts as the mean, and has no bias.

    Args:
        channels: Of the maps.
        windows: How many.
    """

    def __init__(self, *, channels: int, windows: int) -> None:
        super().__init__()
        self.convolution = nn.Conv3d(channels, channels, (windows, 1, 1), bias=False)
        with torch.no_grad():
            start = torch.eye(channels) / windows
            self.convolution.weight.copy_(start[:, :, None, None, None].expand_as(
                self.convolution.weight
            ))  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) of x (B, windows, C, H, W)."""
        fused: Tensor = self.convolution(x.transpose(1, 2)).squeeze(2)
        return fused
