"""Augmentations of whole channels, inside the field of view; target and fov stay."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from vesselflow.augment.arguments import Probability
from vesselflow.augment.draws import Draws, choose, spread
from vesselflow.augment.inside import add_clamped, change_inside
from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Share
from vesselflow.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


class ChannelShiftArguments(Arguments):
    """Arguments of `channel_shift`.

    Attributes:
        p: Probability, for each sample by itself.
        shift: Largest constant that is added to a channel either way, in units of the [0, 1] image.
    """

    p: Probability = 0.5
    shift: Share = 0.1


class ChannelShuffleArguments(Arguments):
    """Arguments of `channel_shuffle`.

    Attributes:
        p: Probability, for each sample by itself.
    """

    p: Probability = 0.5


class ChannelShift:
    """Add a constant to each channel, clamped to [0, 1].

    Args:
        p: Probability per sample.
        shift: Each channel's constant is uniform in [-shift, shift].
    """

    def __init__(self, *, p: float, shift: float) -> None:
        self.p, self.shift = p, shift

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`."""
        channels = image.shape[1]
        chosen, numbers = choose(draws, self.p, channels)
        for index, row in zip(chosen, spread(numbers, self.shift), strict=True):
            shift = row.to(image.device, image.dtype).view(channels, *[1] * (image.ndim - 2))
            change_inside(image, index, fov, partial(add_clamped, more=shift))


class ChannelShuffle:
    """Put the channels in another order, each but the one that they have as likely.

    Args:
        p: Probability per sample.
    """

    def __init__(self, *, p: float) -> None:
        self.p = p

    def apply(self, image: Tensor, target: Tensor, fov: Tensor, draws: Draws) -> None:
        """See `vesselflow.augment.draws.Part`.

        Raises:
            UserError: The images have one channel.
        """
        import torch

        channels = image.shape[1]
        if channels < 2:
            raise UserError(
                "images of one channel have no order of channels",
                where="augment.channel_shuffle",
                hint="leave it out",
            )
        same = torch.arange(channels)
        for index in choose(draws, self.p, 0)[0]:
            stream = draws.stream(index, "order")
            order = same
            while torch.equal(order, same):
                order = torch.randperm(channels, generator=stream)
            change_inside(image, index, fov, partial(_reorder, order=order.tolist()))


def _reorder(values: Tensor, order: Sequence[int]) -> None:
    """Put channels into an order in place, one cycle of it after another."""
    left = set(range(len(order)))
    while left:
        first = here = left.pop()
        if order[here] == first:
            continue
        aside = values[first].clone()
        while order[here] != first:
            values[here] = values[order[here]]
            here = order[here]
            left.remove(here)
        values[here] = aside
