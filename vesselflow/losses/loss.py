"""What every built loss is: a pure function and its arguments, some of them scheduled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from vesselflow.config.scalars import ScalarSchedule, resolve

if TYPE_CHECKING:
    from torch import Tensor


def weighted_sum(weighted: dict[str, tuple[float, Tensor]], logits: Tensor) -> Tensor:
    """Sum of w L over terms (w, L): with a weight of exactly 1 it is L itself, to the bit.

    A weight of exactly 0 takes no part, not even as 0 times something (which is NaN where that is
    infinite). Where no term has a weight, which schedules may bring about, the sum is 0 with a
    gradient of 0.

    Args:
        weighted: Weight, at least 0, and scalar value of each term; added in their order.
        logits: What the values were computed from.
    """
    import torch

    parts = list(weighted_parts(weighted).values())
    if not parts:
        nothing = torch.zeros_like(logits, dtype=torch.promote_types(logits.dtype, torch.float32))
        return torch.where(nothing > 0, logits, nothing).sum()
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def weighted_parts(weighted: dict[str, tuple[float, Tensor]]) -> dict[str, Tensor]:
    """The terms that have a weight, times it."""
    return {
        name: value if weight == 1.0 else weight * value
        for name, (weight, value) in weighted.items()
        if weight > 0.0
    }


class Loss:
    """A loss with its arguments: call it with tensors and the progress of training.

    A subclass names the loss and gives its pure function; one that has several terms overrides
    `weighted`. Instances hold plain values only: they pickle, and carry no state between calls.

    Args:
        **arguments: Values of the loss's argument model, schedules included.
    """

    name: ClassVar[str]
    function: ClassVar[Callable[..., Tensor]]
    #: Neighbours of a pixel matter: it takes images and volumes, not pixels in any order, and on
    #: an empty or full target it may push single pixels the wrong way.
    spatial: ClassVar[bool] = False
    #: An empty target draws every pixel down. False for losses of recall, which say nothing there.
    teaches_absence: ClassVar[bool] = True

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments

    def __repr__(self) -> str:
        values = ", ".join(f"{key}={value!r}" for key, value in self._arguments.items())
        return f"{type(self).__name__}({values})"

    def scalars(self, progress: float) -> dict[str, float]:
        """The scalars at `progress` in [0, 1], schedules resolved; no words, no whole numbers."""
        return {
            key: resolve(value, progress)
            for key, value in self._arguments.items()
            if isinstance(value, (float, ScalarSchedule))
        }

    def weighted(
        self, logits: Tensor, target: Tensor, fov: Tensor | None, progress: float
    ) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of each term, of which the loss is the sum (see `weighted_sum`)."""
        values = {**self._arguments, **self.scalars(progress)}
        return {self.name: (1.0, type(self).function(logits, target, fov, **values))}

    def gradient_shares(
        self, logits: Tensor, target: Tensor, fov: Tensor | None, *, progress: float
    ) -> dict[str, Tensor]:
        """The share of each term in the norm of the gradient, |g_i| / (|g_1| + |g_2| + ...).

        g_i is the gradient of term i times its weight, with respect to the logits. That is cheap,
        as no network is passed through, and not the share in the gradient of the weights. Terms
        that pull against each other have shares all the same: they add up to 1. 0 for a term
        without a weight, NaN for all where no term has a gradient. Nothing of a training is
        touched: the loss is evaluated once more, on a copy.

        Args:
            logits: As `__call__` takes them, and so the others.
            target: Likewise.
            fov: Likewise.
            progress: Likewise.

        Returns:
            Term -> scalar in [0, 1].
        """
        import torch

        with torch.enable_grad():
            x = logits.detach().float().requires_grad_()
            weighted = self.weighted(x, target, fov, progress)
            norms = {name: x.new_zeros(()) for name in weighted}
            for name, part in weighted_parts(weighted).items():
                (gradient,) = torch.autograd.grad(part, x, retain_graph=True)
                norms[name] = torch.linalg.vector_norm(gradient)
        total = torch.stack(list(norms.values())).sum()
        return {name: norm / total for name, norm in norms.items()}

    def __call__(
        self,
        logits: Tensor,
        target: Tensor,
        fov: Tensor | None = None,
        *,
        progress: float = 0.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Evaluate at `progress` of training.

        Args:
            logits: float (N, C, ...), before sigmoid; each channel is a binary problem.
            target: same shape, values in [0, 1], soft values allowed.
            fov: bool or 0/1 (N, 1, ...); pixels outside have no effect. None: all count.
            progress: Share of training done, in [0, 1]; only schedules read it.

        Returns:
            The total, a float32 scalar with a gradient, and its terms by name, detached and before
            their weights.

        Raises:
            ShapeError: The shapes do not fit each other.
        """
        weighted = self.weighted(logits, target, fov, progress)
        terms = {name: value.detach() for name, (_, value) in weighted.items()}
        return weighted_sum(weighted, logits), terms
