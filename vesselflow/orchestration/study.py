"""The Optuna study of a sweep: rebuilt from the runs' records at each start, left as a journal."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import TrialState, create_trial

from vesselflow.config.grid import Point
from vesselflow.records.atomic import write_bytes
from vesselflow.records.paths import AnyPath


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
    seen: dict[str, set[tuple[type, Any]]] = {}
    for point in points:
        for name, value in parameters(point).items():
            known = seen.setdefault(name, set())
            # 1, 1.0 and True are equal, and three values.
            if (type(value), value) not in known:
                known.add((type(value), value))
                values.setdefault(name, []).append(value)
    return values


class Journal(BaseJournalBackend):
    """A journal in memory: one driver's own, written whole when it is asked for.

    A file of several drivers would let one close the other's trials, and a torn one would keep a
    sweep from starting; the runs' records say all that a journal could.
    """

    def __init__(self) -> None:
        self._logs: list[dict[str, Any]] = []

    def read_logs(self, log_number_from: int) -> Iterable[dict[str, Any]]:
        """Entries from a number on."""
        return self._logs[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add entries."""
        self._logs += logs

    def write(self, path: AnyPath) -> None:
        """Leave the journal as a file that `optuna.storages.journal.JournalFileBackend` reads."""
        lines = (json.dumps(entry, separators=(",", ":")) + "\n" for entry in self._logs)
        write_bytes(path, "".join(lines).encode("utf-8"))


class Study:
    """The study of one sweep, and the points that still wait for a trial.

    Args:
        name: The study's name.
        points: All points of the space.
        scores: Point -> value, for points that are finished: they enter directly.
        maximise: Whether larger is better.
    """

    def __init__(
        self,
        name: str,
        points: Sequence[Point],
        scores: Mapping[str, float],
        *,
        maximise: bool = True,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.journal = Journal()
        self.storage = JournalStorage(self.journal)
        self.name, self.maximise = name, maximise
        self.points = {point.name: point for point in points}
        self.choices = categories(points)
        self._study = optuna.create_study(
            storage=self.storage,
            study_name=name,
            direction="maximize" if maximise else "minimize",
            sampler=optuna.samplers.RandomSampler(seed=0),
        )
        self._entered: set[str] = set()
        self.enter(scores)

    @property
    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """All trials."""
        return self._study.get_trials(deepcopy=False)

    def enqueue(self, point: str) -> None:
        """Let a point be the next that is asked for; its trial knows it by a user attribute."""
        self._study.enqueue_trial(parameters(self.points[point]), user_attrs={"point": point})

    def told(self, point: str) -> None:
        """Note that a point's own trial is complete."""
        self._entered.add(point)

    def enter(self, scores: Mapping[str, float]) -> None:
        """Enter points that have a value and no complete trial, as complete ones."""
        for name, point in self.points.items():
            value = scores.get(name)
            if value is None or math.isnan(value) or name in self._entered:
                continue
            params = parameters(point)
            with warnings.catch_warnings():
                # Values that are lists come as JSON text already; Optuna warns about None alone.
                warnings.simplefilter("ignore", UserWarning)
                self._study.add_trial(
                    create_trial(
                        params=params,
                        distributions={
                            key: CategoricalDistribution(self.choices[key]) for key in params
                        },
                        value=value,
                        user_attrs={"point": name, "reused": True},
                    )
                )
            self._entered.add(name)

    def close(self, scores: Mapping[str, float], path: AnyPath) -> None:
        """Enter what is known at the end, close what is open, and leave the journal."""
        for trial in self.trials:
            if trial.state is TrialState.RUNNING:
                self._study.tell(trial.number, state=TrialState.FAIL)
            elif trial.state is TrialState.WAITING:
                # Only a trial that was asked for can be told; asking takes the waiting ones first.
                self._study.tell(self._study.ask(), state=TrialState.FAIL)
        self.enter(scores)
        self.journal.write(path)
