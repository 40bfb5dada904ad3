"""The weights that a run begins with, where they are those of another run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Initial:
    """Weights of a finished run in the same results folder.

    Attributes:
        run_id: The run.
        epoch: Of its weights, counted from 1.
    """

    run_id: str
    epoch: int

    @property
    def identity(self) -> dict[str, Any]:
        """What is hashed of it: a run's name and an epoch determine the weights."""
        return {"run": self.run_id, "epoch": self.epoch}
