"""Classes that exclude each other: the softmax, as one logit for each class."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def one_against_rest(logits: Tensor) -> Tensor:
    """Logits whose sigmoids are the softmax over the classes and the background.

    l_k = z_k - log(1 + sum over j != k of exp(z_j)), so that sigmoid(l_k) = exp(z_k) / (1 + sum
    over j of exp(z_j)). The background's own z is 0; what the probabilities leave to 1 is its own.
    Losses, thresholds and means over windows and views take these logits as they take those of
    classes that may overlap, and nothing is lost where a probability rounds to 0 or 1.

    The sum over the others is made of the others. Taken out of the sum of all, that of a class
    which has nearly all of it would be rounding.

    Args:
        logits: z, float (N, K, ...), any floating type.

    Returns:
        l, (N, K, ...), float32 (float64 stays float64); of one class the logits as they are.
    """
    import torch

    if logits.shape[1] == 1:
        return logits
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    first, *others = wide.unbind(1)
    # Of the background and the classes before each, and of the classes after each but the last.
    before = [*accumulate([torch.zeros_like(first), first, *others[:-1]], torch.logaddexp)]
    after = [*accumulate(reversed(others), torch.logaddexp)][::-1]
    rest = [torch.logaddexp(*pair) for pair in zip(before, after, strict=False)]
    return wide - torch.stack([*rest, before[-1]], dim=1)
