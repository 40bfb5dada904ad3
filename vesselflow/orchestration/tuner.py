"""Ray Tune over the points that are left, with Optuna asking and being told."""

from __future__ import annotations

import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from vesselflow.orchestration.relay import OBJECTIVE, RESOURCES, Relay
from vesselflow.orchestration.study import Study, parameters


class PointSearch(OptunaSearch):
    """Gives Tune one point after another, each as an Optuna trial of its own.

    A point is enqueued in the study when its turn has come, so that no more of them wait there than
    there are relays, and the sampler is never asked for one. Each trial asks for the parameters of
    its own point alone: conditional axes that do not hold have no value. The study is told final
    values only.

    Args:
        study: The study.
        points: Names of the points that are left, in their order.
        constants: Goes into each trial's config (the broker's address).
        skip: Whether a point needs no trial any more.
        over: Set when no further trial is to begin.
    """

    def __init__(
        self,
        study: Study,
        points: Sequence[str],
        constants: Mapping[str, Any],
        skip: Callable[[str], bool],
        over: threading.Event,
    ) -> None:
        super().__init__(
            space=self._define,
            metric=OBJECTIVE,
            mode="max" if study.maximise else "min",
            storage=study.storage,
            study_name=study.name,
            sampler=optuna.samplers.RandomSampler(seed=0),
        )
        self._own, self._left, self._constants = study, deque(points), dict(constants)
        self._skip, self._over = skip, over
        self._point_of: dict[str, str] = {}

    def _define(self, trial: optuna.Trial) -> dict[str, Any]:
        name = trial.user_attrs["point"]
        for key in parameters(self._own.points[name]):
            trial.suggest_categorical(key, self._own.choices[key])
        return {"point_name": name, **self._constants}

    def suggest(self, trial_id: str) -> Any:
        """The next point, or FINISHED."""
        while self._left and not self._over.is_set():
            name = self._left.popleft()
            if self._skip(name):
                continue
            self._own.enqueue(name)
            self._point_of[trial_id] = name
            return super().suggest(trial_id)
        return self.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: each epoch's value would be one more entry of the journal."""

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study the point's value; a point without all its runs has none."""
        whole = result is not None and bool(result.get("whole")) and not error
        if result is not None and whole and not math.isnan(result[OBJECTIVE]):
            self._own.told(self._point_of[trial_id])
            super().on_trial_complete(trial_id, result, error)
        else:
            super().on_trial_complete(trial_id, None, error=True)

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: Tune pickles its searcher for a restore that there never is."""
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune's own state is never taken up again."""
        Path(checkpoint_path).write_bytes(b"")


def run_trials(search: PointSearch, points: int, *, relays: int, folder: Path) -> None:
    """Run one relay trial per point and wait for all of them.

    Args:
        search: Gives the points.
        points: How many at most.
        relays: Trials in flight.
        folder: For Tune's own files; of no value after the sweep.
    """
    logging.getLogger("ray.tune").setLevel(logging.ERROR)
    tuner = tune.Tuner(
        tune.with_resources(Relay, RESOURCES),
        tune_config=tune.TuneConfig(
            search_alg=search,
            num_samples=points,
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
