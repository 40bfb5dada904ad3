"""A learning rate that stays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from vesselflow.optimizers.learning_rates.warmed import Warmed, WarmedArguments


class ConstantArguments(WarmedArguments):
    """Arguments of `constant`."""


@dataclass(frozen=True, kw_only=True)
class Constant(Warmed):
    """The whole learning rate after the warm-up."""

    def shape(self, step: int, steps: int, losses: Sequence[float]) -> float:
        """1."""
        return 1.0
