"""Ray Tune over the points that are left, with Optuna asking and being told."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from vesselflow.config.grid import Point
from vesselflow.orchestration.relay import RESOURCES, Relay
from vesselflow.orchestration.study import categories, parameters


@dataclass(frozen=True)
class Definition:
    """Asks each trial for the parameters of the point that it was enqueued for, and no others.

    So conditional axes that do not hold have no value. (A class: Tune pickles the searcher.)
    """

    points: Mapping[str, Mapping[str, Any]]
    choices: Mapping[str, Sequence[Any]]
    constants: Mapping[str, Any]

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        """The constants of a trial's config; its parameters are captured as they are asked for."""
        name = trial.user_attrs["point"]
        for key in self.points[name]:
            trial.suggest_categorical(key, self.choices[key])
        return {"point_name": name, **self.constants}


def run_trials(
    points: Sequence[Point],
    *,
    every: Sequence[Point],
    storage: JournalStorage,
    study_name: str,
    relays: int,
    folder: Path,
    constants: Mapping[str, Any],
) -> None:
    """Run one relay trial per point and wait for all of them.

    The points wait in the study as enqueued trials (see `enqueue`), in their order; Optuna's
    sampler is never asked for one.

    Args:
        points: Points that still have runs to do.
        every: All points of the space: they define the study's categories.
        storage: The study's journal.
        study_name: Its name.
        relays: Trials in flight.
        folder: For Tune's own files; of no value after the sweep.
        constants: Goes into each trial's config (the broker's address, the objective).
    """
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    searcher = OptunaSearch(
        space=Definition(
            {point.name: parameters(point) for point in points}, categories(every), constants
        ),
        metric="objective",
        mode=constants["objective"].direction,
        storage=storage,
        study_name=study_name,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    tuner = tune.Tuner(
        tune.with_resources(Relay, RESOURCES),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            num_samples=len(points),
            max_concurrent_trials=relays,
            reuse_actors=True,
            trial_name_creator=lambda trial: str(trial.config.get("point_name", trial.trial_id)),
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=3),
        ),
    )
    tuner.fit()
