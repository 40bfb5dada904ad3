"""The Optuna study of a sweep: an append-only journal under the sweep's own name."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from vesselflow.config.grid import Point


def token(value: Any) -> Any:
    """A value as Optuna's categories take it: scalars as they are, the rest as JSON text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return json.dumps(value, sort_keys=True)


def parameters(point: Point) -> dict[str, Any]:
    """A point's axis values as parameters of a trial; a space without axes has the point alone."""
    return {key: token(value) for key, value in point.params.items()} or {"point": point.name}


def categories(points: Sequence[Point]) -> dict[str, list[Any]]:
    """Parameter -> its values over all points, in order of first appearance."""
    values: dict[str, list[Any]] = {}
    for point in points:
        for name, value in parameters(point).items():
            seen = values.setdefault(name, [])
            if not any(value == other and type(value) is type(other) for other in seen):
                seen.append(value)
    return values


def open_storage(path: Path) -> JournalStorage:
    """The journal of a sweep."""
    return JournalStorage(JournalFileBackend(str(path)))


def open_study(
    storage: JournalStorage,
    name: str,
    points: Sequence[Point],
    scores: Mapping[str, float],
    direction: str = "max",
) -> optuna.Study:
    """The study, with every point that has a score entered as a complete trial.

    The runs' records are the truth: trials that a killed driver left open are closed as failed,
    finished points enter directly and never become Tune trials.

    Args:
        storage: The journal.
        name: The study's own name (Ray's default would merge all sweeps on one storage).
        points: All points of the space.
        scores: Point name -> the objective's value, for points that are finished.
        direction: "max" or "min".
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction=f"{direction}imize",
        load_if_exists=True,
        sampler=optuna.samplers.RandomSampler(seed=0),
    )
    known = set()
    for trial in study.get_trials(deepcopy=False):
        if trial.state is TrialState.WAITING:
            # Only a trial that was asked for can be told; asking takes the waiting ones first.
            study.tell(study.ask(), state=TrialState.FAIL)
        elif trial.state is TrialState.RUNNING:
            study.tell(trial.number, state=TrialState.FAIL)
        elif trial.state is TrialState.COMPLETE:
            known.add(_name(trial.params))
    choices = categories(points)
    for point in points:
        params = parameters(point)
        score = scores.get(point.name)
        if score is None or math.isnan(score) or _name(params) in known:
            continue
        with warnings.catch_warnings():
            # Values that are lists come as JSON text already; Optuna warns about None alone.
            warnings.simplefilter("ignore", UserWarning)
            study.add_trial(
                create_trial(
                    params=params,
                    distributions={key: CategoricalDistribution(choices[key]) for key in params},
                    value=score,
                    user_attrs={"point": point.name, "reused": True},
                )
            )
    return study


def enqueue(study: optuna.Study, points: Sequence[Point]) -> None:
    """Let points wait in the study, in their order, each for one trial that knows its point."""
    for point in points:
        study.enqueue_trial(parameters(point), user_attrs={"point": point.name})


def _name(params: Mapping[str, Any]) -> str:
    return json.dumps(dict(params), sort_keys=True, default=str)
