"""Weighted sums of losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import ConfigDict, model_validator

from vesselflow.config.named import Spec, Specs
from vesselflow.config.registry import Arguments
from vesselflow.config.scalars import Range, ScalarSchedule, resolve
from vesselflow.losses.loss import Loss
from vesselflow.losses.registry import LOSSES

if TYPE_CHECKING:
    from torch import Tensor


class Term(Spec):
    """A term of `compose`: its weight, beside the loss's own arguments.

    Attributes:
        weight: What the loss is multiplied with; at exactly 0 it is logged and takes no part.
    """

    model_config = ConfigDict(title="term")

    weight: Annotated[float | ScalarSchedule, Range(0.0)] = 1.0


class ComposeArguments(Arguments):
    """Arguments of `compose`.

    Attributes:
        terms: Losses by name, each with its weight and its arguments beside it; in any order.
    """

    terms: Annotated[dict[str, Term], Specs(LOSSES, Term)]

    @model_validator(mode="after")
    def _some_weight(self) -> ComposeArguments:
        if all(term.weight == 0.0 for term in self.terms.values()):
            raise ValueError("one of `terms` needs a weight above 0")
        return self


class Compose(Loss):
    """Weighted sum of losses, in the order of their names (see `weighted_sum`).

    Each term is pooled, and treats soft and empty targets, as its loss says. A weight of exactly 0
    takes no part; the term is still logged, and costs no backward pass.
    """

    name = "compose"

    def __init__(self, *, terms: dict[str, Term]) -> None:
        super().__init__(terms=terms)
        self._terms: dict[str, tuple[float | ScalarSchedule, Loss]] = {
            name: (term.weight, LOSSES.build({"name": name, **term.arguments}))
            for name, term in terms.items()
        }

    def scalars(self, progress: float) -> dict[str, float]:
        """The weights and the scalars of all terms at `progress`: ``terms.bce.weight``."""
        found: dict[str, float] = {}
        for name, (weight, loss) in self._terms.items():
            own = {"weight": resolve(weight, progress), **loss.scalars(progress)}
            found |= {f"terms.{name}.{key}": value for key, value in own.items()}
        return found

    def weighted(
        self, logits: Tensor, target: Tensor, fov: Tensor | None, progress: float
    ) -> dict[str, tuple[float, Tensor]]:
        """Weight and value of each loss."""
        import torch

        found = {}
        for name, (schedule, loss) in self._terms.items():
            weight = resolve(schedule, progress)
            with torch.set_grad_enabled(torch.is_grad_enabled() and weight > 0.0):
                found[name] = weight, loss(logits, target, fov, progress=progress)[0]
        return found
