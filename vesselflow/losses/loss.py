"""What every built loss is: a pure function and its arguments, some of them scheduled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from vesselflow.config.scalars import ScalarSchedule, resolve

if TYPE_CHECKING:
    from torch import Tensor


class Loss:
    """A loss with its arguments: call it with tensors and the progress of training.

    A subclass names the loss and gives its pure function; one that has several terms overrides
    `evaluate`. Instances hold plain values only: they pickle, and carry no state between calls.

    Args:
        **arguments: Values of the loss's argument model, schedules included.
    """

    name: ClassVar[str]
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, **arguments: Any) -> None:
        self._arguments = arguments

    def __repr__(self) -> str:
        values = ", ".join(f"{key}={value!r}" for key, value in self._arguments.items())
        return f"{type(self).__name__}({values})"

    def scalars(self, progress: float) -> dict[str, float]:
        """The scalars at `progress` in [0, 1], schedules resolved; words (``image``) left out."""
        return {
            key: resolve(value, progress)
            for key, value in self._arguments.items()
            if isinstance(value, (int, float, ScalarSchedule))
        }

    def evaluate(
        self, logits: Tensor, target: Tensor, fov: Tensor | None, values: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The total and its detached terms, all schedules resolved in `values`."""
        total = type(self).function(logits, target, fov, **values)
        return total, {self.name: total.detach()}

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
            The total, a float32 scalar with a gradient, and its terms by name, detached.

        Raises:
            ShapeError: The shapes do not fit each other.
        """
        values = {**self._arguments, **self.scalars(progress)}
        return self.evaluate(logits, target, fov, values)
