"""Whether an image was labelled, told in training from features that are to hide it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from vesselflow.models.coarsest import Coarsest, pooled

#: Width of the layer between features and logit.
HIDDEN = 64


class _Reversed(torch.autograd.Function):
    """The identity, whose gradient is multiplied by ``-weight``."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradients[0], None


class Adversary(nn.Module):
    """A head that tells labelled images from unlabelled ones, and teaches the encoder to hide it.

    Mean of the encoder's coarsest map, a layer of `HIDDEN` with ReLU, one logit: above 0 for
    unlabelled. Its own weights go down the gradient of its loss, those of the encoder up it: the
    gradient is reversed, times a weight, where it enters the features. It is no part of the model,
    whose weights and answers are those of a model without it.

    Weights are drawn from torch's global generator; biases are 0.

    Args:
        model: With an attribute `coarsest`, see `Coarsest`.

    Reference: Ganin et al., Domain-adversarial training of neural networks, JMLR 17, 2016,
        https://arxiv.org/abs/1505.07818. Deviates: the features are the mean of a map, as images of
        two domains may differ in size; batch-norms see labelled images only.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._coarsest = Coarsest(model)
        self.hidden = nn.Linear(self._coarsest.channels, HIDDEN)
        self.logit = nn.Linear(HIDDEN, 1)
        nn.init.kaiming_normal_(self.hidden.weight, nonlinearity="relu")
        nn.init.kaiming_normal_(self.logit.weight, nonlinearity="linear")
        nn.init.zeros_(self.hidden.bias)
        nn.init.zeros_(self.logit.bias)

    def listening(self) -> AbstractContextManager[list[Tensor]]:
        """The maps that a forward pass within the block hands to the decoder, in any order."""
        return self._coarsest.listening()

    def forward(self, maps: Sequence[Tensor], samples: int, weight: float) -> Tensor:
        """Logits of being unlabelled.

        Args:
            maps: Of a micro-batch, see `pooled`.
            samples: Of the micro-batch.
            weight: Of the reversed gradient, at least 0; 0 leaves the encoder alone.

        Returns:
            float32 (samples,), whatever autocast says.
        """
        with torch.autocast(maps[0].device.type, enabled=False):
            features = pooled(maps, samples)
            # Not 0 times a gradient: the sum with it may lie otherwise in memory, and whatever
            # comes next in the backward pass then gives other last bits.
            features = _Reversed.apply(features, weight) if weight else features.detach()
            logits: Tensor = self.logit(functional.relu(self.hidden(features)))
        return logits[:, 0]


def domain_loss(logits: Tensor, unlabelled: bool) -> tuple[Tensor, Tensor]:
    """How badly samples of one domain are told from those of the other.

    Args:
        logits: float32 (N,), of `Adversary`, at least one.
        unlabelled: Which domain all of them are of.

    Returns:
        Two scalars: the mean binary cross-entropy in nats, log 2 for who cannot tell; the share of
        samples that are told right, where a logit of 0 is right by half.
    """
    truth = torch.full_like(logits, float(unlabelled))
    loss = functional.binary_cross_entropy_with_logits(logits, truth)
    side = logits.detach().sign() if unlabelled else -logits.detach().sign()
    return loss, (0.5 + 0.5 * side).mean()
