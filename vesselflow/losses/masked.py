"""Pixels inside the field of view, and sums and means over them, for every loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vesselflow.errors import ShapeError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Pixels:
    """A micro-batch, flattened, with everything outside the field of view set to 0.

    Attributes:
        logits: (N, C, P), float32 (float64 stays float64).
        target: (N, C, P), same type.
        inside: (N, 1, P), 1 where a pixel counts and 0 elsewhere, same type.
    """

    logits: Tensor
    target: Tensor
    inside: Tensor

    @property
    def count(self) -> Tensor:
        """Number of pixels that count, (N, 1)."""
        return self.inside.sum(dim=-1)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` (N, C, P) over the pixels that count, (N, C)."""
        return (values * self.inside).sum(dim=-1)

    def counts(self, p: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Soft counts of what is hit, falsely found and missed: sums of p t, p (1 - t), (1 - p) t.

        Args:
            p: Probabilities (N, C, P).

        Returns:
            Three of (N, C), over the pixels that count.
        """
        hit = self.sum(p * self.target)
        return hit, self.sum(p * (1.0 - self.target)), self.sum((1.0 - p) * self.target)

    def mean(self, values: Tensor) -> Tensor:
        """Mean of `values` (N, C, P) over the pixels that count, (N, C); 0 without such pixels."""
        return self.sum(values) / self.count.clamp(min=1.0)

    def mean_over_images(self, values: Tensor) -> Tensor:
        """Mean of `values` (N, C) over channels and over the images that have a field of view.

        An image whose field of view is empty says nothing about the model: it is left out of the
        mean and gets no gradient. When all are, the mean is 0, with a gradient of 0.
        """
        import torch

        seen = self.count > 0
        kept = torch.where(seen, values, torch.zeros_like(values))
        return kept.sum() / (seen.sum().clamp(min=1) * values.shape[1])


def pixels(logits: Tensor, target: Tensor, fov: Tensor | None) -> Pixels:
    """Check the shapes, bring everything to float32 and silence what lies outside the fov.

    Outside, logits and target are replaced rather than multiplied by 0, so that an infinity or NaN
    there reaches neither the loss nor a gradient.

    Args:
        logits: float (N, C, ...), any floating type.
        target: (N, C, ...), same shape, values in [0, 1] (float, bool or integer).
        fov: (N, 1, ...), bool, or a number that counts as inside above 0.5; None: all inside.

    Raises:
        ShapeError: Fewer than three dimensions, or shapes that do not fit.
    """
    import torch

    if logits.ndim < 3 or logits.shape != target.shape:
        raise ShapeError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} should both be "
            "(N, C, ...) of one shape"
        )
    # Under autocast logits arrive in half precision, in which a sum over an image is worthless.
    dtype = torch.promote_types(logits.dtype, torch.float32)
    x = logits.to(dtype).flatten(2)
    t = target.to(dtype).flatten(2)
    shape = (logits.shape[0], 1, *logits.shape[2:])
    if fov is None:
        return Pixels(x, t, torch.ones((), dtype=dtype, device=x.device).expand(x[:, :1].shape))
    if fov.shape != shape:
        raise ShapeError(f"fov {tuple(fov.shape)} should be {shape} for logits of this shape")
    inside = (fov if fov.dtype == torch.bool else fov > 0.5).flatten(2)
    zero = torch.zeros((), dtype=dtype, device=x.device)
    return Pixels(torch.where(inside, x, zero), torch.where(inside, t, zero), inside.to(dtype))
