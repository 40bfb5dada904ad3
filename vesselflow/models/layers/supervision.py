"""Answers of coarser levels, for losses of their own in training."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from vesselflow.models.layers.convolutions import initialise, initialise_head, pointwise, raised


class Supervision(nn.ModuleList):
    """Heads on coarser maps, whose logits are interpolated linearly to the grid of the answer.

    Made after all other layers have drawn their weights, so that networks with and without them
    start from the same weights.

    Args:
        widths: Channels of each map, finest first.
        factors: By which the answer's grid is finer than each map.
        classes: Channels of the logits.

    Reference: Lee et al., Deeply-supervised nets, AISTATS 2015, https://arxiv.org/abs/1409.5185;
        of volumes Dou et al., 3D deeply supervised network, MICCAI 2016,
        https://arxiv.org/abs/1607.00582.
    """

    def __init__(
        self, widths: Sequence[int], factors: Sequence[Sequence[int]], classes: int
    ) -> None:
        super().__init__(
            _Answer(width, factor, classes) for width, factor in zip(widths, factors, strict=True)
        )

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Logits (N, classes, *S of the answer) of each map, finest first."""
        return tuple(answer(each) for answer, each in zip(self, maps, strict=True))


class _Answer(nn.Module):
    def __init__(self, width: int, factor: Sequence[int], classes: int) -> None:
        super().__init__()
        self._factor = tuple(factor)
        self.head = pointwise(width, classes, len(self._factor))
        initialise(self.head)
        initialise_head(self.head)

    def forward(self, x: Tensor) -> Tensor:
        return raised(self.head(x), self._factor)
