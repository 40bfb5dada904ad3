"""Augmentations that cover boxes of the sample; the target stays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator

from vesselflow.augment.arguments import Probability, Shares, ordered
from vesselflow.augment.draws import Draws, choose, spread_log
from vesselflow.augment.inside import mean_inside
from vesselflow.config.registry import Arguments

if TYPE_CHECKING:
    from torch import Tensor

#: What covers a box: the mean of each channel over the field of view, or 0.
Fill = Literal["mean", "zero"]


class CutoutArguments(Arguments):
    """Arguments of `cutout`.

    Attributes:
        p: Probability, for each sample by itself.
        boxes: Largest number of boxes; drawn from 1 on.
        size: Smallest and largest side of a box, as a share of the sample's side; each side is
            drawn by itself.
    """

    p: Probability = 0.5
    boxes: Annotated[int, Field(ge=1, le=1000)] = 4
    size: Shares = (0.05, 0.2)

    _size = field_validator("size")(ordered)


class CoarseDropoutArguments(CutoutArguments):
    """Arguments of `coarse_dropout`.

    Attributes:
        fill: What covers a box: `mean`, of each channel over the field of view, or `zero`, black.
    """

    fill: Fill = "mean"


class Boxes:
    """Boxes that are drawn for each sample; the base of what covers them.

    Args:
        p: Probability per sample.
        boxes: Their number is 1 to `boxes`, each as likely.
        size: Each side is uniform in the logarithm, in shares of the sample's, rounded to whole px,
            1 at least; a box lies within the frame, anywhere as likely.
    """

    def __init__(self, *, p: float, boxes: int, size: tuple[float, float]) -> None:
        self.p, self.boxes, self.size = p, boxes, size

    def drawn(self, size: tuple[int, ...], draws: Draws) -> dict[int, list[tuple[slice, ...]]]:
        """Chosen sample -> its boxes, as slices of the last axes."""
        import torch

        axes = len(size)
        chosen, numbers = choose(draws, self.p, 1 + 2 * axes * self.boxes)
        sizes = torch.tensor(size, dtype=torch.float64)
        table = numbers[:, 1:].view(len(chosen), self.boxes, 2, axes)
        sides = (spread_log(table[:, :, 0], self.size) * sizes).round().clamp(min=1)
        starts = (table[:, :, 1] * (sizes - sides + 1)).floor()
        edges = torch.stack([starts, starts + sides], dim=-1).long().tolist()
        return {
            index: [
                tuple(slice(first, end) for first, end in box)
                for box in boxes[: 1 + int(self.boxes * number)]
            ]
            for index, boxes, number in zip(chosen, edges, numbers[:, 0].tolist(), strict=True)
        }


class CoarseDropout(Boxes):
    """Cover boxes of the image by one value; what they hid is still to be found.

    Target and field of view stay: the network has to bridge the gaps.

    Args:
        p: Probability per sample.
        boxes: Largest number of boxes (see `Boxes`).
        size: Smallest and largest side, in shares of the sample's.
        fill: `mean` of each channel over the field of view, or `zero`.

    Reference: DeVries and Taylor, 2017, https://arxiv.org/abs/1708.04552 (there one square).
    """

    def __init__(self, *, p: float, boxes: int, size: tuple[float, float], fill: Fill) -> None:
        super().__init__(p=p, boxes=boxes, size=size)
        self.fill = fill

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        import torch

        shape = (-1, *[1] * (image.ndim - 2))
        for index, boxes in self.drawn(tuple(image.shape[2:]), draws).items():
            own, inside = image[index], fov[index]
            if self.fill == "mean":
                value = mean_inside(own, inside)
            else:
                value = torch.zeros(len(own), device=own.device, dtype=own.dtype)
            for box in boxes:
                cover(own, inside, box, value.view(shape))


class Cutout(Boxes):
    """Take boxes out of the field of view: black, and the loss does not count them.

    Args:
        p: Probability per sample.
        boxes: Largest number of boxes (see `Boxes`).
        size: Smallest and largest side, in shares of the sample's.

    Reference: DeVries and Taylor, 2017, https://arxiv.org/abs/1708.04552 (there one square; that
    the loss leaves it out is ours, since a hidden vessel cannot be known).
    """

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        import torch

        black = torch.zeros((), device=image.device, dtype=image.dtype)
        for index, boxes in self.drawn(tuple(image.shape[2:]), draws).items():
            for box in boxes:
                cover(image[index], fov[index], box, black)
                fov[index][(slice(None), *box)] = 0


def cover(image: Tensor, fov: Tensor, box: tuple[slice, ...], value: Tensor) -> None:
    """Cover a box of one sample in place, as far as it lies in the fov.

    Args:
        image: float (C, *S).
        fov: float (1, *S), 0 or 1.
        box: Slices of the axes S.
        value: Of the image's type, (C, 1, ...) or a single one.
    """
    import torch

    there = image[(slice(None), *box)]
    there.copy_(torch.where(fov[(slice(None), *box)].bool(), value, there))
