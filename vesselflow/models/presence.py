"""Whether a patch holds any foreground, told in training from a model's coarsest features."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional

from vesselflow.models.coarsest import Coarsest, pooled


class Presence(nn.Module):
    """A head beside the segmentation: mean of the encoder's coarsest map, one logit of each class.

    It hears the map as `Coarsest` does: what the model answers is the same with and without it, in
    training and in prediction. Weights are drawn from torch's global generator, so that it is to be
    made after all other layers; the bias is 0.

    Args:
        model: Its attribute `coarsest` names that module and says how many channels the map has.
        classes: Logits.
        weight: Of its loss.

    Attributes:
        loss_weight: As given.

    Reference: a classifier on the pooled deepest features as in Mehta et al., Y-Net, MICCAI 2018,
        https://arxiv.org/abs/1806.01313, and UNet 3+ (Huang et al., ICASSP 2020,
        https://arxiv.org/abs/2004.08790). Deviates: it has one linear layer, and does not gate the
        segmentation.
    """

    def __init__(self, model: nn.Module, classes: int, weight: float) -> None:
        super().__init__()
        self.loss_weight = weight
        self._coarsest = Coarsest(model)
        self.linear = nn.Linear(self._coarsest.channels, classes)
        nn.init.kaiming_normal_(self.linear.weight, nonlinearity="linear")
        nn.init.zeros_(self.linear.bias)

    def listening(self) -> AbstractContextManager[list[Tensor]]:
        """The maps that a forward pass within the block hands to the decoder, in any order."""
        return self._coarsest.listening()

    def forward(self, maps: Sequence[Tensor], samples: int) -> Tensor:
        """Logits of presence.

        Args:
            maps: Of a micro-batch, see `pooled`.
            samples: Of the micro-batch.

        Returns:
            float32 (samples, classes), whatever autocast says.
        """
        with torch.autocast(maps[0].device.type, enabled=False):
            logits: Tensor = self.linear(pooled(maps, samples))
        return logits


def presence_loss(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Binary cross-entropy between presence as told and as it is; each class of each sample counts.

    A class is present where its target is above 1/2 in a counted pixel. Samples without such a
    pixel take no part; without any other sample it is 0, with gradients of 0.

    Args:
        logits: float (N, C).
        target: float (N, C, *S), in [0, 1].
        counted: float (N, 1, *S), 0 or 1: what the loss of the segmentation counts.

    Returns:
        Scalar: mean over the classes of the samples that take part, in nats.
    """
    present = ((target > 0.5) & (counted > 0.5)).flatten(2).any(dim=2)
    part = (counted > 0.5).flatten(1).any(dim=1, keepdim=True).expand_as(present)
    each = functional.binary_cross_entropy_with_logits(
        logits, present.to(logits.dtype), reduction="none"
    )
    return torch.where(part, each, 0.0).sum() / part.sum().clamp(min=1)
