"""Relay trials: Tune's view of a point. They own no CPU, train nothing, and pass news on."""

from __future__ import annotations

import math
from typing import Any

import ray
from ray import tune

from vesselflow.runs.objective import Objective

#: Every cluster has it, also one that `ray up` made (a custom resource would not exist there).
RESOURCES = {"CPU": 0, "node:__internal_head__": 0.001}
#: What a trial reports its value as.
OBJECTIVE = "objective"


class Relay(tune.Trainable):
    """Follows a point's runs, which are queued already, and reports their validation scores."""

    def setup(self, config: dict[str, Any]) -> None:
        """Find the broker."""
        self._start(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next point in the same process."""
        self._start(new_config)
        return True

    def _start(self, config: dict[str, Any]) -> None:
        actor = ray.get_actor(config["broker"], config["namespace"])
        self._follow = Follower(
            lambda point, seen: ray.get(actor.watch.remote(point, seen)),
            config["point_name"],
            config["objective"],
        )

    def step(self) -> dict[str, Any]:
        """Wait for news of the point's runs and report the mean of what is known."""
        return self._follow.step()

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: the runs' own records are the truth."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing: the runs' own records are the truth."""


class Follower:
    """Turns a point's states into reports.

    Args:
        watch: ``Broker.watch``, called and waited for.
        point: Name of the point.
        objective: What makes one number of its runs' values.
    """

    def __init__(self, watch: Any, point: str, objective: Objective) -> None:
        self._watch, self._point, self._objective = watch, point, objective
        self._seen = -1

    def step(self) -> dict[str, Any]:
        """The next report: NaN as value where a score is undefined; ``done`` with the last one."""
        while True:
            state, over = self._watch(self._point, self._seen)
            if state is not None or over:
                break
        if state is None:
            return {OBJECTIVE: math.nan, "runs_done": 0, "runs_failed": 0, "done": True}
        self._seen = state.version
        return {
            OBJECTIVE: self._objective.reduce(state.known.values()),
            "runs_done": len(state.values),
            "runs_failed": len(state.failed),
            "whole": state.ended and not state.failed,
            "done": state.ended or over,
        }
