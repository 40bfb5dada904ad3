"""Mean of a model's weights at the ends of its last epochs (checkpoint averaging)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from torch import nn

from vesselflow.models.swa import Swa


class LastMeans:
    """Of each scored epoch, the mean of the weights at its end and at those just before it.

    The first epochs have fewer before them. One mean is kept for each scored epoch whose weights
    are being gathered: a single one where scored epochs lie `count` or more apart. Buffers are
    treated as `Swa` treats them.

    Args:
        count: Epochs of a mean, at least 1.
        scored: The scored epochs, from 1.

    Reference: Vaswani et al., Attention is all you need, NeurIPS 2017,
        https://arxiv.org/abs/1706.03762, section 6.1. Deviates: epochs in place of minutes.
    """

    def __init__(self, count: int, scored: Collection[int]) -> None:
        self._count, self._scored = count, frozenset(scored)
        self._means: dict[int, Swa] = {}

    def update(self, model: nn.Module, epoch: int) -> None:
        """Take in the weights at the end of an epoch; each epoch once, in their order."""
        of = [each for each in range(epoch, epoch + self._count) if each in self._scored]
        self._means = {each: self._means.get(each) or Swa(model) for each in of}
        for mean in self._means.values():
            mean.update(model)

    def of(self, epoch: int) -> Swa:
        """The mean of the scored epoch that was taken in last."""
        return self._means[epoch]

    def state_dict(self) -> dict[str, Any]:
        """What continues the means exactly; the next update changes its tensors."""
        return {str(epoch): mean.state_dict(copy=False) for epoch, mean in self._means.items()}

    def load_state_dict(self, state: Mapping[str, Any], model: nn.Module) -> None:
        """Continue from a `state_dict`, with a model of the same kind.

        Raises:
            ValueError: The names or shapes are not those of this model.
        """
        self._means = {int(epoch): Swa(model) for epoch in state}
        for epoch, mean in self._means.items():
            mean.load_state_dict(state[str(epoch)])
