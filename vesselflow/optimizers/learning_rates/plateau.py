"""A learning rate that falls when the training loss does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from vesselflow.optimizers.learning_rates.warmed import Warmed, WarmedArguments


class PlateauArguments(WarmedArguments):
    """Arguments of `plateau`, which looks at the training loss, never at validation data."""

    gamma: float = Field(0.5, gt=0, lt=1, description="Factor on the rate at each fall")
    patience: int = Field(3, ge=1, description="Epochs without a better training loss for a fall")
    threshold: float = Field(
        0.001, ge=0, description="How far below the best one a mean training loss is better"
    )
    floor: float = Field(0.01, gt=0, le=1, description="Lowest learning rate, as a share of lr")


@dataclass(frozen=True, kw_only=True)
class Plateau(Warmed):
    """gamma^n after n plateaus of the mean training loss of epochs; never below the floor.

    It looks at the training loss, which costs nothing and is known to all workers, and not at
    validation data: those choose the epoch, the threshold and the leading point, and would be asked
    for one thing more. A loss that augmentation or a schedule of its own moves may hide a plateau.

    Epochs are counted from the start of the run, those of the warm-up included. An epoch is better
    where its loss lies below the best one before by more than `threshold` (absolute, so that losses
    may be negative); `patience` epochs in a row that are not make a fall, and the count begins
    anew. An epoch without a finite loss is not better. With patience p these are the numbers of
    torch's ``ReduceLROnPlateau(patience=p - 1, threshold_mode="abs")``.

    Attributes:
        gamma: Factor at each fall, in (0, 1).
        patience: Epochs, 1 or more.
        threshold: In units of the loss, 0 or more.
        floor: Lowest factor, in (0, 1].
    """

    gamma: float
    patience: int
    threshold: float
    floor: float

    def shape(self, step: int, steps: int, losses: Sequence[float]) -> float:
        """What the losses of the epochs so far have made of the rate."""
        best, waited, factor = math.inf, 0, 1.0
        for loss in losses:
            if loss < best - self.threshold:
                best, waited = loss, 0
            else:
                waited += 1
            if waited == self.patience:
                factor, waited = max(factor * self.gamma, self.floor), 0
        return factor
