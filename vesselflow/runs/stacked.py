"""Runs whose predictions another run is given beside the image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vesselflow.config.experiment import Experiment
from vesselflow.records.paths import AnyPath


@dataclass(frozen=True)
class Base:
    """A finished run that has seen a part of another run's training images, and held out the rest.

    Attributes:
        run_id: The run.
        epoch: Of its weights, counted from 1.
        experiment: The run's.
        seed: The run's.
        held: Source indices, in the training store, of what it held out.
        results: The results folder that it lies in.
    """

    run_id: str
    epoch: int
    experiment: Experiment
    seed: int
    held: tuple[int, ...]
    results: AnyPath

    @property
    def identity(self) -> dict[str, Any]:
        """What is hashed of it: a run's name, which holds its split, and an epoch."""
        return {"run": self.run_id, "epoch": self.epoch}


def stacked_channels(experiment: Experiment, classes: int) -> int:
    """Channels that a network gets behind those of the image."""
    return 0 if experiment.train.stack is None else classes
